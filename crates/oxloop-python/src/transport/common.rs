//! What the transports of all kinds share.

use crate::error::memory_error;
use crate::event_loop::scheduling::queue;
use crate::event_loop::{BaseLoop, OwnMethod};
use crate::ffi::objects::{self, Int, Message, Text, interned};
use crate::ffi::{calls, context};
use crate::imports::logger;
use oxloop::engine::{Limits, StreamInfo, Token};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyMemoryError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyTuple};
use std::sync::atomic::{AtomicU32, Ordering};

/// In debug mode a transport has the stack that made it under this name.
pub(super) const SOURCE_TRACEBACK: &str = "_source_traceback";

/// What is logged of late writes to a socket.
pub(super) const SEND_RAISED: &str = "socket.send() raised exception.";

/// Counts the writes that come too late: they are dropped, a few of them in silence.
pub(super) struct LateWrites(AtomicU32);

impl LateWrites {
    /// So many are not logged.
    const SILENT: u32 = 5;

    /// A loss itself may count, too.
    pub(super) fn new(before: u32) -> LateWrites {
        LateWrites(AtomicU32::new(before))
    }

    /// Counts one; whether there were many before.
    pub(super) fn count(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) >= LateWrites::SILENT
    }

    /// Counts one, and logs `message` where there were many before.
    pub(super) fn note(&self, py: Python<'_>, message: &str) -> PyResult<()> {
        if self.count() {
            logger(py)?.call_method1(Text("warning"), (Text(message),))?;
        }
        Ok(())
    }
}

/// Logs a line about a transport in debug mode.
pub(super) fn debug(
    event_loop: &Bound<'_, BaseLoop>,
    transport: &Bound<'_, PyAny>,
    text: &str,
) -> PyResult<()> {
    let py = event_loop.py();
    if event_loop.get().is_debug() {
        let text = Text(text).into_bound_py_any(py)?;
        calls::method(logger(py)?, interned!(py, "debug")?, [&text, transport])?;
    }
    Ok(())
}

/// Reading goes on: in the context of now, which `keep` puts in the place of the one it returns.
pub(super) fn reading_resumed(
    event_loop: &Bound<'_, BaseLoop>,
    transport: &Bound<'_, PyAny>,
    keep: impl FnOnce(Py<PyAny>) -> Option<Py<PyAny>>,
) -> PyResult<()> {
    event_loop.get().check_closed()?;
    drop(keep(context::copy_current(event_loop.py())?));
    debug(event_loop, transport, "%r resumes reading")
}

/// Queues `transport._call_connection_lost(exception)`, in `context`. Without memory for that it is
/// called all the same, later and without the exception.
pub(super) fn schedule_lost(
    event_loop: &Bound<'_, BaseLoop>,
    token: Token,
    transport: &Bound<'_, PyAny>,
    exception: Option<Bound<'_, PyAny>>,
    context: impl FnOnce() -> PyResult<Py<PyAny>>,
) -> PyResult<()> {
    let py = event_loop.py();
    let schedule = || {
        let call = transport.getattr(interned!(py, "_call_connection_lost")?)?;
        let exception = exception.unwrap_or_else(|| py.None().into_bound(py));
        queue(event_loop, &call, objects::tuple(py, [&exception])?, context()?)
    };
    match schedule() {
        Err(error) if error.is_instance_of::<PyMemoryError>(py) => {
            event_loop.get().engine.lose_later(token);
            Ok(())
        }
        scheduled => scheduled,
    }
}

/// `connection_lost(exception)`, where there is somebody to tell.
pub(super) fn tell_lost(
    protocol: Option<Bound<'_, PyAny>>,
    exception: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let Some(protocol) = protocol else { return Ok(()) };
    calls::method(&protocol, interned!(protocol.py(), "connection_lost")?, [exception]).map(drop)
}

/// Queues the wake-up of whoever waits for the new transport.
pub(super) fn wake_soon(
    event_loop: &Bound<'_, BaseLoop>,
    waiter: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let Some(waiter) = waiter.filter(|waiter| !waiter.is_none()) else { return Ok(()) };
    let py = event_loop.py();
    let wake = py.import(Text("asyncio.futures"))?.getattr(Text("_set_result_unless_cancelled"))?;
    let args = objects::tuple(py, [waiter, py.None().bind(py)])?;
    queue(event_loop, &wake, args, context::copy_current(py)?)
}

/// Starts reading behind what is queued: natively, unless the program has a `call_soon` of its own.
pub(super) fn start_reading_soon(event_loop: &Bound<'_, BaseLoop>, token: Token) -> PyResult<()> {
    let (base, py) = (event_loop.get(), event_loop.py());
    if !base.has_own(OwnMethod::CallSoon) {
        return base.engine.start_reading_soon(token).map_err(memory_error);
    }
    let kept = event_loop.clone().unbind();
    let start = PyCFunction::new_closure(py, None, None, move |args, _| {
        let event_loop = kept.bind(args.py());
        event_loop.get().engine.start(event_loop, token)
    })?;
    queue(event_loop, start.as_any(), PyTuple::empty(py), context::copy_current(py)?)
}

/// asyncio's repr of a socket's transport; `size` is what waits to be sent, bytes, as long as the
/// selector watches the socket.
pub(super) fn described(class: &str, number: i32, info: StreamInfo, size: Option<usize>) -> String {
    let mut text = format!("<{class}");
    if info.closed {
        text.push_str(" closed");
    } else if info.closing {
        text.push_str(" closing");
    }
    text.push_str(&format!(" fd={number}"));
    if let Some(size) = size {
        let polling = |polls| if polls { "polling" } else { "idle" };
        text.push_str(&format!(" read={}", polling(info.polls_read)));
        let write = polling(info.polls_write);
        text.push_str(&format!(" write=<{write}, bufsize={size}>"));
    }
    text.push('>');
    text
}

/// Limits as asyncio computes and refuses them, for any numbers; `default` is the high-water mark
/// where none is given.
pub(crate) fn limits(
    py: Python<'_>,
    high: Option<&Bound<'_, PyAny>>,
    low: Option<&Bound<'_, PyAny>>,
    default: usize,
) -> PyResult<Limits> {
    let high = match (high, low) {
        (Some(high), _) => high.clone(),
        (None, Some(low)) => Int(4i32).into_pyobject(py)?.mul(low)?,
        (None, None) => Int(default).into_bound_py_any(py)?,
    };
    let low = low.map_or_else(|| high.floor_div(Int(4i32)), |low| Ok(low.clone()))?;
    if !(high.ge(&low)? && low.ge(Int(0i32))?) {
        let message =
            format!("high ({}) must be >= low ({}) must be >= 0", high.repr()?, low.repr()?);
        return Err(PyValueError::new_err(Message(message)));
    }
    let limits = Limits::new(Some(mark(&high)?), Some(mark(&low)?));
    limits.map_err(|error| PyValueError::new_err(Message(error.to_string())))
}

/// A mark in whole bytes, rounded down: that many bytes are over it or at it just as before.
fn mark(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = value.py();
    match value.extract() {
        Ok(bytes) => Ok(bytes),
        // No integer, or too large for one.
        Err(error)
            if error.is_instance_of::<PyTypeError>(py)
                || error.is_instance_of::<PyOverflowError>(py) =>
        {
            match value.extract::<f64>() {
                Ok(bytes) => Ok(bytes as usize),
                Err(error) if error.is_instance_of::<PyOverflowError>(py) => Ok(usize::MAX),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

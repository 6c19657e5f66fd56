//! The engine's errors as Python exceptions: the type and the errno are asyncio's.

use crate::event_loop::BaseLoop;
use crate::ffi::calls;
use crate::ffi::handled::handling;
use crate::ffi::objects::{self, Errno, Int, Message, Text, interned};
use crate::imports::{imports, logger};
use pyo3::exceptions::{
    PyBaseException, PyException, PyKeyboardInterrupt, PyMemoryError, PyOSError, PyResourceWarning,
    PySystemExit,
};
use pyo3::prelude::*;
use std::collections::TryReserveError;
use std::io;

/// MemoryError, for what the engine has no memory for.
pub(crate) fn memory_error(_: TryReserveError) -> PyErr {
    PyMemoryError::new_err(())
}

/// OSError with errno and the system's text; Python picks the subclass (ConnectionResetError...).
/// MemoryError where the memory is missing on our side.
pub(crate) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        if error.kind() == io::ErrorKind::OutOfMemory {
            return PyMemoryError::new_err(());
        }
        return PyOSError::new_err(Message(error.to_string()));
    };
    let text = imports(py).and_then(|functions| functions.strerror.call1(py, (Int(errno),)));
    match text {
        Ok(text) => PyOSError::new_err(Errno(errno, text)),
        Err(error) => error,
    }
}

/// The exception of an error, with its traceback: before Python 3.12 that is kept beside it.
pub(crate) fn exception<'py>(py: Python<'py>, error: &PyErr) -> Bound<'py, PyBaseException> {
    error.clone_ref(py).into_value(py).into_bound(py)
}

/// `loop.call_exception_handler(context)`, as from an `except` block that has caught `error`;
/// `details` is what the context has beside the message and the exception.
pub(crate) fn call_exception_handler<'a, 'py: 'a>(
    event_loop: &Bound<'py, BaseLoop>,
    message: &str,
    error: &PyErr,
    details: impl IntoIterator<Item = (&'static str, Option<&'a Bound<'py, PyAny>>)>,
) -> PyResult<()> {
    let py = event_loop.py();
    let raised = exception(py, error);
    handling(&raised, || {
        let context = objects::dict(py)?;
        context.set_item(Text("message"), Text(message))?;
        context.set_item(Text("exception"), &raised)?;
        for (key, value) in details {
            context.set_item(Text(key), value)?;
        }
        let name = interned!(py, "call_exception_handler")?;
        calls::method(event_loop.as_any(), name, [context.as_any()]).map(drop)
    })
}

/// What a report of an error names: both are `None` once the connection is lost.
pub(crate) struct Concerned<'a, 'py> {
    pub(crate) transport: Option<&'a Bound<'py, PyAny>>,
    pub(crate) protocol: Option<&'a Bound<'py, PyAny>>,
}

/// Tells the exception handler of an error of a connection.
pub(crate) fn report<'py>(
    event_loop: &Bound<'py, BaseLoop>,
    message: &str,
    error: &PyErr,
    concerned: Concerned<'_, 'py>,
) -> PyResult<()> {
    let details = [("transport", concerned.transport), ("protocol", concerned.protocol)];
    call_exception_handler(event_loop, message, error, details)
}

/// asyncio's `_fatal_error`: an OSError is the network's and only logged, in debug mode; the rest
/// goes to the exception handler. `force_close` ends the connection with the exception, also where
/// the report leaves the loop. What is to leave the loop itself comes back.
pub(crate) fn fatal_error<'py>(
    event_loop: &Bound<'py, BaseLoop>,
    transport: &Bound<'_, PyAny>,
    protocol: Option<&Bound<'_, PyAny>>,
    message: &str,
    error: PyErr,
    force_close: impl FnOnce(Option<Bound<'py, PyAny>>) -> PyResult<()>,
) -> PyResult<()> {
    let py = event_loop.py();
    if leaves_loop(py, &error) {
        return Err(error);
    }
    let raised = exception(py, &error);
    let told = if error.is_instance_of::<PyOSError>(py) {
        log_error(event_loop, transport, message, &raised)
    } else {
        report(event_loop, message, &error, Concerned { transport: Some(transport), protocol })
    };
    finally(py, told, || force_close(Some(raised.into_any())))
}

/// Logs an error of the network's, in debug mode: `object` is what it happened to.
pub(crate) fn log_error(
    event_loop: &Bound<'_, BaseLoop>,
    object: &Bound<'_, PyAny>,
    message: &str,
    raised: &Bound<'_, PyBaseException>,
) -> PyResult<()> {
    if !event_loop.get().is_debug() {
        return Ok(());
    }
    let py = event_loop.py();
    let keywords = objects::dict(py)?;
    keywords.set_item(Text("exc_info"), raised)?;
    handling(raised, || {
        logger(py)?
            .call_method(Text("debug"), (Text("%r: %s"), object, Text(message)), Some(&keywords))
            .map(drop)
    })
}

/// Warns of an open transport that goes away, as asyncio's `__del__` does: `text` is its repr.
/// `transport` is there where the collector found it.
pub(crate) fn warn_unclosed(
    py: Python<'_>,
    text: &str,
    transport: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let keywords = objects::dict(py)?;
    keywords.set_item(Text("source"), transport)?;
    let arguments =
        (Text(format!("unclosed transport {text}")), py.get_type::<PyResourceWarning>());
    imports(py)?.warn.call(py, arguments, Some(&keywords)).map(drop)
}

/// Calls `last` whether `result` is an error or not, as Python's `finally` does: in the block of
/// the exception, and with [`foremost`] for an error of its own.
pub(crate) fn finally<R>(
    py: Python<'_>,
    result: PyResult<R>,
    last: impl FnOnce() -> PyResult<()>,
) -> PyResult<R> {
    match result {
        Ok(value) => last().map(|()| value),
        Err(error) => match handling(&exception(py, &error), last) {
            Ok(()) => Err(error),
            Err(later) => Err(foremost(py, error, later)),
        },
    }
}

/// The one of two exceptions that goes on: the later one, whose context is the first, as in Python.
/// But one that leaves the loop is not replaced by one that does not, which goes to
/// `sys.unraisablehook` then.
#[cold]
pub(crate) fn foremost(py: Python<'_>, first: PyErr, later: PyErr) -> PyErr {
    if leaves_loop(py, &first) && !leaves_loop(py, &later) {
        later.write_unraisable(py, None);
        return first;
    }
    if later.context(py).is_none() && !later.value(py).is(first.value(py)) {
        later.set_context(py, Some(first));
    }
    later
}

/// Tells of what fails where an object ends, as nobody is there to hear of it.
pub(crate) fn unraisable<const N: usize>(py: Python<'_>, results: [PyResult<()>; N]) {
    for error in results.into_iter().filter_map(Result::err) {
        error.write_unraisable(py, None);
    }
}

/// The value of an attempt that may fail: `None` for what `except Exception` catches. All other
/// exceptions are the caller's to pass on.
pub(crate) fn attempt<R>(py: Python<'_>, result: PyResult<R>) -> PyResult<Option<R>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an exception leaves `run_forever` instead of going to the exception handler.
#[inline]
pub(crate) fn leaves_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py)
}

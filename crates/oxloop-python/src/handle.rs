//! Handles: how a scheduled call runs, is reported and is cancelled.

use crate::error::{call_exception_handler, exception};
use crate::event_loop::BaseLoop;
use crate::ffi::calls;
use crate::ffi::context;
use crate::ffi::handle::{
    Call, Cancelled, RawHandle, RunIn, drop_call, event_loop, mark_cancelled,
};
use crate::ffi::handle_types;
use crate::ffi::handled::handling;
use crate::ffi::objects::{self, Text, interned};
use crate::guard;
use crate::imports::imports;
use crate::shown::shown;
use oxloop::engine::Callback;
use pyo3::prelude::*;

/// A Handle or TimerHandle in the engine's queues.
#[derive(Clone)]
pub(crate) struct PyHandle(pub(crate) RawHandle);

impl Callback for PyHandle {
    #[inline]
    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    #[inline]
    fn unschedule(&self) {
        self.0.unschedule();
    }
}

impl PyHandle {
    /// Runs the call in its context, unless it was cancelled. Exceptions go to the loop's
    /// exception handler, with asyncio's text and keys.
    #[inline]
    pub(crate) fn run(self, event_loop: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = event_loop.py();
        if self.0.is_run_by_method(py) {
            return self.run_by_method(event_loop);
        }
        // In debug mode the program sees each handle that runs.
        let seen = event_loop.get().is_debug().then(|| self.0.object(py));
        let call = match self.0.take_call(py) {
            Ok(Some(call)) => call,
            Ok(None) => return Ok(()),
            Err(error) => return self.report_untaken(event_loop, error),
        };
        if call.shared {
            return self.run_shared(event_loop, call, seen);
        }
        self.run_call(event_loop, call)
    }

    /// Runs it by its method `_run`. What that raises leaves the loop.
    #[cold]
    fn run_by_method(&self, event_loop: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = event_loop.py();
        if !self.0.begin(py)? {
            return Ok(());
        }
        let handle = self.0.object(py);
        let run = || shown(event_loop, &handle, || run_method(&handle));
        if !self.0.is_thread_safe(py) {
            return run();
        }
        event_loop.get().guard.hold(py, &self.0, run)
    }

    /// Runs the call of a handle that others refer to.
    #[inline(never)]
    fn run_shared<'py>(
        &self,
        event_loop: &Bound<'py, BaseLoop>,
        call: Call<'py>,
        seen: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let run = || match seen {
            Some(handle) => shown(event_loop, &handle, || self.run_call(event_loop, call)),
            None => self.run_call(event_loop, call),
        };
        if !self.0.is_thread_safe(event_loop.py()) {
            return run();
        }
        event_loop.get().guard.hold(event_loop.py(), &self.0, || {
            // Without an interpreter lock it may have been cancelled just now.
            if self.0.is_cancelled() { Ok(()) } else { run() }
        })
    }

    #[inline]
    fn run_call(&self, event_loop: &Bound<'_, BaseLoop>, call: Call<'_>) -> PyResult<()> {
        match call.run(event_loop.py()) {
            Ok(()) => Ok(()),
            Err(error) => self.report(event_loop, call, error),
        }
    }

    /// Arguments that were put in as an iterable have failed: that is the call's error.
    #[cold]
    fn report_untaken(&self, event_loop: &Bound<'_, BaseLoop>, error: PyErr) -> PyResult<()> {
        let handle = self.0.object(event_loop.py());
        let callback = handle.getattr(Text("_callback"))?;
        let args = handle.getattr(Text("_args"))?;
        report(event_loop, &handle, &callback, &args, error)
    }

    #[cold]
    fn report(
        &self,
        event_loop: &Bound<'_, BaseLoop>,
        call: Call<'_>,
        error: PyErr,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let handle = self.0.object(py);
        let (callback, args) = (call.callback.clone(), call.args.clone().into_any());
        self.0.restore(py, call)?;
        self.0.track();
        report(event_loop, &handle, &callback, &args, error)
    }
}

/// Tells the exception handler of what the call of a handle raised, unless that leaves the loop.
pub(crate) fn report(
    event_loop: &Bound<'_, BaseLoop>,
    handle: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyAny>,
    error: PyErr,
) -> PyResult<()> {
    let py = event_loop.py();
    if crate::error::leaves_loop(py, &error) {
        return Err(error);
    }
    handling(&exception(py, &error), || {
        let source = describe(event_loop, callback, args)?;
        let message = format!("Exception in callback {source}");
        let traceback = handle.getattr(Text("_source_traceback"))?;
        let known = traceback.is_truthy()?.then_some(("source_traceback", Some(&traceback)));
        let details = [("handle", Some(handle))].into_iter().chain(known);
        call_exception_handler(event_loop, &message, &error, details)
    })
}

/// `handle._run()`.
pub(crate) fn run_method(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    calls::method(handle, interned!(handle.py(), "_run")?, []).map(drop)
}

impl Call<'_> {
    /// The call in its context.
    #[inline]
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        let call = || calls::with_tuple(&self.callback, &self.args).map(drop);
        let context = match &self.context {
            RunIn::Lent(lent) => return context::run(lent.context(py), call),
            RunIn::Own(context) => context,
        };
        if context::is_context(context) {
            return context::run(context, call);
        }
        // Anything with a `run` method serves asyncio as a context.
        let callback = objects::tuple(py, [&self.callback])?;
        let args = objects::joined(&callback, &self.args)?;
        calls::with_tuple(&context.getattr(interned!(py, "run")?)?, &args).map(drop)
    }
}

/// asyncio's text for a callback and its arguments. What they are is shown in debug mode only
/// from 3.13 on, where the helper asks.
fn describe(
    event_loop: &Bound<'_, BaseLoop>,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyAny>,
) -> PyResult<String> {
    let py = event_loop.py();
    let helper = imports(py)?.format_callback_source.bind(py);
    let code = helper.getattr(Text("__kwdefaults__"))?;
    let source = if code.is_truthy()? && code.contains(Text("debug"))? {
        let keywords = objects::dict(py)?;
        keywords.set_item(Text("debug"), event_loop.get().is_debug())?;
        helper.call((callback, args), Some(&keywords))?
    } else {
        helper.call1((callback, args))?
    };
    source.extract()
}

/// `Handle.cancel()`; of a handle that is not ours, asyncio's.
pub(crate) fn cancel(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    if !handle_types::are_native(handle.py()) {
        return calls::method(handle, interned!(handle.py(), "cancel")?, []).map(drop);
    }
    let thread_safe = handle_types::is_thread_safe(handle);
    if thread_safe {
        guard::wait(handle)?;
    }
    let found = mark_cancelled(handle)?;
    // It may have begun to run in between.
    if cfg!(Py_GIL_DISABLED) && thread_safe {
        guard::wait(handle)?;
    }
    if matches!(found, Cancelled::Before) {
        return Ok(());
    }
    let mut repr = None;
    if let Some(event_loop) = event_loop(handle)? {
        if let Ok(base) = event_loop.cast::<BaseLoop>() {
            let base = base.get();
            if matches!(found, Cancelled::Scheduled) {
                base.engine.timer_cancelled();
            }
            if base.is_debug() {
                // Kept for the log: the callback is let go.
                repr = Some(calls::repr(handle)?);
            }
        }
    }
    drop_call(handle, repr)
}

/// `Handle.cancelled()` of a thread-safe handle.
pub(crate) fn cancelled(handle: &Bound<'_, PyAny>) -> PyResult<bool> {
    guard::wait(handle)?;
    handle.getattr(Text("_cancelled"))?.is_truthy()
}

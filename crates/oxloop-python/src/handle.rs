//! Handles: how a scheduled call runs, is reported and is cancelled.

use crate::event_loop::BaseLoop;
use crate::ffi::calls;
use crate::ffi::context;
use crate::ffi::handle::{
    Call, Cancelled, RawHandle, RunIn, drop_call, event_loop, mark_cancelled,
};
use oxloop::engine::Callback;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

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
        if event_loop.get().is_debug() {
            return self.run_timed(event_loop);
        }
        let Some(call) = self.0.take_call(py)? else { return Ok(()) };
        match call.run(py) {
            Ok(()) => Ok(()),
            Err(error) => self.report(event_loop, call, error),
        }
    }

    /// Debug mode: the loop knows the handle that runs, and slow ones are logged.
    #[cold]
    fn run_timed(&self, event_loop: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = event_loop.py();
        let handle = self.0.object(py);
        let Some(call) = self.0.take_call(py)? else { return Ok(()) };
        event_loop.setattr("_current_handle", &handle)?;
        let engine = &event_loop.get().engine;
        let start = engine.time();
        let result = match call.run(py) {
            Ok(()) => Ok(()),
            Err(error) => self.report(event_loop, call, error),
        };
        let took = engine.time() - start;
        event_loop.setattr("_current_handle", py.None())?;
        result?;
        let limit: f64 = event_loop.getattr("slow_callback_duration")?.extract()?;
        if took >= limit {
            let text =
                py.import("asyncio.base_events")?.call_method1("_format_handle", (&handle,))?;
            let logger = py.import("asyncio.log")?.getattr("logger")?;
            logger.call_method1("warning", ("Executing %s took %.3f seconds", text, took))?;
        }
        Ok(())
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
        if crate::error::leaves_loop(py, &error) {
            return Err(error);
        }
        let source = describe(event_loop, &callback, &args)?;
        let context = PyDict::new(py);
        context.set_item("message", format!("Exception in callback {source}"))?;
        context.set_item("exception", error.value(py))?;
        context.set_item("handle", &handle)?;
        let traceback = handle.getattr("_source_traceback")?;
        if traceback.is_truthy()? {
            context.set_item("source_traceback", traceback)?;
        }
        event_loop.call_method1("call_exception_handler", (context,))?;
        Ok(())
    }
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
        let mut args = vec![self.callback.clone()];
        args.extend(self.args.iter());
        let args = PyTuple::new(py, args)?;
        context.call_method1("run", args).map(drop)
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
    let helper = py.import("asyncio.format_helpers")?.getattr("_format_callback_source")?;
    let code = helper.getattr("__kwdefaults__")?;
    let source = if code.is_truthy()? && code.contains("debug")? {
        let keywords = PyDict::new(py);
        keywords.set_item("debug", event_loop.get().is_debug())?;
        helper.call((callback, args), Some(&keywords))?
    } else {
        helper.call1((callback, args))?
    };
    source.extract()
}

/// `Handle.cancel()`.
pub(crate) fn cancel(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let found = mark_cancelled(handle)?;
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
                repr = Some(handle.repr()?.into_any());
            }
        }
    }
    drop_call(handle, repr)
}

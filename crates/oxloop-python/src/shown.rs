//! What the program sees of the calls that the loop makes: the handle that runs, how long it took,
//! and, in debug mode or for whoever has replaced `Handle._run`, a handle for each event.

use crate::error::{finally, leaves_loop};
use crate::event_loop::BaseLoop;
use crate::ffi::handle::RawHandle;
use crate::ffi::objects::{Float, Text, interned};
use crate::ffi::template::Captured;
use crate::ffi::{calls, context, handle_types, lent_call};
use crate::handle::{report, run_method};
use crate::imports::{imports, logger};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Runs the call of a handle that the program sees. In debug mode the loop names it meanwhile, and
/// slow ones are logged.
#[cold]
pub(crate) fn shown<R>(
    event_loop: &Bound<'_, BaseLoop>,
    handle: &Bound<'_, PyAny>,
    call: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    let _shown = Shown::begin(event_loop.get());
    if event_loop.get().is_debug() { timed(event_loop, handle, call) } else { call() }
}

/// A handle runs that the program sees; a panic ends that as well.
struct Shown<'a>(&'a BaseLoop);

impl Shown<'_> {
    fn begin(event_loop: &BaseLoop) -> Shown<'_> {
        event_loop.set_shown(true);
        Shown(event_loop)
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.set_shown(false);
    }
}

fn timed<R>(
    event_loop: &Bound<'_, BaseLoop>,
    handle: &Bound<'_, PyAny>,
    call: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    let py = event_loop.py();
    let current = Current::set(event_loop, handle)?;
    let engine = &event_loop.get().engine;
    let called = engine.now(event_loop).and_then(|start| {
        let result = call()?;
        Ok((result, engine.now(event_loop)? - start))
    });
    let (result, took) = finally(py, called, || current.reset())?;
    if Float(took).into_pyobject(py)?.ge(event_loop.getattr(Text("slow_callback_duration"))?)? {
        let text = calls::function(imports(py)?.format_handle.bind(py), [handle])?;
        let format = interned!(py, "Executing %s took %.3f seconds")?.as_any();
        let took = Float(took).into_pyobject(py)?;
        calls::method(logger(py)?, interned!(py, "warning")?, [format, &text, took.as_any()])?;
    }
    Ok(result)
}

/// `loop._current_handle` names a handle; a panic resets it as well.
struct Current<'a, 'py>(&'a Bound<'py, BaseLoop>);

impl<'a, 'py> Current<'a, 'py> {
    fn set(
        event_loop: &'a Bound<'py, BaseLoop>,
        handle: &Bound<'py, PyAny>,
    ) -> PyResult<Current<'a, 'py>> {
        let name = interned!(event_loop.py(), "_current_handle")?;
        calls::set_attribute(event_loop, name, handle)?;
        Ok(Current(event_loop))
    }

    fn reset(self) -> PyResult<()> {
        let event_loop = self.0;
        std::mem::forget(self);
        let py = event_loop.py();
        calls::set_attribute(event_loop, interned!(py, "_current_handle")?, py.None().bind(py))
    }
}

impl Drop for Current<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        if let Err(error) = Current(self.0).reset() {
            error.write_unraisable(self.0.py(), Some(self.0.as_any()));
        }
    }
}

/// What the program sees of an event that the selector found.
pub(crate) struct Face<'py> {
    /// The callback of its handle: the method of the protocol that hears of the event.
    pub(crate) callback: Bound<'py, PyAny>,
    /// The stack on which the transport was made, in debug mode.
    pub(crate) source: Option<Bound<'py, PyAny>>,
}

/// Whether the program sees events of the selector as handles: in debug mode, or if somebody has
/// replaced `Handle._run`. If not, [`inside`] calls for them.
#[inline]
pub(crate) fn sees_events(event_loop: &Bound<'_, BaseLoop>) -> bool {
    event_loop.get().is_debug() || handle_types::are_run_by_method(event_loop.py())
}

/// Calls in `context`, if there is one.
#[inline]
pub(crate) fn inside<R>(
    context: Option<&Bound<'_, PyAny>>,
    call: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    match context {
        Some(context) => context::run(context, call),
        None => call(),
    }
}

/// The same for an event that the program [sees](sees_events); it has no handle without a face.
/// `None` if a `_run` of the program's did not call. An error that is not the call's own leaves the
/// loop.
#[cold]
pub(crate) fn event<'py, R>(
    event_loop: &Bound<'py, BaseLoop>,
    context: Option<&Bound<'py, PyAny>>,
    face: PyResult<Option<Face<'py>>>,
    call: impl FnOnce() -> PyResult<R>,
) -> PyResult<Option<PyResult<R>>> {
    // Inside of a handle that the program sees already, it is part of that.
    if event_loop.get().is_shown() {
        return Ok(Some(inside(context, call)));
    }
    let Some(Face { callback, source }) = face? else {
        return Ok(Some(inside(context, call)));
    };
    if !handle_types::are_run_by_method(event_loop.py()) {
        let handle = handle_of(event_loop, &callback, context, source)?;
        return shown(event_loop, &handle, || Ok(Some(inside(context, call))));
    }
    let mut called = None;
    let once = || match call() {
        // Raised in `_run`, as a callback's exception that leaves the loop is.
        Err(error) if leaves_loop(event_loop.py(), &error) => Err(error),
        result => {
            called = Some(result);
            Ok(())
        }
    };
    lent_call::lend(&callback, once, |callback| {
        let handle = handle_of(event_loop, callback, context, source)?;
        shown(event_loop, &handle, || run_method(&handle))
    })?;
    Ok(called)
}

/// A handle for an event, as asyncio has one for each watched descriptor.
fn handle_of<'py>(
    event_loop: &Bound<'py, BaseLoop>,
    callback: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    source: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let own = context.map(|context| context.clone().unbind());
    let context = Captured::Own(own.map_or_else(|| context::copy_current(py), Ok)?);
    let handle = RawHandle::new(event_loop.as_any(), callback, PyTuple::empty(py), context)?;
    handle.track();
    if let Some(source) = source {
        handle.set_source_traceback(source)?;
    }
    Ok(handle.object(py))
}

/// Tells the exception handler of what a call for the selector's event raised, as a handle's call
/// is reported; `context` is where it ran (the present one if `None`).
#[cold]
pub(crate) fn report_event<'py>(
    event_loop: &Bound<'py, BaseLoop>,
    context: Option<&Bound<'py, PyAny>>,
    face: Face<'py>,
    error: PyErr,
) -> PyResult<()> {
    let Face { callback, source } = face;
    let handle = handle_of(event_loop, &callback, context, source)?;
    report(event_loop, &handle, &callback, PyTuple::empty(event_loop.py()).as_any(), error)
}

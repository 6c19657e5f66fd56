//! *Scheduling callbacks*, *Scheduling delayed callbacks*, `create_future`.

use super::{BaseLoop, OwnMethod};
use crate::error::memory_error;
use crate::ffi::calls;
use crate::ffi::handle::RawHandle;
use crate::ffi::objects::{self, Float, Int, Message, Text, interned};
use crate::ffi::template::{self, Captured};
use crate::handle::PyHandle;
use crate::imports::imports;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFloat, PyString, PyTuple};

#[inline]
pub(crate) fn call_soon(
    slf: &Bound<'_, BaseLoop>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let base = slf.get();
    if !base.is_plain() {
        base.check_closed()?;
        if base.is_debug() {
            check_thread(slf)?;
            check_callback(slf, callback, "call_soon")?;
        }
    }
    let handle = new_handle(slf, callback, args, capture(slf.py(), context)?)?;
    let object = handle.object(slf.py()).unbind();
    base.engine.call_soon(PyHandle(handle)).map_err(memory_error)?;
    Ok(object)
}

pub(crate) fn call_soon_threadsafe(
    slf: &Bound<'_, BaseLoop>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let base = slf.get();
    if !base.is_plain() {
        base.check_closed()?;
        if base.is_debug() {
            check_callback(slf, callback, "call_soon_threadsafe")?;
        }
    }
    let context = capture(slf.py(), context)?;
    let handle = RawHandle::thread_safe(slf.as_any(), callback, args, context)?;
    introduce(slf, &handle)?;
    let object = handle.object(slf.py()).unbind();
    base.engine.call_soon_threadsafe(PyHandle(handle)).map_err(memory_error)?;
    Ok(object)
}

#[inline]
pub(crate) fn call_later(
    slf: &Bound<'_, BaseLoop>,
    delay: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    if delay.is_none() {
        return Err(PyTypeError::new_err(Message("delay must not be None")));
    }
    let now = slf.get().engine.now(slf)?;
    if slf.get().has_own(OwnMethod::CallAt) {
        let when = Float(now).into_pyobject(py)?.add(delay)?;
        return own_call_at(slf, when, callback, &args, context);
    }
    if let Ok(delay) = delay.cast_exact::<PyFloat>() {
        let seconds = now + delay.value();
        let when = Float(seconds).into_pyobject(py)?;
        return schedule(slf, seconds, when.as_any(), callback, args, context);
    }
    // An int, a Decimal, a subclass: Python adds.
    let when = Float(now).into_pyobject(py)?.add(delay)?;
    schedule(slf, when.extract()?, &when, callback, args, context)
}

pub(crate) fn call_at(
    slf: &Bound<'_, BaseLoop>,
    when: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    if when.is_none() {
        return Err(PyTypeError::new_err(Message("when cannot be None")));
    }
    slf.get().check_closed()?;
    schedule(slf, when.extract()?, when, callback, args, context)
}

/// `call_later` by the program's own `call_at`, as in asyncio.
#[cold]
fn own_call_at<'py>(
    slf: &Bound<'py, BaseLoop>,
    when: Bound<'py, PyAny>,
    callback: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    let timer = call_own(slf, interned!(py, "call_at")?, [when, callback.clone()], args, context)?;
    // Without this call, as in asyncio.
    if let Some(stack) = timer.getattr_opt(interned!(py, "_source_traceback")?)? {
        if stack.is_truthy()? {
            stack.del_item(-1)?;
        }
    }
    Ok(timer.unbind())
}

/// `loop.name(*first, *args, context=context)`.
fn call_own<'py, const N: usize>(
    slf: &Bound<'py, BaseLoop>,
    name: &Bound<'py, PyString>,
    first: [Bound<'py, PyAny>; N],
    args: &Bound<'py, PyTuple>,
    context: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let arguments = objects::tuple(py, first.each_ref())?;
    let arguments = objects::joined(&arguments, args)?;
    let keywords = objects::dict(py)?;
    keywords.set_item(interned!(py, "context")?, context)?;
    slf.getattr(name)?.call(arguments, Some(&keywords))
}

/// Schedules for `seconds`, which `when` shows to Python.
fn schedule(
    slf: &Bound<'_, BaseLoop>,
    seconds: f64,
    when: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Option<&Bound<'_, PyAny>>,
) -> PyResult<Py<PyAny>> {
    let base = slf.get();
    if !base.is_plain() {
        base.check_closed()?;
        if base.is_debug() {
            check_thread(slf)?;
            check_callback(slf, callback, "call_at")?;
        }
    }
    let context = capture(slf.py(), context)?;
    let handle = RawHandle::timer(slf.as_any(), when, callback, args, context)?;
    introduce(slf, &handle)?;
    let object = handle.object(slf.py()).unbind();
    base.engine.call_at(seconds, PyHandle(handle)).map_err(memory_error)?;
    Ok(object)
}

/// A handle as `call_soon` makes it.
#[inline]
pub(crate) fn new_handle(
    slf: &Bound<'_, BaseLoop>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Captured,
) -> PyResult<RawHandle> {
    let handle = RawHandle::new(slf.as_any(), callback, args, context)?;
    introduce(slf, &handle)?;
    Ok(handle)
}

/// What the collector and, in debug mode, the program are to know of a new handle.
#[inline]
fn introduce(slf: &Bound<'_, BaseLoop>, handle: &RawHandle) -> PyResult<()> {
    if slf.get().is_plain() {
        return Ok(());
    }
    if slf.get().is_debug() {
        handle.set_source_traceback(present_stack(slf.py())?)?;
    }
    slf.get().track_if_idle(handle);
    Ok(())
}

#[inline]
fn capture(py: Python<'_>, context: Option<&Bound<'_, PyAny>>) -> PyResult<Captured> {
    match context {
        Some(context) => Ok(Captured::Own(context.clone().unbind())),
        None => template::capture(py),
    }
}

/// Queues a call of the loop's own, in `context`; RuntimeError once the loop is closed.
pub(crate) fn queue(
    slf: &Bound<'_, BaseLoop>,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
    context: Py<PyAny>,
) -> PyResult<()> {
    let base = slf.get();
    base.check_closed()?;
    if base.has_own(OwnMethod::CallSoon) {
        let (py, context) = (slf.py(), context.bind(slf.py()));
        call_own(slf, interned!(py, "call_soon")?, [callback.clone()], &args, Some(context))?;
        return Ok(());
    }
    let handle = new_handle(slf, callback, args, Captured::Own(context))?;
    base.engine.call_soon(PyHandle(handle)).map_err(memory_error)
}

/// The stack of Python frames, the caller's last (asyncio's `extract_stack`).
#[cold]
pub(crate) fn present_stack(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let functions = imports(py)?;
    let frame = functions.getframe.bind(py).call1((Int(0),))?;
    calls::function(functions.extract_stack.bind(py), [&frame])
}

/// In debug mode only the loop's own thread may schedule.
#[cold]
fn check_thread(slf: &Bound<'_, BaseLoop>) -> PyResult<()> {
    calls::method(slf.as_any(), interned!(slf.py(), "_check_thread")?, []).map(drop)
}

/// In debug mode coroutines and what cannot be called are refused.
#[cold]
fn check_callback(
    slf: &Bound<'_, BaseLoop>,
    callback: &Bound<'_, PyAny>,
    method: &str,
) -> PyResult<()> {
    let method = Text(method).into_bound_py_any(slf.py())?;
    let name = interned!(slf.py(), "_check_callback")?;
    calls::method(slf.as_any(), name, [callback, &method]).map(drop)
}

/// A future for the loop's own use: of the program's `create_future`, if it has one.
pub(crate) fn new_future<'py>(slf: &Bound<'py, BaseLoop>) -> PyResult<Bound<'py, PyAny>> {
    if slf.get().has_own(OwnMethod::CreateFuture) {
        return calls::method(slf.as_any(), interned!(slf.py(), "create_future")?, []);
    }
    create_future(slf)
}

pub(crate) fn create_future<'py>(slf: &Bound<'py, BaseLoop>) -> PyResult<Bound<'py, PyAny>> {
    static FUTURE: PyOnceLock<(Py<PyAny>, Py<PyTuple>)> = PyOnceLock::new();
    let py = slf.py();
    let (class, names) = FUTURE.get_or_try_init(py, || {
        let class = py.import(Text("asyncio"))?.getattr(Text("Future"))?.unbind();
        PyResult::Ok((class, objects::tuple(py, [interned!(py, "loop")?])?.unbind()))
    })?;
    calls::with_keyword(class.bind(py), slf.as_any(), names.bind(py))
}

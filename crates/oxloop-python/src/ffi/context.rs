//! contextvars by the C API: copy, enter, leave.

use pyo3::ffi;
use pyo3::prelude::*;

/// A copy of the current context (`contextvars.copy_context()`).
pub(crate) fn copy_current(py: Python<'_>) -> PyResult<Py<PyAny>> {
    // SAFETY: attached, and the result is a new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }.map(Bound::unbind)
}

/// A copy of a context. TypeError for what is none.
pub(crate) fn copy(context: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: attached, a live object; the result is a new reference or NULL with an exception.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
        .map(Bound::unbind)
}

/// Whether an object is a contextvars.Context.
#[inline]
pub(crate) fn is_context(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached; reads the type of a live object.
    unsafe { ffi::PyContext_CheckExact(object.as_ptr()) != 0 }
}

/// Runs `f` inside `context` (`Context.run`). RuntimeError where it is entered already.
#[inline]
pub(crate) fn run<R>(context: &Bound<'_, PyAny>, f: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = context.py();
    // SAFETY: attached, a live object; what is no context raises TypeError.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let result = f();
    // SAFETY: this thread entered this context above, and everything entered since was left:
    // `f` is a complete call. An exception of `f` is held in `result`, none is set.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        return result.and(Err(PyErr::fetch(py)));
    }
    result
}

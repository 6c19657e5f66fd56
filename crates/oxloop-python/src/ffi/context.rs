//! contextvars by the C API: copy, enter, leave.

use crate::error::finally;
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

/// Runs `f` inside `context` (`Context.run`). RuntimeError if it is entered already.
#[inline]
pub(crate) fn run<R>(context: &Bound<'_, PyAny>, f: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let entered = Entered::enter(context)?;
    let result = f();
    match entered.leave() {
        Ok(()) => result,
        Err(error) => finally(context.py(), result, || Err(error)),
    }
}

/// A context that the thread has entered; a panic leaves it as well.
struct Entered<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> Entered<'a, 'py> {
    #[inline]
    fn enter(context: &'a Bound<'py, PyAny>) -> PyResult<Entered<'a, 'py>> {
        // SAFETY: attached, a live object; anything but a context raises TypeError.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(context.py()));
        }
        Ok(Entered(context))
    }

    #[inline]
    fn leave(self) -> PyResult<()> {
        let context = self.0;
        std::mem::forget(self);
        // SAFETY: `enter` entered this context in this thread, and everything entered since was
        // left: a call in between is complete. No exception is set, `PyErr` holds it.
        if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(context.py()));
        }
        Ok(())
    }
}

impl Drop for Entered<'_, '_> {
    #[cold]
    fn drop(&mut self) {
        // SAFETY: as in `leave`, on the way of a panic: guards of contexts entered since were
        // dropped before. An exception that the panic has left set is not looked at.
        unsafe {
            if ffi::PyContext_Exit(self.0.as_ptr()) != 0 {
                ffi::PyErr_WriteUnraisable(self.0.as_ptr());
            }
        }
    }
}

//! The exception that is being handled (`sys.exc_info()`), which Python sets in `except` blocks.

use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ptr::null_mut;

/// Calls `f` as Python calls from an `except` block that has caught `raised`: `sys.exc_info()` and
/// a bare `raise` know it, and it is the `__context__` of what is raised meanwhile.
pub(crate) fn handling<R>(raised: &Bound<'_, PyBaseException>, f: impl FnOnce() -> R) -> R {
    let _block = Block::enter(raised);
    f()
}

/// An `except` block, which is left when this is dropped.
struct Block<'py> {
    /// What the running frame handled before.
    outer: ExcInfo,
    _attached: Python<'py>,
}

impl<'py> Block<'py> {
    fn enter(raised: &Bound<'py, PyBaseException>) -> Block<'py> {
        let py = raised.py();
        // CPython says what is handled at any depth, but sets it for the innermost coroutine
        // alone: what comes from further out must not be left there when the block is.
        let known = ExcInfo::get(py);
        ExcInfo::NONE.set(py);
        let outside = ExcInfo::get(py);
        let outer = if outside.value == known.value { ExcInfo::NONE } else { known };
        ExcInfo::of(raised).set(py);
        Block { outer, _attached: py }
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        std::mem::replace(&mut self.outer, ExcInfo::NONE).set(self._attached);
    }
}

/// Counted references or NULL. From 3.11 on the value says it all, and the rest is ignored.
struct ExcInfo {
    class: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    traceback: *mut ffi::PyObject,
}

impl ExcInfo {
    const NONE: ExcInfo = ExcInfo { class: null_mut(), value: null_mut(), traceback: null_mut() };

    fn get(_: Python<'_>) -> ExcInfo {
        let ExcInfo { mut class, mut value, mut traceback } = ExcInfo::NONE;
        // SAFETY: attached; three new references or NULLs are written.
        unsafe { ffi::PyErr_GetExcInfo(&mut class, &mut value, &mut traceback) };
        ExcInfo { class, value, traceback }
    }

    fn of(raised: &Bound<'_, PyBaseException>) -> ExcInfo {
        // SAFETY: attached, a live exception: its type, itself and its traceback, which may be
        // NULL, each with a reference of ours.
        unsafe {
            ExcInfo {
                class: ffi::Py_NewRef(ffi::Py_TYPE(raised.as_ptr()).cast()),
                value: ffi::Py_NewRef(raised.as_ptr()),
                traceback: ffi::PyException_GetTraceback(raised.as_ptr()),
            }
        }
    }

    fn set(self, _: Python<'_>) {
        let ExcInfo { class, value, traceback } = self;
        std::mem::forget(self);
        // SAFETY: attached; the three references are handed over.
        unsafe { ffi::PyErr_SetExcInfo(class, value, traceback) }
    }
}

impl Drop for ExcInfo {
    fn drop(&mut self) {
        // SAFETY: only ever made and dropped inside of `Block`, which is attached; the references
        // are ours.
        unsafe {
            ffi::Py_XDECREF(self.class);
            ffi::Py_XDECREF(self.value);
            ffi::Py_XDECREF(self.traceback);
        }
    }
}

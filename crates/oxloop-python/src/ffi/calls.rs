//! Calls without argument tuples (vectorcall).

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// `object.name(*arguments)`; the method is looked up when called, so that a later assignment to
/// the attribute is seen, as asyncio sees it.
#[inline]
pub(crate) fn method<'py, const N: usize>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    // The slot in front is the callee's to scribble on (PY_VECTORCALL_ARGUMENTS_OFFSET).
    let mut stack = [std::ptr::null_mut(); 6];
    debug_assert!(N + 2 <= stack.len());
    stack[1] = object.as_ptr();
    for (slot, argument) in stack[2..].iter_mut().zip(arguments) {
        *slot = argument.as_ptr();
    }
    // SAFETY: attached; `stack[1..]` holds 1 + N borrowed references which outlive the call, and
    // there is a slot in front of them.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            stack.as_ptr().add(1),
            (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// `callable(*arguments)` from a tuple's items.
#[inline]
pub(crate) fn with_tuple<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    // SAFETY: attached; a tuple's items lie one behind the other from `ob_item` on and are
    // borrowed references, which the tuple keeps alive for the call.
    unsafe {
        let items = (*arguments.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
        let result = ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            items,
            arguments.len(),
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// `callable(name=value)`; `name` is a tuple of one string.
#[inline]
pub(crate) fn with_keyword<'py>(
    callable: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
    name: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let stack = [std::ptr::null_mut(), value.as_ptr()];
    let flags = ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: attached; no positional argument, one keyword value behind a free slot.
    unsafe {
        let first = stack.as_ptr().add(1);
        let result = ffi::PyObject_Vectorcall(callable.as_ptr(), first, flags, name.as_ptr());
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// Runs the handlers of signals that have arrived (`PyErr_CheckSignals`).
#[inline]
pub(crate) fn check_signals(py: Python<'_>) -> PyResult<()> {
    py.check_signals()
}

//! Calls of Python code, without argument tuples (vectorcall).
//!
//! Before 3.14 the interpreter ends a daemon thread, which runs Python code while the program shuts
//! down, by `pthread_exit`: a forced unwinding, which may not pass through Rust. So each call is
//! made where nothing but [`Hang`] is in its way, which stops the thread for good, as 3.14 does.
//! (PyO3 does the same where it takes the interpreter lock, but not where it calls.)

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use std::ffi::c_int;

/// PyObject_Vectorcall and PyObject_VectorcallMethod, as functions that may unwind.
type Vectorcall = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// PyObject_Repr.
type Repr = unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject;

/// PyObject_SetAttr.
type SetAttr = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *mut ffi::PyObject,
    *mut ffi::PyObject,
) -> c_int;

/// A function of the C API under a type that may unwind. Through a pointer that the optimizer
/// knows nothing of: pyo3-ffi declares that these functions never do, and it would believe that.
/// Unsafe: the type has to be the function's, but for the unwinding.
macro_rules! unwinding {
    ($function:ident as $kind:ty) => {{
        let function = std::hint::black_box(ffi::$function as *const ());
        std::mem::transmute::<*const (), $kind>(function)
    }};
}

/// Stops the thread when it is dropped, which only an unwinding does.
struct Hang;

impl Drop for Hang {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Runs Python code; does not return where the interpreter ends the thread.
#[inline]
fn or_hang<R>(call: impl FnOnce() -> R) -> R {
    let hang = Hang;
    let result = call();
    std::mem::forget(hang);
    result
}

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
        let count = (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        let arguments = stack.as_ptr().add(1);
        let names = std::ptr::null_mut();
        let call = unwinding!(PyObject_VectorcallMethod as Vectorcall);
        let result = or_hang(|| call(name.as_ptr(), arguments, count, names));
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
        let names = std::ptr::null_mut();
        let call = unwinding!(PyObject_Vectorcall as Vectorcall);
        let result = or_hang(|| call(callable.as_ptr(), items, arguments.len(), names));
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// `callable(*arguments)`.
pub(crate) fn function<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    let stack = arguments.map(Bound::as_ptr);
    // SAFETY: attached; `stack` holds N borrowed references which outlive the call.
    unsafe {
        let names = std::ptr::null_mut();
        let call = unwinding!(PyObject_Vectorcall as Vectorcall);
        let result = or_hang(|| call(callable.as_ptr(), stack.as_ptr(), N, names));
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// `object.name = value`, which the object's class may have a method for.
pub(crate) fn set_attribute(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // SAFETY: attached, live objects.
    let result = unsafe {
        let call = unwinding!(PyObject_SetAttr as SetAttr);
        or_hang(|| call(object.as_ptr(), name.as_ptr(), value.as_ptr()))
    };
    if result == 0 { Ok(()) } else { Err(PyErr::fetch(object.py())) }
}

/// `repr(object)`.
pub(crate) fn repr<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, a live object.
    unsafe {
        let call = unwinding!(PyObject_Repr as Repr);
        let result = or_hang(|| call(object.as_ptr()));
        Bound::from_owned_ptr_or_err(object.py(), result)
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
        let call = unwinding!(PyObject_Vectorcall as Vectorcall);
        let result = or_hang(|| call(callable.as_ptr(), first, flags, name.as_ptr()));
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// Runs the handlers of signals that have arrived (`PyErr_CheckSignals`).
#[inline]
pub(crate) fn check_signals(py: Python<'_>) -> PyResult<()> {
    py.check_signals()
}

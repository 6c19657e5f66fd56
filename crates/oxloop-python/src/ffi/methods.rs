//! The scheduling methods by the fast calling convention, without PyO3's argument handling.
//!
//! They replace `BaseLoop`'s methods of the same names for the common call, positional arguments
//! and at most `context=`, and pass every other call on to the method that PyO3 made, which
//! knows all forms and errors.

use super::panics::contained;
use crate::error::memory_error;
use crate::event_loop::{BaseLoop, scheduling};
use crate::ffi::objects::{Message, Text, interned};
use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A fast method: its name, and how many arguments stand before the callback.
struct Fast {
    name: &'static CStr,
    /// The signature, for `inspect`, and what the method does.
    doc: &'static CStr,
    before: usize,
    /// The method that PyO3 made.
    full: PyOnceLock<Py<PyAny>>,
}

impl Fast {
    const fn new(name: &'static CStr, before: usize, doc: &'static CStr) -> Fast {
        Fast { name, doc, before, full: PyOnceLock::new() }
    }
}

static CALL_SOON: Fast = Fast::new(
    c"call_soon",
    0,
    c"call_soon($self, callback, *args, context=None)\n--\n\n\
      Calls `callback(*args)` in the next turn of the loop, in the order of the calls.",
);
static CALL_SOON_THREADSAFE: Fast = Fast::new(
    c"call_soon_threadsafe",
    0,
    c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n\
      As `call_soon`, from any thread: wakes the loop.",
);
static CALL_LATER: Fast = Fast::new(
    c"call_later",
    1,
    c"call_later($self, delay, callback, *args, context=None)\n--\n\n\
      Calls `callback(*args)` once `delay` seconds have passed.",
);
static CALL_AT: Fast = Fast::new(
    c"call_at",
    1,
    c"call_at($self, when, callback, *args, context=None)\n--\n\n\
      Calls `callback(*args)` at the time `when` of the loop's clock (`time()`).",
);

/// The arguments of a scheduling method, borrowed from its caller.
struct Arguments<'a, 'py> {
    slf: &'a Bound<'py, BaseLoop>,
    /// The delay or the time; of a method that takes none, the callback.
    first: &'a Bound<'py, PyAny>,
    callback: &'a Bound<'py, PyAny>,
    args: Bound<'py, PyTuple>,
    context: Option<&'a Bound<'py, PyAny>>,
}

/// A C function that hands its arguments to [`call`].
macro_rules! entry {
    ($name:ident, $fast:ident, $schedule:expr) => {
        unsafe extern "C" fn $name(
            slf: *mut ffi::PyObject,
            args: *const *mut ffi::PyObject,
            count: ffi::Py_ssize_t,
            names: *mut ffi::PyObject,
        ) -> *mut ffi::PyObject {
            // SAFETY: CPython calls with what the convention promises, which `call` asks for.
            unsafe { call(&$fast, slf, args, count, names, $schedule) }
        }
    };
}

entry!(call_soon, CALL_SOON, |a: Arguments<'_, '_>| {
    scheduling::call_soon(a.slf, a.callback, a.args, a.context)
});
entry!(call_soon_threadsafe, CALL_SOON_THREADSAFE, |a: Arguments<'_, '_>| {
    scheduling::call_soon_threadsafe(a.slf, a.callback, a.args, a.context)
});
entry!(call_later, CALL_LATER, |a: Arguments<'_, '_>| {
    scheduling::call_later(a.slf, a.first, a.callback, a.args, a.context)
});
entry!(call_at, CALL_AT, |a: Arguments<'_, '_>| {
    scheduling::call_at(a.slf, a.first, a.callback, a.args, a.context)
});

struct Methods([ffi::PyMethodDef; 4]);
// SAFETY: the table is constant: function pointers and static strings.
unsafe impl Sync for Methods {}

const fn method(
    fast: &'static Fast,
    function: ffi::PyCFunctionFastWithKeywords,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: fast.name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: fast.doc.as_ptr(),
    }
}

static METHODS: Methods = Methods([
    method(&CALL_SOON, call_soon),
    method(&CALL_SOON_THREADSAFE, call_soon_threadsafe),
    method(&CALL_LATER, call_later),
    method(&CALL_AT, call_at),
]);

/// Puts the fast methods in the place of PyO3's.
pub(crate) fn install(class: &Bound<'_, PyType>) -> PyResult<()> {
    let py = class.py();
    let fast = [&CALL_SOON, &CALL_SOON_THREADSAFE, &CALL_LATER, &CALL_AT];
    for (definition, fast) in METHODS.0.iter().zip(fast) {
        let name = fast.name.to_string_lossy();
        let full = class.getattr(Text(&*name))?.unbind();
        if fast.full.set(py, full).is_err() {
            continue;
        }
        // SAFETY: attached; the definition is static. The descriptor checks its `self`.
        let descriptor = unsafe {
            let definition = std::ptr::from_ref(definition).cast_mut();
            let object = ffi::PyDescr_NewMethod(class.as_type_ptr(), definition);
            Bound::from_owned_ptr_or_err(py, object)?
        };
        class.setattr(Text(&*name), descriptor)?;
    }
    Ok(())
}

/// # Safety
/// As a METH_FASTCALL | METH_KEYWORDS method of BaseLoop is called: attached, `slf` an instance,
/// `args` so many borrowed references and then one for each of `names`.
#[inline]
unsafe fn call(
    fast: &'static Fast,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    schedule: impl FnOnce(Arguments<'_, '_>) -> PyResult<Py<PyAny>>,
) -> *mut ffi::PyObject {
    // A panic must not cross into C.
    let result = contained(|| {
        // SAFETY: as the caller says.
        unsafe { dispatch(Python::assume_attached(), fast, slf, args, count, names, schedule) }
    });
    let error = match result {
        Ok(object) => return object.into_ptr(),
        Err(error) => error,
    };
    // SAFETY: as the caller says. (`Python::attach` would refuse while the interpreter shuts down.)
    error.restore(unsafe { Python::assume_attached() });
    std::ptr::null_mut()
}

/// # Safety
/// As for [`call`].
#[inline]
unsafe fn dispatch(
    py: Python<'_>,
    fast: &'static Fast,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    schedule: impl FnOnce(Arguments<'_, '_>) -> PyResult<Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    let count = count as usize;
    // SAFETY: as the caller says; the descriptor has checked that `slf` is a BaseLoop.
    unsafe {
        // References into the caller's array: nothing is counted.
        let argument = |index: usize| Bound::ref_from_ptr(py, &*args.add(index));
        let mut context = None;
        let usual = count > fast.before
            && (names.is_null()
                || (ffi::PyTuple_GET_SIZE(names) == 1 && is_context(py, names) && {
                    context = Some(argument(count)).filter(|context| !context.is_none());
                    true
                }));
        if !usual {
            return full(py, fast, slf, args, count, names);
        }
        let slf = Bound::ref_from_ptr(py, &slf).cast_unchecked::<BaseLoop>();
        let rest = fast.before + 1;
        let tuple = if count == rest {
            PyTuple::empty(py)
        } else {
            let tuple = ffi::PyTuple_New((count - rest) as ffi::Py_ssize_t);
            let tuple = Bound::from_owned_ptr_or_err(py, tuple)?;
            for index in rest..count {
                let item = ffi::Py_NewRef(*args.add(index));
                ffi::PyTuple_SET_ITEM(tuple.as_ptr(), (index - rest) as ffi::Py_ssize_t, item);
            }
            tuple.cast_into_unchecked()
        };
        let (first, callback) = (argument(0), argument(fast.before));
        schedule(Arguments { slf, first, callback, args: tuple, context })
    }
}

/// The tuple of keyword names that asyncio's C code passes, once it was seen: it is made once,
/// of a string that is not interned.
static CONTEXT_ONLY: AtomicPtr<ffi::PyObject> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the only keyword is `context`.
///
/// # Safety
/// Attached; `names` is a tuple of one string.
#[inline]
unsafe fn is_context(py: Python<'_>, names: *mut ffi::PyObject) -> bool {
    if names == CONTEXT_ONLY.load(Ordering::Relaxed) {
        return true;
    }
    // SAFETY: as the caller says.
    unsafe {
        let name = ffi::PyTuple_GET_ITEM(names, 0);
        interned!(py, "context").is_ok_and(|context| context.as_ptr() == name)
            || is_spelled_context(name, names)
    }
}

/// # Safety
/// Attached; `names` is a tuple of the string `name`.
#[cold]
unsafe fn is_spelled_context(name: *mut ffi::PyObject, names: *mut ffi::PyObject) -> bool {
    // SAFETY: as the caller says. A tuple that is remembered is never freed.
    unsafe {
        if ffi::PyUnicode_CompareWithASCIIString(name, c"context".as_ptr()) != 0 {
            return false;
        }
        let none = std::ptr::null_mut();
        let (set, missed) = (Ordering::Relaxed, Ordering::Relaxed);
        if CONTEXT_ONLY.compare_exchange(none, names, set, missed).is_ok() {
            ffi::Py_INCREF(names);
        }
        true
    }
}

/// Calls PyO3's method with the same arguments.
///
/// # Safety
/// As for [`call`].
#[cold]
unsafe fn full(
    py: Python<'_>,
    fast: &'static Fast,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> PyResult<Py<PyAny>> {
    let Some(method) = fast.full.get(py) else {
        return Err(PySystemError::new_err(Message("oxloop is not initialised")));
    };
    // SAFETY: as the caller says: the stack holds `slf` and then the same references.
    unsafe {
        let keywords = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) as usize };
        let mut stack = Vec::new();
        stack.try_reserve_exact(1 + count + keywords).map_err(memory_error)?;
        stack.push(slf);
        stack.extend((0..count + keywords).map(|index| *args.add(index)));
        let result = ffi::PyObject_Vectorcall(method.as_ptr(), stack.as_ptr(), count + 1, names);
        Bound::from_owned_ptr_or_err(py, result).map(Bound::unbind)
    }
}

//! The `__slots__` of Python classes: where they lie in an instance, and whether there is anything
//! else in it. Native code that fills, visits and clears instances has to know all of it.

use super::objects::{self, Message, Text};
use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// A pointer, bytes.
const WORD: isize = size_of::<*mut ffi::PyObject>() as isize;
/// What every object begins with, bytes.
const HEAD: isize = size_of::<ffi::PyObject>() as isize;

/// The slot at an offset in an instance.
///
/// # Safety
/// `at` is the offset of a slot in `object`.
#[inline]
pub(super) unsafe fn slot(object: *mut ffi::PyObject, at: isize) -> *mut *mut ffi::PyObject {
    // SAFETY: as the caller says.
    unsafe { object.byte_offset(at).cast() }
}

/// The offset of a `__slots__` member.
pub(super) fn offset(descriptor: &Bound<'_, PyAny>) -> PyResult<isize> {
    if !is_member(descriptor) {
        return Err(PyTypeError::new_err(Message("not a slot")));
    }
    // SAFETY: attached; an object of exactly that type is a PyMemberDescrObject, whose member
    // definition lives as long as its class.
    unsafe {
        let member = (*descriptor.as_ptr().cast::<ffi::PyMemberDescrObject>()).d_member;
        // PyO3 has another type for it on 3.10.
        Ok((*member.cast::<ffi::PyMemberDef>()).offset)
    }
}

fn is_member(descriptor: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached; compares the type of a live object.
    unsafe { ffi::Py_TYPE(descriptor.as_ptr()) == &raw mut ffi::PyMemberDescr_Type }
}

/// Whether instances of a class have the slots `names` and, besides the list of weak references,
/// nothing else: once the slots are set, and there is a weak reference, no word is left.
pub(super) fn are_all(class: &Bound<'_, PyType>, names: &[&str]) -> PyResult<bool> {
    let py = class.py();
    let number = |name: &str| class.getattr(Text(name))?.extract::<isize>();
    let mut members = 0;
    for base in class.mro() {
        for value in base.getattr(Text("__dict__"))?.call_method0(Text("values"))?.try_iter()? {
            members += usize::from(is_member(&value?));
        }
    }
    let (size, weak) = (number("__basicsize__")?, number("__weakrefoffset__")?);
    // SAFETY: attached, a live class.
    let same = unsafe { (*class.as_type_ptr()).tp_basicsize } == size;
    let plain = same
        && class.get_type().is(py.get_type::<PyType>())
        && number("__dictoffset__")? == 0
        && number("__itemsize__")? == 0;
    // From 3.12 on the list of weak references stands in front of an instance.
    if !plain || members != names.len() || (size - HEAD) % WORD != 0 || weak < -8 * WORD {
        return Ok(false);
    }
    let instance = class.call_method1(Text("__new__"), (class,))?;
    // SAFETY: attached; an instance of `class`, which is as long as that says.
    let word = |at: isize| unsafe { *slot(instance.as_ptr(), at) };
    let words = || (HEAD..size).step_by(WORD as usize);
    if !words().all(|at| word(at).is_null()) {
        return Ok(false);
    }
    // An object of its own for each slot.
    let values = objects::list::<PyAny>(py, &[])?;
    let mut expected = Vec::new();
    for name in names {
        let at = offset(&class.getattr(Text(name))?)?;
        let value = objects::list::<PyAny>(py, &[])?;
        instance.setattr(Text(name), &value)?;
        expected.push((at, value.as_ptr()));
        values.append(value)?;
    }
    if weak != 0 {
        let reference = py.import(Text("weakref"))?.getattr(Text("ref"))?.call1((&instance,))?;
        values.append(&reference)?;
        if weak > 0 {
            expected.push((weak, reference.as_ptr()));
        } else if word(weak) != reference.as_ptr() {
            return Ok(false);
        }
    }
    expected.sort_unstable();
    Ok(words().map(|at| (at, word(at))).eq(expected))
}

/// ImportError if tuples or `bytes` are not laid out as known; the module asks when it is imported.
pub(crate) fn check_builtins(py: Python<'_>) -> PyResult<()> {
    let bytes = objects::bytes(py, b"oxloop")?;
    let items = [objects::list::<PyAny>(py, &[])?, objects::list::<PyAny>(py, &[])?];
    let tuple = objects::tuple(py, items.each_ref().map(|item| item.as_any()))?;
    // SAFETY: attached, live objects of these types. What is read lies within a tuple of two items
    // also if there is no head in front of them; the second way to the bytes is CPython's.
    let known = unsafe {
        let first = (*tuple.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
        let last = tuple
            .as_ptr()
            .cast::<*mut ffi::PyObject>()
            .byte_offset(tuple.get_type().getattr(Text("__basicsize__"))?.extract::<isize>()?);
        first.cast_mut() == last
            && *first == items[0].as_ptr()
            && *first.add(1) == items[1].as_ptr()
            && ffi::PyBytes_AS_STRING(bytes.as_ptr()) == ffi::PyBytes_AsString(bytes.as_ptr())
            && ffi::Py_SIZE(bytes.as_ptr()) == 6
    };
    if known {
        return Ok(());
    }
    Err(PyImportError::new_err(Message(
        "oxloop does not know how this Python lays out tuples and bytes",
    )))
}

//! Python objects of Rust values, made where that may fail.
//!
//! PyO3's constructors of plain objects (`PyBytes::new`, `PyDict::new`, `intern!`, a number or a
//! text as an argument) panic where CPython has no memory for the object. These give MemoryError.

use pyo3::IntoPyObjectExt;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PySlice, PyString, PyTuple};
use pyo3::{PyErrArguments, sync::PyOnceLock};
use std::ffi::{c_char, c_longlong, c_ulonglong};

/// A new object of the type that its maker has, or the exception that it has set.
///
/// # Safety
/// Attached; a new reference to a `T`, or NULL with an exception.
unsafe fn made<T>(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<Bound<'_, T>> {
    // SAFETY: as the caller says.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked()) }
}

/// `bytes` with a copy of `data`.
#[inline]
pub(crate) fn bytes<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: attached; CPython copies so many bytes. No slice is longer than isize::MAX.
    unsafe {
        let size = data.len() as ffi::Py_ssize_t;
        made(py, ffi::PyBytes_FromStringAndSize(data.as_ptr().cast::<c_char>(), size))
    }
}

/// A path, as `os.fsdecode` decodes it.
pub(crate) fn path<'py>(py: Python<'py>, path: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: attached; so many bytes, which CPython copies.
    unsafe {
        let size = path.len() as ffi::Py_ssize_t;
        made(py, ffi::PyUnicode_DecodeFSDefaultAndSize(path.as_ptr().cast(), size))
    }
}

/// An empty `dict`.
pub(crate) fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: attached.
    unsafe { made(py, ffi::PyDict_New()) }
}

/// A copy of a `dict`.
pub(crate) fn copy_of_dict<'py>(dict: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyDict>> {
    // SAFETY: attached; a live dict.
    unsafe { made(dict.py(), ffi::PyDict_Copy(dict.as_ptr())) }
}

/// A `tuple` of these objects.
#[inline]
pub(crate) fn tuple<'py, const N: usize>(
    py: Python<'py>,
    items: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyTuple>> {
    // SAFETY: attached; a new tuple of N items, each of which is given a reference of its own
    // before anybody else sees it.
    unsafe {
        let tuple: Bound<'py, PyTuple> = made(py, ffi::PyTuple_New(N as ffi::Py_ssize_t))?;
        for (index, item) in items.into_iter().enumerate() {
            let item = ffi::Py_NewRef(item.as_ptr());
            ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index as ffi::Py_ssize_t, item);
        }
        Ok(tuple)
    }
}

/// `first + second`
pub(crate) fn joined<'py>(
    first: &Bound<'py, PyTuple>,
    second: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyTuple>> {
    first.as_sequence().concat(second.as_sequence())?.to_tuple()
}

/// A `list` of these objects.
pub(crate) fn list<'py, T>(
    py: Python<'py>,
    items: &[Bound<'py, T>],
) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: attached; as for a tuple.
    unsafe {
        let list: Bound<'py, PyList> = made(py, ffi::PyList_New(items.len() as ffi::Py_ssize_t))?;
        for (index, item) in items.iter().enumerate() {
            let item = ffi::Py_NewRef(item.as_ptr());
            ffi::PyList_SET_ITEM(list.as_ptr(), index as ffi::Py_ssize_t, item);
        }
        Ok(list)
    }
}

/// `slice(start, None)`
pub(crate) fn slice_from(py: Python<'_>, start: usize) -> PyResult<Bound<'_, PySlice>> {
    let start = Int(start).into_pyobject(py)?;
    let none = std::ptr::null_mut();
    // SAFETY: attached; a live int, and NULL stands for None.
    unsafe { made(py, ffi::PySlice_New(start.as_ptr(), none, none)) }
}

/// A text, as an argument, a key, an attribute's name or a result.
#[derive(Clone, Copy)]
pub(crate) struct Text<T>(pub(crate) T);

impl<'py, T: AsRef<str>> IntoPyObject<'py> for Text<T> {
    type Target = PyString;
    type Output = Bound<'py, PyString>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let text = self.0.as_ref();
        // SAFETY: attached; so many bytes of UTF-8, which CPython copies.
        unsafe {
            let size = text.len() as ffi::Py_ssize_t;
            made(py, ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), size))
        }
    }
}

/// A floating point number, likewise.
#[derive(Clone, Copy)]
pub(crate) struct Float(pub(crate) f64);

impl<'py> IntoPyObject<'py> for Float {
    type Target = PyFloat;
    type Output = Bound<'py, PyFloat>;
    type Error = PyErr;

    #[inline]
    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        // SAFETY: attached.
        unsafe { made(py, ffi::PyFloat_FromDouble(self.0)) }
    }
}

/// An integer, likewise.
#[derive(Clone, Copy)]
pub(crate) struct Int<T>(pub(crate) T);

/// Integers that C has.
macro_rules! integers {
    ($function:ident($c:ty): $($rust:ty),*) => {$(
        impl<'py> IntoPyObject<'py> for Int<$rust> {
            type Target = PyInt;
            type Output = Bound<'py, PyInt>;
            type Error = PyErr;

            #[inline]
            fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
                // SAFETY: attached; the C type has all values of the other.
                unsafe { made(py, ffi::$function(self.0 as $c)) }
            }
        }
    )*};
}

integers!(PyLong_FromLongLong(c_longlong): i32);
integers!(PyLong_FromUnsignedLongLong(c_ulonglong): u16, u32, u64, usize);

/// Two objects as a `tuple`.
pub(crate) struct Pair<A, B>(pub(crate) A, pub(crate) B);

impl<'py, A, B> IntoPyObject<'py> for Pair<A, B>
where
    A: IntoPyObject<'py, Error: Into<PyErr>>,
    B: IntoPyObject<'py, Error: Into<PyErr>>,
{
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        let first = self.0.into_bound_py_any(py)?;
        let second = self.1.into_bound_py_any(py)?;
        tuple(py, [&first, &second])
    }
}

/// The text of an exception. Without memory for it the exception has none.
pub(crate) struct Message<T>(pub(crate) T);

impl<T: AsRef<str> + Send + Sync> PyErrArguments for Message<T> {
    fn arguments(self, py: Python<'_>) -> Py<PyAny> {
        Text(self.0).into_py_any(py).unwrap_or_else(|_| py.None())
    }
}

/// errno and the system's text for it: the arguments of an OSError.
pub(crate) struct Errno(pub(crate) i32, pub(crate) Py<PyAny>);

impl PyErrArguments for Errno {
    fn arguments(self, py: Python<'_>) -> Py<PyAny> {
        Pair(Int(self.0), self.1).into_py_any(py).unwrap_or_else(|_| py.None())
    }
}

/// A name that is looked up often, made once.
pub(crate) struct Interned(&'static str, PyOnceLock<Py<PyString>>);

impl Interned {
    pub(crate) const fn new(name: &'static str) -> Interned {
        Interned(name, PyOnceLock::new())
    }

    #[inline]
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyString>> {
        match self.1.get(py) {
            Some(name) => Ok(name.bind(py)),
            None => self.make(py),
        }
    }

    #[cold]
    fn make<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyString>> {
        let name = self.1.get_or_try_init(py, || {
            let mut name = Text(self.0).into_pyobject(py)?.into_ptr();
            // SAFETY: attached; a new string of ours, which CPython may put another in place of,
            // and leaves as it is where it has no memory.
            let name: Bound<'_, PyString> = unsafe {
                ffi::PyUnicode_InternInPlace(&mut name);
                made(py, name)?
            };
            PyResult::Ok(name.unbind())
        })?;
        Ok(name.bind(py))
    }
}

/// A name as a Python string, interned: as PyO3's `intern!`, but a [`PyResult`].
macro_rules! interned {
    ($py:expr, $name:literal) => {{
        static NAME: $crate::ffi::objects::Interned = $crate::ffi::objects::Interned::new($name);
        NAME.get($py)
    }};
}
pub(crate) use interned;

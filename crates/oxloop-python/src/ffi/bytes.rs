//! Memory of `bytes` objects and of the buffer protocol.

use oxloop::engine::Data;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::c_int;

unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// An exact `bytes` object which a write queue keeps: immutable, and dropping it runs no code.
pub(crate) struct KeptBytes(Py<PyBytes>);

impl AsRef<[u8]> for KeptBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a `bytes` object is immutable and stays where it is as long as it is
        // referenced, which it is by us; reading its memory needs no interpreter.
        unsafe {
            let object = self.0.as_ptr();
            let start = ffi::PyBytes_AS_STRING(object).cast::<u8>();
            std::slice::from_raw_parts(start, ffi::Py_SIZE(object) as usize)
        }
    }
}

/// A `bytes` object to write: kept without a copy where that pays.
pub(crate) struct BytesData<'a, 'py>(pub(crate) &'a Bound<'py, PyBytes>);

impl Data<KeptBytes> for BytesData<'_, '_> {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn keep(&self) -> Option<KeptBytes> {
        Some(KeptBytes(self.0.clone().unbind()))
    }
}

/// A piece of `writelines`.
pub(crate) enum Piece<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copied(Vec<u8>),
}

impl Data<KeptBytes> for Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes.as_bytes(),
            Piece::Copied(bytes) => bytes,
        }
    }

    fn keep(&self) -> Option<KeptBytes> {
        match self {
            Piece::Bytes(bytes) => Some(KeptBytes(bytes.clone().unbind())),
            Piece::Copied(_) => None,
        }
    }
}

/// Makes a `bytes` object which `fill` has written: it is handed `capacity` bytes of memory and
/// answers how many it filled.
pub(crate) fn filled<'py, E>(
    py: Python<'py>,
    capacity: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) -> PyResult<Result<Bound<'py, PyBytes>, E>> {
    let size = ffi::Py_ssize_t::try_from(capacity)?;
    // SAFETY: attached. The object is new: nobody else refers to it until it is returned, so its
    // memory may be written and its size changed. The memory is zeroed only where `fill` has not
    // written it: a slice of uninitialised bytes is never read, recv(2) writes it. Its trailing
    // NUL is kept by _PyBytes_Resize. On a failed resize the object is freed and NULL.
    unsafe {
        let mut object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let start = ffi::PyBytes_AS_STRING(object).cast::<u8>().cast_mut();
        let memory = std::slice::from_raw_parts_mut(start, capacity);
        let count = match fill(memory) {
            Ok(count) => count.min(capacity),
            Err(error) => {
                ffi::Py_DECREF(object);
                return Ok(Err(error));
            }
        };
        if count < capacity && _PyBytes_Resize(&mut object, count as ffi::Py_ssize_t) != 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked()))
    }
}

/// A view of an object's memory by the buffer protocol, released when dropped.
pub(crate) struct View<'py> {
    view: Box<ffi::Py_buffer>,
    py: Python<'py>,
}

impl<'py> View<'py> {
    /// The contiguous memory of any bytes-like object.
    pub(crate) fn readable(object: &Bound<'py, PyAny>) -> PyResult<View<'py>> {
        View::new(object, ffi::PyBUF_SIMPLE)
    }

    /// The contiguous, writable memory of an object; BufferError where it is read-only.
    pub(crate) fn writable(object: &Bound<'py, PyAny>) -> PyResult<View<'py>> {
        View::new(object, ffi::PyBUF_WRITABLE)
    }

    fn new(object: &Bound<'py, PyAny>, flags: c_int) -> PyResult<View<'py>> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: attached; the view lies in a box, so its address holds until it is released.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(View { view, py: object.py() })
    }

    pub(crate) fn len(&self) -> usize {
        self.view.len as usize
    }

    /// A copy of the bytes.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        if self.len() == 0 {
            return Vec::new();
        }
        // SAFETY: `buf` points to `len` contiguous bytes until the view is released. Another
        // thread of a build without a global lock may write to them meanwhile; then the copy
        // is torn, as any copy of shared memory is, and no length changes: the view pins it.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast::<u8>(), self.len()) }.to_vec()
    }

    /// Lends the memory of a writable view to `fill`; none of a read-only one.
    pub(crate) fn fill<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        if self.len() == 0 || self.view.readonly != 0 {
            return fill(&mut []);
        }
        // SAFETY: as in `to_vec`, and the memory is writable. `fill` is one recv(2), which runs
        // no Python code, so the exclusive reference is ours for its time.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(self.view.buf.cast::<u8>(), self.len()) };
        fill(memory)
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        let _attached = self.py;
        // SAFETY: `py` says attached; the view was filled by PyObject_GetBuffer, released once.
        unsafe { ffi::PyBuffer_Release(&mut *self.view) };
    }
}

//! Memory of `bytes` objects and of the buffer protocol.

use crate::ffi::objects::{self, Message, interned};
use oxloop::engine::Data;
use pyo3::exceptions::{PyBufferError, PyException, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use std::ffi::{CStr, c_int};
use std::mem::{ManuallyDrop, MaybeUninit};

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

impl KeptBytes {
    pub(crate) fn new(bytes: &Bound<'_, PyBytes>) -> KeptBytes {
        KeptBytes(bytes.clone().unbind())
    }

    pub(crate) fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.0.bind(py).as_any()
    }

    /// What follows the first `offset` bytes, as a copy.
    pub(crate) fn tail(&self, py: Python<'_>, offset: usize) -> PyResult<KeptBytes> {
        let tail = objects::bytes(py, self.as_ref().get(offset..).unwrap_or(&[]))?;
        Ok(KeptBytes(tail.unbind()))
    }
}

/// A `bytes` object to write: kept without a copy where that pays.
pub(crate) struct BytesData<'a, 'py>(pub(crate) &'a Bound<'py, PyBytes>);

impl Data<KeptBytes> for BytesData<'_, '_> {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn keep(&self) -> Option<KeptBytes> {
        Some(KeptBytes::new(self.0))
    }
}

/// A piece of `writelines`.
pub(crate) struct Piece<'py>(pub(crate) Bound<'py, PyBytes>);

impl Data<KeptBytes> for Piece<'_> {
    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn keep(&self) -> Option<KeptBytes> {
        Some(KeptBytes::new(&self.0))
    }
}

/// A new `bytes` object of which nobody knows yet. Its memory may be written, and none of it is
/// taken for written that was not.
struct Fresh<'py> {
    object: Bound<'py, PyBytes>,
    capacity: usize,
}

impl<'py> Fresh<'py> {
    fn new(py: Python<'py>, capacity: usize) -> PyResult<Fresh<'py>> {
        let size = ffi::Py_ssize_t::try_from(capacity)?;
        // SAFETY: attached; a new `bytes` object or NULL with an exception set.
        let object = unsafe {
            let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
            Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked()
        };
        Ok(Fresh { object, capacity })
    }

    fn memory(&mut self) -> &mut [MaybeUninit<u8>] {
        // SAFETY: the object is `capacity` bytes long, and nobody else refers to it.
        unsafe {
            let start = ffi::PyBytes_AS_STRING(self.object.as_ptr()).cast_mut();
            std::slice::from_raw_parts_mut(start.cast(), self.capacity)
        }
    }

    /// The object, cut off behind its first `count` bytes.
    ///
    /// # Safety
    /// These have been written.
    unsafe fn finish(self, count: usize) -> PyResult<Bound<'py, PyBytes>> {
        if count >= self.capacity {
            return Ok(self.object);
        }
        let py = self.object.py();
        let mut object = self.object.into_ptr();
        // SAFETY: attached, the only reference to an object that nobody has seen. The trailing NUL
        // is kept. If it fails the object is freed and NULL.
        unsafe {
            if _PyBytes_Resize(&mut object, count as ffi::Py_ssize_t) != 0 {
                return Err(PyErr::fetch(py));
            }
            Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked())
        }
    }
}

/// Makes a `bytes` object which `fill` has written: it is handed `capacity` bytes of memory and
/// returns those that it has filled, from the first one on.
#[inline]
pub(crate) fn filled<'py, E>(
    py: Python<'py>,
    capacity: usize,
    fill: impl for<'m> FnOnce(&'m mut [MaybeUninit<u8>]) -> Result<&'m mut [u8], E>,
) -> PyResult<Result<Bound<'py, PyBytes>, E>> {
    let mut fresh = Fresh::new(py, capacity)?;
    let memory = fresh.memory();
    let start = memory.as_ptr().addr();
    match fill(memory) {
        // SAFETY: a slice of so many bytes has been written, and it is the start of the memory:
        // one that is not counts as nothing.
        Ok(data) => unsafe {
            let count = if data.as_ptr().addr() == start { data.len() } else { 0 };
            fresh.finish(count).map(Ok)
        },
        Err(error) => Ok(Err(error)),
    }
}

/// Makes a `bytes` object as [`filled`] does, by calls of Python functions that are handed a
/// memoryview of what is not filled yet, with its size, and answer how much they have filled;
/// `None` ends it. The functions keep no view: where somebody has got hold of one nevertheless,
/// that is a BufferError, and the memory is never freed.
pub(crate) fn filled_by<'py>(
    py: Python<'py>,
    capacity: usize,
    mut fill: impl FnMut(&Bound<'py, PyAny>, usize) -> PyResult<Option<usize>>,
) -> PyResult<Bound<'py, PyBytes>> {
    // Not dropped while somebody may have a view of it, a panic included.
    let mut fresh = ManuallyDrop::new(Fresh::new(py, capacity)?);
    let mut count = 0;
    let mut failed = None;
    while let Some(rest) = fresh.memory().get_mut(count..).filter(|rest| !rest.is_empty()) {
        let size = rest.len();
        let (result, released) = lend(py, rest, |view| fill(view, size))?;
        if !released {
            let message = "somebody has kept a view of memory that was lent";
            return Err(PyBufferError::new_err(Message(message)));
        }
        match result {
            Ok(Some(more)) => count += more.min(size),
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let fresh = ManuallyDrop::into_inner(fresh);
    match failed {
        Some(error) => Err(error),
        // SAFETY: the functions, OpenSSL's behind them, have written what they say they have: as
        // far as the compiler knows any code behind a call into C may have.
        None => unsafe { fresh.finish(count) },
    }
}

/// Lends memory to Python code as a writable memoryview, which is released on return; false where
/// that was refused, as somebody has a view of it still.
fn lend<'py, R>(
    py: Python<'py>,
    memory: &mut [MaybeUninit<u8>],
    f: impl FnOnce(&Bound<'py, PyAny>) -> R,
) -> PyResult<(R, bool)> {
    let size = ffi::Py_ssize_t::try_from(memory.len())?;
    // SAFETY: attached. The memory is lent for the time of `f`, in which we do not touch it: once
    // the view is released each use of it fails with ValueError. If it cannot be released, or a
    // panic comes in between, the caller never frees the memory.
    let view = unsafe {
        let start = memory.as_mut_ptr().cast();
        let view = ffi::PyMemoryView_FromMemory(start, size, ffi::PyBUF_WRITE);
        Bound::from_owned_ptr_or_err(py, view)?
    };
    let result = f(&view);
    // Runs no Python code: BufferError is all it can say.
    let released = view.call_method0(interned!(py, "release")?).is_ok();
    Ok((result, released))
}

/// Whether asyncio takes it as data: bytes, bytearray or memoryview.
pub(crate) fn is_bytes_like(data: &Bound<'_, PyAny>) -> bool {
    data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
}

/// TypeError for a memoryview without dimensions, which has no length to asyncio; ValueError for
/// one that was released.
pub(crate) fn check_dimensions(data: &Bound<'_, PyAny>) -> PyResult<()> {
    if !data.is_instance_of::<PyMemoryView>() {
        return Ok(());
    }
    if data.getattr(interned!(data.py(), "ndim")?)?.is_truthy()? {
        return Ok(());
    }
    let message = if cfg!(Py_3_12) {
        "0-dim memory has no length"
    } else {
        "invalid indexing of 0-dim memory"
    };
    Err(PyTypeError::new_err(Message(message)))
}

/// A copy of the contiguous memory of any bytes-like object; BufferError where it is in pieces,
/// unless there is nothing in it.
pub(crate) fn bytes_of<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = object.py();
    let copied = with_view(object, ffi::PyBUF_SIMPLE, |view| {
        if view.len == 0 {
            return objects::bytes(py, &[]);
        }
        // SAFETY: `buf` points to `len` contiguous bytes until the view is released. Another
        // thread of a build without a global lock may write to them meanwhile; then the copy
        // is torn, as any copy of shared memory is, and no length changes: the view pins it.
        let bytes = unsafe { std::slice::from_raw_parts(view.buf.cast::<u8>(), view.len as usize) };
        objects::bytes(py, bytes)
    });
    copied.unwrap_or_else(|error| match object.len() {
        Ok(0) => objects::bytes(py, &[]),
        _ => Err(error),
    })
}

/// Lends the contiguous, writable memory of an object to `fill`, which is one recv(2), and has
/// let go of it on return. TypeError in `socket.recv_into`'s words for an object without.
#[inline]
pub(crate) fn fill_object<R>(
    object: &Bound<'_, PyAny>,
    fill: impl FnOnce(&mut [u8]) -> R,
) -> PyResult<R> {
    let filled = with_view(object, ffi::PyBUF_WRITABLE, |view| {
        if view.len == 0 {
            return fill(&mut []);
        }
        // SAFETY: as in `bytes_of`, and the memory is writable. `fill` runs no Python code and
        // reads nothing, so the exclusive reference is ours for its time; another thread's use
        // meanwhile is torn as it is with any recv_into.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(view.buf.cast::<u8>(), view.len as usize) };
        fill(memory)
    });
    filled.map_err(|error| match error.is_instance_of::<PyException>(object.py()) {
        true => not_writable(object),
        false => error,
    })
}

#[cold]
fn not_writable(object: &Bound<'_, PyAny>) -> PyErr {
    // SAFETY: attached; a type's name is a C string which lives as long as the type, and the
    // object keeps that.
    let name = unsafe { CStr::from_ptr((*object.get_type_ptr()).tp_name) };
    let name: String = name.to_string_lossy().chars().take(50).collect();
    let message =
        format!("recv_into() argument 1 must be read-write bytes-like object, not {name}");
    PyTypeError::new_err(Message(message))
}

/// Calls `f` with a view of an object's memory by the buffer protocol.
#[inline]
fn with_view<R>(
    object: &Bound<'_, PyAny>,
    flags: c_int,
    f: impl FnOnce(&ffi::Py_buffer) -> R,
) -> PyResult<R> {
    let mut view = ffi::Py_buffer::new();
    // SAFETY: attached, and the view stays where it is until it is released.
    if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut view, flags) } != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    let view = View { view: &mut view, _attached: object.py() };
    Ok(f(view.view))
}

/// A view that is held, released when dropped.
struct View<'a, 'py> {
    view: &'a mut ffi::Py_buffer,
    _attached: Python<'py>,
}

impl Drop for View<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: attached; the view was filled by PyObject_GetBuffer and is released once.
        unsafe { ffi::PyBuffer_Release(self.view) };
    }
}

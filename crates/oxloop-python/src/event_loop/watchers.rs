//! *Watching file descriptors*: the native part, without argument checks.

use super::{BaseLoop, scheduling};
use crate::error::os_error;
use crate::ffi::context;
use crate::ffi::handle::RawHandle;
use crate::ffi::objects::Message;
use crate::ffi::template::Captured;
use crate::handle::{PyHandle, cancel};
use oxloop::engine::Side;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

pub(super) fn add(
    slf: &Bound<'_, BaseLoop>,
    fd: i32,
    side: Side,
    callback: &Bound<'_, PyAny>,
    args: Bound<'_, PyTuple>,
) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    let context = Captured::Own(context::copy_current(py)?);
    let handle = scheduling::new_handle(slf, callback, args, context)?;
    let object = handle.object(py).unbind();
    watch(slf, fd, side, handle, false)?;
    Ok(object)
}

/// Makes `handle` the one that is run when `fd` is ready, in place of the one there was, which
/// is cancelled; `once` where it lets the watcher rest itself.
pub(super) fn watch(
    slf: &Bound<'_, BaseLoop>,
    fd: i32,
    side: Side,
    handle: RawHandle,
    once: bool,
) -> PyResult<()> {
    let base = slf.get();
    base.check_closed()?;
    if fd < 0 {
        return Err(PyValueError::new_err(Message(format!("Invalid file descriptor: {fd}"))));
    }
    handle.track();
    let handle = PyHandle(handle);
    let old = if once {
        base.engine.watch_once(fd, side, handle)
    } else {
        base.engine.watch(fd, side, handle)
    };
    match old {
        Ok(None) => Ok(()),
        Ok(Some(old)) => cancel(&old.0.object(slf.py())),
        Err(error) => Err(os_error(slf.py(), &error)),
    }
}

/// The transport that owns a descriptor.
pub(super) fn transport_of(slf: &Bound<'_, BaseLoop>, fd: i32) -> Option<Py<PyAny>> {
    let engine = &slf.get().engine;
    let stream = engine.stream_of(fd).map(|stream| {
        let Ok(object) = stream.into_pyobject(slf.py());
        object.unbind()
    });
    stream.or_else(|| engine.endpoint_of(fd).map(|endpoint| endpoint.0.into_any()))
}

pub(super) fn remove(
    slf: &Bound<'_, BaseLoop>,
    fd: &Bound<'_, PyAny>,
    side: Side,
) -> PyResult<bool> {
    let engine = &slf.get().engine;
    let Some(fd) = number(fd)?.filter(|_| !engine.is_closed()) else { return Ok(false) };
    if let Some(old) = engine.unwatch(fd, side) {
        cancel(&old.0.object(slf.py()))?;
        return Ok(true);
    }
    // asyncio accepts by a reader of the listening socket: without it the server is deaf.
    let listener = engine.listener_of(fd).filter(|_| side == Side::Read);
    listener.into_iter().for_each(|token| engine.unlisten(token));
    Ok(listener.is_some())
}

/// A descriptor's number, `None` for an integer that is too large for one.
pub(super) fn number(fd: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    match fd.extract() {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.is_instance_of::<PyOverflowError>(fd.py()) => Ok(None),
        Err(error) => Err(error),
    }
}

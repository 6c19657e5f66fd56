//! *Watching file descriptors*: the native part, without argument checks.

use super::{BaseLoop, scheduling};
use crate::error::os_error;
use crate::ffi::context;
use crate::ffi::template::Captured;
use crate::handle::{PyHandle, cancel};
use oxloop::engine::Side;
use pyo3::exceptions::PyValueError;
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
    slf.get().check_closed()?;
    if fd < 0 {
        return Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}")));
    }
    let context = Captured::Own(context::copy_current(py)?);
    let handle = scheduling::new_handle(slf, callback, args, context)?;
    handle.track();
    let object = handle.object(py).unbind();
    let old = slf.get().engine.watch(fd, side, PyHandle(handle));
    match old {
        Ok(None) => Ok(object),
        Ok(Some(old)) => {
            cancel(&old.0.object(py))?;
            Ok(object)
        }
        Err(error) => Err(os_error(py, &error)),
    }
}

pub(super) fn remove(slf: &Bound<'_, BaseLoop>, fd: i32, side: Side) -> PyResult<bool> {
    let base = slf.get();
    if base.engine.is_closed() {
        return Ok(false);
    }
    match base.engine.unwatch(fd, side) {
        Some(old) => {
            cancel(&old.0.object(slf.py()))?;
            Ok(true)
        }
        None => Ok(false),
    }
}

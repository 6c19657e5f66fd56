//! What `loop.sendfile` needs of a transport: to be kept from writing, and to say when what it
//! wrote before is sent, or that the connection is lost.

use super::stream::StreamTransport;
use crate::event_loop::scheduling::new_future;
use crate::ffi::objects::{Message, interned};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;

/// A future of when the write buffer is empty; until the reset the transport refuses to write.
pub(super) fn make_empty_waiter<'py>(
    slf: &Bound<'py, StreamTransport>,
) -> PyResult<Bound<'py, PyAny>> {
    let (this, py) = (slf.get(), slf.py());
    let event_loop = this.event_loop(py);
    let Some(buffered) = this.engine().hold_writing(event_loop, this.token)? else {
        return Err(PyRuntimeError::new_err(Message("Empty waiter is already set")));
    };
    let future = new_future(event_loop)?;
    set_waiter(slf, Some(future.clone()));
    if this.info().closed {
        let none = py.None().into_bound(py);
        settle(slf, Some(&none))?;
    } else if buffered == 0 {
        settle(slf, None)?;
    }
    Ok(future)
}

/// Whom to tell from now on.
pub(super) fn set_waiter(slf: &Bound<'_, StreamTransport>, future: Option<Bound<'_, PyAny>>) {
    let mut parts = slf.get().parts.lock();
    let old = std::mem::replace(&mut parts.waiter, future.map(Bound::unbind));
    drop(parts);
    drop(old);
}

/// The transport may write again.
pub(super) fn reset_empty_waiter(slf: &Bound<'_, StreamTransport>) {
    set_waiter(slf, None);
    slf.get().engine().release_writing(slf.get().token);
}

/// Wakes whoever waits: with the reason of the loss, or because all is sent.
pub(super) fn settle(
    slf: &Bound<'_, StreamTransport>,
    lost: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = slf.py();
    let Some(waiter) = slf.get().parts.lock().waiter.take() else { return Ok(()) };
    let waiter = waiter.bind(py);
    if waiter.call_method0(interned!(py, "done")?)?.is_truthy()? {
        return Ok(());
    }
    let settled = match lost {
        None => waiter.call_method1(interned!(py, "set_result")?, (py.None(),)),
        Some(reason) if reason.is_none() => {
            let error = PyConnectionError::new_err(Message("Connection is closed by peer"));
            waiter.call_method1(interned!(py, "set_exception")?, (error.into_value(py),))
        }
        Some(reason) => waiter.call_method1(interned!(py, "set_exception")?, (reason,)),
    };
    settled.map(drop)
}

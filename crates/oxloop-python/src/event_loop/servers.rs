//! *Creating network servers*: the native part accepts.

use super::BaseLoop;
use crate::error::{memory_error, os_error};
use crate::ffi::objects::{self, Message, Text};
use crate::server::Listener;
use crate::transport::TransportRef;
use oxloop::engine::Descriptor;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyList;

pub(super) fn start_serving(
    slf: &Bound<'_, BaseLoop>,
    protocol_factory: Bound<'_, PyAny>,
    sock: Bound<'_, PyAny>,
    server: Option<Bound<'_, PyAny>>,
    backlog: i32,
    secure: Option<Bound<'_, PyAny>>,
) -> PyResult<()> {
    let base = slf.get();
    base.check_closed()?;
    let fd: i32 = sock.call_method0(Text("fileno"))?.extract()?;
    if fd < 0 {
        return Err(PyValueError::new_err(Message(format!("Invalid file descriptor: {fd}"))));
    }
    let descriptor = Descriptor::Lent(fd);
    let listener = Listener::make(protocol_factory, sock, server, secure, &descriptor)?;
    // listen(2) takes a negative one, too.
    let backlog = usize::try_from(backlog).unwrap_or(0);
    let listening = base.engine.listen(descriptor, listener, backlog);
    listening.map(drop).map_err(|error| os_error(slf.py(), &error))
}

pub(super) fn stop_serving(slf: &Bound<'_, BaseLoop>, sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let fd: i32 = sock.call_method0(Text("fileno"))?.extract()?;
    let engine = &slf.get().engine;
    if let Some(token) = engine.listener_of(fd) {
        engine.unlisten(token);
    }
    sock.call_method0(Text("close"))?;
    Ok(())
}

/// The open transports that came in through a server.
pub(super) fn transports_of<'py>(
    slf: &Bound<'py, BaseLoop>,
    server: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    let py = slf.py();
    let mut streams = slf.get().engine.streams().map_err(memory_error)?;
    streams.retain(|transport| match transport {
        TransportRef::Stream(transport) => transport.0.get().came_through(server),
        TransportRef::Pipe(_) => false,
    });
    let found = objects::list::<PyAny>(py, &[])?;
    for transport in streams {
        found.append(transport)?;
    }
    Ok(found)
}

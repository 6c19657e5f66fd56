//! *Creating network servers*: the native part accepts.

use super::BaseLoop;
use crate::error::os_error;
use crate::ffi::objects::{Message, Text};
use crate::server::Listener;
use crate::transport::TransportRef;
use crate::transport::stream::StreamRef;
use oxloop::engine::Descriptor;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

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
pub(super) fn transports_of(
    slf: &Bound<'_, BaseLoop>,
    server: &Bound<'_, PyAny>,
) -> Vec<StreamRef> {
    let streams = slf.get().engine.handlers().streams.into_iter();
    let streams = streams.filter_map(|transport| match transport {
        TransportRef::Stream(transport) => Some(transport),
        TransportRef::Pipe(_) => None,
    });
    streams.filter(|transport| transport.0.get().came_through(server)).collect()
}

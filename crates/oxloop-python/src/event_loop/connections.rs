//! *Opening network connections*: the native part makes the transport of a connected socket.

use super::BaseLoop;
use crate::ffi::context;
use crate::ffi::objects::{self, Message, Text};
use crate::transport::datagram::{self, DatagramRef};
use crate::transport::stream::{self, StreamRef};
use oxloop::engine::Descriptor;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

pub(super) fn make_socket_transport(
    slf: &Bound<'_, BaseLoop>,
    sock: Bound<'_, PyAny>,
    protocol: Bound<'_, PyAny>,
    waiter: Option<&Bound<'_, PyAny>>,
    extra: Option<&Bound<'_, PyAny>>,
    server: Option<&Bound<'_, PyAny>>,
) -> PyResult<StreamRef> {
    let py = slf.py();
    slf.get().check_closed()?;
    let fd = descriptor_of(&sock)?;
    let origin = stream::Origin {
        descriptor: Descriptor::Lent(fd),
        socket: Some(sock),
        peer: None,
        server: server.cloned(),
        context: context::copy_current(py)?,
    };
    let transport = stream::open(slf, protocol, origin, waiter)?;
    if let Some(extra) = extra {
        let transport = transport.0.bind(py);
        match transport.getattr_opt(Text("_extra"))? {
            Some(known) => known.call_method1(Text("update"), (extra,)).map(drop)?,
            None => transport.setattr(Text("_extra"), objects::copy_of_dict(extra.cast()?)?)?,
        }
    }
    Ok(transport)
}

pub(super) fn make_datagram_transport(
    slf: &Bound<'_, BaseLoop>,
    sock: Bound<'_, PyAny>,
    protocol: Bound<'_, PyAny>,
    address: Option<Bound<'_, PyAny>>,
    waiter: Option<&Bound<'_, PyAny>>,
    extra: Option<&Bound<'_, PyAny>>,
) -> PyResult<DatagramRef> {
    slf.get().check_closed()?;
    let origin = datagram::Origin { descriptor: descriptor_of(&sock)?, sock, address };
    datagram::open(slf, protocol, origin, waiter, extra)
}

fn descriptor_of(sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    let fd: i32 = sock.call_method0(Text("fileno"))?.extract()?;
    if fd < 0 {
        return Err(PyValueError::new_err(Message(format!("Invalid file descriptor: {fd}"))));
    }
    Ok(fd)
}

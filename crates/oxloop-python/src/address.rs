//! Names of sockets as Python's socket module gives them.

use crate::ffi::objects::{self, Int, Pair, Text};
use oxloop::UnixAddress;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use rustix::net::SocketAddrAny;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The name of one end of a connection, kept small: most are IPv4.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
    Unix(Box<UnixAddress>),
}

impl Address {
    /// From what the kernel said; `None` for other families.
    pub(crate) fn new(address: &SocketAddrAny) -> Option<Address> {
        Some(match oxloop::Address::try_from(address).ok()? {
            oxloop::Address::Inet(SocketAddr::V4(address)) => Address::V4(address),
            oxloop::Address::Inet(SocketAddr::V6(address)) => Address::V6(Box::new(address)),
            oxloop::Address::Unix(address) => Address::Unix(Box::new(address)),
            _ => return None,
        })
    }

    /// `(host, port)` or `(host, port, flowinfo, scope_id)`; of a Unix socket its path ("" for
    /// none), and as bytes its abstract name.
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Address::V4(address) => {
                let host = Text(address.ip().to_string());
                Ok(Pair(host, Int(address.port())).into_pyobject(py)?.into_any())
            }
            Address::V6(address) => {
                let host = numeric_host(py, *address.ip())?;
                let port = Int(address.port()).into_bound_py_any(py)?;
                let flow = Int(address.flowinfo()).into_bound_py_any(py)?;
                let scope = Int(address.scope_id()).into_bound_py_any(py)?;
                Ok(objects::tuple(py, [&host, &port, &flow, &scope])?.into_any())
            }
            Address::Unix(address) if address.as_abstract_name().is_some() => {
                Ok(objects::bytes(py, address.as_bytes())?.into_any())
            }
            Address::Unix(address) => Ok(objects::path(py, address.as_bytes())?.into_any()),
        }
    }
}

/// inet_ntop(3), whose text differs from Rust's for embedded IPv4 addresses.
fn numeric_host<'py>(py: Python<'py>, ip: Ipv6Addr) -> PyResult<Bound<'py, PyAny>> {
    let socket = py.import(Text("socket"))?;
    let family = socket.getattr(Text("AF_INET6"))?;
    socket.call_method1(Text("inet_ntop"), (family, objects::bytes(py, &ip.octets())?))
}

//! Names of sockets as Python's socket module gives them.

use oxloop::UnixAddress;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::net::SocketAddrAny;
use std::ffi::OsStr;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;

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
                Ok((address.ip().to_string(), address.port()).into_pyobject(py)?.into_any())
            }
            Address::V6(address) => {
                let host = numeric_host(py, *address.ip())?;
                let parts = (host, address.port(), address.flowinfo(), address.scope_id());
                Ok(parts.into_pyobject(py)?.into_any())
            }
            Address::Unix(address) if address.as_abstract_name().is_some() => {
                Ok(PyBytes::new(py, address.as_bytes()).into_any())
            }
            Address::Unix(address) => {
                Ok(OsStr::from_bytes(address.as_bytes()).into_pyobject(py)?.into_any())
            }
        }
    }
}

/// inet_ntop(3), whose text differs from Rust's for embedded IPv4 addresses.
fn numeric_host<'py>(py: Python<'py>, ip: Ipv6Addr) -> PyResult<Bound<'py, PyAny>> {
    let socket = py.import("socket")?;
    let family = socket.getattr("AF_INET6")?;
    socket.call_method1("inet_ntop", (family, PyBytes::new(py, &ip.octets())))
}

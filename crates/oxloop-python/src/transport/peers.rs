//! Addresses of peers, each made once: as Python objects for who receives, and back as the
//! system's for who sends.

use crate::address::Address;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString, PyTuple};
use rustix::net::SocketAddrAny;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// So many peers are known at a time; a flood of new ones starts over.
const MOST: usize = 1024;

/// The peers that an endpoint has heard of. Only tuples of text and numbers are kept, which can
/// be in no cycle: the collector need not see them.
#[derive(Default)]
pub(super) struct Peers {
    by_address: HashMap<SocketAddr, Py<PyAny>>,
    /// By the object's place, which `by_address` keeps.
    by_object: HashMap<usize, SocketAddr>,
}

impl Peers {
    /// The object of an address that is known.
    pub(super) fn object(&self, address: &SocketAddr) -> Option<&Py<PyAny>> {
        self.by_address.get(address)
    }

    /// The address of an object that this has handed out.
    pub(super) fn address(&self, object: &Bound<'_, PyAny>) -> Option<SocketAddr> {
        self.by_object.get(&object.as_ptr().addr()).copied()
    }

    /// Remembers a new one. What has to make room for it is returned, to be dropped under no lock.
    pub(super) fn remember(&mut self, address: SocketAddr, object: Py<PyAny>) -> Option<Peers> {
        let old = (self.by_address.len() >= MOST).then(|| std::mem::take(self));
        let room = self.by_object.try_reserve(1).and_then(|()| self.by_address.try_reserve(1));
        if room.is_err() {
            // It is only not remembered.
            return old;
        }
        self.by_object.insert(object.as_ptr().addr(), address);
        if let Some(other) = self.by_address.insert(address, object) {
            // Another thread was faster.
            self.by_object.remove(&other.as_ptr().addr());
        }
        old
    }
}

/// What `socket.recvfrom` says of an address: `None` for a sender without a name.
pub(super) fn to_python<'py>(
    py: Python<'py>,
    from: Option<&SocketAddrAny>,
) -> PyResult<Bound<'py, PyAny>> {
    match from.and_then(Address::new) {
        Some(address) => address.to_python(py),
        None => Ok(py.None().into_bound(py)),
    }
}

/// The address of a numeric host in a plain tuple, for a socket of the family AF_INET or
/// AF_INET6 (`six`). `None` leaves it to `socket.sendto`, which resolves names and knows all
/// errors. No Python code runs here: the tuple, its text and its numbers are of the exact types.
pub(super) fn parse(address: &Bound<'_, PyAny>, six: bool) -> Option<SocketAddr> {
    let parts = address.cast_exact::<PyTuple>().ok()?;
    let count = parts.len();
    let number = |index: usize| -> Option<u32> {
        let item = parts.get_item(index).ok()?;
        item.cast_exact::<PyInt>().ok()?.extract().ok()
    };
    let host = parts.get_item(0).ok()?;
    let host = host.cast_exact::<PyString>().ok()?.to_str().ok()?;
    let port = u16::try_from(number(1)?).ok()?;
    if !six {
        let ip: Ipv4Addr = host.parse().ok()?;
        return (count == 2).then(|| (ip, port).into());
    }
    let ip: Ipv6Addr = host.parse().ok()?;
    let flow = if count > 2 { number(2)? } else { 0 };
    let scope = if count > 3 { number(3)? } else { 0 };
    (count <= 4 && flow == 0).then(|| SocketAddrV6::new(ip, port, 0, scope).into())
}

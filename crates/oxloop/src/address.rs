//! What the system calls the ends of a connection: internet addresses, names of Unix sockets.

use crate::sys;
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix};
use socket2::SockAddr;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The name of one end of a connection, or of a listening socket.
///
/// Source: asyncio's extra information *peername* and *sockname*.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// Of a TCP connection.
    Inet(SocketAddr),
    /// Of a Unix socket.
    Unix(UnixAddress),
}

impl Address {
    /// The socket's own name (getsockname(2)).
    pub(crate) fn own(socket: impl AsFd) -> Option<Address> {
        Address::try_from(&rustix::net::getsockname(socket).ok()?).ok()
    }

    /// The name of whom the socket is connected to (getpeername(2)).
    pub(crate) fn peer(socket: impl AsFd) -> Option<Address> {
        Address::try_from(&rustix::net::getpeername(socket).ok()??).ok()
    }

    pub(crate) fn inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

/// For system calls. InvalidInput for a Unix name that the system does not take.
impl TryFrom<&Address> for SocketAddrAny {
    type Error = io::Error;

    fn try_from(address: &Address) -> io::Result<SocketAddrAny> {
        match address {
            Address::Inet(address) => Ok((*address).into()),
            Address::Unix(address) => {
                let name = match address.as_abstract_name() {
                    Some(name) => SocketAddrUnix::new_abstract_name(name),
                    None => SocketAddrUnix::new(address.as_bytes()),
                };
                Ok(name?.into())
            }
        }
    }
}

/// From what the kernel said; EAFNOSUPPORT for other families.
impl TryFrom<&SocketAddrAny> for Address {
    type Error = Errno;

    fn try_from(address: &SocketAddrAny) -> Result<Address, Errno> {
        match sys::unix_name(address) {
            Some(name) => Ok(Address::Unix(UnixAddress(name.into()))),
            None => SocketAddr::try_from(address.clone()).map(Address::Inet),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Address {
        address.clone()
    }
}

impl From<UnixAddress> for Address {
    fn from(address: UnixAddress) -> Address {
        Address::Unix(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(address) => address.fmt(f),
        }
    }
}

/// The name of a Unix socket: a path, or on Linux an *abstract* name, which is in no file system
/// and goes with its last socket. Sockets that were never bound have none.
///
/// As in asyncio a path that starts with a NUL byte is an abstract name. Names compare as they
/// are written: a relative path is relative to wherever the process is when it is used.
///
/// Source: unix(7).
///
/// ```
/// use oxloop::UnixAddress;
/// use std::path::Path;
///
/// let chat = UnixAddress::from("/run/chat.sock");
/// assert_eq!(chat.as_pathname(), Some(Path::new("/run/chat.sock")));
/// let hidden = UnixAddress::from("\0chat");
/// assert_eq!(hidden, UnixAddress::from_abstract_name("chat"));
/// assert_eq!(hidden.as_abstract_name(), Some(b"chat".as_slice()));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UnixAddress(Box<[u8]>);

impl UnixAddress {
    /// What a socket without a name has.
    pub(crate) fn unnamed() -> UnixAddress {
        UnixAddress(Box::default())
    }

    /// An abstract name, without the NUL byte in front.
    pub fn from_abstract_name(name: impl AsRef<[u8]>) -> UnixAddress {
        UnixAddress([b"\0", name.as_ref()].concat().into())
    }

    /// The path, if it is one.
    pub fn as_pathname(&self) -> Option<&Path> {
        match self.0.first() {
            None | Some(0) => None,
            Some(_) => Some(Path::new(OsStr::from_bytes(&self.0))),
        }
    }

    /// The abstract name, if it is one, without the NUL byte in front.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        self.0.strip_prefix(b"\0")
    }

    /// Whether the socket has no name.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }

    /// The path, or the abstract name behind its NUL byte: what `into()` made it of.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For bind(2) and connect(2). InvalidInput for what is too long, and for a path with a NUL
    /// byte in it, of which the system would take a part only.
    pub(crate) fn to_system(&self) -> io::Result<SockAddr> {
        if self.as_pathname().is_some() && self.0.contains(&0) {
            let message = "the path of a Unix socket must not contain a NUL byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        SockAddr::unix(OsStr::from_bytes(&self.0))
    }
}

/// As one writes it: the path, an abstract name behind its NUL, nothing where there is no name.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_pathname() {
            Some(path) => path.display().fmt(f),
            None => self.0.escape_ascii().fmt(f),
        }
    }
}

impl fmt::Debug for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OsStr::from_bytes(&self.0).fmt(f)
    }
}

impl From<OsString> for UnixAddress {
    fn from(path: OsString) -> UnixAddress {
        UnixAddress(path.into_vec().into())
    }
}

macro_rules! paths {
    ($($path:ty),*) => {$(
        impl From<$path> for UnixAddress {
            fn from(path: $path) -> UnixAddress {
                OsString::from(path).into()
            }
        }
    )*};
}

paths!(&str, String, &OsStr, &Path, PathBuf);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_say() {
        let path = UnixAddress::from(Path::new("a/b"));
        assert_eq!((path.as_abstract_name(), path.is_unnamed()), (None, false));
        assert_eq!((path.to_string(), format!("{path:?}")), ("a/b".into(), "\"a/b\"".into()));
        let hidden = UnixAddress::from_abstract_name(b"\xff");
        assert_eq!((hidden.as_pathname(), hidden.is_unnamed()), (None, false));
        assert_eq!(hidden.to_string(), r"\x00\xff");
        let none = UnixAddress::from("");
        assert!(none.is_unnamed());
        assert_eq!((none.as_pathname(), none.as_abstract_name()), (None, None));
        assert_eq!(none.to_string(), "");
        assert_ne!(none, UnixAddress::from("\0"));
    }

    #[test]
    fn names_that_the_system_does_not_take() {
        for (name, fits) in [
            ("x".repeat(107), true),
            ("x".repeat(108), false),
            ("\0".repeat(108), true),
            ("\0".repeat(109), false),
            ("a\0b".to_owned(), false),
            ("\0a\0b".to_owned(), true),
        ] {
            assert_eq!(UnixAddress::from(name.as_str()).to_system().is_ok(), fits, "{name:?}");
        }
    }
}

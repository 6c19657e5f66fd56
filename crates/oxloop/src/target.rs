//! Whom to connect to, or where to listen: names, addresses, or a socket that exists.

use crate::error::{Misuse, Result};
use crate::event_loop::EventLoop;
use socket2::{Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

/// Where a connection goes or a server listens, made by `into()`:
///
/// - `(host, port)`, the host a name or an address, or a list of them;
/// - one or more [`SocketAddr`]s;
/// - a socket: connected for [`create_connection`](EventLoop::create_connection), bound for
///   [`create_server`](EventLoop::create_server).
#[derive(Debug)]
pub struct Target(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Hosts(Vec<String>, u16),
    Addresses(Vec<SocketAddr>),
    Socket(Socket),
}

#[cfg(feature = "rustls")]
impl Target {
    /// What a certificate could be for, where that is one host or address.
    pub(crate) fn name(&self) -> Option<String> {
        match &self.0 {
            Kind::Hosts(hosts, _) => match hosts.as_slice() {
                [host] => Some(host.clone()),
                _ => None,
            },
            Kind::Addresses(addresses) => match addresses.as_slice() {
                [address] => Some(address.ip().to_string()),
                _ => None,
            },
            Kind::Socket(_) => None,
        }
    }
}

/// Addresses of hosts, each once, in the order of the hosts.
pub(crate) async fn resolve(
    event_loop: &EventLoop,
    hosts: &[String],
    port: u16,
) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for host in hosts {
        for address in event_loop.getaddrinfo(host, port).await? {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    Ok(addresses)
}

/// All interfaces: what a server's empty host stands for.
pub(crate) fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// Takes stream sockets only.
pub(crate) fn check_stream(socket: Socket) -> Result<Socket> {
    if socket.r#type()? == Type::STREAM { Ok(socket) } else { Err(Misuse::StreamExpected.into()) }
}

impl From<(&str, u16)> for Target {
    fn from((host, port): (&str, u16)) -> Target {
        Target(Kind::Hosts(vec![host.to_owned()], port))
    }
}

impl From<(String, u16)> for Target {
    fn from((host, port): (String, u16)) -> Target {
        Target(Kind::Hosts(vec![host], port))
    }
}

impl From<(&[&str], u16)> for Target {
    fn from((hosts, port): (&[&str], u16)) -> Target {
        Target(Kind::Hosts(hosts.iter().map(ToString::to_string).collect(), port))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target(Kind::Addresses(vec![address]))
    }
}

macro_rules! addresses {
    ($($address:ty),*) => {$(
        impl From<($address, u16)> for Target {
            fn from(address: ($address, u16)) -> Target {
                Target(Kind::Addresses(vec![address.into()]))
            }
        }
    )*};
}

addresses!(IpAddr, Ipv4Addr, Ipv6Addr);

impl From<&[SocketAddr]> for Target {
    fn from(addresses: &[SocketAddr]) -> Target {
        Target(Kind::Addresses(addresses.to_vec()))
    }
}

impl From<Vec<SocketAddr>> for Target {
    fn from(addresses: Vec<SocketAddr>) -> Target {
        Target(Kind::Addresses(addresses))
    }
}

macro_rules! sockets {
    ($($socket:ty),*) => {$(
        impl From<$socket> for Target {
            fn from(socket: $socket) -> Target {
                Target(Kind::Socket(socket.into()))
            }
        }
    )*};
}

sockets!(Socket, OwnedFd, TcpStream, TcpListener, UnixStream, UnixListener);

//! Datagram endpoints: UDP and Unix sockets (asyncio: *create_datagram_endpoint*).

use crate::address::{Address, UnixAddress};
use crate::connect::{Unclaimed, connect_socket};
use crate::error::{Error, Misuse, Result};
use crate::event_loop::{EventLoop, promise};
use crate::protocol::{DatagramProtocol, ProtocolHandle};
use crate::transport::DatagramTransport;
use crate::unix::remove_stale;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// An address to bind or to connect an endpoint to, made by `into()`: `(host, port)`, a
/// [`SocketAddr`], or the name of a Unix socket (a [`UnixAddress`] or a path).
#[derive(Clone, Debug)]
pub struct DatagramAddr(Place);

#[derive(Clone, Debug)]
enum Place {
    Host(String, u16),
    Inet(SocketAddr),
    Unix(UnixAddress),
}

impl From<(&str, u16)> for DatagramAddr {
    fn from((host, port): (&str, u16)) -> DatagramAddr {
        DatagramAddr(Place::Host(host.to_owned(), port))
    }
}

impl From<(String, u16)> for DatagramAddr {
    fn from((host, port): (String, u16)) -> DatagramAddr {
        DatagramAddr(Place::Host(host, port))
    }
}

impl From<SocketAddr> for DatagramAddr {
    fn from(address: SocketAddr) -> DatagramAddr {
        DatagramAddr(Place::Inet(address))
    }
}

impl From<Address> for DatagramAddr {
    fn from(address: Address) -> DatagramAddr {
        DatagramAddr(match address {
            Address::Inet(address) => Place::Inet(address),
            Address::Unix(address) => Place::Unix(address),
        })
    }
}

macro_rules! paths {
    ($($path:ty),*) => {$(
        impl From<$path> for DatagramAddr {
            fn from(path: $path) -> DatagramAddr {
                DatagramAddr(Place::Unix(path.into()))
            }
        }
    )*};
}

paths!(UnixAddress, &Path, PathBuf);

/// The family of an endpoint's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    Ipv4,
    /// AF_INET6.
    Ipv6,
    /// AF_UNIX.
    Unix,
}

impl Family {
    fn of(address: SocketAddr) -> Family {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    fn domain(self) -> Domain {
        match self {
            Family::Ipv4 => Domain::IPV4,
            Family::Ipv6 => Domain::IPV6,
            Family::Unix => Domain::UNIX,
        }
    }
}

/// What [`EventLoop::create_datagram_endpoint`] makes.
///
/// A socket (`UdpSocket`, `UnixDatagram`, `OwnedFd`, `socket2::Socket`) converts into it, and is
/// used as it is.
///
/// ```
/// use oxloop::{DatagramOptions, Family};
///
/// let server = DatagramOptions::new().local_addr(("127.0.0.1", 9999));
/// let client = DatagramOptions::new().remote_addr(("localhost", 9999)).family(Family::Ipv4);
/// ```
#[derive(Debug, Default)]
pub struct DatagramOptions {
    local: Option<DatagramAddr>,
    remote: Option<DatagramAddr>,
    family: Option<Family>,
    reuse_port: bool,
    allow_broadcast: bool,
    socket: Option<Socket>,
}

impl DatagramOptions {
    /// No address and no socket: at least one of the options has to be given.
    pub fn new() -> DatagramOptions {
        DatagramOptions::default()
    }

    /// Binds the socket to this address. Where it is a path, a socket that somebody left there is
    /// replaced.
    ///
    /// Source: *local_addr*.
    #[must_use]
    pub fn local_addr(self, address: impl Into<DatagramAddr>) -> DatagramOptions {
        DatagramOptions { local: Some(address.into()), ..self }
    }

    /// Connects the socket to this address: datagrams go there, and come from there alone.
    ///
    /// Source: *remote_addr*.
    #[must_use]
    pub fn remote_addr(self, address: impl Into<DatagramAddr>) -> DatagramOptions {
        DatagramOptions { remote: Some(address.into()), ..self }
    }

    /// Takes addresses of this family only; without an address, makes a socket of it.
    ///
    /// Source: *family*.
    #[must_use]
    pub fn family(self, family: Family) -> DatagramOptions {
        DatagramOptions { family: Some(family), ..self }
    }

    /// Lets other sockets that say so as well bind to the same address (SO_REUSEPORT); false by
    /// default.
    ///
    /// Source: *reuse_port*.
    #[must_use]
    pub fn reuse_port(self, reuse: bool) -> DatagramOptions {
        DatagramOptions { reuse_port: reuse, ..self }
    }

    /// Lets datagrams go to broadcast addresses (SO_BROADCAST); false by default. Then a remote
    /// address is only sent to, and not connected to: datagrams come from anywhere.
    ///
    /// Source: *allow_broadcast*.
    #[must_use]
    pub fn allow_broadcast(self, allow: bool) -> DatagramOptions {
        DatagramOptions { allow_broadcast: allow, ..self }
    }

    /// Whether anything is asked for that makes a socket.
    fn modifies(&self) -> bool {
        let addressed = self.local.is_some() || self.remote.is_some() || self.family.is_some();
        addressed || self.reuse_port || self.allow_broadcast
    }
}

macro_rules! sockets {
    ($($socket:ty),*) => {$(
        impl From<$socket> for DatagramOptions {
            fn from(socket: $socket) -> DatagramOptions {
                DatagramOptions { socket: Some(socket.into()), ..DatagramOptions::new() }
            }
        }
    )*};
}

sockets!(Socket, OwnedFd, UdpSocket, UnixDatagram);

impl EventLoop {
    /// Makes a socket for datagrams and a protocol for it by `factory`, and gives the endpoint's
    /// both sides. The addresses that a host has are tried in turn. An existing socket is used as
    /// it is; the endpoint owns it from then on.
    ///
    /// The protocol's `connection_made` has been called when the future is done. Dropping the
    /// future before that leaves nothing behind.
    ///
    /// Source: *loop.create_datagram_endpoint*.
    ///
    /// # Errors
    /// [`Error::Io`] with the errno of the first address; the resolver's error;
    /// [`Misuse::NoFamily`] where the options say nothing; [`Misuse::NoCommonFamily`] for
    /// addresses that do not fit together; [`Misuse::DatagramExpected`] for a stream socket, and
    /// [`Misuse::SocketModifiers`] for a socket and options of a new one; EAFNOSUPPORT for a
    /// socket that is neither an internet nor a Unix one; [`Misuse::LoopClosed`].
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use oxloop::{Address, DatagramOptions, DatagramProtocol, DatagramTransport};
    /// use oxloop::{EventLoop, Promise};
    ///
    /// struct Echo;
    ///
    /// impl DatagramProtocol for Echo {
    ///     fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], addr: &Address) {
    ///         transport.send_to(data, addr);
    ///     }
    /// }
    ///
    /// struct Caller(Promise<Vec<u8>>);
    ///
    /// impl DatagramProtocol for Caller {
    ///     fn datagram_received(&mut self, _: &DatagramTransport, data: &[u8], _: &Address) {
    ///         self.0.set_result(data.to_vec());
    ///     }
    /// }
    ///
    /// let event_loop = EventLoop::new()?;
    /// event_loop.run_until_complete(async {
    ///     let any = DatagramOptions::new().local_addr(("127.0.0.1", 0));
    ///     let (server, _) = event_loop.create_datagram_endpoint(|| Echo, any).await?;
    ///     let there = DatagramOptions::new().remote_addr(server.sockname().unwrap().clone());
    ///     let (promise, echo) = event_loop.create_future();
    ///     let (client, _) =
    ///         event_loop.create_datagram_endpoint(|| Caller(promise), there).await?;
    ///     client.send("anybody there?");
    ///     assert_eq!(echo.await?, b"anybody there?");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn create_datagram_endpoint<P, F>(
        &self,
        factory: F,
        options: impl Into<DatagramOptions>,
    ) -> Result<(DatagramTransport, ProtocolHandle<P>)>
    where
        P: DatagramProtocol + 'static,
        F: FnOnce() -> P,
    {
        let options = options.into();
        self.core().check()?;
        let (socket, remote) = if options.socket.is_some() {
            (existing(options)?, None)
        } else {
            self.new_endpoint(&options).await?
        };
        let protocol = ProtocolHandle::of_datagrams(self.core().home, factory());
        let (promise, waiter) = promise();
        let erased = protocol.erased_datagrams();
        self.core().act(move |cx| {
            DatagramTransport::open(cx, socket, remote, erased, move |transport| {
                promise.set_result(Unclaimed::new(transport, DatagramTransport::close));
            });
        });
        let transport = waiter.await.map_err(|_| self.core().refused())?.claim()?;
        Ok((transport, protocol))
    }

    async fn new_endpoint(&self, options: &DatagramOptions) -> Result<(Socket, Option<Address>)> {
        let mut first = None;
        for (family, local, remote) in self.pairs(options).await? {
            match self.try_endpoint(options, family, local.as_ref(), remote.as_ref()).await {
                Ok(socket) => return Ok((socket, remote)),
                Err(error) => _ = first.get_or_insert(error),
            }
        }
        Err(first.map_or(Misuse::NoCommonFamily.into(), Error::Io))
    }

    /// The addresses to try, by family: each has both that are asked for.
    async fn pairs(
        &self,
        options: &DatagramOptions,
    ) -> Result<Vec<(Family, Option<Address>, Option<Address>)>> {
        let DatagramOptions { local, remote, family, .. } = options;
        if local.is_none() && remote.is_none() {
            let family = family.ok_or(Misuse::NoFamily)?;
            return Ok(vec![(family, None, None)]);
        }
        let mut pairs: Vec<(Family, Option<Address>, Option<Address>)> = Vec::new();
        for (is_local, place) in [(true, local), (false, remote)] {
            let Some(DatagramAddr(place)) = place else { continue };
            let found: Vec<(Family, Address)> = match place {
                Place::Unix(address) => vec![(Family::Unix, address.clone().into())],
                Place::Inet(address) => vec![(Family::of(*address), (*address).into())],
                Place::Host(host, port) => {
                    let addresses = self.getaddrinfo(host, *port).await?.into_iter();
                    addresses.map(|address| (Family::of(address), address.into())).collect()
                }
            };
            for (kind, address) in found {
                if family.is_some_and(|family| family != kind) {
                    continue;
                }
                let index = pairs.iter().position(|pair| pair.0 == kind).unwrap_or_else(|| {
                    pairs.push((kind, None, None));
                    pairs.len() - 1
                });
                let side = if is_local { &mut pairs[index].1 } else { &mut pairs[index].2 };
                // Of several addresses of a family asyncio takes the last one.
                *side = Some(address);
            }
        }
        pairs.retain(|(_, bound, connected)| {
            bound.is_some() == local.is_some() && connected.is_some() == remote.is_some()
        });
        if pairs.is_empty() { Err(Misuse::NoCommonFamily.into()) } else { Ok(pairs) }
    }

    async fn try_endpoint(
        &self,
        options: &DatagramOptions,
        family: Family,
        local: Option<&Address>,
        remote: Option<&Address>,
    ) -> io::Result<Socket> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(family.domain(), kind, None)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if options.allow_broadcast {
            socket.set_broadcast(true)?;
        }
        if let Some(local) = local {
            if let Address::Unix(name) = local {
                name.as_pathname().into_iter().for_each(remove_stale);
            }
            socket.bind(&to_system(local)?)?;
        }
        match remote {
            Some(remote) if !options.allow_broadcast => {
                connect_socket(self.core(), socket, &to_system(remote)?).await
            }
            _ => Ok(socket),
        }
    }
}

fn to_system(address: &Address) -> io::Result<SockAddr> {
    match address {
        Address::Inet(address) => Ok((*address).into()),
        Address::Unix(address) => address.to_system(),
    }
}

/// Takes sockets that are no streams, of the families that have an [`Address`].
fn existing(mut options: DatagramOptions) -> Result<Socket> {
    let modified = options.modifies();
    let Some(socket) = options.socket.take() else { return Err(Misuse::DatagramExpected.into()) };
    if socket.r#type()? == Type::STREAM {
        return Err(Misuse::DatagramExpected.into());
    }
    if modified {
        return Err(Misuse::SocketModifiers.into());
    }
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&socket.domain()?) {
        return Err(io::Error::from(Errno::AFNOSUPPORT).into());
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

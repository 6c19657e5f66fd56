//! Opening connections (asyncio: *Opening network connections*).

use crate::engine::Side;
use crate::error::{Error, Result};
use crate::event_loop::EventLoop;
use crate::event_loop::core::Core;
use crate::protocol::{Protocol, ProtocolHandle};
use crate::racing;
use crate::target::{Kind, Target, check_stream, resolve};
#[cfg(feature = "rustls")]
use crate::tls::TlsClientOptions;
use crate::tls::over::Over;
use crate::transport::Transport;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where [`EventLoop::create_connection`] connects to, and how.
///
/// Anything that names a target converts into it; write it out to set the options.
///
/// ```
/// use oxloop::ConnectOptions;
///
/// use std::time::Duration;
///
/// let options = ConnectOptions::new(("localhost", 8888))
///     .happy_eyeballs_delay(Duration::from_millis(250))
///     .local_addr("127.0.0.1:0".parse().unwrap());
/// ```
#[derive(Debug)]
pub struct ConnectOptions {
    target: Target,
    local_addr: Option<SocketAddr>,
    happy_eyeballs_delay: Option<Duration>,
    interleave: Option<usize>,
    #[cfg(feature = "rustls")]
    tls: Option<TlsClientOptions>,
}

impl ConnectOptions {
    /// Options for a target: `(host, port)`, one or more `SocketAddr`s, or a connected stream
    /// socket (`TcpStream`, `UnixStream`, `OwnedFd`, `socket2::Socket`).
    pub fn new(target: impl Into<Target>) -> ConnectOptions {
        ConnectOptions {
            target: target.into(),
            local_addr: None,
            happy_eyeballs_delay: None,
            interleave: None,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    /// Binds the socket to a local address first. Addresses of the other family are not tried.
    #[must_use]
    pub fn local_addr(self, address: SocketAddr) -> ConnectOptions {
        ConnectOptions { local_addr: Some(address), ..self }
    }

    /// Races several addresses: the next one is tried as well when the latest has not answered
    /// within `delay`, or at once when it has failed; the first connection is taken, the other
    /// attempts are given up. Without it they are tried one after the other. RFC 8305 recommends
    /// 250 ms.
    ///
    /// Source: *loop.create_connection*, `happy_eyeballs_delay`; RFC 8305.
    #[must_use]
    pub fn happy_eyeballs_delay(self, delay: Duration) -> ConnectOptions {
        ConnectOptions { happy_eyeballs_delay: Some(delay), ..self }
    }

    /// Takes turns between IPv6 and IPv4 addresses, after `first_family_count` of the family that
    /// the resolver names first. 0 keeps the resolver's order, and is the default without
    /// [`happy_eyeballs_delay`](Self::happy_eyeballs_delay); with it, 1 is.
    ///
    /// Source: *loop.create_connection*, `interleave`; RFC 8305, "First Address Family Count".
    #[must_use]
    pub fn interleave(self, first_family_count: usize) -> ConnectOptions {
        ConnectOptions { interleave: Some(first_family_count), ..self }
    }

    /// Secures the connection by TLS, with options or a `rustls::ClientConfig` (feature `tls`). The
    /// server's certificate has to be for the host, or the one address, that is connected to,
    /// unless [another name](TlsClientOptions::server_name) is set.
    ///
    /// Source: *loop.create_connection*, `ssl`.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn tls(self, tls: impl Into<TlsClientOptions>) -> ConnectOptions {
        ConnectOptions { tls: Some(tls.into()), ..self }
    }

    fn over(&mut self) -> Result<Over> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = self.tls.take() {
            return Ok(Over::Tls(tls.secure(self.target.name().as_deref())?));
        }
        Ok(Over::default())
    }
}

impl<T: Into<Target>> From<T> for ConnectOptions {
    fn from(target: T) -> ConnectOptions {
        ConnectOptions::new(target)
    }
}

impl EventLoop {
    /// Connects, makes a protocol by `factory`, and gives both sides of the connection. All
    /// addresses of a host are tried, in turn or in a race
    /// ([`happy_eyeballs_delay`](ConnectOptions::happy_eyeballs_delay)). An existing socket is
    /// used as it is; the connection owns it from then on.
    ///
    /// The protocol's `connection_made` has been called when the future is done; with
    /// TLS that is after the handshake. Dropping the
    /// future before that leaves nothing behind: attempts under way are given up, and a connection
    /// that was made already is closed.
    ///
    /// Source: *loop.create_connection*.
    ///
    /// # Errors
    /// [`Error::Io`] with the errno of the only address, or [`Error::Connect`] with those of
    /// all; the resolver's error; [`Misuse::StreamExpected`](crate::Misuse::StreamExpected) for a
    /// socket of another kind; [`Misuse::LoopClosed`](crate::Misuse::LoopClosed). With TLS those of `start_tls`, too.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use oxloop::{EventLoop, Promise, Protocol, Transport};
    /// use std::io::Write;
    /// use std::os::unix::net::UnixStream;
    ///
    /// struct Reader(Promise<Vec<u8>>);
    ///
    /// impl Protocol for Reader {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         self.0.set_result(data.to_vec());
    ///         transport.close();
    ///     }
    /// }
    ///
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let event_loop = EventLoop::new()?;
    /// let data = event_loop.run_until_complete(async {
    ///     let (read, data) = event_loop.create_future();
    ///     event_loop.create_connection(|| Reader(read), ours).await?;
    ///     theirs.write_all(b"abc")?;
    ///     data.await
    /// })??;
    /// assert_eq!(data, b"abc");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create_connection<P, F>(
        &self,
        factory: F,
        to: impl Into<ConnectOptions>,
    ) -> Result<(Transport, ProtocolHandle<P>)>
    where
        P: Protocol + 'static,
        F: FnOnce() -> P,
    {
        let mut options = to.into();
        self.core().check()?;
        let over = options.over()?;
        let ConnectOptions { target, local_addr, happy_eyeballs_delay, interleave, .. } = options;
        let addresses = match target.0 {
            Kind::Socket(socket) => {
                return self.connected(factory, check_stream(socket)?, over).await;
            }
            Kind::Hosts(hosts, port) => resolve(self, &hosts, port).await?,
            Kind::Addresses(addresses) => addresses,
        };
        let first = interleave.unwrap_or(usize::from(happy_eyeballs_delay.is_some()));
        let addresses = racing::interleave(addresses, first, SocketAddr::is_ipv4);
        let attempts =
            addresses.into_iter().map(|address| connect(self.core(), address, local_addr));
        let socket = match happy_eyeballs_delay {
            Some(delay) => racing::race(self, attempts, delay).await,
            None => in_turn(attempts).await,
        };
        self.connected(factory, socket.map_err(all_of)?, over).await
    }

    pub(crate) async fn connected<P: Protocol + 'static>(
        &self,
        factory: impl FnOnce() -> P,
        socket: Socket,
        over: Over,
    ) -> Result<(Transport, ProtocolHandle<P>)> {
        socket.set_nonblocking(true)?;
        let protocol = ProtocolHandle::new(self.core().home, factory());
        let transport = over.open(self.core(), socket, protocol.erased()).await?;
        Ok((transport, protocol))
    }
}

/// A transport that nobody has yet: dropped, it is closed.
pub(crate) struct Unclaimed<T> {
    transport: Option<T>,
    close: fn(&T),
}

impl<T> Unclaimed<T> {
    pub(crate) fn new(transport: T, close: fn(&T)) -> Unclaimed<T> {
        Unclaimed { transport: Some(transport), close }
    }

    pub(crate) fn claim(mut self) -> Result<T> {
        self.transport.take().ok_or(Error::Cancelled)
    }
}

impl<T> Drop for Unclaimed<T> {
    fn drop(&mut self) {
        self.transport.iter().for_each(self.close);
    }
}

/// The first attempt that succeeds; each begins when the one before it has failed.
async fn in_turn<T, E>(
    attempts: impl IntoIterator<Item: Future<Output = Result<T, E>>>,
) -> Result<T, Vec<E>> {
    let mut errors = Vec::new();
    for attempt in attempts {
        match attempt.await {
            Ok(value) => return Ok(value),
            Err(error) => errors.push(error),
        }
    }
    Err(errors)
}

/// One error stays itself, and so do several that say the same.
fn all_of(mut errors: Vec<io::Error>) -> Error {
    let first = errors.first().map(ToString::to_string);
    if errors.iter().any(|error| Some(error.to_string()) != first) {
        return Error::Connect(errors);
    }
    match errors.pop() {
        Some(error) => Error::Io(error),
        None => Error::Io(io::ErrorKind::AddrNotAvailable.into()),
    }
}

async fn connect(
    core: &Arc<Core>,
    address: SocketAddr,
    local: Option<SocketAddr>,
) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if let Some(local) = local {
        if local.is_ipv4() != address.is_ipv4() {
            return Err(Errno::AFNOSUPPORT.into());
        }
        socket.bind(&local.into())?;
    }
    connect_socket(core, socket, &address.into()).await
}

/// Connects a non-blocking socket. A Unix one connects at once or not at all: there EAGAIN, a full
/// queue, is an error.
pub(crate) async fn connect_socket(
    core: &Arc<Core>,
    socket: Socket,
    address: &SockAddr,
) -> io::Result<Socket> {
    match socket.connect(address) {
        Ok(()) => return Ok(socket),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::INPROGRESS | Errno::INTR) => {}
            _ => return Err(error),
        },
    }
    core.ready(&socket, Side::Write).await.map_err(|error| match error {
        Error::Io(error) => error,
        error => io::Error::other(error),
    })?;
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept() {
        let refused = || io::Error::from(Errno::CONNREFUSED);
        let unreachable = || io::Error::from(Errno::NETUNREACH);
        let one = all_of(vec![refused()]);
        assert!(matches!(one, Error::Io(_)));
        let same = all_of(vec![refused(), refused()]);
        assert!(matches!(same, Error::Io(_)));
        assert_eq!(same.raw_os_error(), refused().raw_os_error());
        let Error::Connect(list) = all_of(vec![refused(), unreachable()]) else { panic!() };
        let numbers: Vec<_> = list.iter().map(io::Error::raw_os_error).collect();
        assert_eq!(numbers, [refused().raw_os_error(), unreachable().raw_os_error()]);
    }
}

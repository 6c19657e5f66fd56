//! Listening for connections (asyncio: *Creating network servers*, *Server Objects*).

use crate::address::Address;
use crate::engine::{Accepted, Descriptor, ListenerHandler, Token};
use crate::error::{Error, Misuse, Result};
use crate::event_loop::core::{Core, catch};
use crate::event_loop::face::{Cx, RustFace};
use crate::event_loop::owned::Owned;
use crate::event_loop::{EventLoop, ExceptionContext, Promise, next_turn, promise};
use crate::protocol::cell::AnyProtocol;
use crate::protocol::{Protocol, ProtocolHandle};
use crate::target::{Kind, Target, check_stream, everywhere, resolve};
#[cfg(feature = "rustls")]
use crate::tls::TlsServerOptions;
use crate::tls::over::Over;
use crate::transport::Transport;
use crate::transport::stream::{Connection, WeakTransport};
use crate::unix::SocketFile;
use parking_lot::Mutex;
use rustix::io::Errno;
use slab::Slab;
use socket2::{Domain, Socket, Type};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Where [`EventLoop::create_server`] listens, and how.
///
/// Anything that names a place converts into it; write it out to set the options.
///
/// ```
/// use oxloop::ServerOptions;
///
/// let options = ServerOptions::new(("127.0.0.1", 8888)).backlog(1000).reuse_port(true);
/// ```
#[derive(Debug)]
pub struct ServerOptions {
    target: Target,
    backlog: i32,
    reuse_address: bool,
    reuse_port: bool,
    keep_alive: bool,
    start_serving: bool,
    #[cfg(feature = "rustls")]
    tls: Option<TlsServerOptions>,
}

impl ServerOptions {
    /// Options for a place: `(host, port)`, one or more `SocketAddr`s, or a bound stream socket.
    /// The host `""` stands for all interfaces, the port 0 for any free one.
    pub fn new(target: impl Into<Target>) -> ServerOptions {
        ServerOptions {
            target: target.into(),
            backlog: 100,
            reuse_address: true,
            reuse_port: false,
            keep_alive: false,
            start_serving: true,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }

    /// How many connections the system keeps waiting, and one less than how many are taken in
    /// one turn; 100 by default.
    #[must_use]
    pub fn backlog(self, backlog: u16) -> ServerOptions {
        ServerOptions { backlog: backlog.into(), ..self }
    }

    /// Whether an address may be used that an earlier server's connections still linger on
    /// (SO_REUSEADDR); true by default.
    #[must_use]
    pub fn reuse_address(self, reuse: bool) -> ServerOptions {
        ServerOptions { reuse_address: reuse, ..self }
    }

    /// Whether several servers may listen on the same address and share its connections
    /// (SO_REUSEPORT); false by default.
    #[must_use]
    pub fn reuse_port(self, reuse: bool) -> ServerOptions {
        ServerOptions { reuse_port: reuse, ..self }
    }

    /// Whether connections are probed while nothing is sent, so that a peer which is gone shows
    /// (SO_KEEPALIVE); false by default. An existing socket keeps its setting.
    #[must_use]
    pub fn keep_alive(self, keep_alive: bool) -> ServerOptions {
        ServerOptions { keep_alive, ..self }
    }

    /// Whether to accept at once; true by default. Else
    /// [`start_serving`](Server::start_serving) does it.
    #[must_use]
    pub fn start_serving(self, start: bool) -> ServerOptions {
        ServerOptions { start_serving: start, ..self }
    }

    /// Secures the connections by TLS, with options or a `rustls::ServerConfig` (feature `tls`). A
    /// protocol's first call comes after its handshake; of a handshake that fails nobody is told but
    /// the log, at its debug level.
    ///
    /// Source: *loop.create_server*, `ssl`.
    #[cfg(feature = "rustls")]
    #[must_use]
    pub fn tls(self, tls: impl Into<TlsServerOptions>) -> ServerOptions {
        ServerOptions { tls: Some(tls.into()), ..self }
    }

    fn over(&mut self) -> Result<Over> {
        #[cfg(feature = "rustls")]
        if let Some(tls) = self.tls.take() {
            return Ok(Over::Tls(tls.secure()?));
        }
        Ok(Over::default())
    }
}

impl<T: Into<Target>> From<T> for ServerOptions {
    fn from(target: T) -> ServerOptions {
        ServerOptions::new(target)
    }
}

impl EventLoop {
    /// Listens, and makes a protocol by `factory` for each connection, on the loop's thread.
    ///
    /// Where the system runs out of descriptors or memory, accepting rests for a second, and the
    /// exception handler hears of it.
    ///
    /// Source: *loop.create_server*.
    ///
    /// # Errors
    /// [`Error::Bind`] with the address and its errno; the resolver's error;
    /// [`Misuse::StreamExpected`] for a socket of another kind; [`Misuse::LoopClosed`].
    pub async fn create_server<P, F>(
        &self,
        factory: F,
        at: impl Into<ServerOptions>,
    ) -> Result<Server>
    where
        P: Protocol + 'static,
        F: Fn() -> P + Send + Sync + 'static,
    {
        let mut options = at.into();
        self.core().check()?;
        let over = options.over()?;
        let ServerOptions { target, reuse_address, reuse_port, keep_alive, .. } = options;
        let prepare = |socket: &Socket| {
            socket.set_reuse_address(reuse_address)?;
            socket.set_reuse_port(reuse_port)?;
            socket.set_keepalive(keep_alive)
        };
        let sockets = match target.0 {
            Kind::Socket(socket) => vec![check_stream(socket)?],
            Kind::Addresses(addresses) => bind_all(&addresses, prepare)?,
            Kind::Hosts(hosts, port) => {
                let addresses = match hosts.as_slice() {
                    [host] if host.is_empty() => everywhere(port),
                    hosts => resolve(self, hosts, port).await?,
                };
                bind_all(&addresses, prepare)?
            }
        };
        let ServerOptions { backlog, start_serving, .. } = options;
        self.serve(factory, Setup { sockets, backlog, start_serving, file: None, over }).await
    }

    /// Makes the server of bound sockets.
    pub(crate) async fn serve<P, F>(&self, factory: F, setup: Setup) -> Result<Server>
    where
        P: Protocol + 'static,
        F: Fn() -> P + Send + Sync + 'static,
    {
        for socket in &setup.sockets {
            socket.set_nonblocking(true)?;
        }
        let state =
            State { sockets: Some(setup.sockets.into()), file: setup.file, ..State::default() };
        let home = self.core().home;
        let factory = Owned::new(home, factory);
        let factory =
            move || factory.get().map(|factory| ProtocolHandle::new(home, factory()).erased());
        let server = Server(Arc::new(Inner {
            core: self.core().clone(),
            factory: Box::new(factory),
            backlog: setup.backlog,
            over: setup.over,
            state: Mutex::new(state),
        }));
        if setup.start_serving {
            let closing = CloseOnDrop(&server);
            server.start_serving().await?;
            std::mem::forget(closing);
        }
        Ok(server)
    }
}

/// What a server is made of.
pub(crate) struct Setup {
    /// Bound.
    pub(crate) sockets: Vec<Socket>,
    pub(crate) backlog: i32,
    pub(crate) start_serving: bool,
    /// What goes with the sockets when the server is closed.
    pub(crate) file: Option<SocketFile>,
    pub(crate) over: Over,
}

/// Sockets for all addresses; `prepare` sets their options before they are bound.
fn bind_all(
    addresses: &[SocketAddr],
    prepare: impl Fn(&Socket) -> io::Result<()>,
) -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut last = Error::Io(io::ErrorKind::AddrNotAvailable.into());
    for &address in addresses {
        match bind(address, &prepare) {
            Ok(socket) => sockets.push(socket),
            Err(source) => {
                let errno = Errno::from_io_error(&source);
                last = Error::Bind { address, source };
                // A family or an interface that this system does not have is no reason to do
                // without the others.
                if !matches!(errno, Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT)) {
                    return Err(last);
                }
            }
        }
    }
    if sockets.is_empty() { Err(last) } else { Ok(sockets) }
}

fn bind(address: SocketAddr, prepare: impl Fn(&Socket) -> io::Result<()>) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    prepare(&socket)?;
    if address.is_ipv6() {
        // Each family has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listening server; a clone is the same server. While it serves, the loop keeps it.
///
/// Source: *asyncio.Server*.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    factory: Box<dyn Fn() -> Option<Arc<dyn AnyProtocol>> + Send + Sync>,
    backlog: i32,
    over: Over,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The owners of the descriptors, which the engine has on loan; `None` once closed.
    sockets: Option<Arc<[Socket]>>,
    /// The file of a Unix socket, which goes with it.
    file: Option<SocketFile>,
    listeners: Vec<Token>,
    serving: bool,
    /// Connections that are not lost yet; a new one has no transport for a moment.
    clients: Slab<Option<WeakTransport>>,
    /// Those who wait for the server to be closed and the last connection to be lost.
    waiters: Slab<Promise<()>>,
    serving_forever: Option<Promise<()>>,
}

impl Server {
    /// Accepts connections from now on; does nothing on a server that does.
    ///
    /// Source: *Server.start_serving*.
    ///
    /// # Errors
    /// [`Misuse::ServerClosed`], and what listen(2) says (EADDRINUSE).
    pub async fn start_serving(&self) -> Result<()> {
        self.listen()?;
        // asyncio skips a turn here, too.
        next_turn().await;
        Ok(())
    }

    fn listen(&self) -> Result<()> {
        self.0.core.check_process()?;
        let (sockets, backlog) = {
            let mut state = self.0.state.lock();
            if state.serving {
                return Ok(());
            }
            let Some(sockets) = state.sockets.clone() else {
                return Err(Misuse::ServerClosed.into());
            };
            state.serving = true;
            (sockets, self.0.backlog)
        };
        for socket in sockets.iter() {
            let descriptor = Descriptor::Lent(socket.as_raw_fd());
            let acceptor = Acceptor { server: self.clone(), name: Address::own(socket) };
            let listening = socket.listen(backlog).and_then(|()| {
                let batch = backlog.unsigned_abs() as usize;
                self.0.core.engine.listen(descriptor, acceptor, batch)
            });
            match listening {
                Ok(token) => self.0.state.lock().listeners.push(token),
                Err(error) => {
                    self.stop_listening();
                    return Err(error.into());
                }
            }
        }
        self.0.core.nudge();
        if self.0.core.is_closed() {
            self.close();
            return Err(Misuse::LoopClosed.into());
        }
        Ok(())
    }

    fn stop_listening(&self) {
        let listeners = {
            let mut state = self.0.state.lock();
            state.serving = false;
            std::mem::take(&mut state.listeners)
        };
        listeners.into_iter().for_each(|token| self.0.core.engine.unlisten(token));
    }

    /// Accepts connections until the server is closed, then waits for those that are open
    /// ([`wait_closed`](Self::wait_closed)). Dropping the future closes the server.
    ///
    /// Source: *Server.serve_forever*.
    ///
    /// # Errors
    /// [`Misuse::ServerAwaited`] where another caller does already, and those of
    /// [`start_serving`](Self::start_serving).
    pub async fn serve_forever(&self) -> Result<()> {
        let (promise, closed) = promise();
        {
            let mut state = self.0.state.lock();
            if state.serving_forever.is_some() {
                return Err(Misuse::ServerAwaited.into());
            }
            if state.sockets.is_none() {
                return Err(Misuse::ServerClosed.into());
            }
            state.serving_forever = Some(promise);
        }
        if let Err(error) = self.listen() {
            self.0.state.lock().serving_forever = None;
            return Err(error);
        }
        let closing = CloseOnDrop(self);
        let _ = closed.await;
        drop(closing);
        self.wait_closed().await;
        Ok(())
    }

    /// Stops listening, closes the listening sockets, and removes the file of a Unix one.
    /// Connections stay open ([`close_clients`](Self::close_clients)). From any thread.
    ///
    /// Source: *Server.close*.
    pub fn close(&self) {
        self.stop_listening();
        let (sockets, file, forever) = {
            let mut state = self.0.state.lock();
            (state.sockets.take(), state.file.take(), state.serving_forever.take())
        };
        drop(sockets);
        drop(file);
        if let Some(forever) = forever {
            forever.set_result(());
        }
        self.wake_if_done();
    }

    /// Closes the connections that are open, each after what is left to write. The server
    /// listens on, unless it is closed. From any thread. A TLS connection is cut off below TLS, as
    /// in asyncio: its peer gets no closing alert.
    ///
    /// Source: *Server.close_clients*.
    ///
    /// ```
    /// # async fn shut_down(server: oxloop::Server) {
    /// server.close();
    /// server.close_clients();
    /// server.wait_closed().await;
    /// # }
    /// ```
    pub fn close_clients(&self) {
        self.clients().iter().for_each(Transport::close);
    }

    /// Closes the connections that are open at once: what is left to write is dropped. From any
    /// thread.
    ///
    /// Source: *Server.abort_clients*.
    pub fn abort_clients(&self) {
        self.clients().iter().for_each(Transport::abort);
    }

    fn clients(&self) -> Vec<Transport> {
        let state = self.0.state.lock();
        state.clients.iter().filter_map(|(_, client)| client.as_ref()?.upgrade()).collect()
    }

    /// Waits until the server is closed and its last connection lost, in whichever order.
    ///
    /// Source: *Server.wait_closed*, as it is since Python 3.12.
    pub async fn wait_closed(&self) {
        let waiting = {
            let mut state = self.0.state.lock();
            if state.is_done() {
                return;
            }
            let (promise, waiter) = promise();
            (Waiting { server: self, index: state.waiters.insert(promise) }, waiter)
        };
        let (_waiting, waiter) = waiting;
        let _ = waiter.await;
    }

    /// The loop it serves on; `None` once its last handle is gone.
    ///
    /// Source: *Server.get_loop*.
    pub fn event_loop(&self) -> Option<EventLoop> {
        self.0.core.event_loop()
    }

    /// Whether it accepts connections.
    ///
    /// Source: *Server.is_serving*.
    pub fn is_serving(&self) -> bool {
        self.0.state.lock().serving
    }

    /// The listening sockets; none once the server is closed. Whoever holds the result keeps
    /// them open.
    ///
    /// Source: *Server.sockets*.
    pub fn sockets(&self) -> Arc<[Socket]> {
        self.0.state.lock().sockets.clone().unwrap_or_default()
    }

    /// The internet addresses of the listening sockets, where one finds the port that 0 stood
    /// for.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// # struct Echo;
    /// # impl oxloop::Protocol for Echo {
    /// #     fn data_received(&mut self, _: &oxloop::Transport, _: &[u8]) {}
    /// # }
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let listening = event_loop.create_server(|| Echo, ("127.0.0.1", 0));
    /// let server = event_loop.run_until_complete(listening)??;
    /// assert_ne!(server.local_addrs()[0].port(), 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.socknames().iter().filter_map(Address::inet).collect()
    }

    /// The names of the listening sockets, of Unix ones as well.
    pub fn socknames(&self) -> Vec<Address> {
        self.sockets().iter().filter_map(Address::own).collect()
    }

    fn wake_if_done(&self) {
        let waiters = {
            let mut state = self.0.state.lock();
            if !state.is_done() {
                return;
            }
            std::mem::take(&mut state.waiters)
        };
        waiters.into_iter().for_each(|(_, waiter)| _ = waiter.set_result(()));
    }
}

impl State {
    fn is_done(&self) -> bool {
        self.sockets.is_none() && self.clients.is_empty()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Server serving={} sockets={:?}>", self.is_serving(), self.socknames())
    }
}

/// Somebody waits for the end of a server, as long as this lives.
struct Waiting<'a> {
    server: &'a Server,
    index: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.server.0.state.lock();
        // They are all taken when the server is done, and nobody waits after that.
        let promise = state.waiters.try_remove(self.index);
        if state.waiters.is_empty() {
            state.waiters = Slab::new();
        }
        drop(state);
        drop(promise);
    }
}

/// Closes a server whose start, or whose `serve_forever`, is given up.
struct CloseOnDrop<'a>(&'a Server);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// An open connection of a server, as long as this lives.
pub(crate) struct Attachment {
    server: Server,
    client: usize,
}

impl Attachment {
    /// `None` on a server that was closed.
    fn new(server: &Server) -> Option<Attachment> {
        let mut state = server.0.state.lock();
        state.sockets.as_ref()?;
        let client = state.clients.insert(None);
        Some(Attachment { server: server.clone(), client })
    }

    /// This is its transport.
    pub(crate) fn name(&self, transport: WeakTransport) {
        if let Some(client) = self.server.0.state.lock().clients.get_mut(self.client) {
            *client = Some(transport);
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let client = self.server.0.state.lock().clients.try_remove(self.client);
        drop(client);
        self.server.wake_if_done();
    }
}

/// One listening socket, as the engine refers to it.
#[derive(Clone)]
pub(crate) struct Acceptor {
    server: Server,
    name: Option<Address>,
}

impl Acceptor {
    /// The loop is gone: closes the sockets.
    pub(crate) fn abandon(&self) {
        self.server.close();
    }

    fn report(&self, message: &str, error: impl Into<Error>) {
        let context = ExceptionContext::new(message).error(error).socket(self.name.clone());
        self.server.0.core.report(context);
    }
}

impl ListenerHandler<RustFace> for Acceptor {
    fn connected(&self, cx: Cx<'_>, accepted: Accepted) -> Result<(), Infallible> {
        // Closed since it was accepted: the connection is dropped.
        let Some(attachment) = Attachment::new(&self.server) else { return Ok(()) };
        let made = catch(&self.server.0.factory).map_err(Error::from);
        let made = made.and_then(|protocol| protocol.ok_or(Error::Cancelled));
        match made.and_then(|protocol| self.server.0.over.protocol(protocol)) {
            Ok(protocol) => {
                let peer = accepted.peer.and_then(|peer| Address::try_from(&peer).ok());
                let socket = accepted.descriptor.into();
                Connection::open(cx, socket, peer, protocol, Some(attachment), drop);
            }
            Err(error) => {
                self.report("Error on transport creation for incoming connection", error);
            }
        }
        Ok(())
    }

    fn out_of_resources(&self, _: Cx<'_>, error: io::Error) -> Result<(), Infallible> {
        self.report("socket.accept() out of system resource", error);
        Ok(())
    }

    fn accept_failed(&self, _: Cx<'_>, error: io::Error) -> Result<(), Infallible> {
        self.report("socket.accept() failed", error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    struct Idle;

    impl Protocol for Idle {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_wait_that_is_given_up_leaves_nothing() {
        let event_loop = EventLoop::new().unwrap();
        let serving = event_loop.create_server(|| Idle, ("127.0.0.1", 0));
        let server = event_loop.run_until_complete(serving).unwrap().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut last = pin!(server.wait_closed());
        assert!(last.as_mut().poll(&mut cx).is_pending());
        for _ in 0..100 {
            assert!(pin!(server.wait_closed()).poll(&mut cx).is_pending());
        }
        assert_eq!(server.0.state.lock().waiters.len(), 1);
        server.close();
        assert!(last.poll(&mut cx).is_ready());
        assert_eq!(server.0.state.lock().waiters.capacity(), 0);
        // Given up before the end of the server, and without one.
        let serving = event_loop.create_server(|| Idle, ("127.0.0.1", 0));
        let server = event_loop.run_until_complete(serving).unwrap().unwrap();
        assert!(pin!(server.wait_closed()).poll(&mut cx).is_pending());
        assert_eq!(server.0.state.lock().waiters.capacity(), 0);
        assert!(pin!(server.serve_forever()).poll(&mut cx).is_pending());
        let state = server.0.state.lock();
        assert!(state.serving_forever.is_none() && state.sockets.is_none());
    }
}

//! One datagram endpoint: its transport, and how the engine's events reach the protocol.

use super::Payload;
use super::flow_control::{DEFAULT_HIGH, Limits};
use super::posted::{Posted, Writer, post};
use crate::address::{Address, UnixAddress};
use crate::engine::{
    DatagramHandler, Descriptor, EndpointKind, Face, Failure, Handler, Sent, SentOther, Token,
};
use crate::error::Misuse;
use crate::event_loop::core::Core;
use crate::event_loop::face::{Callback, Cx, RustFace};
use crate::event_loop::{EventLoop, ExceptionContext, Handle};
use crate::protocol::cell::{AnyDatagramProtocol, Flow};
use crate::protocol::slot::{Caller, ProtocolSlot};
use crate::protocol::{DatagramProtocol, ProtocolHandle};
use parking_lot::Mutex;
use rustix::net::SocketAddrAny;
use socket2::Socket;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// A datagram endpoint: what datagrams are sent by, and how it is closed.
///
/// A clone is the same endpoint, and may be used from any thread: calls of other threads are
/// done on the loop's, in their order. A call that comes after the end of the endpoint does
/// nothing. Dropping all transports of an endpoint does not close it.
///
/// Source: asyncio, *Transports* (DatagramTransport, BaseTransport).
#[derive(Clone)]
pub struct DatagramTransport(Arc<Endpoint>);

/// An endpoint. The loop refers to it until it is lost, transports as long as they live.
struct Endpoint {
    core: Arc<Core>,
    token: Token,
    /// The only address that is sent to, where the endpoint was made for one.
    remote: Option<Address>,
    peer: Option<Address>,
    local: Option<Address>,
    protocol: ProtocolSlot<dyn AnyDatagramProtocol>,
    posted: Posted,
    /// The owner of the descriptor, until the endpoint is lost; the engine has it on loan.
    socket: Mutex<Option<Arc<Socket>>>,
}

/// An endpoint as the engine refers to it.
#[derive(Clone)]
pub(crate) struct DatagramCell(pub(crate) DatagramTransport);

impl DatagramTransport {
    /// Sends a datagram to the endpoint's remote address without waiting: one that the kernel
    /// does not take at once is queued. It may be empty.
    ///
    /// What the system says to it goes to the protocol's
    /// [`error_received`](DatagramProtocol::error_received): EMSGSIZE where it is too large,
    /// EDESTADDRREQ where the endpoint has no remote address.
    ///
    /// Source: *DatagramTransport.sendto*, without `addr`.
    pub fn send<'a>(&self, data: impl Into<Payload<'a>>) {
        self.send_any(data.into(), None);
    }

    /// Sends a datagram to `addr`, likewise. On an endpoint that was made for a remote address,
    /// any other one is an error: the datagram is dropped, and the loop's exception handler hears
    /// of [`Misuse::RemoteAddress`]. The address of an existing, connected socket stands:
    /// `addr` is not looked at.
    ///
    /// Source: *DatagramTransport.sendto*.
    ///
    /// ```
    /// # fn send(transport: &oxloop::DatagramTransport, addr: std::net::SocketAddr) {
    /// transport.send_to("Hello World!", addr);
    /// # }
    /// ```
    pub fn send_to<'a>(&self, data: impl Into<Payload<'a>>, addr: impl Into<Address>) {
        self.send_any(data.into(), Some(addr.into()));
    }

    fn send_any(&self, data: Payload<'_>, addr: Option<Address>) {
        let data = data.owned_by(self.0.core.home);
        if self.0.core.acts_here() {
            self.send_here(&data, addr.as_ref());
        } else {
            let data = data.into_owned();
            let len = data.as_ref().len() + RustFace::DATAGRAM_HEADER;
            post(self, len, move |transport| transport.send_here(&data, addr.as_ref()));
        }
    }

    fn send_here(&self, data: &Payload<'_>, addr: Option<&Address>) {
        let Endpoint { core, token, remote, peer, .. } = &*self.0;
        if let (Some(remote), Some(addr)) = (remote, addr) {
            if remote != addr {
                let misuse = Misuse::RemoteAddress(remote.clone());
                return self.report(misuse.to_string(), misuse);
            }
        }
        let to = remote.as_ref().or(addr).filter(|_| peer.is_none());
        let sent = match to.map(SocketAddrAny::try_from).transpose() {
            Ok(to) => {
                let Ok(sent) = core.engine.send_datagram(core.cx(), *token, data, to.as_ref());
                sent
            }
            Err(error) => Sent::Failed(error),
        };
        let failed = match sent {
            Sent::Failed(error) => Some(error),
            Sent::NoMemory => Some(io::ErrorKind::OutOfMemory.into()),
            Sent::Taken | Sent::Lost => None,
        };
        if let Some(error) = failed {
            // Its protocol may be the caller.
            let transport = self.clone();
            core.call_soon(Handle::once(core.home, move || transport.tell_error(error)));
        }
        core.nudge();
    }

    /// Closes the endpoint once all that is queued is sent. Nothing is received any more;
    /// [`connection_lost`](DatagramProtocol::connection_lost) comes in a later turn.
    ///
    /// Source: *BaseTransport.close*.
    pub fn close(&self) {
        let token = self.0.token;
        self.0.core.act(move |cx| {
            let Ok(()) = cx.core.engine.close_endpoint(cx, token);
        });
    }

    /// Closes the endpoint without waiting for what is queued.
    /// [`connection_lost`](DatagramProtocol::connection_lost) comes in a later turn, with `None`.
    ///
    /// Source: *DatagramTransport.abort*.
    pub fn abort(&self) {
        let transport = self.clone();
        self.0.core.act(move |cx| {
            if cx.core.engine.force_close_endpoint(transport.0.token) {
                transport.lose_soon(cx);
            }
        });
    }

    /// Whether the endpoint is closed or about to be.
    ///
    /// Source: *BaseTransport.is_closing*.
    pub fn is_closing(&self) -> bool {
        self.0.core.engine.endpoint_info(self.0.token).is_none_or(|info| info.closing)
    }

    /// How many bytes wait to be sent, what other threads have sent included; each datagram counts 8
    /// more than it has.
    ///
    /// Source: *WriteTransport.get_write_buffer_size*, as of Python 3.13.
    pub fn get_write_buffer_size(&self) -> usize {
        self.0.core.engine.endpoint_buffer_size(self.0.token) + self.0.posted.bytes()
    }

    /// The low- and the high-water mark, bytes.
    ///
    /// Source: *WriteTransport.get_write_buffer_limits*.
    pub fn get_write_buffer_limits(&self) -> Limits {
        self.0.core.engine.endpoint_buffer_limits(self.0.token)
    }

    /// Sets when the protocol is paused (more than `high` bytes are queued) and resumed (at
    /// most `low` are), as
    /// [`Transport::set_write_buffer_limits`](super::Transport::set_write_buffer_limits) does.
    ///
    /// Source: *WriteTransport.set_write_buffer_limits*.
    ///
    /// # Errors
    /// [`Misuse::Limits`] where `low` is over `high`.
    pub fn set_write_buffer_limits(
        &self,
        high: Option<usize>,
        low: Option<usize>,
    ) -> Result<(), Misuse> {
        let (limits, transport) = (Limits::new(high, low)?, self.clone());
        self.0.core.act(move |cx| {
            transport.0.posted.set_high(limits.high());
            let token = transport.0.token;
            let Ok(()) = cx.core.engine.set_endpoint_buffer_limits(cx, token, limits);
        });
        Ok(())
    }

    /// Hands the endpoint over to another protocol, which hears of all that comes from now on.
    /// A callback of the old one that is running completes.
    ///
    /// Source: *BaseTransport.set_protocol*.
    pub fn set_protocol<P: DatagramProtocol + 'static>(&self, protocol: P) -> ProtocolHandle<P> {
        let handle = ProtocolHandle::of_datagrams(self.0.core.home, protocol);
        let (transport, erased) = (self.clone(), handle.erased_datagrams());
        self.0.core.act(move |_| transport.0.protocol.replace(erased));
        handle
    }

    /// The endpoint's protocol, if it is a `P`; `None` as well once the endpoint is lost.
    ///
    /// Source: *BaseTransport.get_protocol*.
    pub fn protocol<P: DatagramProtocol + 'static>(&self) -> Option<ProtocolHandle<P>> {
        self.current_protocol().and_then(ProtocolHandle::from_erased)
    }

    /// Whom the socket is connected to, if it is.
    ///
    /// Source: *get_extra_info('peername')*.
    pub fn peername(&self) -> Option<&Address> {
        self.0.peer.as_ref()
    }

    /// The name of this side, as it was when the endpoint was made.
    ///
    /// Source: *get_extra_info('sockname')*.
    pub fn sockname(&self) -> Option<&Address> {
        self.0.local.as_ref()
    }

    /// The [`peername`](Self::peername) if it is an internet address.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peername()?.inet()
    }

    /// The [`sockname`](Self::sockname), likewise.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.sockname()?.inet()
    }

    /// Calls `f` with the socket, to read or set its options; `None` once it is closed. Leave
    /// receiving, sending and closing to the transport.
    ///
    /// Source: *get_extra_info('socket')*.
    pub fn with_socket<R>(&self, f: impl FnOnce(&Socket) -> R) -> Option<R> {
        let socket = self.0.socket.lock().clone()?;
        Some(f(&socket))
    }

    /// The loop of this endpoint; `None` once its last handle is gone.
    pub fn event_loop(&self) -> Option<EventLoop> {
        self.0.core.event_loop()
    }

    /// Makes the transport of a socket, and queues `connection_made`, the start of reading, and
    /// `then`, in that order. For the loop's thread. Without memory the socket is closed, and nothing
    /// of it happens.
    pub(crate) fn open(
        cx: Cx<'_>,
        socket: Socket,
        remote: Option<Address>,
        protocol: Arc<dyn AnyDatagramProtocol>,
        then: impl FnOnce(DatagramTransport) + Send + 'static,
    ) {
        let engine = &cx.core.engine;
        let (peer, local) = (Address::peer(&socket), Address::own(&socket));
        let kind = EndpointKind { remote: remote.is_some(), other: false };
        let token = match engine.add_endpoint(Descriptor::Lent(socket.as_raw_fd()), kind) {
            Ok(token) => token,
            Err(error) => {
                return log::error!(target: "oxloop", "An endpoint is closed: {error}");
            }
        };
        let protocol = ProtocolSlot::new(Some(protocol));
        let socket = Mutex::new(Some(Arc::new(socket)));
        let core = cx.core.clone();
        let posted = Posted::new(DEFAULT_HIGH);
        let endpoint = Endpoint { core, token, remote, peer, local, protocol, posted, socket };
        let transport = DatagramTransport(Arc::new(endpoint));
        engine.set_endpoint_handler(token, DatagramCell(transport.clone()));
        if cx.core.is_closed() {
            return transport.abandon();
        }
        let (home, made) = (cx.core.home, transport.clone());
        let made = Callback::Call(Handle::once(home, move || {
            made.call("connection_made", |protocol| protocol.connection_made(&made));
        }));
        let queued = engine
            .reserve_soon(3)
            .and_then(|()| engine.call_soon(made))
            .and_then(|()| engine.start_reading_soon(token));
        if queued.is_err() {
            return transport.abandon();
        }
        if engine.call_soon(Callback::Call(Handle::once(home, move || then(transport)))).is_err() {
            log::error!(target: "oxloop", "An endpoint has no memory left to be told of");
        }
    }

    fn tell_error(&self, error: io::Error) {
        self.call("error_received", |protocol| protocol.error_received(self, error));
    }

    fn lose_soon(&self, cx: Cx<'_>) {
        let transport = self.clone();
        cx.core.call_soon(Handle::once(cx.core.home, move || transport.lose()));
    }

    /// Invariant 1: whoever is first to get here calls `connection_lost`.
    fn lose(&self) {
        if self.0.core.engine.lose_endpoint(self.0.token) {
            self.call("connection_lost", |protocol| protocol.connection_lost(self, None));
            self.abandon();
        }
    }

    /// Closes the descriptor and lets go of the protocol.
    pub(crate) fn abandon(&self) {
        self.0.core.engine.release_endpoint(self.0.token);
        drop(self.0.protocol.take());
        let socket = self.0.socket.lock().take();
        drop(socket);
    }
}

impl Writer for DatagramTransport {
    fn loop_core(&self) -> &Arc<Core> {
        &self.0.core
    }

    fn posted(&self) -> &Posted {
        &self.0.posted
    }

    fn press(&self, cx: Cx<'_>) {
        let bytes = self.0.posted.bytes();
        let Ok(()) = cx.core.engine.note_posted_datagrams(cx, self.0.token, bytes);
    }

    fn relieve(&self, cx: Cx<'_>) {
        let Ok(()) = cx.core.engine.take_posted_datagrams(cx, self.0.token);
    }
}

impl Caller for DatagramTransport {
    type Protocol = dyn AnyDatagramProtocol;

    fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    fn current_protocol(&self) -> Option<Arc<dyn AnyDatagramProtocol>> {
        self.0.protocol.get()
    }

    fn describe(&self, context: ExceptionContext) -> ExceptionContext {
        context.endpoint(self)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Before the socket's owner closes it.
        self.core.engine.remove_endpoint(self.token);
    }
}

/// The loop keeps a connection until it is lost, whoever has its transport.
impl Handler for DatagramCell {
    type Unowned = Infallible;

    fn unowned(&self) -> Option<Infallible> {
        None
    }

    fn upgrade(unowned: &Infallible) -> Option<DatagramCell> {
        match *unowned {}
    }
}

impl DatagramHandler<RustFace> for DatagramCell {
    fn datagram_received(
        &self,
        _: Cx<'_>,
        data: &[u8],
        from: Option<&SocketAddrAny>,
    ) -> Result<(), Infallible> {
        let unnamed = || Address::Unix(UnixAddress::unnamed());
        let addr = from.map_or_else(|| Ok(unnamed()), Address::try_from);
        match addr {
            Ok(addr) => self.0.call("datagram_received", |protocol| {
                protocol.datagram_received(&self.0, data, &addr)
            }),
            // No socket of such a family is taken in.
            Err(errno) => self.0.tell_error(errno.into()),
        }
        Ok(())
    }

    fn receive_other(&self, _: Cx<'_>) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn send_other(&self, _: Cx<'_>, _: &[u8], to: &Infallible) -> Result<SentOther, Infallible> {
        match *to {}
    }

    fn error_received(&self, _: Cx<'_>, _: Failure, error: io::Error) -> Result<(), Infallible> {
        self.0.tell_error(error);
        Ok(())
    }

    fn pause_writing(&self, _: Cx<'_>) -> Result<(), Infallible> {
        self.0.current_protocol().inspect(|protocol| protocol.flow(&self.0, Flow::Pause));
        Ok(())
    }

    fn resume_writing(&self, _: Cx<'_>) -> Result<(), Infallible> {
        self.0.current_protocol().inspect(|protocol| protocol.flow(&self.0, Flow::Resume));
        Ok(())
    }

    fn writing_deferred(&self, _: Cx<'_>) {}

    fn schedule_connection_lost(&self, cx: Cx<'_>) -> Result<(), Infallible> {
        self.0.lose_soon(cx);
        Ok(())
    }

    fn connection_lost(&self, _: Cx<'_>) -> Result<(), Infallible> {
        self.0.lose();
        Ok(())
    }
}

/// The descriptor's number, -1 once it is closed. It is the transport's to close.
impl AsRawFd for DatagramTransport {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket.lock().as_ref().map_or(-1, |socket| socket.as_raw_fd())
    }
}

/// Two transports are equal when they are the same endpoint's.
impl PartialEq for DatagramTransport {
    fn eq(&self, other: &DatagramTransport) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for DatagramTransport {}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = &self.0.core.engine;
        let Some(info) = engine.endpoint_info(self.0.token).filter(|info| !info.closed) else {
            return f.write_str("<DatagramTransport closed>");
        };
        let closing = if info.closing { " closing" } else { "" };
        let poll = |polls| if polls { "polling" } else { "idle" };
        let size = self.get_write_buffer_size();
        write!(f, "<DatagramTransport{closing} fd={}", info.descriptor)?;
        write!(f, " read={}", poll(info.polls_read))?;
        write!(f, " write=<{}, bufsize={size}>", poll(info.polls_write))?;
        for (name, address) in [("local", self.sockname()), ("peer", self.peername())] {
            match address {
                Some(Address::Unix(address)) if address.is_unnamed() => {}
                Some(address) => write!(f, " {name}={address}")?,
                None => {}
            }
        }
        f.write_str(">")
    }
}

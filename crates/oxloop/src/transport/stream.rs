//! One connection: what a [`Transport`] is a handle of, and how the engine's events reach the
//! protocol.

use super::flow_control::DEFAULT_HIGH;
use super::posted::{Posted, Writer};
use super::{Payload, Transport, over_tls};
use crate::address::Address;
use crate::engine::{
    Descriptor, Failure, Handler, PipeEnd, PipeKind, Received, Recv, StreamHandler, Token, Written,
};
use crate::error::{Error, Misuse};
use crate::event_loop::core::Core;
use crate::event_loop::face::{Callback, Cx, RustFace};
use crate::event_loop::{ExceptionContext, Handle, Promise};
use crate::protocol::cell::{AnyProtocol, Flow, NotReceived};
use crate::protocol::slot::{Caller, ProtocolSlot};
use crate::server::Attachment;
use crate::sys::zeroed;
use parking_lot::Mutex;
use socket2::Socket;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

/// Room for a read of unknown size, bytes.
const READ_SIZE: usize = 64 * 1024;

/// A connection. The loop refers to it until it is lost, transports as long as they live.
pub(crate) struct Connection {
    pub(super) core: Arc<Core>,
    pub(super) token: Token,
    pub(super) peer: Option<Address>,
    pub(super) local: Option<Address>,
    protocol: ProtocolSlot<dyn AnyProtocol>,
    pub(super) posted: Posted,
    pub(super) held: Mutex<Held>,
}

/// What is let go when the connection is lost.
#[derive(Default)]
pub(super) struct Held {
    /// The owner of the descriptor; the engine has it on loan.
    socket: Option<Arc<Socket>>,
    server: Option<Attachment>,
    /// Why it is lost.
    error: Option<Error>,
    /// Whom `sendfile` waits for: the end of what was written before, then the socket.
    pub(super) waiter: Option<Arc<Promise<io::Result<()>>>>,
}

/// A connection as its server refers to it.
pub(crate) struct WeakTransport(Weak<Connection>);

impl WeakTransport {
    /// The transport, while somebody holds one.
    pub(crate) fn upgrade(&self) -> Option<Transport> {
        self.0.upgrade().map(Transport::plain)
    }
}

/// A connection as the engine refers to it.
#[derive(Clone)]
pub(crate) struct StreamCell(pub(crate) Transport);

impl Connection {
    /// Makes a transport of a connected socket, and queues `connection_made`, the start of
    /// reading, and `then`, in that order. For the loop's thread. `protocol` is given the transport
    /// for a look at where it will be; it comes before everything else. Without memory the socket is
    /// closed, and nothing of it happens.
    pub(crate) fn open(
        cx: Cx<'_>,
        socket: Socket,
        peer: Option<Address>,
        protocol: impl FnOnce(&Transport) -> Arc<dyn AnyProtocol>,
        server: Option<Attachment>,
        then: impl FnOnce(Transport) + Send + 'static,
    ) {
        let engine = &cx.core.engine;
        let local = Address::own(&socket);
        if matches!(local, Some(Address::Inet(_))) {
            // asyncio sets it on every TCP connection; elsewhere it means nothing.
            let _ = socket.set_tcp_nodelay(true);
        }
        match engine.add_stream(Descriptor::Lent(socket.as_raw_fd())) {
            Ok(token) => {
                let held = Held { socket: Some(Arc::new(socket)), server, ..Held::default() };
                Connection::start(cx, token, (local, peer), held, protocol, then);
            }
            Err(error) => log::error!(target: "oxloop", "A connection is closed: {error}"),
        }
    }

    /// Makes a transport of one end of a pipe, likewise.
    pub(crate) fn open_pipe(
        cx: Cx<'_>,
        pipe: OwnedFd,
        (kind, end): (PipeKind, PipeEnd),
        protocol: Arc<dyn AnyProtocol>,
        then: impl FnOnce(Transport) + Send + 'static,
    ) -> io::Result<()> {
        let token = cx.core.engine.add_pipe(Descriptor::Lent(pipe.as_raw_fd()), kind, end)?;
        let held = Held { socket: Some(Arc::new(Socket::from(pipe))), ..Held::default() };
        Connection::start(cx, token, (None, None), held, |_| protocol, then);
        Ok(())
    }

    fn start(
        cx: Cx<'_>,
        token: Token,
        (local, peer): (Option<Address>, Option<Address>),
        held: Held,
        protocol: impl FnOnce(&Transport) -> Arc<dyn AnyProtocol>,
        then: impl FnOnce(Transport) + Send + 'static,
    ) {
        let (engine, core) = (&cx.core.engine, cx.core.clone());
        let (held, slot) = (Mutex::new(held), ProtocolSlot::new(None));
        let posted = Posted::new(DEFAULT_HIGH);
        let connection = Connection { core, token, peer, local, protocol: slot, posted, held };
        let transport = Transport::plain(Arc::new(connection));
        let protocol = protocol(&transport);
        engine.set_buffered(token, protocol.is_buffered());
        transport.0.protocol.set(protocol);
        if let Some(server) = &transport.0.held.lock().server {
            server.name(WeakTransport(Arc::downgrade(&transport.0)));
        }
        engine.set_handler(token, StreamCell(transport.clone()));
        if cx.core.is_closed() {
            return transport.abandon();
        }
        let (home, made) = (cx.core.home, transport.clone());
        let queued = engine
            .reserve_soon(3)
            .and_then(|()| {
                engine.call_soon(Callback::Call(Handle::once(home, move || made.connection_made())))
            })
            .and_then(|()| engine.start_reading_soon(token));
        let transport = match queued {
            Ok(()) => transport,
            Err(_) => return transport.abandon(),
        };
        if engine.call_soon(Callback::Call(Handle::once(home, move || then(transport)))).is_err() {
            log::error!(target: "oxloop", "A connection has no memory left to be told of");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Before the socket's owner closes it.
        self.core.engine.remove_stream(self.token);
    }
}

impl Transport {
    pub(crate) fn replace_protocol(&self, protocol: Arc<dyn AnyProtocol>) {
        over_tls!(self, tls => tls.replace_protocol(protocol));
        self.0.core.engine.set_buffered(self.0.token, protocol.is_buffered());
        self.0.protocol.replace(protocol);
    }

    pub(super) fn socket(&self) -> Option<Arc<Socket>> {
        self.0.held.lock().socket.clone()
    }

    pub(crate) fn write_here(&self, data: &Payload<'_>) {
        over_tls!(self, tls => tls.write(std::slice::from_ref(data)));
        let core = &self.0.core;
        let Ok(written) = core.engine.write(core.cx(), self.0.token, data);
        self.written(written, Misuse::WriteAfterEof);
    }

    pub(super) fn writelines_here(&self, lines: &[Payload<'_>]) {
        over_tls!(self, tls => tls.write(lines));
        let core = &self.0.core;
        let Ok(written) = core.engine.write_all(core.cx(), self.0.token, lines);
        self.written(written, Misuse::WritelinesAfterEof);
    }

    fn written(&self, written: Written, misuse: Misuse) {
        self.0.core.nudge();
        let misuse = match written {
            Written::AfterEof => misuse,
            Written::Held => Misuse::SendfileInProgress,
            Written::NoMemory => {
                // What is missing in the middle of a stream nobody could tell.
                let error = io::Error::from(io::ErrorKind::OutOfMemory);
                return self.force_close(self.0.core.cx(), Some(error.into()));
            }
            Written::Taken | Written::Lost | Written::Closed => return,
        };
        self.report(misuse.to_string(), misuse);
    }

    fn connection_made(&self) {
        self.call("connection_made", |protocol| protocol.connection_made(self));
    }

    /// A callback panicked: the connection cannot go on.
    fn fatal(&self, cx: Cx<'_>, message: &str, error: impl Into<Error> + Clone) {
        self.report(message, error.clone());
        self.force_close(cx, Some(error.into()));
    }

    /// A protocol's own memory is read into.
    fn receive(&self, cx: Cx<'_>, protocol: &dyn AnyProtocol, recv: Recv<'_>) -> Received {
        const GET_BUFFER: &str = "Fatal error: protocol.get_buffer() call failed.";
        let mut recv = |room: &mut [u8]| recv(room.into()).map(|data| data.len());
        match protocol.receive(self, None, &mut recv) {
            Ok(received) => return received,
            Err(NotReceived::GetBuffer(panic)) => self.fatal(cx, GET_BUFFER, panic),
            Err(NotReceived::EmptyBuffer) => self.fatal(cx, GET_BUFFER, Misuse::EmptyBuffer),
            Err(NotReceived::BufferUpdated(panic)) => {
                self.fatal(cx, "Fatal error: protocol.buffer_updated() call failed.", panic);
            }
        }
        Received::NoBuffer
    }

    /// Drops what is queued; `connection_lost` follows in a later turn.
    pub(crate) fn force_close(&self, cx: Cx<'_>, error: Option<Error>) {
        over_tls!(self, tls => tls.abort_with(error));
        let engine = &cx.core.engine;
        // What was written before is on its way, as on asyncio.
        let Ok(()) = engine.flush_stream(cx, self.0.token);
        if engine.force_close(self.0.token) {
            self.0.held.lock().error = error;
            self.lose_soon(cx);
        }
    }

    fn lose_soon(&self, cx: Cx<'_>) {
        let transport = self.clone();
        cx.core.call_soon(Handle::once(cx.core.home, move || transport.lose()));
    }

    /// Invariant 1: whoever is first to get here calls `connection_lost`.
    fn lose(&self) {
        if !self.0.core.engine.lose(self.0.token) {
            return;
        }
        let error = self.0.held.lock().error.take();
        self.settle(Err(rustix::io::Errno::CONNABORTED.into()));
        self.call("connection_lost", |protocol| protocol.connection_lost(self, error));
        self.release();
    }

    /// Closes the descriptor and lets go of the protocol and the server.
    fn release(&self) {
        self.0.core.engine.release(self.0.token);
        drop(self.0.protocol.take());
        let held = std::mem::take(&mut *self.0.held.lock());
        drop(held);
    }

    /// The loop is gone: closes the descriptor, and nobody is told.
    pub(crate) fn abandon(&self) {
        if let Some(protocol) = self.current_protocol() {
            protocol.abandoned();
        }
        self.release();
    }
}

impl Writer for Transport {
    fn loop_core(&self) -> &Arc<Core> {
        &self.0.core
    }

    fn posted(&self) -> &Posted {
        over_tls!(self, tls => &tls.posted);
        &self.0.posted
    }

    fn press(&self, cx: Cx<'_>) {
        over_tls!(self, tls => tls.note_posted());
        let Ok(()) = cx.core.engine.note_posted(cx, self.0.token, self.0.posted.bytes());
    }

    fn relieve(&self, cx: Cx<'_>) {
        over_tls!(self, tls => tls.note_posted());
        let Ok(()) = cx.core.engine.take_posted(cx, self.0.token);
    }
}

impl Caller for Transport {
    type Protocol = dyn AnyProtocol;

    fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    fn current_protocol(&self) -> Option<Arc<dyn AnyProtocol>> {
        over_tls!(self, tls => tls.protocol());
        self.0.protocol.get()
    }

    fn describe(&self, context: ExceptionContext) -> ExceptionContext {
        context.transport(self)
    }
}

/// The loop keeps a connection until it is lost, whoever has its transport.
impl Handler for StreamCell {
    type Unowned = Infallible;

    fn unowned(&self) -> Option<Infallible> {
        None
    }

    fn upgrade(unowned: &Infallible) -> Option<StreamCell> {
        match *unowned {}
    }
}

impl StreamHandler<RustFace> for StreamCell {
    fn received(&self, cx: Cx<'_>, data: &[u8]) -> Result<(), Infallible> {
        let Some(protocol) = self.0.current_protocol() else { return Ok(()) };
        if let Err(panic) = protocol.data_received(&self.0, data) {
            self.0.fatal(cx, "Fatal error: protocol.data_received() call failed.", panic);
        }
        Ok(())
    }

    /// Large reads share one buffer of the loop's: protocols look at the data in place.
    fn receive_into(
        &self,
        cx: Cx<'_>,
        hint: usize,
        recv: Recv<'_>,
    ) -> Result<Received, Infallible> {
        let Some(protocol) = self.0.current_protocol() else { return Ok(Received::NoBuffer) };
        if protocol.is_buffered() {
            return Ok(self.0.receive(cx, &*protocol, recv));
        }
        // Another thread has just put this protocol in a buffered one's place.
        let hint = if hint == 0 { READ_SIZE } else { hint };
        let mut buffer = std::mem::take(&mut *cx.core.read_buffer.lock());
        if buffer.len() < hint {
            buffer = match zeroed(hint) {
                Ok(buffer) => buffer,
                Err(error) => return Ok(Received::Failed(error)),
            };
        }
        let received = match recv((&mut buffer[..hint]).into()) {
            Ok([]) => Received::Eof,
            Ok(data) => {
                let Ok(()) = self.received(cx, data);
                Received::Data(data.len())
            }
            Err(error) => Received::Failed(error),
        };
        *cx.core.read_buffer.lock() = buffer;
        Ok(received)
    }

    fn eof_received(&self, cx: Cx<'_>) -> Result<Option<bool>, Infallible> {
        let Some(protocol) = self.0.current_protocol() else { return Ok(None) };
        match protocol.eof_received(&self.0) {
            Ok(keep_open) => Ok(Some(keep_open)),
            Err(panic) => {
                self.0.fatal(cx, "Fatal error: protocol.eof_received() call failed.", panic);
                Ok(None)
            }
        }
    }

    fn hung_up(&self, cx: Cx<'_>, unsent: bool) -> Result<(), Infallible> {
        log::info!(target: "oxloop", "{:?} was closed by peer", self.0);
        let error = unsent.then(|| io::Error::from(rustix::io::Errno::PIPE).into());
        self.0.force_close(cx, error);
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

    fn writing_deferred(&self, _: Cx<'_>, _: Failure) {}

    fn drained(&self, _: Cx<'_>) -> Result<(), Infallible> {
        self.0.settle(Ok(()));
        Ok(())
    }

    /// The peer's and the system's errors are the protocol's to hear of; they are no news for
    /// the exception handler.
    fn failed(&self, cx: Cx<'_>, failure: Failure, error: io::Error) -> Result<(), Infallible> {
        if failure == Failure::Watch {
            // A device that is always ready cannot be waited for: nothing will be read.
            self.0.report("The selector refused a descriptor", error);
            return Ok(());
        }
        log::debug!(target: "oxloop", "{:?}: Fatal {failure:?} error: {error}", self.0);
        self.0.force_close(cx, Some(error.into()));
        Ok(())
    }

    fn schedule_connection_lost(&self, cx: Cx<'_>) -> Result<(), Infallible> {
        self.0.lose_soon(cx);
        Ok(())
    }

    fn connection_lost(&self, _: Cx<'_>) -> Result<(), Infallible> {
        self.0.lose();
        Ok(())
    }
}

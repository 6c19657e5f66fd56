//! One TLS connection of the Rust face: a protocol to the transport below it, a transport to the
//! application above.

use super::engine::TlsEngine;
use super::layer::{FATAL, TlsLayer};
use super::options::Timeouts;
use super::rustls::Rustls;
use super::sendfile::SendFile;
use super::state::{Direction, Session, TlsState};
use super::wire::{Fresh, Wire};
use crate::engine::Received;
use crate::error::{Error, Misuse, Result};
use crate::event_loop::core::{Core, Panicked};
use crate::event_loop::owned::Owned;
use crate::event_loop::{Handle, Promise, TimerHandle};
use crate::protocol::cell::{AnyProtocol, Erased, Flow, NotReceived, Recv, inside_of_protocol};
use crate::protocol::slot::{Caller, ProtocolSlot};
use crate::transport::flow_control::Limits;
use crate::transport::posted::Posted;
use crate::transport::{Payload, Transport};
use ::rustls::Connection;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::any::{Any, type_name};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// A TLS connection. The transport below refers to it until it is lost, the application's
/// transports as long as they live.
pub(crate) struct TlsConnection {
    me: Weak<TlsConnection>,
    pub(super) below: Transport,
    pub(super) state: Mutex<TlsState>,
    pub(super) wire: Mutex<Wire<Rustls>>,
    protocol: ProtocolSlot<dyn AnyProtocol>,
    pub(super) held: Mutex<Held>,
    pub(super) timeouts: Timeouts,
    pub(crate) posted: Posted,
    /// `close()` or `abort()` was called, or the connection is lost.
    closed: AtomicBool,
    /// Somebody moves ciphertext to the transport below: records must not overtake each other.
    sending: AtomicBool,
}

/// What is let go when the connection is lost.
pub(super) struct Held {
    /// Who waits for the end of the handshake.
    pub(super) waiter: Option<Waiting>,
    /// The handshake's, later the shutdown's.
    pub(super) timer: Option<TimerHandle>,
    /// Where sendfile writes beside the application.
    pub(super) file: SendFile,
}

/// What a TLS connection is made of.
pub(super) struct Parts {
    pub(super) engine: Rustls,
    pub(super) timeouts: Timeouts,
    /// Ciphertext that somebody else has read already.
    pub(super) received: Bytes,
    pub(super) protocol: Arc<dyn AnyProtocol>,
    /// Whether the protocol has had its `connection_made`.
    pub(super) made: bool,
    pub(super) waiter: Option<Waiting>,
}

/// Who waits for the end of a handshake.
pub(super) type Waiting = Promise<Result<()>>;

impl TlsConnection {
    pub(super) fn new(below: &Transport, parts: Parts) -> Arc<TlsConnection> {
        let Parts { engine, timeouts, received, protocol, made, waiter } = parts;
        let received = Owned::new(below.core().home, received);
        Arc::new_cyclic(|me| TlsConnection {
            me: me.clone(),
            below: below.clone(),
            state: Mutex::new(TlsState::new(made)),
            wire: Mutex::new(Wire::new(engine, received.as_ref())),
            protocol: ProtocolSlot::new(Some(protocol)),
            held: Mutex::new(Held { waiter, timer: None, file: SendFile::None }),
            timeouts,
            posted: Posted::new(Direction::Outgoing.default_high()),
            closed: AtomicBool::new(false),
            sending: AtomicBool::new(false),
        })
    }

    /// The application's transport; `None` only while the connection is dropped.
    pub(super) fn transport(&self) -> Option<Transport> {
        Some(self.below.under(self.me.upgrade()?))
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        self.below.core()
    }

    /// Calls `f` in a later turn.
    pub(super) fn soon(&self, f: impl FnOnce(&TlsConnection) + Send + 'static) {
        let me = self.me.clone();
        let home = self.core().home;
        self.core().call_soon(Handle::once(home, move || _ = me.upgrade().map(|tls| f(&tls))));
    }

    /// Calls `f` after so many seconds; the timer does not keep the connection.
    pub(super) fn later(
        &self,
        seconds: f64,
        f: impl FnOnce(&TlsConnection) + Send + 'static,
    ) -> TimerHandle {
        let (core, me) = (self.core(), self.me.clone());
        core.call_at(core.engine.time() + seconds, move || _ = me.upgrade().map(|tls| f(&tls)))
    }

    /// Takes part in a flow, in which nothing has just come in. What goes wrong there is a panic
    /// of the protocol's that ends the connection.
    pub(super) fn flow_on(&self, flow: impl FnOnce(&TlsConnection, Fresh<'_>) -> Result<()>) {
        if let Err(error) = flow(self, &Cell::new(&[])) {
            self.below.report(FATAL, error.again());
            self.below.force_close(self.core().cx(), Some(error));
        }
    }

    pub(super) fn mark(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Moves the engine's ciphertext to the transport below. Calls from inside of this, and from
    /// other threads meanwhile, leave it to the one that is at it.
    pub(super) fn send_pending(&self) {
        while self.wire.lock().engine.pending() > 0 {
            if self.sending.swap(true, Ordering::AcqRel) {
                return;
            }
            let ciphertext = self.wire.lock().engine.take();
            self.below.write_here(&Payload::from(ciphertext));
            self.sending.store(false, Ordering::Release);
        }
    }

    fn let_go(&self) -> (Option<Arc<dyn AnyProtocol>>, Option<Waiting>, Option<TimerHandle>) {
        let mut held = self.held.lock();
        let (waiter, timer) = (held.waiter.take(), held.timer.take());
        drop(held);
        (self.protocol.take(), waiter, timer)
    }

    // What the transport above does.

    pub(crate) fn protocol(&self) -> Option<Arc<dyn AnyProtocol>> {
        self.protocol.get()
    }

    pub(crate) fn replace_protocol(&self, protocol: Arc<dyn AnyProtocol>) {
        self.protocol.replace(protocol);
    }

    pub(crate) fn write(&self, pieces: &[Payload<'_>]) {
        if self.is_sending_file() {
            let transport = self.transport();
            let misuse = Misuse::SendfileInProgress;
            transport.inspect(|it| it.report(misuse.to_string(), misuse.clone()));
            return;
        }
        self.write_through(pieces);
    }

    /// The same while a file is sent, as a part of it.
    pub(super) fn write_through(&self, pieces: &[Payload<'_>]) {
        let (session, taken) = {
            let mut state = self.state.lock();
            let (session, taken) = (state.session(), state.may_write() && !self.is_closed());
            if !taken && state.note_lost_write() {
                drop(state);
                log::warn!(target: "oxloop", "SSL connection is closed");
            }
            (session, taken)
        };
        if !taken || pieces.iter().all(|piece| piece.as_ref().is_empty()) {
            return;
        }
        let written = self.wire.lock().write(pieces, session == Session::Wrapped);
        self.flow_on(|tls, fresh| match written {
            Ok(()) => tls.written(fresh),
            Err(error) => tls.fatal_error(fresh, error.into(), FATAL),
        });
    }

    pub(crate) fn write_eof(&self) {
        if let Some(transport) = self.transport() {
            transport.report(Misuse::NoWriteEof.to_string(), Misuse::NoWriteEof);
        }
    }

    pub(crate) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let shut = |tls: &TlsConnection| tls.flow_on(|tls, fresh| tls.start_shutdown(fresh));
        // What is there to be read is told first, and the caller may be the one to hear of it.
        if inside_of_protocol() { self.soon(shut) } else { shut(self) }
    }

    /// `abort()`, or an error that is told by `connection_lost`.
    pub(crate) fn abort_with(&self, error: Option<Error>) {
        self.mark();
        self.flow_on(|tls, fresh| tls.abort(fresh, error));
    }

    /// Whether [`close`](Self::close) was called, or the connection is lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether it is closed, or another TLS connection below it.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closed() || self.below.tls().is_some_and(|tls| tls.is_closing())
    }

    pub(crate) fn pause(&self) {
        self.pause_reading();
    }

    pub(crate) fn resume(&self) {
        self.flow_on(|tls, fresh| tls.resume_reading(fresh));
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.state.lock().is_reading()
    }

    pub(crate) fn write_buffer_size(&self) -> usize {
        self.wire.lock().outgoing() + self.posted.bytes()
    }

    pub(crate) fn write_buffer_limits(&self) -> Limits {
        self.state.lock().limits(Direction::Outgoing)
    }

    pub(crate) fn set_write_buffer_limits(&self, limits: Limits) {
        self.posted.set_high(limits.high());
        self.state.lock().set_limits(Direction::Outgoing, limits);
        self.flow_on(|tls, fresh| tls.control_writing(fresh));
    }

    /// What other threads write is on its way, or has come: pauses or resumes the protocol, once
    /// that has had its `connection_made`.
    pub(crate) fn note_posted(&self) {
        if self.session() == Session::Wrapped {
            self.flow_on(|tls, fresh| tls.control_writing(fresh));
        }
    }

    /// What rustls says of the session.
    pub(crate) fn with_session<R>(&self, f: impl FnOnce(&Connection) -> R) -> R {
        f(self.wire.lock().engine.connection())
    }
}

/// A panic of the protocol above is one of the protocol below it.
fn panicked(error: Error) -> Panicked {
    match error {
        Error::Panic(text) => Panicked(text),
        error => Panicked(error.to_string()),
    }
}

/// What the transport below tells.
impl AnyProtocol for TlsConnection {
    fn connection_made(&self, _: &Transport) -> Result<(), Panicked> {
        let nothing = Cell::new(&[][..]);
        if self.is_closed() {
            // Given up before it began.
            return self.abort(&nothing, None).map_err(panicked);
        }
        self.start_handshake(&nothing).map_err(panicked)
    }

    fn data_received(&self, _: &Transport, data: &[u8]) -> Result<(), Panicked> {
        let fresh = Cell::new(data);
        let mut result = self.fed(&fresh);
        if self.session() != Session::Unwrapped {
            let kept = self.wire.lock().keep(&fresh);
            if let Err(error) = kept {
                let error = io::Error::from(error).into();
                result = result.and(self.fatal_error(&fresh, error, FATAL));
            }
        }
        result.map_err(panicked)
    }

    /// It looks at the data where the loop has received it.
    fn is_buffered(&self) -> bool {
        false
    }

    fn receive(
        &self,
        _: &Transport,
        _: Option<usize>,
        _: Recv<'_>,
    ) -> Result<Received, NotReceived> {
        Err(NotReceived::EmptyBuffer)
    }

    fn eof_received(&self, _: &Transport) -> Result<bool, Panicked> {
        self.transport_ended(&Cell::new(&[])).map_err(|error| {
            self.below.close();
            panicked(error)
        })
    }

    fn connection_lost(&self, _: &Transport, error: Option<Error>) -> Result<(), Panicked> {
        let unsent = self.wire.lock().clear();
        drop(unsent);
        {
            // A protocol that has had its connection_made is told, of a failed start_tls as well.
            let mut state = self.state.lock();
            if state.session() == Session::DoHandshake {
                state.unwrap();
            }
        }
        let tell = self.transport_lost();
        self.settle_sendfile(Err(Errno::CONNABORTED));
        let (protocol, waiter, timer) = self.let_go();
        if let Some(timer) = timer {
            timer.cancel();
        }
        let failure = match &error {
            Some(error) => error.again(),
            None => io::Error::from(Errno::CONNABORTED).into(),
        };
        let told = protocol.zip(self.transport()).filter(|_| tell);
        if let Some((protocol, transport)) = told {
            let home = self.core().home;
            self.core().call_soon(Handle::once(home, move || {
                let lost = protocol.connection_lost(&transport, error);
                let Err(panic) = lost else { return };
                let name = protocol.type_name();
                let message = format!("Exception in callback {name}::connection_lost");
                transport.report(message, panic);
            }));
        }
        if let Some(waiter) = waiter {
            waiter.set_result(Err(failure));
        }
        Ok(())
    }

    fn flow(&self, _: &Transport, flow: Flow) {
        match flow {
            Flow::Pause => self.transport_paused(),
            Flow::Resume => {
                self.flow_on(|tls, fresh| tls.transport_resumed(fresh));
                self.settle_sendfile(Ok(()));
            }
        }
    }

    fn abandoned(&self) {
        self.mark();
        self.state.lock().unwrap();
        self.settle_sendfile(Err(Errno::CONNABORTED));
        let (protocol, waiter, timer) = self.let_go();
        if let Some(protocol) = &protocol {
            protocol.abandoned();
        }
        drop((protocol, waiter, timer));
    }
}

impl Erased for TlsConnection {
    fn type_name(&self) -> &'static str {
        type_name::<TlsConnection>()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

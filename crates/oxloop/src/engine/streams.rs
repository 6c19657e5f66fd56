//! Connections: reading, flow control, closing.
//!
//! Methods change the state under the lock and call the handler after it (invariant 8). Writing is
//! in `writes.rs`.

use super::handler_slot::HandlerSlot;
use super::pipes::Medium;
use super::*;
use crate::sys;
use crate::transport::connection_state::{ConnectionState, Step};
use crate::transport::flow_control::{FlowControl, Limits};
use crate::transport::write_buffer::WriteBuffer;

/// From this size on reads go straight into memory of the protocol's kind instead of the loop's
/// buffer: a copy costs more than an allocation.
const DIRECT_READ: u32 = 8 * 1024;
/// A connected stream socket, or a pipe's end.
pub(super) struct Stream<F: Face> {
    pub(super) descriptor: Descriptor,
    pub(super) medium: Medium,
    /// A pipe which is made larger once it was full.
    pub(super) grows: bool,
    /// Empty once the connection is lost, or the loop closed.
    pub(super) handler: HandlerSlot<F::Stream>,
    pub(super) state: ConnectionState,
    pub(super) registered: Interest,
    pub(super) pending: Interest,
    /// Reads go into the handler's memory always (BufferedProtocol).
    pub(super) buffered: bool,
    /// What this peer has been sending at a time, bytes.
    pub(super) read_hint: u32,
    pub(super) flow: FlowControl,
    /// What other threads have written and is on its way, bytes: it counts for flow control.
    posted: usize,
    /// Where this turn's writes are gathered, in the state's list.
    pub(super) gather: Option<usize>,
    /// What the kernel did not take yet.
    pub(super) buffer: Option<TryBox<WriteBuffer<F::Bytes>>>,
}

impl<F: Face> Stream<F> {
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    /// Whether something can happen to the stream that its transport has not asked for: an event,
    /// the start of reading, the sending of what was written.
    #[inline]
    fn is_active(&self) -> bool {
        self.registered != Interest::NONE
            || self.gather.is_some()
            || self.state.awaits_start()
            || self.state.is_untold()
            || self.wanted() != Interest::NONE
            || self.pending != Interest::NONE
    }

    /// Owns the handler while the stream is active. Drop the result without the lock: with its
    /// last reference the transport goes.
    #[inline]
    #[must_use]
    pub(super) fn settle(&mut self) -> Option<F::Stream> {
        let active = self.is_active();
        self.handler.own(active)
    }

    /// What flow control looks at.
    pub(super) fn unsent_bytes(&self) -> usize {
        self.buffered_bytes() + self.posted
    }

    fn wanted(&self) -> Interest {
        Interest {
            read: self.medium.wants_read(self.state),
            write: self.buffered_bytes() > 0 && !self.state.is_lost(),
            once: false,
        }
    }

    /// Adapts the read size to what the peer sends: doubles when a read was full, halves when
    /// it was under a quarter.
    fn note_read(&mut self, count: usize, room: usize) {
        let hint = self.read_hint;
        if room < hint as usize || self.buffered {
            return;
        }
        let largest = self.medium.largest_read();
        self.read_hint = if hint < DIRECT_READ {
            if count >= DIRECT_READ as usize {
                (count as u32).next_power_of_two().min(largest)
            } else {
                0
            }
        } else if count >= room {
            hint.saturating_mul(2).min(largest)
        } else if count < room / 4 {
            hint / 2
        } else {
            hint
        };
    }
}

/// A stream's state as its transport shows it.
#[derive(Clone, Copy, Debug)]
pub struct StreamInfo {
    /// The descriptor's number; -1 once it is closed.
    pub descriptor: RawFd,
    /// `is_closing()`.
    pub closing: bool,
    /// `is_reading()`.
    pub reading: bool,
    /// Whether the selector watches for reading.
    pub polls_read: bool,
    /// Whether the selector watches for writing.
    pub polls_write: bool,
    /// Whether `connection_lost` is scheduled or was called.
    pub lost: bool,
    /// Whether `connection_lost` was called.
    pub closed: bool,
    /// Whether the protocol was told to pause writing.
    pub writing_paused: bool,
    /// Whether reading is paused, also on a connection that is closing.
    pub reading_paused: bool,
    /// Whether the peer's end of stream was received.
    pub read_ended: bool,
    /// Whether `write_eof()` was called.
    pub write_ended: bool,
}

impl StreamInfo {
    /// What a transport shows that the engine does not know any more.
    pub const LOST: StreamInfo = StreamInfo {
        descriptor: -1,
        closing: true,
        reading: false,
        polls_read: false,
        polls_write: false,
        lost: true,
        closed: true,
        writing_paused: false,
        reading_paused: false,
        read_ended: false,
        write_ended: false,
    };
}

impl<F: Face> Engine<F> {
    /// Takes over a connected, non-blocking stream socket; nothing is read before
    /// [`start_reading_soon`](Self::start_reading_soon). It has no handler yet
    /// ([`set_handler`](Self::set_handler)), and reads into the loop's memory unless
    /// [`set_buffered`](Self::set_buffered) says otherwise.
    ///
    /// # Errors
    /// There is no memory; an owned descriptor is closed.
    pub fn add_stream(&self, descriptor: Descriptor) -> Result<Token, TryReserveError> {
        self.add_source_stream(descriptor, Medium::Socket)
    }

    pub(super) fn add_source_stream(
        &self,
        descriptor: Descriptor,
        medium: Medium,
    ) -> Result<Token, TryReserveError> {
        let mut state = self.state.lock();
        state.reserve_source()?;
        let number = descriptor.raw();
        let token = state.sources.insert(Source::Stream(Stream {
            descriptor,
            medium,
            grows: false,
            handler: HandlerSlot::Empty,
            state: ConnectionState::default(),
            registered: Interest::NONE,
            pending: Interest::NONE,
            buffered: false,
            read_hint: 0,
            flow: FlowControl::default(),
            posted: 0,
            gather: None,
            buffer: None,
        }));
        let displaced = self.displace(&mut state, number);
        state.set_token(number, token);
        drop(state);
        drop(displaced);
        Ok(token)
    }

    /// Names the stream's handler. The engine keeps it alive until reading has started, and from
    /// then on while the stream reads, or has something to send or to tell.
    pub fn set_handler(&self, token: Token, handler: F::Stream) {
        let mut handler = HandlerSlot::Owned(handler);
        self.with_stream(token, |stream| std::mem::swap(&mut stream.handler, &mut handler));
        drop(handler);
    }

    /// The stream's transport is going away: it is no handler any more.
    pub fn remove_handler(&self, token: Token) {
        let handler = self.with_stream(token, |stream| stream.handler.take());
        drop(handler);
    }

    /// The handlers of all open streams.
    ///
    /// # Errors
    /// No memory is left for the list.
    pub fn streams(&self) -> Result<Vec<F::Stream>, TryReserveError> {
        let mut all = Vec::new();
        let state = self.state.lock();
        let streams = state.sources.iter().filter_map(|(_, source)| match source {
            Source::Stream(stream) => stream.handler.get(),
            _ => None,
        });
        for stream in streams {
            all.try_reserve(1)?;
            all.push(stream);
        }
        Ok(all)
    }

    /// Says whether reads go into the handler's own memory (a BufferedProtocol).
    pub fn set_buffered(&self, token: Token, buffered: bool) {
        self.with_stream(token, |stream| {
            stream.buffered = buffered;
            stream.read_hint = 0;
        });
    }

    /// Starts reading behind what is queued now: after `connection_made`.
    ///
    /// # Errors
    /// There is no memory.
    pub fn start_reading_soon(&self, token: Token) -> Result<(), TryReserveError> {
        let mut state = self.state.lock();
        self.take_posts(&mut state);
        state.ready.try_reserve(1)?;
        state.ready.push_back(Ready::StartReading(token));
        Ok(())
    }

    /// Starts reading a stream or an endpoint now.
    pub fn start(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        self.start_receiving(cx, token)?;
        self.start_reading(cx, token)
    }

    fn start_reading(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else { return Ok(()) };
        stream.state.start_reading();
        let registered = self.register_stream(state, token);
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else { return Ok(()) };
        let (handler, idle) = (stream.handler.get(), stream.settle());
        drop(guard);
        drop(idle);
        match (handler, registered) {
            (Some(handler), Err(error)) => handler.failed(cx, Failure::Watch, error),
            _ => Ok(()),
        }
    }

    /// The selector found data, the end of the stream or an error.
    pub(super) fn readable(
        &self,
        cx: F::Context<'_>,
        token: Token,
        scratch: &mut [u8],
    ) -> Result<(), F::Leave> {
        let mut guard = self.state.lock();
        let Some(Source::Stream(stream)) = guard.sources.get_mut(token) else { return Ok(()) };
        if !std::mem::take(&mut stream.pending.read) || !stream.medium.wants_read(stream.state) {
            return Ok(());
        }
        if stream.medium.is_write_pipe() {
            drop(guard);
            return self.hung_up(cx, token);
        }
        let Some(handler) = stream.handler.get() else { return Ok(()) };
        if stream.buffered || stream.read_hint >= DIRECT_READ {
            let hint = stream.read_hint as usize;
            drop(guard);
            return self.read_direct(cx, token, &handler, hint);
        }
        let Some(socket) = stream.descriptor.borrow() else { return Ok(()) };
        let room = scratch.len();
        match stream.medium.receive(socket, scratch.into()) {
            Ok([]) => {
                drop(guard);
                self.end_of_stream(cx, token, &handler)
            }
            Ok(data) => {
                stream.note_read(data.len(), room);
                stream.note_full(data.len());
                drop(guard);
                handler.received(cx, data)
            }
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) => {
                drop(guard);
                handler.failed(cx, Failure::Read, error)
            }
        }
    }

    fn read_direct(
        &self,
        cx: F::Context<'_>,
        token: Token,
        handler: &F::Stream,
        hint: usize,
    ) -> Result<(), F::Leave> {
        /// What the closure below is: one whose result lives as long as the memory does.
        fn recv<F: for<'m> FnMut(Room<'m>) -> io::Result<&'m mut [u8]>>(recv: F) -> F {
            recv
        }
        let mut recv = recv(|room| {
            self.with_stream(token, |stream| {
                let socket = stream.descriptor.borrow().ok_or(io::ErrorKind::NotConnected)?;
                let size = room.len();
                let data = stream.medium.receive(socket, room)?;
                stream.note_read(data.len(), size);
                stream.note_full(data.len());
                Ok(data)
            })
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))
        });
        match handler.receive_into(cx, hint, &mut recv)? {
            Received::Data(_) | Received::NoBuffer => Ok(()),
            Received::Eof => self.end_of_stream(cx, token, handler),
            Received::Failed(error) if is_transient(&error) => Ok(()),
            Received::Failed(error) => handler.failed(cx, Failure::Read, error),
        }
    }

    fn end_of_stream(
        &self,
        cx: F::Context<'_>,
        token: Token,
        handler: &F::Stream,
    ) -> Result<(), F::Leave> {
        let first = self.with_stream(token, |stream| stream.state.receive_eof());
        if first != Some(true) {
            return Ok(());
        }
        let keep_open = handler.eof_received(cx);
        self.update(token);
        let one_way = self.with_stream(token, |stream| stream.medium == Medium::ReadPipe);
        match keep_open? {
            // A pipe's reader has nothing left to stay for.
            Some(keep_open) if !keep_open || one_way == Some(true) => self.close_stream(cx, token),
            Some(_) | None => Ok(()),
        }
    }

    /// `write_eof()`: shuts the writing side down once all is sent. Where that is now, the inner
    /// result is shutdown(2)'s: ENOTCONN for a peer that is gone.
    pub fn write_eof(&self, cx: F::Context<'_>, token: Token) -> Result<io::Result<()>, F::Leave> {
        if self.with_stream(token, |stream| stream.medium.is_write_pipe()) == Some(true) {
            // A pipe has no other way to tell its reader.
            return self.close_stream(cx, token).map(Ok);
        }
        self.flush_stream(cx, token)?;
        let shut = self.with_stream(token, |stream| {
            match stream.state.write_eof(stream.buffered_bytes()) {
                Step::ShutDown => stream.descriptor.borrow().map_or(Ok(()), sys::shutdown_write),
                _ => Ok(()),
            }
        });
        Ok(shut.unwrap_or(Ok(())))
    }

    /// `close()`: stops reading; `connection_lost` follows once all is sent, in a later turn.
    pub fn close_stream(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        self.flush_stream(cx, token)?;
        let step = self.with_stream(token, |stream| stream.state.close(stream.buffered_bytes()));
        self.update(token);
        self.follow(cx, token, step.unwrap_or(Step::Nothing))
    }

    /// `abort()` and errors: drops what is queued. True when the caller has to schedule
    /// `connection_lost`, with its error.
    pub fn force_close(&self, token: Token) -> bool {
        let mut buffer = None;
        let step = self.with_stream(token, |stream| {
            let step = stream.state.force_close();
            if step == Step::ScheduleLost {
                buffer = stream.buffer.take();
            }
            step
        });
        drop(buffer);
        self.update(token);
        step == Some(Step::ScheduleLost)
    }

    pub(super) fn follow(
        &self,
        cx: F::Context<'_>,
        token: Token,
        step: Step,
    ) -> Result<(), F::Leave> {
        if step == Step::Nothing {
            return Ok(());
        }
        if step == Step::ShutDown {
            let result = self.with_stream(token, |stream| {
                stream.descriptor.borrow().map_or(Ok(()), sys::shutdown_write)
            });
            if let Some(Err(error)) = result {
                if let Some(handler) = self.handler(token) {
                    return handler.failed(cx, Failure::Drain, error);
                }
            }
            return Ok(());
        }
        let Some(handler) = self.handler(token) else { return Ok(()) };
        if step == Step::CallLost {
            return handler.connection_lost(cx);
        }
        handler.schedule_connection_lost(cx)
    }

    /// `connection_lost` is about to be called: true the first time (invariant 1).
    pub fn lose(&self, token: Token) -> bool {
        let first = self.with_stream(token, |stream| stream.state.lose());
        first == Some(true)
    }

    /// Lets go of a lost stream's descriptor and handler. A lent descriptor is the lender's to
    /// close, after this.
    pub fn release(&self, token: Token) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else { return };
        stream.state.lose();
        let watched =
            self.register(&stream.descriptor, token, &mut stream.registered, Interest::NONE);
        let descriptor = std::mem::replace(&mut stream.descriptor, Descriptor::Gone);
        let (handler, buffer) = (stream.handler.take(), stream.buffer.take());
        state.watched = state.watched.saturating_add_signed(watched.unwrap_or(-1));
        state.clear_token(descriptor.raw(), token);
        drop(guard);
        drop((descriptor, handler, buffer));
    }

    /// Forgets a stream: its transport is gone. An open descriptor of ours is closed.
    pub fn remove_stream(&self, token: Token) {
        self.release(token);
        let source = self.state.lock().sources.remove(token);
        drop(source);
    }

    /// `pause_reading()`; false where it changes nothing.
    pub fn pause_reading(&self, token: Token) -> bool {
        let changed = self.with_stream(token, |stream| {
            // What the selector found belongs to the reader that was.
            let changed = stream.state.pause_reading();
            stream.pending.read &= !changed;
            changed
        });
        self.update(token);
        changed == Some(true)
    }

    /// `resume_reading()`; false where it changes nothing.
    pub fn resume_reading(&self, token: Token) -> bool {
        let changed = self.with_stream(token, |stream| stream.state.resume_reading());
        self.update(token);
        changed == Some(true)
    }

    /// Keeps the transport from writing, so that sendfile can go by its descriptor: `None` where
    /// that is so already, else how many bytes are to be sent first. When they are,
    /// [`drained`](StreamHandler::drained) is called.
    pub fn hold_writing(
        &self,
        cx: F::Context<'_>,
        token: Token,
    ) -> Result<Option<usize>, F::Leave> {
        self.flush_stream(cx, token)?;
        let held = self.with_stream(token, |stream| {
            stream.state.hold_writing().then(|| stream.buffered_bytes())
        });
        Ok(held.unwrap_or(Some(0)))
    }

    /// The transport may write again.
    pub fn release_writing(&self, token: Token) {
        self.with_stream(token, |stream| stream.state.release_writing());
    }

    /// What the transport says of itself.
    pub fn stream_info(&self, token: Token) -> Option<StreamInfo> {
        self.with_stream(token, |stream| StreamInfo {
            descriptor: stream.descriptor.raw(),
            closing: stream.state.is_closing(),
            reading: stream.state.is_reading(),
            polls_read: stream.registered.read,
            polls_write: stream.registered.write,
            lost: stream.state.is_lost(),
            closed: stream.state.is_closed(),
            writing_paused: stream.flow.is_paused(),
            reading_paused: stream.state.is_paused(),
            read_ended: stream.state.is_read_ended(),
            write_ended: stream.state.is_write_ended(),
        })
    }

    /// Bytes that wait to be sent, 0 after the loss; flush first to see what asyncio would.
    pub fn write_buffer_size(&self, token: Token) -> usize {
        self.with_stream(token, |stream| stream.buffered_bytes()).unwrap_or(0)
    }

    /// The limits in force.
    pub fn write_buffer_limits(&self, token: Token) -> Limits {
        self.with_stream(token, |stream| stream.flow.limits()).unwrap_or_default()
    }

    /// Sets the limits, and pauses the protocol if it is over the new high-water mark.
    pub fn set_write_buffer_limits(
        &self,
        cx: F::Context<'_>,
        token: Token,
        limits: Limits,
    ) -> Result<(), F::Leave> {
        self.flush_stream(cx, token)?;
        let pause = self.with_stream(token, |stream| {
            stream.flow.set_limits(limits);
            stream.flow.should_pause(stream.unsent_bytes())
        });
        match self.handler(token) {
            Some(handler) if pause == Some(true) => handler.pause_writing(cx),
            _ => Ok(()),
        }
    }

    /// Says how many bytes of other threads are on their way to the stream, and pauses the protocol
    /// where they are too many. [`take_posted`](Self::take_posted) follows when some have come.
    pub fn note_posted(
        &self,
        cx: F::Context<'_>,
        token: Token,
        bytes: usize,
    ) -> Result<(), F::Leave> {
        let pause = self.with_stream(token, |stream| {
            stream.posted = bytes;
            !stream.state.is_lost() && stream.flow.should_pause(stream.unsent_bytes())
        });
        match self.handler(token) {
            Some(handler) if pause == Some(true) => handler.pause_writing(cx),
            _ => Ok(()),
        }
    }

    /// What had been posted is written: resumes the protocol where that is due.
    pub fn take_posted(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let resume = self.with_stream(token, |stream| {
            !stream.state.is_lost() && stream.flow.should_resume(stream.unsent_bytes())
        });
        match self.handler(token) {
            Some(handler) if resume == Some(true) => handler.resume_writing(cx),
            _ => Ok(()),
        }
    }

    /// Gives an owned descriptor to the caller, who closes it from now on, after
    /// [`release`](Self::release).
    pub fn lend_descriptor(&self, token: Token) -> Option<std::os::fd::OwnedFd> {
        self.with_stream(token, |stream| stream.descriptor.lend())?
    }

    /// Calls `f` with the stream's descriptor, while it is open.
    pub fn with_descriptor<R>(
        &self,
        token: Token,
        f: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> R,
    ) -> Option<R> {
        self.with_stream(token, |stream| stream.descriptor.borrow().map(f))?
    }

    pub(super) fn with_stream<R>(
        &self,
        token: Token,
        f: impl FnOnce(&mut Stream<F>) -> R,
    ) -> Option<R> {
        match self.state.lock().sources.get_mut(token) {
            Some(Source::Stream(stream)) => Some(f(stream)),
            _ => None,
        }
    }

    fn handler(&self, token: Token) -> Option<F::Stream> {
        self.with_stream(token, |stream| stream.handler.get())?
    }

    pub(super) fn update(&self, token: Token) {
        let idle = self.update_stream(&mut self.state.lock(), token);
        drop(idle);
    }

    /// Tells the selector what the stream's state asks for now. Drop the result without the lock.
    #[must_use]
    pub(super) fn update_stream(&self, state: &mut State<F>, token: Token) -> Option<F::Stream> {
        // ENOSPC or ENOMEM: the descriptor stays as it was, and the next change tries again.
        let _ = self.register_stream(state, token);
        match state.sources.get_mut(token) {
            Some(Source::Stream(stream)) => stream.settle(),
            _ => None,
        }
    }

    fn register_stream(&self, state: &mut State<F>, token: Token) -> io::Result<()> {
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else { return Ok(()) };
        let wanted = stream.wanted();
        if wanted == stream.registered {
            return Ok(());
        }
        let watched = self.register(&stream.descriptor, token, &mut stream.registered, wanted)?;
        state.watched = state.watched.saturating_add_signed(watched);
        Ok(())
    }
}

/// Errors that only say "not now".
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

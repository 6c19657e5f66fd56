//! Connections: reading, writing, flow control, closing.
//!
//! Methods change the state under the lock and call the handler after it (invariant 8). The
//! write rule is in [`write`](Engine::write); what is gathered leaves by
//! [`flush`](Engine::flush) at the end of the turn, or earlier where it could be noticed.

use super::*;
use crate::sys;
use crate::transport::connection_state::{ConnectionState, Step};
use crate::transport::flow_control::{FlowControl, Limits};
use crate::transport::gather::may_gather;
use crate::transport::write_buffer::{COPY_LIMIT, WriteBuffer};
use lock_api::MutexGuard;

/// From this size on reads go straight into memory of the protocol's kind instead of the loop's
/// buffer: a copy costs more than an allocation.
const DIRECT_READ: u32 = 8 * 1024;
/// The most that is read at once into fresh memory, bytes: below glibc's mmap threshold
/// (128 KiB), over which each message would cost page faults.
const LARGEST_READ: u32 = 112 * 1024;
/// So many empty gathers are kept for reuse.
const SPARE_GATHERS: usize = 64;
/// Slices of one vectored send.
const SLICES: usize = 64;

/// A connected stream socket.
pub(super) struct Stream<F: Face> {
    pub(super) descriptor: Descriptor,
    /// `None` once the connection is lost, or the loop closed.
    pub(super) handler: Option<F::Stream>,
    state: ConnectionState,
    pub(super) registered: Interest,
    pub(super) pending: Interest,
    /// Reads go into the handler's memory always (BufferedProtocol).
    buffered: bool,
    /// What this peer has been sending at a time, bytes.
    read_hint: u32,
    flow: FlowControl,
    /// Where this turn's writes are gathered, in the state's list.
    gather: Option<usize>,
    /// What the kernel did not take yet.
    buffer: Option<Box<WriteBuffer<F::Bytes>>>,
}

impl<F: Face> State<F> {
    /// Where the stream's writes are gathered; made where there is nothing yet.
    fn gather_for(&mut self, token: Token) -> Option<&mut Gather<F::Bytes, Token>> {
        let Some(Source::Stream(stream)) = self.sources.get_mut(token) else { return None };
        let index = *stream.gather.get_or_insert_with(|| {
            let mut gather = self.spare_gathers.pop().unwrap_or_default();
            gather.target = Some(token);
            self.gathers.push(gather);
            self.gathers.len() - 1
        });
        self.gathers.get_mut(index)
    }
}

impl<F: Face> Stream<F> {
    fn buffered_bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    fn wanted(&self) -> Interest {
        Interest {
            read: self.state.wants_read(),
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
        self.read_hint = if hint < DIRECT_READ {
            if count >= DIRECT_READ as usize {
                (count as u32).next_power_of_two().min(LARGEST_READ)
            } else {
                0
            }
        } else if count >= room {
            hint.saturating_mul(2).min(LARGEST_READ)
        } else if count < room / 4 {
            hint / 2
        } else {
            hint
        };
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Sent, gathered or queued.
    Taken,
    /// Refused: `write_eof()` came before.
    AfterEof,
    /// Dropped: the connection is lost.
    Lost,
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
    /// Whether `connection_lost` was called.
    pub closed: bool,
}

type StateGuard<'a, F> = MutexGuard<'a, <F as Face>::Lock, State<F>>;

/// How a write goes on after its checks.
enum Begun<'a, F: Face> {
    /// It is over.
    Ended(Written),
    /// It joins what is gathered.
    Gather(StateGuard<'a, F>),
    /// It is sent now, or queued behind what the kernel has not taken.
    Send(StateGuard<'a, F>),
}

impl<F: Face> Engine<F> {
    /// Takes over a connected, non-blocking stream socket; nothing is read before
    /// [`start_reading_soon`](Self::start_reading_soon). `buffered` streams read into their
    /// handler's own memory.
    pub fn add_stream(&self, descriptor: Descriptor) -> Token {
        let mut state = self.state.lock();
        let number = descriptor.raw();
        let token = state.sources.insert(Source::Stream(Stream {
            descriptor,
            handler: None,
            state: ConnectionState::default(),
            registered: Interest::NONE,
            pending: Interest::NONE,
            buffered: false,
            read_hint: 0,
            flow: FlowControl::default(),
            gather: None,
            buffer: None,
        }));
        let displaced = self.displace(&mut state, number);
        state.set_token(number, Some(token));
        drop(state);
        drop(displaced);
        token
    }

    /// Names the stream's handler, which the engine keeps until the connection is lost.
    pub fn set_handler(&self, token: Token, handler: F::Stream) {
        let mut handler = Some(handler);
        self.with_stream(token, |stream| std::mem::swap(&mut stream.handler, &mut handler));
        drop(handler);
    }

    /// Says whether reads go into the handler's own memory (a BufferedProtocol).
    pub fn set_buffered(&self, token: Token, buffered: bool) {
        self.with_stream(token, |stream| {
            stream.buffered = buffered;
            stream.read_hint = 0;
        });
    }

    /// Starts reading behind what is queued now: after `connection_made`.
    pub fn start_reading_soon(&self, token: Token) {
        self.state.lock().ready.push_back(Ready::StartReading(token));
    }

    pub(super) fn start_reading(&self, token: Token) {
        let mut state = self.state.lock();
        if let Some(Source::Stream(stream)) = state.sources.get_mut(token) {
            stream.state.start_reading();
        }
        self.update_stream(&mut state, token);
    }

    /// Writes by the rule that makes one send of a turn's small writes.
    ///
    /// Gathers only while the kernel has taken all so far, high > 0, and the total is at most
    /// `min(64 KiB, high)`; else sends at once and applies flow control to what is left.
    /// Errors of the descriptor go to the handler, and close the connection.
    pub fn write(
        &self,
        cx: F::Context<'_>,
        token: Token,
        data: &(impl Data<F::Bytes> + ?Sized),
    ) -> Result<Written, F::Leave> {
        let len = data.bytes().len();
        let mut guard = match self.begin_write(cx, token, len)? {
            Begun::Ended(written) => return Ok(written),
            Begun::Gather(mut guard) => {
                if let Some(gather) = guard.gather_for(token) {
                    gather.push(data);
                }
                return Ok(Written::Taken);
            }
            Begun::Send(guard) => guard,
        };
        let Some(Source::Stream(stream)) = guard.sources.get_mut(token) else {
            return Ok(Written::Lost);
        };
        let deferred = stream.buffered_bytes() == 0;
        let mut sent = 0;
        if deferred {
            let Some(socket) = stream.descriptor.borrow() else { return Ok(Written::Lost) };
            match sys::send(socket, data.bytes()) {
                Ok(count) if count == len => return Ok(Written::Taken),
                Ok(count) => sent = count,
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    let handler = stream.handler.clone();
                    drop(guard);
                    if let Some(handler) = handler {
                        handler.failed(cx, Failure::Write, error)?;
                    }
                    return Ok(Written::Taken);
                }
            }
        }
        let buffer = stream.buffer.get_or_insert_default();
        match data.keep() {
            Some(kept) => buffer.push_kept(kept, sent),
            None => buffer.push_copy(&data.bytes()[sent..]),
        }
        self.queued(cx, guard, token, deferred)
    }

    /// Writes several pieces as one: one send where the kernel takes them, and flow control
    /// applied once, to what is left (`writelines`).
    pub fn write_all(
        &self,
        cx: F::Context<'_>,
        token: Token,
        pieces: &[impl Data<F::Bytes>],
    ) -> Result<Written, F::Leave> {
        if let [piece] = pieces {
            return self.write(cx, token, piece);
        }
        let len = pieces.iter().map(|piece| piece.bytes().len()).sum();
        match self.begin_write(cx, token, len)? {
            Begun::Ended(written) => Ok(written),
            Begun::Gather(mut guard) => {
                if let Some(gather) = guard.gather_for(token) {
                    pieces.iter().for_each(|piece| gather.push(piece));
                }
                Ok(Written::Taken)
            }
            Begun::Send(mut guard) => {
                let state = &mut *guard;
                let Some(Source::Stream(stream)) = state.sources.get_mut(token) else {
                    return Ok(Written::Lost);
                };
                let deferred = stream.buffered_bytes() == 0;
                let buffer = stream.buffer.get_or_insert_default();
                for piece in pieces {
                    match piece.keep().filter(|_| piece.bytes().len() > COPY_LIMIT) {
                        Some(kept) => buffer.push_kept(kept, 0),
                        None => buffer.push_copy(piece.bytes()),
                    }
                }
                let result = match stream.descriptor.borrow() {
                    Some(socket) if deferred => sys::send_vectored(socket, &buffer.slices(1024)),
                    _ => Ok(0),
                };
                match result {
                    Ok(sent) => buffer.consume(sent),
                    Err(error) if is_transient(&error) => {}
                    Err(error) => {
                        let dropped = stream.buffer.take();
                        let handler = stream.handler.clone();
                        drop(guard);
                        drop(dropped);
                        if let Some(handler) = handler {
                            handler.failed(cx, Failure::Write, error)?;
                        }
                        return Ok(Written::Taken);
                    }
                }
                if buffer.is_empty() {
                    stream.buffer = None;
                    return Ok(Written::Taken);
                }
                self.queued(cx, guard, token, deferred)
            }
        }
    }

    /// The checks that each write starts with, and whether it joins what is gathered.
    #[inline]
    fn begin_write(
        &self,
        cx: F::Context<'_>,
        token: Token,
        len: usize,
    ) -> Result<Begun<'_, F>, F::Leave> {
        let mut guard = self.state.lock();
        loop {
            let state = &mut *guard;
            let Some(Source::Stream(stream)) = state.sources.get(token) else {
                return Ok(Begun::Ended(Written::Lost));
            };
            if stream.state.is_write_ended() {
                return Ok(Begun::Ended(Written::AfterEof));
            }
            if len == 0 {
                return Ok(Begun::Ended(Written::Taken));
            }
            if stream.state.is_lost() {
                return Ok(Begun::Ended(Written::Lost));
            }
            let limits = stream.flow.limits();
            let gathers = state.dispatching && limits.high() > 0 && stream.buffered_bytes() == 0;
            let gathered = stream.gather.and_then(|index| state.gathers.get(index));
            if gathers && may_gather(gathered.map_or(0, Gather::len), len, limits) {
                return Ok(Begun::Gather(guard));
            }
            if gathered.is_none() {
                return Ok(Begun::Send(guard));
            }
            // As much as may be is gathered: it leaves first.
            drop(guard);
            self.flush_stream(cx, token)?;
            guard = self.state.lock();
        }
    }

    /// Something was queued: watch for writing, and pause the protocol where that is due.
    fn queued(
        &self,
        cx: F::Context<'_>,
        mut guard: StateGuard<'_, F>,
        token: Token,
        deferred: bool,
    ) -> Result<Written, F::Leave> {
        let state = &mut *guard;
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else {
            return Ok(Written::Lost);
        };
        let pause = stream.flow.should_pause(stream.buffered_bytes());
        let handler = stream.handler.clone();
        self.update_stream(state, token);
        drop(guard);
        if let Some(handler) = handler {
            if deferred {
                handler.writing_deferred(cx);
            }
            if pause {
                handler.pause_writing(cx)?;
            }
        }
        Ok(Written::Taken)
    }

    /// Sends what callbacks have written to any stream so far. Never pauses a protocol: what was
    /// gathered is not over the high-water mark.
    #[inline]
    pub fn flush(&self, cx: F::Context<'_>) -> Result<(), F::Leave> {
        if self.state.lock().gathers.is_empty() {
            return Ok(());
        }
        self.flush_all(cx)
    }

    fn flush_all(&self, cx: F::Context<'_>) -> Result<(), F::Leave> {
        let mut result = Ok(());
        for index in 0.. {
            let guard = self.state.lock();
            let Some(gather) = guard.gathers.get(index) else { break };
            if let Some(token) = gather.target {
                let sent = self.send_gathered(cx, guard, token, index, Failure::Flush);
                result = result.and(sent);
            }
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        // A handler that failed may have written again: what is not sent keeps its place.
        if state.gathers.iter().any(|gather| gather.target.is_some()) {
            return result;
        }
        state.spare_gathers.append(&mut state.gathers);
        state.spare_gathers.truncate(SPARE_GATHERS);
        result
    }

    /// Sends what callbacks have written to one stream so far.
    #[inline]
    pub fn flush_stream(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let guard = self.state.lock();
        match guard.sources.get(token) {
            Some(Source::Stream(Stream { gather: Some(index), .. })) => {
                let index = *index;
                // The caller is the writer, or as good as.
                self.send_gathered(cx, guard, token, index, Failure::Write)
            }
            _ => Ok(()),
        }
    }

    /// Lets a dead peer show, if anything is gathered. A single write is sent: that costs one
    /// system call now instead of one later. Several, which are an answer in its parts, are sent
    /// only if poll(2) says that it would fail.
    pub fn flush_if_broken(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let due = {
            let state = self.state.lock();
            match state.sources.get(token) {
                Some(Source::Stream(stream)) => stream.gather.is_some_and(|index| {
                    state.gathers.get(index).is_some_and(|gather| gather.writes() == 1)
                        || stream.descriptor.borrow().is_some_and(sys::is_broken)
                }),
                _ => false,
            }
        };
        if due { self.flush_stream(cx, token) } else { Ok(()) }
    }

    fn send_gathered(
        &self,
        cx: F::Context<'_>,
        mut guard: StateGuard<'_, F>,
        token: Token,
        index: usize,
        failure: Failure,
    ) -> Result<(), F::Leave> {
        let state = &mut *guard;
        let Some(gather) = state.gathers.get_mut(index) else { return Ok(()) };
        gather.target = None;
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else {
            gather.clear();
            return Ok(());
        };
        stream.gather = None;
        // In a child of fork it is the parent's to send.
        let open = !stream.state.is_lost() && !self.is_forked();
        let Some(socket) = stream.descriptor.borrow().filter(|_| open) else {
            gather.clear();
            return Ok(());
        };
        let result = match gather.single() {
            Some(bytes) => sys::send(socket, bytes),
            None => sys::send_vectored(socket, &gather.slices()),
        };
        let sent = match result {
            Ok(sent) if sent == gather.len() => {
                gather.clear();
                return Ok(());
            }
            Ok(sent) => sent,
            Err(error) if is_transient(&error) => 0,
            Err(error) => {
                gather.clear();
                let handler = stream.handler.clone();
                drop(guard);
                return match handler {
                    Some(handler) => handler.failed(cx, failure, error),
                    None => Ok(()),
                };
            }
        };
        gather.finish(sent, stream.buffer.get_or_insert_default());
        let handler = stream.handler.clone();
        self.update_stream(state, token);
        drop(guard);
        if let Some(handler) = handler {
            handler.writing_deferred(cx);
        }
        Ok(())
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
        if !std::mem::take(&mut stream.pending.read) || !stream.state.wants_read() {
            return Ok(());
        }
        let Some(handler) = stream.handler.clone() else { return Ok(()) };
        if stream.buffered || stream.read_hint >= DIRECT_READ {
            let hint = stream.read_hint as usize;
            drop(guard);
            return self.read_direct(cx, token, &handler, hint);
        }
        let Some(socket) = stream.descriptor.borrow() else { return Ok(()) };
        match sys::recv(socket, scratch) {
            Ok(0) => {
                drop(guard);
                self.end_of_stream(cx, token, &handler)
            }
            Ok(count) => {
                stream.note_read(count, scratch.len());
                drop(guard);
                handler.received(cx, &scratch[..count])
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
        let mut recv = |room: &mut [u8]| {
            self.with_stream(token, |stream| {
                let socket = stream.descriptor.borrow().ok_or(io::ErrorKind::NotConnected)?;
                let count = sys::recv(socket, room)?;
                stream.note_read(count, room.len());
                Ok(count)
            })
            .unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))
        };
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
        match keep_open? {
            Some(false) => self.close_stream(cx, token),
            Some(true) | None => Ok(()),
        }
    }

    /// The descriptor takes data again.
    pub(super) fn writable(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let mut guard = self.state.lock();
        let Some(Source::Stream(stream)) = guard.sources.get_mut(token) else { return Ok(()) };
        let Some(handler) = stream.handler.clone() else { return Ok(()) };
        let Some(socket) = stream.descriptor.borrow().filter(|_| !stream.state.is_lost()) else {
            return Ok(());
        };
        let Some(buffer) = stream.buffer.as_mut().filter(|buffer| !buffer.is_empty()) else {
            return Ok(());
        };
        let result = match buffer.single() {
            Some(bytes) => sys::send(socket, bytes),
            None => sys::send_vectored(socket, &buffer.slices(SLICES)),
        };
        match result {
            Ok(count) => buffer.consume(count),
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => {
                stream.buffer = None;
                self.update_stream(&mut guard, token);
                drop(guard);
                return handler.failed(cx, Failure::Drain, error);
            }
        }
        let resume = stream.flow.should_resume(stream.buffered_bytes());
        drop(guard);
        if resume {
            handler.resume_writing(cx)?;
            // It may have written more.
            self.flush_stream(cx, token)?;
        }
        let step = self.with_stream(token, |stream| {
            if stream.buffered_bytes() > 0 {
                return Step::Nothing;
            }
            stream.buffer = None;
            stream.state.drained()
        });
        self.update(token);
        self.follow(cx, token, step.unwrap_or(Step::Nothing))
    }

    /// `write_eof()`: shuts the writing side down once all is sent. Where that is now, the inner
    /// result is shutdown(2)'s: ENOTCONN for a peer that is gone.
    pub fn write_eof(&self, cx: F::Context<'_>, token: Token) -> Result<io::Result<()>, F::Leave> {
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

    fn follow(&self, cx: F::Context<'_>, token: Token, step: Step) -> Result<(), F::Leave> {
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
        handler.schedule_connection_lost(cx);
        Ok(())
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
        if state.token_of(descriptor.raw()) == Some(token) {
            state.set_token(descriptor.raw(), None);
        }
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

    /// What the transport says of itself.
    pub fn stream_info(&self, token: Token) -> Option<StreamInfo> {
        self.with_stream(token, |stream| StreamInfo {
            descriptor: stream.descriptor.raw(),
            closing: stream.state.is_closing(),
            reading: stream.state.is_reading(),
            polls_read: stream.registered.read,
            polls_write: stream.registered.write,
            closed: stream.state.is_closed(),
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
            stream.flow.should_pause(stream.buffered_bytes())
        });
        match self.handler(token) {
            Some(handler) if pause == Some(true) => handler.pause_writing(cx),
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

    fn with_stream<R>(&self, token: Token, f: impl FnOnce(&mut Stream<F>) -> R) -> Option<R> {
        match self.state.lock().sources.get_mut(token) {
            Some(Source::Stream(stream)) => Some(f(stream)),
            _ => None,
        }
    }

    fn handler(&self, token: Token) -> Option<F::Stream> {
        self.with_stream(token, |stream| stream.handler.clone())?
    }

    fn update(&self, token: Token) {
        self.update_stream(&mut self.state.lock(), token);
    }

    /// Tells the selector what the stream's state asks for now.
    fn update_stream(&self, state: &mut State<F>, token: Token) {
        let Some(Source::Stream(stream)) = state.sources.get_mut(token) else { return };
        let wanted = stream.wanted();
        if wanted == stream.registered {
            return;
        }
        // ENOSPC or ENOMEM: the descriptor stays as it was, and the next change tries again.
        let watched = self.register(&stream.descriptor, token, &mut stream.registered, wanted);
        state.watched = state.watched.saturating_add_signed(watched.unwrap_or(0));
    }
}

/// Errors that only say "not now".
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

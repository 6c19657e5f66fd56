//! Writing to connections.
//!
//! The write rule is in [`write`](Engine::write); what is gathered leaves by
//! [`flush`](Engine::flush) at the end of the turn, or earlier where it could be noticed.

use super::streams::is_transient;
use super::*;
use crate::sys;
use crate::transport::connection_state::Step;
use crate::transport::gather::may_gather;
use crate::transport::write_buffer::COPY_LIMIT;
use lock_api::MutexGuard;

/// So many empty gathers are kept for reuse.
const SPARE_GATHERS: usize = 64;
/// Slices of one vectored send.
const SLICES: usize = 64;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Sent, gathered or queued.
    Taken,
    /// Refused: `write_eof()` came before.
    AfterEof,
    /// Refused: sendfile is in progress.
    Held,
    /// Dropped: the connection is lost.
    Lost,
    /// Dropped, but for what the kernel took: the loop is closed and sends no more.
    Closed,
}

impl<F: Face> State<F> {
    /// Where the stream's writes are gathered; made where there is nothing yet.
    fn gather_for(&mut self, token: Token) -> Option<&mut Gather<F::Bytes, Token>> {
        let Some(Source::Stream(stream)) = self.sources.get_mut(token) else { return None };
        let index = *stream.gather.get_or_insert_with(|| {
            // What is gathered is sent, though its writer drops the transport. Nothing is disowned.
            let _ = stream.handler.own(true);
            let mut gather = self.spare_gathers.pop().unwrap_or_default();
            gather.target = Some(token);
            self.gathers.push(gather);
            self.gathers.len() - 1
        });
        self.gathers.get_mut(index)
    }
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
            match stream.medium.send(socket, data.bytes()) {
                Ok(count) if count == len => return Ok(Written::Taken),
                Ok(count) => sent = count,
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    let handler = stream.handler.get();
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
                    Some(socket) if deferred => {
                        stream.medium.send_vectored(socket, &buffer.slices(1024))
                    }
                    _ => Ok(0),
                };
                match result {
                    Ok(sent) => buffer.consume(sent),
                    Err(error) if is_transient(&error) => {}
                    Err(error) => {
                        let dropped = stream.buffer.take();
                        let handler = stream.handler.get();
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
            if !stream.state.may_write() {
                let ended = stream.state.is_write_ended();
                return Ok(Begun::Ended(if ended { Written::AfterEof } else { Written::Held }));
            }
            if len == 0 {
                return Ok(Begun::Ended(Written::Taken));
            }
            if stream.medium.refuses_writes(stream.state) {
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
        if deferred && self.is_closed() {
            let dropped = stream.buffer.take();
            drop(guard);
            drop(dropped);
            return Ok(Written::Closed);
        }
        stream.make_room();
        let pause = stream.flow.should_pause(stream.buffered_bytes());
        let handler = stream.handler.get();
        let idle = self.update_stream(state, token);
        drop(guard);
        drop(idle);
        if let Some(handler) = handler {
            if deferred {
                handler.writing_deferred(cx, Failure::Write);
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
            Some(bytes) => stream.medium.send(socket, bytes),
            None => stream.medium.send_vectored(socket, &gather.slices()),
        };
        let sent = match result {
            Ok(sent) if sent == gather.len() => {
                gather.clear();
                let idle = stream.settle();
                drop(guard);
                drop(idle);
                return Ok(());
            }
            Ok(sent) => sent,
            Err(error) if is_transient(&error) => 0,
            Err(error) => {
                gather.clear();
                let handler = stream.handler.get();
                drop(guard);
                return match handler {
                    Some(handler) => handler.failed(cx, failure, error),
                    None => Ok(()),
                };
            }
        };
        gather.finish(sent, stream.buffer.get_or_insert_default());
        let handler = stream.handler.get();
        let idle = self.update_stream(state, token);
        drop(guard);
        drop(idle);
        if let Some(handler) = handler {
            handler.writing_deferred(cx, failure);
        }
        Ok(())
    }

    /// The descriptor takes data again.
    pub(super) fn writable(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let mut guard = self.state.lock();
        let Some(Source::Stream(stream)) = guard.sources.get_mut(token) else { return Ok(()) };
        let Some(handler) = stream.handler.get() else { return Ok(()) };
        let Some(socket) = stream.descriptor.borrow().filter(|_| !stream.state.is_lost()) else {
            return Ok(());
        };
        let Some(buffer) = stream.buffer.as_mut().filter(|buffer| !buffer.is_empty()) else {
            return Ok(());
        };
        let result = match buffer.single() {
            Some(bytes) => stream.medium.send(socket, bytes),
            None => stream.medium.send_vectored(socket, &buffer.slices(SLICES)),
        };
        match result {
            Ok(count) => buffer.consume(count),
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => {
                stream.buffer = None;
                let idle = self.update_stream(&mut guard, token);
                drop(guard);
                drop(idle);
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
        let mut held = false;
        let step = self.with_stream(token, |stream| {
            if stream.buffered_bytes() > 0 {
                return Step::Nothing;
            }
            stream.buffer = None;
            held = stream.state.is_writing_held();
            stream.state.drained()
        });
        self.update(token);
        if held {
            handler.drained(cx);
        }
        self.follow(cx, token, step.unwrap_or(Step::Nothing))
    }
}

//! Writing to connections.
//!
//! The write rule is in [`write`](Engine::write); what is gathered leaves by
//! [`flush`](Engine::flush) at the end of the turn, or earlier where it could be noticed.

use super::streams::is_transient;
use super::*;
use crate::sys;
use crate::transport::connection_state::Step;
use crate::transport::gather::may_gather;
use crate::transport::write_buffer::{COPY_LIMIT, WriteBuffer};
use lock_api::MutexGuard;

/// So many empty gathers are kept for reuse.
const SPARE_GATHERS: usize = 64;
/// Slices of one vectored send.
const SLICES: usize = 64;
/// Slices of a send for one call of `writelines` (IOV_MAX).
const MOST_SLICES: usize = 1024;

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
    /// Refused: there is no memory to keep it in. Nothing of it was sent or kept.
    NoMemory,
}

impl<F: Face> State<F> {
    /// Where the stream's writes are gathered; made where there is nothing yet.
    fn gather_for(
        &mut self,
        token: Token,
    ) -> Result<Option<&mut Gather<F::Bytes, Token>>, TryReserveError> {
        let Some(Source::Stream(stream)) = self.sources.get_mut(token) else { return Ok(None) };
        let index = match stream.gather {
            Some(index) => index,
            None => {
                self.gathers.try_reserve(1)?;
                // What is gathered is sent, though its writer drops the transport. Nothing is
                // disowned.
                let _ = stream.handler.own(true);
                let mut gather = self.spare_gathers.pop().unwrap_or_default();
                gather.target = Some(token);
                self.gathers.push(gather);
                *stream.gather.insert(self.gathers.len() - 1)
            }
        };
        Ok(self.gathers.get_mut(index))
    }

    /// Adds a write to what is gathered: whole, or nothing of it.
    #[inline]
    fn gather(
        &mut self,
        token: Token,
        data: &(impl Data<F::Bytes> + ?Sized),
    ) -> Result<(), TryReserveError> {
        match self.gather_for(token)? {
            Some(gather) => gather.push(data),
            None => Ok(()),
        }
    }

    /// Likewise, several as one.
    fn gather_all(
        &mut self,
        token: Token,
        pieces: &[impl Data<F::Bytes>],
    ) -> Result<(), TryReserveError> {
        let Some(gather) = self.gather_for(token)? else { return Ok(()) };
        let mark = gather.mark();
        let gathered = pieces.iter().try_for_each(|piece| gather.push(piece));
        gathered.inspect_err(|_| gather.rewind(mark))
    }
}

impl<F: Face> Stream<F> {
    /// The write buffer; made where there is none yet.
    fn buffer_to_fill(&mut self) -> Result<&mut WriteBuffer<F::Bytes>, TryReserveError> {
        let buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => TryBox::new(WriteBuffer::default())?,
        };
        Ok(self.buffer.insert(buffer))
    }

    /// Queues what the kernel has not taken, from `sent` on.
    fn keep(
        &mut self,
        data: &(impl Data<F::Bytes> + ?Sized),
        sent: usize,
    ) -> Result<(), TryReserveError> {
        let buffer = self.buffer_to_fill()?;
        match data.keep() {
            Some(kept) => buffer.push_kept(kept, sent),
            None => buffer.push_copy(&data.bytes()[sent..]),
        }
    }

    /// Queues several pieces: all, or none of them.
    fn keep_all(&mut self, pieces: &[impl Data<F::Bytes>]) -> Result<(), TryReserveError> {
        let buffer = self.buffer_to_fill()?;
        let len = buffer.len();
        let kept = pieces.iter().try_for_each(|piece| {
            match piece.keep().filter(|_| piece.bytes().len() > COPY_LIMIT) {
                Some(kept) => buffer.push_kept(kept, 0),
                None => buffer.push_copy(piece.bytes()),
            }
        });
        kept.inspect_err(|_| buffer.truncate(len))
    }

    /// Sends what is queued, by one system call of at most `limit` slices.
    fn send_buffered(&self, limit: usize) -> io::Result<usize> {
        let Some(buffer) = &self.buffer else { return Ok(0) };
        let Some(socket) = self.descriptor.borrow() else { return Ok(0) };
        match buffer.single() {
            Some(bytes) => self.medium.send(socket, bytes),
            None => match buffer.slices(limit) {
                Ok(slices) => self.medium.send_vectored(socket, &slices),
                Err(_) => self.medium.send(socket, buffer.first()),
            },
        }
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
                return Ok(match guard.gather(token, data) {
                    Ok(()) => Written::Taken,
                    Err(_) => Written::NoMemory,
                });
            }
            Begun::Send(guard) => guard,
        };
        let Some(Source::Stream(stream)) = guard.sources.get_mut(token) else {
            return Ok(Written::Lost);
        };
        let deferred = stream.buffered_bytes() == 0;
        let mut sent = 0;
        let mut failed = None;
        if deferred {
            let Some(socket) = stream.descriptor.borrow() else { return Ok(Written::Lost) };
            match stream.medium.send(socket, data.bytes()) {
                Ok(count) if count == len => return Ok(Written::Taken),
                Ok(count) => sent = count,
                Err(error) if is_transient(&error) => {}
                Err(error) => failed = Some(error),
            }
        }
        if failed.is_none() {
            match stream.keep(data, sent) {
                Ok(()) => return self.queued(cx, guard, token, deferred),
                Err(_) if sent == 0 => return Ok(Written::NoMemory),
                // The kernel has a part of it: without the rest the connection is of no use.
                Err(error) => failed = Some(error.into()),
            }
        }
        let handler = stream.handler.get();
        drop(guard);
        if let (Some(handler), Some(error)) = (handler, failed) {
            handler.failed(cx, Failure::Write, error)?;
        }
        Ok(Written::Taken)
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
            Begun::Gather(mut guard) => Ok(match guard.gather_all(token, pieces) {
                Ok(()) => Written::Taken,
                Err(_) => Written::NoMemory,
            }),
            Begun::Send(mut guard) => {
                let state = &mut *guard;
                let Some(Source::Stream(stream)) = state.sources.get_mut(token) else {
                    return Ok(Written::Lost);
                };
                let deferred = stream.buffered_bytes() == 0;
                if stream.keep_all(pieces).is_err() {
                    return Ok(Written::NoMemory);
                }
                let result = if deferred { stream.send_buffered(MOST_SLICES) } else { Ok(0) };
                let buffer = &mut stream.buffer;
                match result {
                    Ok(sent) => buffer.iter_mut().for_each(|buffer| buffer.consume(sent)),
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
                if stream.buffered_bytes() == 0 {
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
        let pause = stream.flow.should_pause(stream.unsent_bytes());
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
                result = F::both(cx, result, sent);
            }
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        // A handler that failed may have written again: what is not sent keeps its place.
        if state.gathers.iter().any(|gather| gather.target.is_some()) {
            return result;
        }
        let room = SPARE_GATHERS.saturating_sub(state.spare_gathers.len());
        state.gathers.truncate(room);
        if state.spare_gathers.try_reserve(state.gathers.len()).is_ok() {
            state.spare_gathers.append(&mut state.gathers);
        }
        state.gathers.clear();
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
            // There was no memory for what should have been gathered.
            None if gather.is_empty() => Ok(0),
            None => match gather.slices() {
                Ok(slices) => stream.medium.send_vectored(socket, &slices),
                Err(_) => stream.medium.send(socket, gather.first()),
            },
        };
        let kept = match result {
            Ok(sent) if sent == gather.len() => {
                gather.clear();
                let idle = stream.settle();
                drop(guard);
                drop(idle);
                return Ok(());
            }
            Err(error) if !is_transient(&error) => {
                gather.clear();
                Err(error)
            }
            // The rest is queued; without memory for it the connection ends.
            sent => match stream.buffer_to_fill() {
                Ok(buffer) => gather.finish(sent.unwrap_or(0), buffer).map_err(io::Error::from),
                Err(error) => {
                    gather.clear();
                    Err(error.into())
                }
            },
        };
        if kept.is_err() {
            stream.buffer = None;
        }
        let handler = stream.handler.get();
        let idle = self.update_stream(state, token);
        drop(guard);
        drop(idle);
        let Some(handler) = handler else { return Ok(()) };
        match kept {
            Ok(()) => handler.writing_deferred(cx, failure),
            Err(error) => handler.failed(cx, failure, error)?,
        }
        Ok(())
    }

    /// The descriptor takes data again.
    pub(super) fn writable(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let mut guard = self.state.lock();
        let Some(Source::Stream(stream)) = guard.sources.get_mut(token) else { return Ok(()) };
        let Some(handler) = stream.handler.get() else { return Ok(()) };
        if stream.descriptor.borrow().is_none() || stream.state.is_lost() || stream.buffer.is_none()
        {
            return Ok(());
        }
        // Where all was sent before, an interrupt has left what follows to this run.
        let left = stream.buffered_bytes() > 0;
        match if left { stream.send_buffered(SLICES) } else { Ok(0) } {
            Ok(count) => stream.buffer.iter_mut().for_each(|buffer| buffer.consume(count)),
            Err(error) if is_transient(&error) => return Ok(()),
            Err(error) => {
                stream.buffer = None;
                let idle = self.update_stream(&mut guard, token);
                drop(guard);
                drop(idle);
                return handler.failed(cx, Failure::Drain, error);
            }
        }
        let resume = stream.flow.should_resume(stream.unsent_bytes());
        drop(guard);
        if resume {
            let resumed = handler.resume_writing(cx);
            // It may have written more.
            if let Err(leave) = resumed.and_then(|()| self.flush_stream(cx, token)) {
                self.with_stream(token, |stream| stream.pending.write = true);
                self.requeue_write(token);
                return Err(leave);
            }
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
        let told = if held { handler.drained(cx) } else { Ok(()) };
        let followed = self.follow(cx, token, step.unwrap_or(Step::Nothing));
        F::both(cx, told, followed)
    }
}

//! Datagram endpoints: receive in a bounded batch, send at once or from a queue.
//!
//! Methods change the state under the lock and call the handler after it (invariant 8).

use super::handler_slot::HandlerSlot;
use super::streams::is_transient;
use super::*;
use crate::sys;
use crate::transport::connection_state::{ConnectionState, Step};
use crate::transport::datagram_queue::{Datagram, DatagramQueue};
use crate::transport::flow_control::FlowControl;

/// Datagrams read in one turn at most.
const BATCH: usize = 64;
/// Where datagrams come one by one, a look for a second one is a system call in vain: only every
/// so many events there is one.
const LOOK: u8 = 8;

/// Where a datagram goes.
#[derive(Debug)]
pub enum Destination<A> {
    /// Where the socket is connected to.
    Connected,
    /// To an address of the system's.
    Native(TryBox<SocketAddrAny>),
    /// To an address that the face alone can send to.
    Other(A),
}

/// A socket for datagrams.
pub(super) struct Endpoint<F: Face> {
    pub(super) descriptor: Descriptor,
    /// Empty once the endpoint is lost, or the loop closed.
    pub(super) handler: HandlerSlot<F::Datagrams>,
    /// How many events in a row had one datagram each.
    alone: u8,
    pub(super) state: ConnectionState,
    pub(super) registered: Interest,
    pub(super) pending: Interest,
    flow: FlowControl,
    /// What other threads have sent and is on its way: it counts for flow control.
    posted: usize,
    kind: EndpointKind,
    /// What the kernel did not take yet.
    queue: DatagramQueue<F::Bytes, Destination<F::Address>>,
    /// Whether somebody waits for the descriptor to be writable.
    draining: bool,
}

/// What an endpoint is told of its socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndpointKind {
    /// It was made for one remote address: what is sent once it is lost is dropped. Others send
    /// until their descriptor is closed.
    pub remote: bool,
    /// Its addresses are of a family that only the face reads
    /// ([`DatagramHandler::receive_other`]).
    pub other: bool,
}

/// What became of a datagram.
#[derive(Debug)]
pub enum Sent {
    /// Sent or queued.
    Taken,
    /// Dropped: the endpoint is lost.
    Lost,
    /// The system refused it; the endpoint goes on.
    Failed(io::Error),
    /// Refused: there is no memory to queue it.
    NoMemory,
}

/// What has to be done with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It can be sent.
    Now,
    /// Others wait before it: [`Engine::queue_datagram`].
    Queue,
    /// The endpoint is lost.
    Drop,
}

/// How a send went that the face made itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentOther {
    /// It is on its way.
    Sent,
    /// Not now.
    Blocked,
    /// It failed; the handler has dealt with it.
    Failed,
}

impl<F: Face> Endpoint<F> {
    /// How many datagrams to look for at an event.
    fn next_batch(&mut self) -> usize {
        self.alone = self.alone.wrapping_add(1);
        if self.alone < 2 || self.alone % LOOK == 0 { BATCH } else { 1 }
    }

    /// What flow control looks at.
    fn unsent_bytes(&self) -> usize {
        self.queue.size() + self.posted
    }

    /// The face's addresses that queued datagrams go to.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &F::Address> {
        self.queue.iter().filter_map(|datagram| match &datagram.to {
            Destination::Other(address) => Some(address),
            Destination::Connected | Destination::Native(_) => None,
        })
    }

    /// Whether it is too late to send: `connection_lost` still can, where there is no remote address.
    fn drops(&self) -> bool {
        self.descriptor.borrow().is_none() || (self.state.is_lost() && self.kind.remote)
    }

    /// Whether something can happen to the endpoint that its transport has not asked for.
    fn is_active(&self) -> bool {
        self.registered != Interest::NONE
            || self.state.awaits_start()
            || self.state.is_untold()
            || self.wanted() != Interest::NONE
            || self.pending != Interest::NONE
    }

    fn wanted(&self) -> Interest {
        Interest {
            read: self.state.wants_read(),
            write: self.draining && !self.state.is_lost(),
            once: false,
        }
    }
}

impl<F: Face> Engine<F> {
    /// Takes over a bound or connected, non-blocking socket for datagrams; nothing is read before
    /// [`start_reading_soon`](Self::start_reading_soon).
    ///
    /// # Errors
    /// There is no memory; an owned descriptor is closed.
    pub fn add_endpoint(
        &self,
        descriptor: Descriptor,
        kind: EndpointKind,
    ) -> Result<Token, TryReserveError> {
        let mut state = self.state.lock();
        state.reserve_source()?;
        let number = descriptor.raw();
        let token = state.sources.insert(Source::Endpoint(Endpoint {
            descriptor,
            handler: HandlerSlot::Empty,
            alone: 0,
            state: ConnectionState::default(),
            registered: Interest::NONE,
            pending: Interest::NONE,
            flow: FlowControl::default(),
            posted: 0,
            kind,
            queue: DatagramQueue::new(F::DATAGRAM_HEADER),
            draining: false,
        }));
        let displaced = self.displace(&mut state, number);
        state.set_token(number, token);
        drop(state);
        drop(displaced);
        Ok(token)
    }

    /// Names the endpoint's handler, which is kept alive as a
    /// [stream's](Self::set_handler) is.
    pub fn set_endpoint_handler(&self, token: Token, handler: F::Datagrams) {
        let mut handler = HandlerSlot::Owned(handler);
        self.with_endpoint(token, |endpoint| std::mem::swap(&mut endpoint.handler, &mut handler));
        drop(handler);
    }

    /// The endpoint's transport is going away: it is no handler any more.
    pub fn remove_endpoint_handler(&self, token: Token) {
        let handler = self.with_endpoint(token, |endpoint| endpoint.handler.take());
        drop(handler);
    }

    /// `connection_made` was called: reads from now on.
    pub(super) fn start_receiving(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        self.with_endpoint(token, |endpoint| endpoint.state.start_reading());
        let Err(error) = self.try_update_endpoint(token) else { return Ok(()) };
        match self.endpoint_handler(token) {
            Some(handler) => handler.error_received(cx, Failure::Watch, error),
            None => Ok(()),
        }
    }

    /// The selector found datagrams, or an error. Reads on, within a budget, until something is
    /// queued behind the `left` entries of this turn: with a poll for each datagram that would come
    /// before the next one.
    pub(super) fn receivable(
        &self,
        cx: F::Context<'_>,
        token: Token,
        scratch: &mut [u8],
        left: usize,
    ) -> Result<(), F::Leave> {
        if !self.take_pending(token, |pending| &mut pending.read) {
            return Ok(());
        }
        let mut batch = BATCH;
        for count in 0..=BATCH {
            let mut guard = self.state.lock();
            if count == batch {
                return Ok(());
            }
            if count > 0 {
                self.take_posts(&mut guard);
                if guard.ready.len() > left || guard.stopping {
                    return Ok(());
                }
            }
            let Some(Source::Endpoint(endpoint)) = guard.sources.get_mut(token) else {
                return Ok(());
            };
            match count {
                0 => batch = endpoint.next_batch(),
                1 => {}
                _ => endpoint.alone = 0,
            }
            let Some(handler) = endpoint.handler.get() else { return Ok(()) };
            let Some(socket) = endpoint.descriptor.borrow() else { return Ok(()) };
            if !endpoint.state.wants_read() {
                return Ok(());
            }
            if endpoint.kind.other {
                drop(guard);
                if !handler.receive_other(cx)? {
                    return Ok(());
                }
                continue;
            }
            match sys::recv_from(socket, scratch) {
                Ok((count, from)) => {
                    drop(guard);
                    handler.datagram_received(cx, &scratch[..count], from.as_ref())?;
                }
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => {
                    drop(guard);
                    return handler.error_received(cx, Failure::Read, error);
                }
            }
        }
        Ok(())
    }

    /// Sends a datagram, to where the socket is connected to or to an address; queues it behind
    /// those that the kernel did not take yet.
    pub fn send_datagram(
        &self,
        cx: F::Context<'_>,
        token: Token,
        data: &(impl Data<F::Bytes> + ?Sized),
        to: Option<&SocketAddrAny>,
    ) -> Result<Sent, F::Leave> {
        {
            let mut guard = self.state.lock();
            let Some(Source::Endpoint(endpoint)) = guard.sources.get_mut(token) else {
                return Ok(Sent::Lost);
            };
            if endpoint.drops() {
                return Ok(Sent::Lost);
            }
            if endpoint.queue.is_empty() {
                let Some(socket) = endpoint.descriptor.borrow() else { return Ok(Sent::Lost) };
                match sys::send_to(socket, data.bytes(), to) {
                    Ok(()) => return Ok(Sent::Taken),
                    Err(error) if is_transient(&error) => {}
                    Err(error) => return Ok(Sent::Failed(error)),
                }
            }
        }
        let to = match to.map(|address| TryBox::new(address.clone())) {
            Some(Ok(address)) => Destination::Native(address),
            Some(Err(_)) => return Ok(Sent::NoMemory),
            None => Destination::Connected,
        };
        self.queue_datagram(cx, token, data, to)
    }

    /// Queues a datagram that cannot be sent now, and pauses the protocol where that is due.
    pub fn queue_datagram(
        &self,
        cx: F::Context<'_>,
        token: Token,
        data: &(impl Data<F::Bytes> + ?Sized),
        to: Destination<F::Address>,
    ) -> Result<Sent, F::Leave> {
        let datagram = match data.keep() {
            Some(kept) => Datagram::shared(kept, to),
            None => match Datagram::copied(data.bytes(), to) {
                Ok(datagram) => datagram,
                Err(_) => return Ok(Sent::NoMemory),
            },
        };
        let queued = self.with_endpoint(token, |endpoint| {
            if endpoint.state.is_lost() {
                return Err((Sent::Lost, datagram));
            }
            if endpoint.queue.reserve().is_err() {
                return Err((Sent::NoMemory, datagram));
            }
            let deferred = endpoint.queue.is_empty();
            endpoint.draining = true;
            endpoint.queue.push(datagram);
            let pause = endpoint.flow.should_pause(endpoint.unsent_bytes());
            Ok((endpoint.handler.get(), deferred, pause))
        });
        let (handler, deferred, pause) = match queued {
            Some(Ok(queued)) => queued,
            // What could not be queued is dropped here, under no lock.
            Some(Err((sent, _datagram))) => return Ok(sent),
            None => return Ok(Sent::Lost),
        };
        self.update_endpoint(token);
        if let Some(handler) = handler {
            if deferred {
                handler.writing_deferred(cx);
            }
            if pause {
                handler.pause_writing(cx)?;
            }
        }
        Ok(Sent::Taken)
    }

    /// What has to be done with a datagram that the face sends itself.
    pub fn sending(&self, token: Token) -> Sending {
        let sending = self.with_endpoint(token, |endpoint| {
            if endpoint.drops() {
                Sending::Drop
            } else if endpoint.queue.is_empty() {
                Sending::Now
            } else {
                Sending::Queue
            }
        });
        sending.unwrap_or(Sending::Drop)
    }

    /// The descriptor takes datagrams again. After one that fails the others wait for the next
    /// turn.
    pub(super) fn sendable(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let Some(handler) = self.endpoint_handler(token) else { return Ok(()) };
        if !self.drain(cx, token, &handler)? {
            return Ok(());
        }
        let resume = self
            .with_endpoint(token, |endpoint| endpoint.flow.should_resume(endpoint.unsent_bytes()));
        if resume == Some(true) {
            handler.resume_writing(cx)?;
        }
        let step = self.with_endpoint(token, |endpoint| {
            if !endpoint.queue.is_empty() {
                return Step::Nothing;
            }
            endpoint.draining = false;
            endpoint.state.drained()
        });
        self.update_endpoint(token);
        match step {
            Some(Step::CallLost) => handler.connection_lost(cx),
            _ => Ok(()),
        }
    }

    /// Sends what is queued, as far as the kernel takes it; false where one failed.
    fn drain(
        &self,
        cx: F::Context<'_>,
        token: Token,
        handler: &F::Datagrams,
    ) -> Result<bool, F::Leave> {
        loop {
            let mut guard = self.state.lock();
            let Some(Source::Endpoint(endpoint)) = guard.sources.get_mut(token) else {
                return Ok(false);
            };
            let Some(socket) = endpoint.descriptor.borrow() else { return Ok(false) };
            if endpoint.state.is_lost() {
                return Ok(false);
            }
            let batch = endpoint.queue.iter().map_while(|datagram| match &datagram.to {
                Destination::Connected => Some((datagram.bytes(), None)),
                Destination::Native(to) => Some((datagram.bytes(), Some(&**to))),
                Destination::Other(_) => None,
            });
            match sys::send_batch(socket, batch) {
                Ok(0) => {}
                Ok(count) => {
                    // None of them has an address of the face's, whose drop needs to be under no
                    // lock.
                    (0..count).for_each(|_| drop(endpoint.queue.pop()));
                    continue;
                }
                Err(error) if is_transient(&error) => return Ok(true),
                Err(error) => {
                    let failed = endpoint.queue.pop();
                    drop(guard);
                    drop(failed);
                    handler.error_received(cx, Failure::Drain, error)?;
                    return Ok(false);
                }
            }
            // Nothing waits any more, or what the face has to send.
            let Some(datagram) = endpoint.queue.pop() else { return Ok(true) };
            drop(guard);
            let Destination::Other(to) = &datagram.to else { continue };
            match handler.send_other(cx, datagram.bytes(), to)? {
                SentOther::Sent => {}
                SentOther::Failed => return Ok(false),
                SentOther::Blocked => {
                    self.with_endpoint(token, |endpoint| endpoint.queue.push_front(datagram));
                    return Ok(true);
                }
            }
        }
    }

    /// `close()`: stops reading; `connection_lost` follows once all is sent, in a later turn.
    pub fn close_endpoint(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let step = self.with_endpoint(token, |endpoint| endpoint.state.close(endpoint.queue.len()));
        self.update_endpoint(token);
        match self.endpoint_handler(token) {
            Some(handler) if step == Some(Step::ScheduleLost) => {
                handler.schedule_connection_lost(cx)
            }
            _ => Ok(()),
        }
    }

    /// `abort()` and fatal errors: drops what is queued. True when the caller has to schedule
    /// `connection_lost`, with its error.
    pub fn force_close_endpoint(&self, token: Token) -> bool {
        let closed = self.with_endpoint(token, |endpoint| {
            let step = endpoint.state.force_close();
            let empty = DatagramQueue::new(F::DATAGRAM_HEADER);
            (step, std::mem::replace(&mut endpoint.queue, empty))
        });
        self.update_endpoint(token);
        closed.is_some_and(|(step, _queue)| step == Step::ScheduleLost)
    }

    /// `connection_lost` is about to be called: true the first time (invariant 1).
    pub fn lose_endpoint(&self, token: Token) -> bool {
        self.with_endpoint(token, |endpoint| endpoint.state.lose()) == Some(true)
    }

    /// Lets go of a lost endpoint's descriptor, handler and queue. A lent descriptor is the
    /// lender's to close, after this.
    pub fn release_endpoint(&self, token: Token) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(Source::Endpoint(endpoint)) = state.sources.get_mut(token) else { return };
        endpoint.state.lose();
        let watched =
            self.register(&endpoint.descriptor, token, &mut endpoint.registered, Interest::NONE);
        let descriptor = std::mem::replace(&mut endpoint.descriptor, Descriptor::Gone);
        let empty = DatagramQueue::new(F::DATAGRAM_HEADER);
        let queue = std::mem::replace(&mut endpoint.queue, empty);
        let handler = endpoint.handler.take();
        state.watched = state.watched.saturating_add_signed(watched.unwrap_or(-1));
        state.clear_token(descriptor.raw(), token);
        drop(guard);
        drop((descriptor, handler, queue));
    }

    /// Forgets an endpoint: its transport is gone. An open descriptor of ours is closed.
    pub fn remove_endpoint(&self, token: Token) {
        self.release_endpoint(token);
        let source = self.state.lock().sources.remove(token);
        drop(source);
    }

    /// `pause_reading()`; false where it changes nothing.
    pub fn pause_receiving(&self, token: Token) -> bool {
        let changed = self.with_endpoint(token, |endpoint| {
            let changed = endpoint.state.pause_reading();
            endpoint.pending.read &= !changed;
            changed
        });
        self.update_endpoint(token);
        changed == Some(true)
    }

    /// `resume_reading()`; false where it changes nothing.
    pub fn resume_receiving(&self, token: Token) -> bool {
        let changed = self.with_endpoint(token, |endpoint| endpoint.state.resume_reading());
        self.update_endpoint(token);
        changed == Some(true)
    }

    /// What the transport says of itself.
    pub fn endpoint_info(&self, token: Token) -> Option<StreamInfo> {
        self.with_endpoint(token, |endpoint| StreamInfo {
            descriptor: endpoint.descriptor.raw(),
            closing: endpoint.state.is_closing(),
            reading: endpoint.state.is_reading(),
            polls_read: endpoint.registered.read,
            polls_write: endpoint.registered.write,
            lost: endpoint.state.is_lost(),
            closed: endpoint.state.is_closed(),
            writing_paused: endpoint.flow.is_paused(),
            reading_paused: endpoint.state.is_paused(),
            read_ended: false,
            write_ended: false,
        })
    }

    /// Bytes that wait to be sent, headers included; 0 after the loss.
    pub fn endpoint_buffer_size(&self, token: Token) -> usize {
        self.with_endpoint(token, |endpoint| endpoint.queue.size()).unwrap_or(0)
    }

    /// The limits in force.
    pub fn endpoint_buffer_limits(&self, token: Token) -> Limits {
        self.with_endpoint(token, |endpoint| endpoint.flow.limits()).unwrap_or_default()
    }

    /// Sets the limits, and pauses the protocol if it is over the new high-water mark.
    pub fn set_endpoint_buffer_limits(
        &self,
        cx: F::Context<'_>,
        token: Token,
        limits: Limits,
    ) -> Result<(), F::Leave> {
        let pause = self.with_endpoint(token, |endpoint| {
            endpoint.flow.set_limits(limits);
            endpoint.flow.should_pause(endpoint.unsent_bytes())
        });
        match self.endpoint_handler(token) {
            Some(handler) if pause == Some(true) => handler.pause_writing(cx),
            _ => Ok(()),
        }
    }

    /// [`note_posted`](Self::note_posted) of an endpoint, headers included.
    pub fn note_posted_datagrams(
        &self,
        cx: F::Context<'_>,
        token: Token,
        bytes: usize,
    ) -> Result<(), F::Leave> {
        let pause = self.with_endpoint(token, |endpoint| {
            endpoint.posted = bytes;
            !endpoint.state.is_lost() && endpoint.flow.should_pause(endpoint.unsent_bytes())
        });
        match self.endpoint_handler(token) {
            Some(handler) if pause == Some(true) => handler.pause_writing(cx),
            _ => Ok(()),
        }
    }

    /// [`take_posted`](Self::take_posted) of an endpoint.
    pub fn take_posted_datagrams(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let resume = self.with_endpoint(token, |endpoint| {
            !endpoint.state.is_lost() && endpoint.flow.should_resume(endpoint.unsent_bytes())
        });
        match self.endpoint_handler(token) {
            Some(handler) if resume == Some(true) => handler.resume_writing(cx),
            _ => Ok(()),
        }
    }

    /// Whether a descriptor belongs to an endpoint, and to which.
    pub fn endpoint_of(&self, descriptor: RawFd) -> Option<F::Datagrams> {
        let state = self.state.lock();
        match state.sources.get(state.token_of(descriptor)?)? {
            Source::Endpoint(endpoint) => endpoint.handler.get(),
            _ => None,
        }
    }

    fn with_endpoint<R>(&self, token: Token, f: impl FnOnce(&mut Endpoint<F>) -> R) -> Option<R> {
        match self.state.lock().sources.get_mut(token) {
            Some(Source::Endpoint(endpoint)) => Some(f(endpoint)),
            _ => None,
        }
    }

    fn endpoint_handler(&self, token: Token) -> Option<F::Datagrams> {
        self.with_endpoint(token, |endpoint| endpoint.handler.get())?
    }

    /// Tells the selector what the endpoint's state asks for now.
    fn update_endpoint(&self, token: Token) {
        // ENOSPC or ENOMEM: the descriptor stays as it was, and the next change tries again.
        let _ = self.try_update_endpoint(token);
    }

    fn try_update_endpoint(&self, token: Token) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(Source::Endpoint(endpoint)) = state.sources.get_mut(token) else { return Ok(()) };
        let wanted = endpoint.wanted();
        let mut updated = Ok(());
        if wanted != endpoint.registered {
            let registered = &mut endpoint.registered;
            let watched = self.register(&endpoint.descriptor, token, registered, wanted);
            updated = watched.map(|watched| {
                state.watched = state.watched.saturating_add_signed(watched);
            });
        }
        let idle = endpoint.handler.own(endpoint.is_active());
        drop(guard);
        drop(idle);
        updated
    }
}

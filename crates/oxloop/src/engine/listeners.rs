//! Listening sockets: accept in a bounded batch, one turn before the transport is made, and
//! stop for a second where the system is out of descriptors or memory.

use super::*;
use crate::memory::Room;
use rustix::io::Errno;

/// Seconds until accepting is tried again (asyncio's ACCEPT_RETRY_DELAY).
const ACCEPT_RETRY_DELAY: f64 = 1.0;

/// A listening socket.
pub(super) struct Listener<F: Face> {
    pub(super) descriptor: Descriptor,
    pub(super) handler: F::Listener,
    /// Connections taken in one turn at most.
    batch: usize,
    pub(super) registered: Interest,
    pub(super) pending: Interest,
    /// For the next connection, acquired before there is one.
    room: Option<ConnectionRoom<F>>,
}

type ConnectionRoom<F> = Room<(<F as Face>::Listener, Accepted)>;

impl<F: Face> Engine<F> {
    /// Accepts connections on a listening, non-blocking socket, `backlog` + 1 a turn at most.
    ///
    /// # Errors
    /// What epoll_ctl(2) says: ENOSPC, EBADF. OutOfMemory.
    pub fn listen(
        &self,
        descriptor: Descriptor,
        handler: F::Listener,
        backlog: usize,
    ) -> io::Result<Token> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.reserve_source()?;
        let number = descriptor.raw();
        let token = state.sources.insert(Source::Listener(Listener {
            descriptor,
            handler,
            batch: backlog.saturating_add(1),
            registered: Interest::NONE,
            pending: Interest::NONE,
            room: None,
        }));
        let displaced = self.displace(state, number);
        state.set_token(number, token);
        let accepting = self.set_accepting(state, token, true);
        drop(guard);
        drop(displaced);
        accepting.inspect_err(|_| self.unlisten(token))?;
        Ok(token)
    }

    /// Stops accepting. The descriptor is closed if it was ours.
    pub fn unlisten(&self, token: Token) {
        let source = self.remove_source(&mut self.state.lock(), token);
        drop(source);
    }

    /// The listener that has this descriptor.
    pub fn listener_of(&self, descriptor: RawFd) -> Option<Token> {
        let state = self.state.lock();
        let token = state.token_of(descriptor)?;
        matches!(state.sources.get(token), Some(Source::Listener(_))).then_some(token)
    }

    pub(super) fn resume_accepting(&self, state: &mut State<F>, token: Token) {
        // Where it fails, the listener is gone or will be tried by nobody: nothing to tell.
        let _ = self.set_accepting(state, token, true);
    }

    fn set_accepting(&self, state: &mut State<F>, token: Token, accept: bool) -> io::Result<()> {
        let Some(Source::Listener(listener)) = state.sources.get_mut(token) else { return Ok(()) };
        let wanted = if accept { Interest::READ } else { Interest::NONE };
        let watched =
            self.register(&listener.descriptor, token, &mut listener.registered, wanted)?;
        state.watched = state.watched.saturating_add_signed(watched);
        Ok(())
    }

    /// A listening socket has connections.
    pub(super) fn acceptable(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        self.take_pending(token, |pending| &mut pending.read);
        let mut left = usize::MAX;
        while left > 0 {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let Some(Source::Listener(listener)) = state.sources.get_mut(token) else {
                return Ok(());
            };
            left = left.min(listener.batch) - 1;
            let handler = listener.handler.clone();
            // The memory first: a connection that was taken is not to be lost.
            let room = listener.room.take().map_or_else(Room::new, Ok);
            let room = room.and_then(|room| state.ready.try_reserve(1).map(|()| room));
            let Some(socket) = listener.descriptor.borrow() else { return Ok(()) };
            let accepted = match room {
                Err(_) => Err(Errno::NOMEM.into()),
                Ok(room) => match crate::sys::accept(socket) {
                    Ok(accepted) => Ok((room, accepted)),
                    Err(error) => {
                        listener.room = Some(room);
                        Err(error)
                    }
                },
            };
            let error = match accepted {
                Ok((room, accepted)) => {
                    state.ready.push_back(Ready::Accepted(room.fill((handler, accepted))));
                    continue;
                }
                Err(error) => error,
            };
            return match Errno::from_io_error(&error) {
                Some(Errno::AGAIN | Errno::INTR) => Ok(()),
                Some(Errno::CONNABORTED) => continue,
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    drop(guard);
                    let when = self.now(cx)? + ACCEPT_RETRY_DELAY;
                    let mut state = self.state.lock();
                    // Without memory for the timer the next poll tries again.
                    if state.timers.reserve().is_ok() {
                        state.timers.push(when, Timer::ResumeAccepting(token));
                        let _ = self.set_accepting(&mut state, token, false);
                    }
                    drop(state);
                    handler.out_of_resources(cx, error)
                }
                _ => {
                    drop(guard);
                    handler.accept_failed(cx, error)
                }
            };
        }
        Ok(())
    }
}

//! Descriptors watched for someone else: `add_reader`, `add_writer`.

use super::*;

/// Which readiness is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `add_reader`.
    Read,
    /// `add_writer`.
    Write,
}

/// A descriptor that belongs to the user, with a callback for each side.
pub(super) struct Watcher<F: Face> {
    pub(super) descriptor: Descriptor,
    reader: Option<F::Callback>,
    writer: Option<F::Callback>,
    pub(super) registered: Interest,
    pub(super) pending: Interest,
    /// The side that is watched for one event at a time.
    once: Option<Side>,
    /// That event came: the selector knows the descriptor, and reports nothing.
    parked: bool,
}

impl<F: Face> Watcher<F> {
    /// The only event came that the selector was asked for.
    pub(super) fn park(&mut self) {
        self.registered = Interest::NONE;
        self.parked = true;
    }

    pub(super) fn callbacks(&self) -> impl Iterator<Item = &F::Callback> {
        self.reader.iter().chain(&self.writer)
    }

    pub(super) fn into_callbacks(self) -> impl Iterator<Item = F::Callback> {
        self.reader.into_iter().chain(self.writer)
    }

    fn slot(&mut self, side: Side) -> &mut Option<F::Callback> {
        match side {
            Side::Read => &mut self.reader,
            Side::Write => &mut self.writer,
        }
    }

    fn wanted(&self) -> Interest {
        let (read, write) = (self.reader.is_some(), self.writer.is_some());
        let once = match self.once {
            Some(Side::Read) => read && !write,
            Some(Side::Write) => write && !read,
            None => false,
        };
        Interest { read, write, once }
    }
}

impl<F: Face> Engine<F> {
    /// Calls `callback` whenever the descriptor is ready, in place of the one there was (which
    /// is returned, to be cancelled).
    ///
    /// # Errors
    /// EBADF for a closed descriptor, EPERM for what cannot be watched (a regular file);
    /// OutOfMemory.
    pub fn watch(
        &self,
        descriptor: RawFd,
        side: Side,
        callback: F::Callback,
    ) -> io::Result<Option<F::Callback>> {
        self.watch_side(descriptor, side, callback, false)
    }

    /// As [`watch`](Self::watch), for a callback which ends with [`rest`](Self::rest) once it has
    /// taken what it waits for: while that is all that the descriptor is watched for, taking it up
    /// again is one system call, and letting it rest none.
    pub fn watch_once(
        &self,
        descriptor: RawFd,
        side: Side,
        callback: F::Callback,
    ) -> io::Result<Option<F::Callback>> {
        self.watch_side(descriptor, side, callback, true)
    }

    fn watch_side(
        &self,
        descriptor: RawFd,
        side: Side,
        callback: F::Callback,
        once: bool,
    ) -> io::Result<Option<F::Callback>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.reserve_source()?;
        let known = state
            .token_of(descriptor)
            .filter(|&token| matches!(state.sources.get(token), Some(Source::Watcher(_))));
        let displaced = if known.is_none() { self.displace(state, descriptor) } else { None };
        let token = known.unwrap_or_else(|| {
            state.sources.insert(Source::Watcher(Watcher {
                descriptor: Descriptor::Lent(descriptor),
                reader: None,
                writer: None,
                registered: Interest::NONE,
                pending: Interest::NONE,
                once: None,
                parked: false,
            }))
        });
        let Some(Source::Watcher(watcher)) = state.sources.get_mut(token) else { return Ok(None) };
        let old = watcher.slot(side).replace(callback);
        if once {
            watcher.once = Some(side);
        } else if watcher.once == Some(side) {
            watcher.once = None;
        }
        // What was found for the old callback is not the new one's.
        *side.flag(&mut watcher.pending) = false;
        match self.update_watcher(state, token) {
            Ok(()) => {
                state.set_token(descriptor, token);
                // Without the lock: a callback's drop is user code.
                drop(guard);
                drop(displaced);
                Ok(old)
            }
            Err(error) => {
                let watcher = self.remove_source(state, token);
                drop(guard);
                drop((old, watcher, displaced));
                Err(error)
            }
        }
    }

    /// A number gets another owner: whoever watched or accepted under it does so no more. What is
    /// returned is to be dropped without the lock.
    pub(super) fn displace(&self, state: &mut State<F>, descriptor: RawFd) -> Option<Source<F>> {
        let token = state.token_of(descriptor)?;
        match state.sources.get(token)? {
            Source::Watcher(_) | Source::Listener(_) => self.remove_source(state, token),
            Source::Stream(_) | Source::Endpoint(_) => None,
        }
    }

    /// Takes a source out, and its descriptor out of the selector.
    pub(super) fn remove_source(&self, state: &mut State<F>, token: Token) -> Option<Source<F>> {
        let source = state.sources.remove(token)?;
        let descriptor = source.descriptor();
        let mut registered = source.registered();
        // A descriptor that was closed meanwhile has left the selector by itself.
        let gone = self.register(descriptor, token, &mut registered, Interest::NONE);
        state.watched = state.watched.saturating_add_signed(gone.unwrap_or(0));
        let number = descriptor.raw();
        state.clear_token(number, token);
        Some(source)
    }

    /// Stops watching one side; returns the callback there was, to be cancelled.
    pub fn unwatch(&self, descriptor: RawFd, side: Side) -> Option<F::Callback> {
        self.unwatch_where(descriptor, side, |_| true)
    }

    /// Likewise, where the callback is the one that `ours` knows: it runs under the lock and is
    /// no user code.
    pub fn unwatch_where(
        &self,
        descriptor: RawFd,
        side: Side,
        ours: impl FnOnce(&F::Callback) -> bool,
    ) -> Option<F::Callback> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let token = state.token_of(descriptor)?;
        let Some(Source::Watcher(watcher)) = state.sources.get_mut(token) else { return None };
        let old = watcher.slot(side).take_if(|callback| ours(callback))?;
        *side.flag(&mut watcher.pending) = false;
        if watcher.wanted() == Interest::NONE {
            // It has no callback any more, so nothing is left to drop.
            self.remove_source(state, token);
        } else {
            let _ = self.update_watcher(state, token);
        }
        Some(old)
    }

    /// Ends a [`watch_once`](Self::watch_once); returns its callback.
    pub fn rest(&self, descriptor: RawFd, side: Side) -> Option<F::Callback> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let token = state.token_of(descriptor)?;
        match state.sources.get_mut(token) {
            Some(Source::Watcher(watcher)) if watcher.parked => {
                *side.flag(&mut watcher.pending) = false;
                watcher.slot(side).take()
            }
            _ => {
                drop(guard);
                self.unwatch(descriptor, side)
            }
        }
    }

    /// Whose turn it is when one side is ready.
    pub fn watcher_of(&self, descriptor: RawFd, side: Side) -> Option<F::Callback> {
        let mut state = self.state.lock();
        let token = state.token_of(descriptor)?;
        match state.sources.get_mut(token)? {
            Source::Watcher(watcher) => watcher.slot(side).clone(),
            _ => None,
        }
    }

    /// A callback that has not taken what it waits for waits on.
    fn watch_on(&self, token: Token) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(Source::Watcher(watcher)) = state.sources.get(token) {
            // One whose callback rests stays as it is: the selector reports nothing.
            if watcher.parked && watcher.wanted() != Interest::NONE {
                // A descriptor that was closed meanwhile is watched in vain, as asyncio has it.
                let _ = self.update_watcher(state, token);
            }
        }
    }

    pub(super) fn update_watcher(&self, state: &mut State<F>, token: Token) -> io::Result<()> {
        let Some(Source::Watcher(watcher)) = state.sources.get_mut(token) else { return Ok(()) };
        let wanted = watcher.wanted();
        if watcher.parked && wanted != Interest::NONE {
            watcher.parked = false;
            let known = watcher.descriptor.borrow().zip(self.selector());
            if let Some((fd, selector)) = known.filter(|_| !self.is_forked()) {
                modify_in_selector(&selector, fd, token.to_bits(), wanted)?;
                watcher.registered = wanted;
                state.watched += 1;
            }
            return Ok(());
        }
        if watcher.registered == wanted {
            self.watch_again(watcher, token);
            return Ok(());
        }
        let watched = self.register(&watcher.descriptor, token, &mut watcher.registered, wanted)?;
        state.watched = state.watched.saturating_add_signed(watched);
        Ok(())
    }

    /// A callback was replaced: perhaps because the number stands for another file now, which the
    /// selector does not know yet.
    fn watch_again(&self, watcher: &Watcher<F>, token: Token) {
        let known = watcher.descriptor.borrow().zip(self.selector());
        let Some((fd, selector)) = known.filter(|_| !self.is_forked()) else { return };
        // A closed descriptor is watched in vain, as asyncio has it.
        let _ = modify_in_selector(&selector, fd, token.to_bits(), watcher.registered);
    }

    /// Asks the selector for `wanted`. Answers how many descriptors more are watched: 1, 0, -1.
    pub(super) fn register(
        &self,
        descriptor: &Descriptor,
        token: Token,
        registered: &mut Interest,
        wanted: Interest,
    ) -> io::Result<isize> {
        let old = std::mem::replace(registered, wanted);
        if old == wanted || self.is_forked() {
            return Ok(0);
        }
        let (Some(fd), Some(selector)) = (descriptor.borrow(), self.selector()) else {
            return Ok(0);
        };
        let bits = token.to_bits();
        let (result, change) = if wanted == Interest::NONE {
            (selector.remove(fd), -1)
        } else if old == Interest::NONE {
            (add_to_selector(&selector, fd, bits, wanted), 1)
        } else {
            (modify_in_selector(&selector, fd, bits, wanted), 0)
        };
        if let (Err(error), true) = (&result, wanted != Interest::NONE) {
            *registered = old;
            return Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0)));
        }
        Ok(change)
    }

    /// A watched descriptor is ready: its callbacks run, the reader's first. One whose handle was
    /// cancelled is watched no more.
    pub(super) fn watched(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        let result = self.call_watchers(cx, token);
        self.watch_on(token);
        result
    }

    fn call_watchers(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        for side in [Side::Read, Side::Write] {
            if !self.take_pending(token, |pending| side.flag(pending)) {
                continue;
            }
            let (number, callback) = match self.state.lock().sources.get_mut(token) {
                Some(Source::Watcher(watcher)) => {
                    (watcher.descriptor.raw(), watcher.slot(side).clone())
                }
                _ => continue,
            };
            if let Some(callback) = callback {
                if callback.is_cancelled() {
                    drop(self.unwatch(number, side));
                    continue;
                }
                let rest = self.dispatching(token);
                F::run(cx, callback)?;
                rest.done();
            }
        }
        Ok(())
    }
}

impl Side {
    fn flag(self, interest: &mut Interest) -> &mut bool {
        match self {
            Side::Read => &mut interest.read,
            Side::Write => &mut interest.write,
        }
    }
}

/// A number may come back for another file: EEXIST says that the selector knows it still.
fn add_to_selector(
    selector: &Selector,
    fd: std::os::fd::BorrowedFd<'_>,
    bits: u64,
    wanted: Interest,
) -> io::Result<()> {
    match selector.add(fd, bits, wanted) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            selector.modify(fd, bits, wanted)
        }
        result => result,
    }
}

/// ENOENT says that the file behind the number was closed and the number used again.
fn modify_in_selector(
    selector: &Selector,
    fd: std::os::fd::BorrowedFd<'_>,
    bits: u64,
    wanted: Interest,
) -> io::Result<()> {
    match selector.modify(fd, bits, wanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => selector.add(fd, bits, wanted),
        result => result,
    }
}

//! One turn of the loop, which is asyncio's: prepare, wait, run.
//!
//! The ready queue holds what was ready before the poll, then this poll's I/O, then the timers
//! that are due, and one turn runs exactly what is in it; what the callbacks add runs in the
//! next turn, after another poll. Programs depend on that order.

use super::*;
use crate::sys::{self, Events};
use std::time::Duration;

/// The budget of one poll: so many events a turn.
const EVENTS: usize = 1024;
/// The loop's read buffer, bytes: what asyncio reads at most at once.
const SCRATCH: usize = 256 * 1024;
/// A turn without a poll is cheaper by a system call, but only a poll lets other threads have
/// the interpreter: every so many turns there is one.
const UNPOLLED: u32 = 64;
/// While events keep coming the loop looks for them before it lets go of the interpreter to wait;
/// one wait in so many tries whether they do.
const TRY: u32 = 16;
/// The longest wait, seconds (asyncio's MAXIMUM_SELECT_TIMEOUT).
const LONGEST_WAIT: f64 = 24.0 * 3600.0;
/// What callbacks write waits so long for the rest of the turn at most, seconds.
const LONGEST_GATHER: f64 = 1e-3;
/// A timer is due within the resolution of the clock, seconds (CLOCK_MONOTONIC's).
const RESOLUTION: f64 = 1e-9;

/// What a run works with.
pub(super) struct Workspace {
    events: Events,
    pub(super) scratch: Vec<u8>,
    /// Turns since others last had the interpreter.
    unpolled: u32,
    /// Waits until the next look before a wait; 0 while each look finds something.
    untried: u32,
}

impl Workspace {
    pub(super) fn new() -> io::Result<Workspace> {
        let events = Events::with_capacity(EVENTS)?;
        Ok(Workspace { events, scratch: sys::zeroed(SCRATCH)?, unpolled: 0, untried: 0 })
    }
}

/// A run that is going on. What it has changed is put back however it ends, by a panic too.
struct Run<'a, F: Face> {
    engine: &'a Engine<F>,
    work: Option<Workspace>,
}

impl<F: Face> Drop for Run<'_, F> {
    fn drop(&mut self) {
        let mut state = self.engine.state.lock();
        state.stopping = false;
        state.dispatching = false;
        state.post_room = usize::MAX;
        state.workspace = self.work.take();
    }
}

/// An event that is being dispatched. What it has not been asked for yet is queued for the next
/// run if a part of it leaves the loop.
pub(super) struct Dispatching<'a, F: Face> {
    engine: &'a Engine<F>,
    token: Token,
}

impl<F: Face> Dispatching<'_, F> {
    /// Nothing has left the loop.
    pub(super) fn done(self) {
        std::mem::forget(self);
    }
}

impl<F: Face> Drop for Dispatching<'_, F> {
    #[cold]
    fn drop(&mut self) {
        self.engine.requeue_write(self.token);
    }
}

/// How long a turn may wait.
enum Wait {
    /// Not at all.
    Poll,
    /// Until an event or so many seconds.
    Seconds(f64),
    /// Until an event.
    Event,
}

impl<F: Face> Engine<F> {
    /// Runs turns until [`stop`](Self::stop): at least one, and the one in which it is called
    /// completes. A turn in which the process was forked is the child's last.
    ///
    /// # Errors
    /// What made a callback leave. What was not run yet stays for the next run.
    pub fn run(&self, cx: F::Context<'_>) -> Result<(), F::Leave> {
        let Some(selector) = self.selector() else { return Ok(()) };
        let mut run = Run { engine: self, work: self.state.lock().workspace.take() };
        // A loop has one until it is closed; there is nothing to run then.
        let Some(work) = &mut run.work else { return Ok(()) };
        let result = loop {
            if let Err(leave) = self.turn(cx, &selector, work) {
                break Err(leave);
            }
            // A callback that forked returns in the child as well: the selector is its parent's.
            if self.state.lock().stopping || self.is_forked() {
                break Ok(());
            }
        };
        drop(run);
        let flushed = self.flush(cx);
        F::both(cx, result, flushed)
    }

    fn turn(
        &self,
        cx: F::Context<'_>,
        selector: &Selector,
        work: &mut Workspace,
    ) -> Result<(), F::Leave> {
        let wait = self.prepare(cx)?;
        self.wait(cx, selector, work, wait)?;
        let count = self.collect(cx, work)?;
        self.run_ready(cx, work, count)
    }

    /// Decides how long to wait.
    fn prepare(&self, cx: F::Context<'_>) -> Result<Wait, F::Leave> {
        let mut state = self.state.lock();
        let due = loop {
            match state.timers.next_due() {
                Ok(due) => break due,
                Err(swept) => {
                    // Not under the lock; and what that runs may schedule.
                    drop(state);
                    drop(swept);
                    state = self.state.lock();
                }
            }
        };
        let poll = self.has_work(&state);
        drop(state);
        Ok(match due {
            _ if poll => Wait::Poll,
            Some(when) => {
                let seconds = when - self.now(cx)?;
                if seconds > 0.0 { Wait::Seconds(seconds.min(LONGEST_WAIT)) } else { Wait::Poll }
            }
            None => Wait::Event,
        })
    }

    /// Whether a turn has something to do without an event.
    fn has_work(&self, state: &State<F>) -> bool {
        !state.ready.is_empty() || state.stopping || state.untold || self.posted() > 0
    }

    /// Asks the selector. Nothing but the selector is touched while the interpreter is released.
    fn wait(
        &self,
        cx: F::Context<'_>,
        selector: &Selector,
        work: &mut Workspace,
        wait: Wait,
    ) -> Result<(), F::Leave> {
        let Workspace { events, unpolled, untried, .. } = work;
        let timeout = match wait {
            Wait::Poll => Some(Duration::ZERO),
            Wait::Seconds(seconds) => Some(Duration::from_secs_f64(seconds)),
            Wait::Event => None,
        };
        *unpolled += 1;
        if *unpolled <= UNPOLLED {
            if let Wait::Poll = wait {
                if self.state.lock().watched == 0 {
                    events.clear();
                    return Ok(());
                }
                let result = selector.wait(events, timeout);
                return self.waited(cx, result);
            }
            if *untried == 0 {
                let result = selector.wait(events, Some(Duration::ZERO));
                if result.is_err() || !events.is_empty() {
                    return self.waited(cx, result);
                }
                *untried = TRY;
            }
            *untried -= 1;
        }
        *unpolled = 0;
        let asleep = self.wakeup.fall_asleep();
        let timeout = {
            // What other threads did since the turn was prepared.
            let called = self.has_work(&self.state.lock());
            if called { Some(Duration::ZERO) } else { timeout }
        };
        let result = F::blocking(cx, || selector.wait(events, timeout));
        drop(asleep);
        self.waited(cx, result)
    }

    fn waited(&self, cx: F::Context<'_>, result: io::Result<()>) -> Result<(), F::Leave> {
        match result {
            Ok(()) => F::after_wait(cx),
            Err(error) => F::wait_failed(cx, error),
        }
    }

    /// Queues this poll's I/O, then the timers that are due; returns how much there is to run. What
    /// there is no memory for comes with a later poll.
    fn collect(&self, cx: F::Context<'_>, work: &mut Workspace) -> Result<usize, F::Leave> {
        // Asked under no lock; where it fails, what was found is queued all the same.
        let clock = F::clock(cx);
        let mut state = self.state.lock();
        let state = &mut *state;
        self.take_posts(state);
        state.post_room = F::POSTS_PER_TURN;
        for (bits, found) in work.events.iter() {
            // The waker's are no source's.
            let Some(token) = Token::from_bits(bits) else { continue };
            let Some(source) = state.sources.get_mut(token) else { continue };
            let asked = source.registered();
            if asked.once {
                if let Source::Watcher(watcher) = source {
                    watcher.park();
                    state.watched -= 1;
                }
            }
            if state.ready.try_reserve(1).is_err() {
                self.find_again(state, token);
                continue;
            }
            let pending = source.pending();
            let queued = *pending != Interest::NONE;
            pending.read |= found.read && asked.read;
            pending.write |= found.write && asked.write;
            if !queued && *pending != Interest::NONE {
                state.ready.push_back(Ready::Io(token));
            }
        }
        let clock = clock?;
        if !state.timers.is_empty() {
            let end = clock.unwrap_or_else(|| self.time()) + RESOLUTION;
            while state.ready.try_reserve(1).is_ok() {
                let Some(timer) = state.timers.pop_due(end) else { break };
                match timer {
                    Timer::Callback(callback) => {
                        callback.unschedule();
                        state.ready.push_back(Ready::Callback(callback));
                    }
                    Timer::ResumeAccepting(token) => self.resume_accepting(state, token),
                }
            }
        }
        if state.untold {
            self.queue_untold(state);
        }
        state.dispatching = true;
        Ok(state.ready.len())
    }

    fn run_ready(
        &self,
        cx: F::Context<'_>,
        work: &mut Workspace,
        count: usize,
    ) -> Result<(), F::Leave> {
        let mut gathering = None;
        for left in (0..count).rev() {
            let mut state = self.state.lock();
            if !state.gathers.is_empty() {
                drop(state);
                // Before an entry is taken: it stays where this leaves the loop.
                self.flush_old(cx, &mut gathering)?;
                state = self.state.lock();
            }
            let ready = state.ready.pop_front();
            drop(state);
            let Some(ready) = ready else { break };
            let result = match ready {
                Ready::Callback(callback) => F::run(cx, callback),
                Ready::Io(token) => self.dispatch(cx, token, &mut work.scratch, left),
                Ready::StartReading(token) => self.start(cx, token),
                Ready::Lost(token) => self.tell_loss(cx, token),
                Ready::Accepted(accepted) => {
                    let (listener, accepted) = accepted.into_inner();
                    listener.connected(cx, accepted)
                }
            };
            result?;
        }
        self.state.lock().dispatching = false;
        self.flush(cx)
    }

    /// Bounds how long an answer waits for the rest of the turn.
    fn flush_old(&self, cx: F::Context<'_>, gathering: &mut Option<f64>) -> Result<(), F::Leave> {
        let now = self.time();
        if now - *gathering.get_or_insert(now) < LONGEST_GATHER {
            return Ok(());
        }
        *gathering = None;
        self.flush(cx)
    }

    /// Reads, then writes, as far as the selector found the source ready; `left` entries of the
    /// queue are this turn's.
    fn dispatch(
        &self,
        cx: F::Context<'_>,
        token: Token,
        scratch: &mut [u8],
        left: usize,
    ) -> Result<(), F::Leave> {
        let kind = match self.state.lock().sources.get(token) {
            Some(Source::Stream(_)) => Kind::Stream,
            Some(Source::Endpoint(_)) => Kind::Endpoint,
            Some(Source::Listener(_)) => Kind::Listener,
            Some(Source::Watcher(_)) => Kind::Watcher,
            None => return Ok(()),
        };
        match kind {
            Kind::Stream | Kind::Endpoint => {
                let datagrams = matches!(kind, Kind::Endpoint);
                let rest = self.dispatching(token);
                if datagrams {
                    self.receivable(cx, token, scratch, left)?;
                } else {
                    self.readable(cx, token, scratch)?;
                }
                rest.done();
                if !self.take_pending(token, |pending| &mut pending.write) {
                    return Ok(());
                }
                if datagrams { self.sendable(cx, token) } else { self.writable(cx, token) }
            }
            Kind::Listener => self.acceptable(cx, token),
            Kind::Watcher => self.watched(cx, token),
        }
    }

    /// Takes one of the flags that say what the selector found.
    pub(super) fn take_pending(
        &self,
        token: Token,
        flag: impl FnOnce(&mut Interest) -> &mut bool,
    ) -> bool {
        let mut state = self.state.lock();
        let source = state.sources.get_mut(token);
        source.is_some_and(|source| std::mem::take(flag(source.pending())))
    }

    pub(super) fn dispatching(&self, token: Token) -> Dispatching<'_, F> {
        Dispatching { engine: self, token }
    }

    /// Queues what is left of an event in front of everything, for the next run.
    pub(super) fn requeue_write(&self, token: Token) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let room = state.ready.try_reserve(1).is_ok();
        let Some(source) = state.sources.get_mut(token) else { return };
        let pending = source.pending();
        pending.read = false;
        if !pending.write {
            return;
        }
        if room {
            state.ready.push_front(Ready::Io(token));
        } else {
            pending.write = false;
            self.find_again(state, token);
        }
    }

    /// The selector is to report an event once more, for which there was no memory.
    fn find_again(&self, state: &mut State<F>, token: Token) {
        // The selector reports what is ready until it is dealt with, unless it was asked for one
        // event. A descriptor that was closed meanwhile reports nothing, as ever.
        let _ = self.update_watcher(state, token);
    }
}

enum Kind {
    Stream,
    Endpoint,
    Listener,
    Watcher,
}

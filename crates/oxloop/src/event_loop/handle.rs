//! Scheduled calls (asyncio: *Callback Handles*).

use super::core::{Core, Panicked, catch};
use super::errors::ExceptionContext;
use super::owned::{Home, Owned};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const CANCELLED: u8 = 1;
/// In the timer heap: a cancellation has to be counted there.
const SCHEDULED: u8 = 2;

/// A callback that was scheduled by [`call_soon`](crate::EventLoop::call_soon); a clone is the
/// same call. Dropping it changes nothing.
///
/// Source: *asyncio.Handle*.
#[derive(Clone)]
pub struct Handle(Arc<Scheduled<dyn Call>>);

/// One allocation for a call: flags and closure.
struct Scheduled<C: ?Sized> {
    flags: AtomicU8,
    call: C,
}

trait Call: Send + Sync {
    /// Runs the closure, if it is still there.
    fn run(&self, handle: &Handle) -> Result<(), Panicked>;
    /// Drops the closure.
    fn clear(&self);
    fn name(&self) -> &'static str;
}

struct Once<F>(Mutex<Owned<F>>);

impl<F: FnOnce() + Send> Call for Once<F> {
    fn run(&self, _: &Handle) -> Result<(), Panicked> {
        let callback = self.0.lock().take();
        callback.map_or(Ok(()), catch)
    }

    fn clear(&self) {
        let callback = self.0.lock().take_owned();
        drop(callback);
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }
}

struct Repeated<F>(Mutex<Owned<F>>);

impl<F: FnMut() + Send> Call for Repeated<F> {
    fn run(&self, handle: &Handle) -> Result<(), Panicked> {
        // Taken out while it runs: it may cancel itself.
        let mut callback = self.0.lock().take_owned();
        let Some(call) = callback.get_mut() else { return Ok(()) };
        let result = catch(call);
        let old = std::mem::replace(&mut *self.0.lock(), callback);
        drop(old);
        if handle.cancelled() {
            self.clear();
        }
        result
    }

    fn clear(&self) {
        let callback = self.0.lock().take_owned();
        drop(callback);
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<F>()
    }
}

impl Handle {
    /// A call that runs once.
    pub(crate) fn once(home: Home, callback: impl FnOnce() + Send + 'static) -> Handle {
        let call = Once(Mutex::new(Owned::new(home, callback)));
        Handle(Arc::new(Scheduled { flags: AtomicU8::new(0), call }))
    }

    /// A call that runs whenever it is queued.
    pub(crate) fn repeated(home: Home, callback: impl FnMut() + Send + 'static) -> Handle {
        let call = Repeated(Mutex::new(Owned::new(home, callback)));
        Handle(Arc::new(Scheduled { flags: AtomicU8::new(0), call }))
    }

    /// Keeps the callback from running, and drops it; after it has run nothing happens.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let handle = event_loop.call_soon(|| unreachable!());
    /// handle.cancel();
    /// event_loop.run_until_complete(async {})?;
    /// assert!(handle.cancelled());
    /// # Ok(())
    /// # }
    /// ```
    pub fn cancel(&self) {
        self.mark_cancelled();
    }

    /// Whether it was cancelled.
    pub fn cancelled(&self) -> bool {
        self.0.flags.load(Ordering::Acquire) & CANCELLED != 0
    }

    /// True when a timer was cancelled that waits in the heap.
    fn mark_cancelled(&self) -> bool {
        let old = self.0.flags.fetch_or(CANCELLED, Ordering::AcqRel);
        if old & CANCELLED == 0 {
            self.0.call.clear();
        }
        old == SCHEDULED
    }

    pub(super) fn schedule(&self) {
        self.0.flags.fetch_or(SCHEDULED, Ordering::AcqRel);
    }

    pub(super) fn unschedule(&self) {
        self.0.flags.fetch_and(!SCHEDULED, Ordering::AcqRel);
    }

    /// Runs the callback unless it was cancelled; a panic goes to the exception handler.
    pub(super) fn run(&self, core: &Core) {
        if self.cancelled() {
            return;
        }
        if let Err(panic) = self.0.call.run(self) {
            let message = format!("Exception in callback {}", self.0.call.name());
            core.report(ExceptionContext::new(message).error(panic).handle(self.clone()));
        }
    }
}

/// Two handles are equal when they are handles of the same call.
impl PartialEq for Handle {
    fn eq(&self, other: &Handle) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Handle {}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.cancelled() { " cancelled" } else { "" };
        write!(f, "<Handle{state} {}>", self.0.call.name())
    }
}

/// A callback that was scheduled for a time by [`call_later`](crate::EventLoop::call_later) or
/// [`call_at`](crate::EventLoop::call_at); a clone is the same call.
///
/// Source: *asyncio.TimerHandle*.
#[derive(Clone)]
pub struct TimerHandle {
    handle: Handle,
    when: f64,
    core: Arc<Core>,
}

impl TimerHandle {
    pub(super) fn new(handle: Handle, when: f64, core: Arc<Core>) -> TimerHandle {
        TimerHandle { handle, when, core }
    }

    /// When it is due: seconds on the loop's clock, [`EventLoop::time`](crate::EventLoop::time).
    pub fn when(&self) -> f64 {
        self.when
    }

    /// There was no memory for it among the timers.
    pub(super) fn unscheduled(&self) {
        self.handle.unschedule();
        self.handle.cancel();
    }

    /// Keeps the callback from running, and drops it; after it has run nothing happens.
    pub fn cancel(&self) {
        if self.handle.mark_cancelled() {
            self.core.engine.timer_cancelled();
        }
    }

    /// Whether it was cancelled.
    pub fn cancelled(&self) -> bool {
        self.handle.cancelled()
    }
}

impl fmt::Debug for TimerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.cancelled() { " cancelled" } else { "" };
        write!(f, "<TimerHandle{state} when={} {}>", self.when, self.handle.0.call.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn core() -> Arc<Core> {
        crate::EventLoop::new().unwrap().core().clone()
    }

    #[test]
    fn a_call_runs_once() {
        let (core, count) = (core(), Arc::new(AtomicUsize::new(0)));
        let seen = count.clone();
        let handle = Handle::once(core.home, move || _ = seen.fetch_add(1, Ordering::SeqCst));
        handle.run(&core);
        handle.run(&core);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_repeated_call_may_cancel_itself() {
        let core = core();
        let (alive, own) = (Arc::new(()), Arc::new(Mutex::new(None::<Handle>)));
        let (kept, me) = (alive.clone(), own.clone());
        let mut count = 0;
        let handle = Handle::repeated(core.home, move || {
            let _ = &kept;
            count += 1;
            if count == 2 {
                let handle = me.lock().clone();
                handle.unwrap().cancel();
            }
        });
        *own.lock() = Some(handle.clone());
        handle.run(&core);
        assert_eq!(Arc::strong_count(&alive), 2);
        handle.run(&core);
        assert_eq!(Arc::strong_count(&alive), 1, "a cancelled callback is dropped");
    }

    #[test]
    fn only_the_first_cancellation_of_a_waiting_timer_counts() {
        let handle = Handle::once(Home::NONE, || {});
        handle.schedule();
        assert!(handle.mark_cancelled());
        assert!(!handle.mark_cancelled());
        let run = Handle::once(Home::NONE, || {});
        run.schedule();
        run.unschedule();
        assert!(!run.mark_cancelled());
    }
}

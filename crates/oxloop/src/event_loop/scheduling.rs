//! Scheduling callbacks, now and for a time.

use super::EventLoop;
use super::handle::{Handle, TimerHandle};
use std::time::Duration;

impl EventLoop {
    /// Queues a callback behind all that is queued already; it runs once, in the next turn.
    /// From any thread: another thread's call wakes the loop.
    ///
    /// A closed loop drops the callback, and so does one that has no memory left to queue it: the
    /// handle is [cancelled](Handle::cancelled) then.
    ///
    /// Source: *loop.call_soon*.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let (done, waiter) = event_loop.create_future();
    /// event_loop.call_soon(move || _ = done.set_result("hello"));
    /// assert_eq!(event_loop.run_until_complete(waiter)??, "hello");
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_soon(&self, callback: impl FnOnce() + Send + 'static) -> Handle {
        let handle = Handle::once(self.core().home, callback);
        if !self.core().call_soon(handle.clone()) {
            handle.cancel();
        }
        handle
    }

    /// The same as [`call_soon`](Self::call_soon), which finds out by itself which thread calls;
    /// under asyncio's name for those who look for it.
    ///
    /// Source: *loop.call_soon_threadsafe*.
    pub fn call_soon_threadsafe(&self, callback: impl FnOnce() + Send + 'static) -> Handle {
        self.call_soon(callback)
    }

    /// Calls back after `delay`. Callbacks for the same time run in the order of their
    /// scheduling. From any thread.
    ///
    /// Source: *loop.call_later*.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use std::time::Duration;
    ///
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let stopper = event_loop.clone();
    /// event_loop.call_later(Duration::from_millis(5), move || stopper.stop());
    /// let never = event_loop.call_later(Duration::from_millis(1), || unreachable!());
    /// never.cancel();
    /// event_loop.run_forever()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn call_later(
        &self,
        delay: Duration,
        callback: impl FnOnce() + Send + 'static,
    ) -> TimerHandle {
        self.call_at(self.time() + delay.as_secs_f64(), callback)
    }

    /// Calls back at `when`, seconds on the loop's clock ([`time`](Self::time)); at once where
    /// that is past. From any thread.
    ///
    /// Times are asyncio's seconds since some moment rather than an `Instant`, because they are
    /// computed with (`time() + 0.1 * attempts`) and shown ([`TimerHandle::when`]).
    ///
    /// Source: *loop.call_at*.
    pub fn call_at(&self, when: f64, callback: impl FnOnce() + Send + 'static) -> TimerHandle {
        self.core().call_at(when, callback)
    }

    /// The loop's clock: seconds, monotonic, since some moment in the past.
    ///
    /// Source: *loop.time*.
    pub fn time(&self) -> f64 {
        self.core().engine.time()
    }
}

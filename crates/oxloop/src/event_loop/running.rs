//! Running and stopping the loop.

use super::EventLoop;
use super::core::{Core, Running};
use super::face::{Callback, Cx};
use super::owned::Owned;
use crate::error::{Misuse, Result};
use crate::protocol::cell;
use std::cell::{Cell, OnceCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

/// The future that a run is for.
pub(super) trait MainFuture {
    /// Which run it is.
    fn run(&self) -> u64;
    /// Takes its next step, if it is still that run.
    fn poll(&self, core: &Arc<Core>, run: u64);
}

struct Main<F: Future> {
    run: u64,
    waker: Arc<MainWaker>,
    /// `None` while it is polled, and once it is done.
    future: Cell<Option<Owned<Pin<Box<F>>>>>,
    result: OnceCell<thread::Result<F::Output>>,
}

impl<F: Future> MainFuture for Main<F> {
    fn run(&self) -> u64 {
        self.run
    }

    fn poll(&self, core: &Arc<Core>, run: u64) {
        // A late waker of an earlier run leaves the future where it is.
        if run != self.run {
            return;
        }
        let Some(mut future) = self.future.take() else { return };
        self.waker.woken.store(false, Ordering::Release);
        let waker = Waker::from(self.waker.clone());
        let poll = {
            let mut cx = Context::from_waker(&waker);
            let Some(future) = future.get_mut() else { return };
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)))
        };
        let result = match poll {
            Ok(Poll::Pending) => return self.future.set(Some(future)),
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        let _ = self.result.set(result);
        // As a task's done callback: what is queued now still runs, then the loop stops.
        core.schedule(Callback::Done(self.run));
    }
}

struct MainWaker {
    run: u64,
    woken: AtomicBool,
    core: Arc<Core>,
}

impl Wake for MainWaker {
    fn wake(self: Arc<MainWaker>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<MainWaker>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.core.schedule(Callback::Main(self.run));
        }
    }
}

impl EventLoop {
    /// Runs the loop on this thread until [`stop`](Self::stop) is called.
    ///
    /// Source: *loop.run_forever*.
    ///
    /// # Errors
    /// [`Misuse`]: the loop is closed, or runs already; this thread runs another loop, or is
    /// inside of a protocol's callback; this process is a fork of the one that made the loop, also
    /// where a callback has forked.
    pub fn run_forever(&self) -> Result<()> {
        Ok(self.run(None)?)
    }

    /// Runs the loop on this thread until the future is done, and returns its output. The
    /// future's steps are callbacks among the others; it may borrow, and need not be `Send`.
    ///
    /// A panic of the future goes on to the caller, once the loop has stopped.
    ///
    /// Source: *loop.run_until_complete*.
    ///
    /// # Errors
    /// Those of [`run_forever`](Self::run_forever), and [`Misuse::LoopStopped`] where
    /// [`stop`](Self::stop) came first; the future is dropped then.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use std::time::Duration;
    ///
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let answer = event_loop.run_until_complete(async {
    ///     event_loop.sleep(Duration::from_millis(1)).await;
    ///     42
    /// })?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_until_complete<F: Future>(&self, future: F) -> Result<F::Output> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let waker =
            Arc::new(MainWaker { run, woken: AtomicBool::new(false), core: self.core().clone() });
        let main = Main {
            run,
            waker: waker.clone(),
            future: Cell::new(Some(Owned::new(self.core().home, Box::pin(future)))),
            result: OnceCell::new(),
        };
        waker.wake_by_ref();
        self.run(Some(&main))?;
        let Main { future, result, .. } = main;
        drop(future);
        self.core().report_dropped();
        match result.into_inner() {
            Some(Ok(output)) => Ok(output),
            Some(Err(panic)) => resume_unwind(panic),
            None => Err(Misuse::LoopStopped.into()),
        }
    }

    /// Stops the loop: the turn that is going on completes, then
    /// [`run_forever`](Self::run_forever) returns. Of a loop that does not run, the next run
    /// ends after one turn. From any thread.
    ///
    /// Source: *loop.stop*.
    pub fn stop(&self) {
        let core = self.core();
        if core.acts_here() {
            let Ok(()) = core.engine.stop(core.cx());
            core.nudge();
        } else {
            core.schedule(Callback::Stop);
        }
    }

    /// Whether a thread runs the loop.
    pub fn is_running(&self) -> bool {
        self.core().is_running()
    }

    /// Closes the loop. What is queued is dropped, open connections and servers are dropped with
    /// their descriptors and without a `connection_lost`, the executor takes nothing more and
    /// its threads end without being waited for. Closing twice is allowed.
    ///
    /// Dropping the last handle closes the loop as well.
    ///
    /// Source: *loop.close*.
    ///
    /// # Errors
    /// [`Misuse::CloseRunning`] while the loop runs.
    pub fn close(&self) -> Result<(), Misuse> {
        self.core().close()
    }

    /// Whether the loop was closed.
    pub fn is_closed(&self) -> bool {
        self.core().is_closed()
    }

    fn run(&self, main: Option<&dyn MainFuture>) -> Result<(), Misuse> {
        let core = self.core();
        core.check()?;
        let _entered = core.enter(Misuse::LoopRunning)?;
        let _running = Running::enter(self.owner())?;
        if cell::inside_of_protocol() {
            return Err(Misuse::ProtocolBusy);
        }
        let Ok(()) = core.engine.run(Cx { core, main });
        core.report_dropped();
        // A callback that forked comes back here in the child as well.
        core.check_process()
    }
}

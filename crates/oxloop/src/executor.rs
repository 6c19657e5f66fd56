//! A pool of threads for what blocks (asyncio: *Executing code in thread or process pools*).

use crate::error::{Error, Misuse, Result};
use crate::event_loop::EventLoop;
use crate::event_loop::core::{Panicked, catch};
use crate::event_loop::owned::{Home, Owned};
use async_task::{FallibleTask, Runnable};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

/// The pool of one loop. Threads are started when there is work and no idle one, at most
/// `min(32, cpus + 4)` (ThreadPoolExecutor's number), and end with the loop.
#[derive(Clone, Default)]
pub(crate) struct Executor(Arc<Pool>);

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Runnable>,
    threads: usize,
    idle: usize,
    started: u64,
    shut_down: bool,
}

impl Executor {
    fn submit<T: Send + 'static>(
        &self,
        home: Home,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> FallibleTask<Called<T>> {
        let pool = self.0.clone();
        let mut call = Owned::new(home, call);
        let called = async move {
            let called = call.take().map_or(Err(Error::Cancelled), |call| Ok(catch(call)?));
            called.map(|output| Owned::new(home, output))
        };
        let (job, task) = async_task::spawn(called, move |job| {
            // Scheduled once, below: the call never waits.
            pool.push(job);
        });
        job.schedule();
        task.fallible()
    }

    /// Takes nothing more. What is queued is still done; nobody waits for it.
    pub(crate) fn shutdown(&self) {
        self.0.state.lock().shut_down = true;
        self.0.work.notify_all();
    }
}

impl Pool {
    fn push(self: &Arc<Pool>, job: Runnable) {
        let mut state = self.state.lock();
        if state.shut_down {
            drop(state);
            return drop(job);
        }
        state.queue.push_back(job);
        if state.idle < state.queue.len() && state.threads < most_threads() {
            if let Err(error) = self.start_thread(&mut state) {
                log::warn!(target: "oxloop", "no thread for the executor: {error}");
                if state.threads == 0 {
                    // Nobody would ever do it: the caller is told by a cancellation.
                    let job = state.queue.pop_back();
                    drop(state);
                    return drop(job);
                }
            }
        }
        drop(state);
        self.work.notify_one();
    }

    fn start_thread(self: &Arc<Pool>, state: &mut State) -> std::io::Result<()> {
        let pool = self.clone();
        let name = format!("oxloop-executor-{}", state.started);
        thread::Builder::new().name(name).spawn(move || pool.work())?;
        state.threads += 1;
        state.started += 1;
        Ok(())
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // The call's own panics are its result; this one is of a waker.
                if let Err(Panicked(text)) = catch(|| job.run()) {
                    log::error!(target: "oxloop", "Unhandled error in a waker: {text}");
                }
                state = self.state.lock();
            } else if state.shut_down {
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

fn most_threads() -> usize {
    32.min(thread::available_parallelism().map_or(1, usize::from) + 4)
}

impl EventLoop {
    /// Calls a function that blocks, on a thread of the loop's pool. The call is queued now,
    /// whether the future is awaited or not; dropping the future keeps it from starting, but
    /// does not end it.
    ///
    /// Source: *loop.run_in_executor*.
    ///
    /// # Errors
    /// The future gives [`Error::Panic`] where the call panicked, [`Misuse::LoopClosed`] where
    /// the loop was closed before, and [`Error::Cancelled`] where no thread could be started.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let sum = event_loop.run_in_executor(|| (1..=10).sum::<u32>());
    /// assert_eq!(event_loop.run_until_complete(sum)??, 55);
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_in_executor<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> ExecutorCall<T> {
        let core = self.core();
        match core.check() {
            Ok(()) => ExecutorCall(Ok(core.executor.submit(core.home, call))),
            Err(misuse) => {
                core.home.dispose(call);
                ExecutorCall(Err(misuse))
            }
        }
    }
}

/// What [`EventLoop::run_in_executor`] returns: a future of the call's result.
#[must_use = "dropping it may keep the call from starting"]
pub struct ExecutorCall<T>(Result<FallibleTask<Called<T>>, Misuse>);

/// How a call went.
type Called<T> = Result<Owned<T>>;

impl<T> Future for ExecutorCall<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let task = match &mut self.0 {
            Ok(task) => task,
            Err(misuse) => return Poll::Ready(Err(misuse.clone().into())),
        };
        Poll::Ready(match ready!(Pin::new(task).poll(cx)) {
            Some(result) => result.and_then(|mut output| output.take().ok_or(Error::Cancelled)),
            None => Err(Error::Cancelled),
        })
    }
}

impl<T> fmt::Debug for ExecutorCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<ExecutorCall>")
    }
}

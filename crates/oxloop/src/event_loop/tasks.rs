//! Futures that run beside others (asyncio: *Task*).

use super::EventLoop;
use super::core::{Core, Panicked, catch};
use super::errors::ExceptionContext;
use super::handle::Handle;
use super::owned::Owned;
use crate::error::{Error, Result};
use async_task::FallibleTask;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

impl EventLoop {
    /// Runs a future on the loop, beside the others: its first step is queued now. It goes on
    /// when the [`Task`] is dropped.
    ///
    /// A panic of the future ends the task alone: whoever awaits the task gets
    /// [`Error::Panic`], and if nobody does, the exception handler.
    ///
    /// Source: *loop.create_task*. A loop that is closed cancels its tasks.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let task = event_loop.create_task(async { 6 * 7 });
    /// assert_eq!(event_loop.run_until_complete(task)??, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_task<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let core = self.core().clone();
        let guarded = Guarded { future: Owned::new(core.home, Box::pin(future)), core };
        let core = self.core().clone();
        let (first, task) = async_task::spawn(guarded, move |step: async_task::Runnable| {
            let home = core.home;
            core.call_soon(Handle::once(home, move || _ = step.run()));
        });
        first.schedule();
        Task(Some(task.fallible()))
    }
}

/// A future that runs on the loop; awaiting it gives its output.
///
/// Dropped, it runs on; [`cancel`](Self::cancel) ends it.
///
/// Source: *asyncio.Task*.
pub struct Task<T>(Option<FallibleTask<Outcome<T>>>);

impl<T> Task<T> {
    /// Ends the task: its future is dropped in a later turn, unless it is done by then.
    ///
    /// Source: *Task.cancel*; the future is told by its drop instead of an exception.
    pub fn cancel(mut self) {
        // Dropping the inner task cancels it.
        self.0 = None;
    }

    /// Whether it is done.
    ///
    /// Source: *Task.done*.
    pub fn done(&self) -> bool {
        self.0.as_ref().is_none_or(FallibleTask::is_finished)
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let Some(task) = &mut self.0 else { return Poll::Ready(Err(Error::Cancelled)) };
        let outcome = ready!(Pin::new(task).poll(cx));
        self.0 = None;
        Poll::Ready(match outcome {
            Some(Outcome::Done(mut output)) => output.take().ok_or(Error::Cancelled),
            Some(Outcome::Panicked(panic)) => Err(panic.retrieve().into()),
            None => Err(Error::Cancelled),
        })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.done() { "<Task finished>" } else { "<Task pending>" })
    }
}

enum Outcome<T> {
    Done(Owned<T>),
    Panicked(Unretrieved),
}

/// A panic that is reported unless somebody takes it.
struct Unretrieved {
    panic: Option<Panicked>,
    core: Arc<Core>,
}

impl Unretrieved {
    fn retrieve(mut self) -> Panicked {
        self.panic.take().unwrap_or_else(|| Panicked(String::new()))
    }
}

impl Drop for Unretrieved {
    fn drop(&mut self) {
        if let Some(panic) = self.panic.take() {
            let message = "Task exception was never retrieved";
            self.core.report(ExceptionContext::new(message).error(panic));
        }
    }
}

/// A future whose panics are its output.
struct Guarded<F> {
    future: Owned<Pin<Box<F>>>,
    core: Arc<Core>,
}

impl<F: Future> Future for Guarded<F> {
    type Output = Outcome<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<F::Output>> {
        let home = self.core.home;
        let Some(future) = self.future.get_mut() else { return Poll::Pending };
        match catch(|| future.as_mut().poll(cx)) {
            Ok(poll) => poll.map(|output| Outcome::Done(Owned::new(home, output))),
            Err(panic) => Poll::Ready(Outcome::Panicked(Unretrieved {
                panic: Some(panic),
                core: self.core.clone(),
            })),
        }
    }
}

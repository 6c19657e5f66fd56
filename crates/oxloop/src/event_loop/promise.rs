//! A value that will come, in two halves (asyncio: *Future*).

use super::EventLoop;
use crate::error::Error;
use parking_lot::Mutex;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The half that gives the value, from any thread. Dropped before that, it cancels the other.
pub struct Promise<T>(Arc<Slot<T>>);

/// The half that waits: a future of the value, or [`Error::Cancelled`] where the promise was
/// dropped.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Waiter<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<State<T>>);

enum State<T> {
    Waiting(Option<Waker>),
    Done(T),
    /// Taken by the waiter, or never to come.
    Over,
}

pub(crate) fn promise<T>() -> (Promise<T>, Waiter<T>) {
    let slot = Arc::new(Slot(Mutex::new(State::Waiting(None))));
    (Promise(slot.clone()), Waiter(slot))
}

impl EventLoop {
    /// A value that a callback will give to a future, like asyncio's
    /// `loop.create_future()`; which side of it is which is said by the types here.
    ///
    /// Source: *loop.create_future*.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use std::time::Duration;
    ///
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let (promise, waiter) = event_loop.create_future();
    /// event_loop.call_later(Duration::from_millis(1), move || _ = promise.set_result(7));
    /// assert_eq!(event_loop.run_until_complete(waiter)??, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_future<T: Send>(&self) -> (Promise<T>, Waiter<T>) {
        promise()
    }
}

impl<T> Promise<T> {
    /// Gives the value. False, and the value is dropped, where one was given already or nobody
    /// waits any more.
    pub fn set_result(&self, value: T) -> bool {
        if Arc::strong_count(&self.0) == 1 {
            return false;
        }
        self.0.settle(State::Done(value))
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.settle(State::Over);
    }
}

/// Whoever waited need not be woken any more, nor kept by their waker.
impl<T> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        let waker = match &mut *state {
            State::Waiting(waker) => waker.take(),
            State::Done(_) | State::Over => None,
        };
        drop(state);
        drop(waker);
    }
}

impl<T> Slot<T> {
    fn settle(&self, end: State<T>) -> bool {
        let mut state = self.0.lock();
        let waker = match &mut *state {
            State::Waiting(waker) => waker.take(),
            State::Done(_) | State::Over => {
                // The value is dropped without the lock.
                drop(state);
                return false;
            }
        };
        *state = end;
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl<T> Future for Waiter<T> {
    type Output = Result<T, Error>;

    /// # Panics
    /// Never; polled after its end it is cancelled.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        let mut state = self.0.0.lock();
        match &mut *state {
            State::Waiting(waker) => {
                let old = waker.replace(cx.waker().clone());
                drop(state);
                drop(old);
                Poll::Pending
            }
            State::Done(_) => match std::mem::replace(&mut *state, State::Over) {
                State::Done(value) => Poll::Ready(Ok(value)),
                State::Waiting(_) | State::Over => Poll::Ready(Err(Error::Cancelled)),
            },
            State::Over => Poll::Ready(Err(Error::Cancelled)),
        }
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Promise>")
    }
}

impl<T> fmt::Debug for Waiter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Waiter>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wakes_once_and_gives_the_value_once() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let (promise, waiter) = promise();
        let mut waiter = pin!(waiter);
        assert!(waiter.as_mut().poll(&mut cx).is_pending());
        assert!(promise.set_result(1));
        assert!(!promise.set_result(2));
        drop(promise);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(waiter.as_mut().poll(&mut cx), Poll::Ready(Ok(1))));
        assert!(matches!(waiter.as_mut().poll(&mut cx), Poll::Ready(Err(Error::Cancelled))));
    }

    #[test]
    fn a_dropped_promise_cancels() {
        let mut cx = Context::from_waker(Waker::noop());
        let (promise, waiter) = promise::<()>();
        drop(promise);
        assert!(matches!(pin!(waiter).poll(&mut cx), Poll::Ready(Err(Error::Cancelled))));
    }

    #[test]
    fn a_wait_that_is_given_up_leaves_nothing() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let (promise, waiter) = promise::<()>();
        let mut waiter = Box::pin(waiter);
        assert!(waiter.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(Arc::strong_count(&count), 2);
        drop(waiter);
        assert_eq!(Arc::strong_count(&count), 1);
        drop(promise);
        assert_eq!(count.0.load(Ordering::SeqCst), 0, "nobody is woken");
    }

    #[test]
    fn a_value_that_nobody_waits_for_is_dropped() {
        let (promise, waiter) = promise();
        drop(waiter);
        let value = Arc::new(());
        assert!(!promise.set_result(value.clone()));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}

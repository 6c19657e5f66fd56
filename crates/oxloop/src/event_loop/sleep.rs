//! Waiting for a while, or for the next turn (asyncio: `sleep`).

use super::EventLoop;
use super::handle::TimerHandle;
use super::promise::{Waiter, promise};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

impl EventLoop {
    /// A future that is done after `delay`, counted from its first poll. A delay of zero ends in
    /// the next turn. On a loop that was closed it never ends.
    ///
    /// Source: *asyncio.sleep*.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        let state =
            if delay.is_zero() { State::NextTurn(false) } else { State::Idle(self.clone(), delay) };
        Sleep(state)
    }
}

/// What [`EventLoop::sleep`] returns. Dropping it cancels its timer.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Sleep(State);

enum State {
    /// Whether it has waited.
    NextTurn(bool),
    Idle(EventLoop, Duration),
    Waiting(TimerHandle, Waiter<()>),
}

/// `sleep(0)`: lets the others have their turn.
pub(crate) fn next_turn() -> Sleep {
    Sleep(State::NextTurn(false))
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Idle(event_loop, delay) = &self.0 {
            let (promise, waiter) = promise();
            let timer = event_loop.call_later(*delay, move || _ = promise.set_result(()));
            self.0 = State::Waiting(timer, waiter);
        }
        match &mut self.0 {
            State::NextTurn(true) => Poll::Ready(()),
            State::NextTurn(waited) => {
                *waited = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            State::Waiting(_, waiter) => match Pin::new(waiter).poll(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(()),
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
            },
            State::Idle(..) => Poll::Pending,
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let State::Waiting(timer, _) = &self.0 {
            timer.cancel();
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<Sleep>")
    }
}

//! Waking a loop that waits, from any thread (the second half of asyncio's
//! `call_soon_threadsafe`; the first is the ready queue itself).

use crate::sys::Waker;
use parking_lot::Mutex;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, Ordering};

/// The loop runs, or does not run at all: nobody needs to wake it.
const AWAKE: u8 = 0;
/// The loop waits, or is about to.
const ASLEEP: u8 = 1;
/// It was woken: an event is on its way.
const WOKEN: u8 = 2;

/// Whether the loop waits, and what ends the wait.
///
/// A sender changes the loop's state first and looks here second; the loop announces its wait
/// here first and looks at its state second: so one of the two sees the other.
pub(crate) struct Wakeup {
    state: AtomicU8,
    /// `None` once the loop is closed.
    waker: Mutex<Option<Waker>>,
}

impl Wakeup {
    pub(crate) fn new() -> io::Result<Wakeup> {
        Ok(Wakeup { state: AtomicU8::new(AWAKE), waker: Mutex::new(Some(Waker::new()?)) })
    }

    /// Whether the loop waits and nobody has woken it.
    #[inline]
    pub(crate) fn is_asleep(&self) -> bool {
        self.state.load(Ordering::SeqCst) == ASLEEP
    }

    /// Wakes the loop if it sleeps: one of many senders writes.
    pub(crate) fn wake(&self) {
        let woken = self.state.compare_exchange(ASLEEP, WOKEN, Ordering::SeqCst, Ordering::SeqCst);
        if woken.is_ok() {
            self.waker.lock().iter().for_each(Waker::wake);
        }
    }

    /// The loop is about to wait; it looks once more at what there is to do. It is awake again when
    /// the guard is dropped.
    pub(crate) fn fall_asleep(&self) -> Asleep<'_> {
        self.state.store(ASLEEP, Ordering::SeqCst);
        Asleep(self)
    }

    /// Nobody is woken any more.
    pub(crate) fn close(&self) {
        *self.waker.lock() = None;
    }

    /// Shows `watch` what is to be watched for wake-ups.
    pub(crate) fn watch(
        &self,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.waker.lock().as_ref().map_or(Ok(()), |waker| watch(waker.descriptor()))
    }
}

/// The loop waits, or is about to.
pub(crate) struct Asleep<'a>(&'a Wakeup);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.state.store(AWAKE, Ordering::SeqCst);
    }
}

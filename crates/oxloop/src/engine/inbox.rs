//! Callbacks from other threads, and the wake-up (asyncio's `call_soon_threadsafe`).

use crate::sys::Waker;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The loop runs, or does not run at all: nobody needs to wake it.
const AWAKE: u8 = 0;
/// The loop waits, or is about to.
const ASLEEP: u8 = 1;
/// It was woken: the waker is readable.
const WOKEN: u8 = 2;

/// A queue from any thread to the loop's.
///
/// A sender wakes the loop only where it sleeps: [`push`](Self::push) adds first and looks
/// second, [`fall_asleep`](Self::fall_asleep) announces first and looks second, so one of the
/// two sees the other.
pub(crate) struct Inbox<T> {
    queue: Mutex<VecDeque<T>>,
    /// Whether the queue holds anything: read for each `call_soon`, so no lock.
    filled: AtomicBool,
    state: AtomicU8,
    /// `None` once the loop is closed.
    waker: Mutex<Option<Waker>>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> io::Result<Inbox<T>> {
        Ok(Inbox {
            queue: Mutex::new(VecDeque::new()),
            filled: AtomicBool::new(false),
            state: AtomicU8::new(AWAKE),
            waker: Mutex::new(Some(Waker::new()?)),
        })
    }

    /// Adds an item and wakes the loop if it sleeps.
    pub(crate) fn push(&self, item: T) {
        let first = {
            let mut queue = self.queue.lock();
            queue.push_back(item);
            let first = !self.filled.load(Ordering::Relaxed);
            if first {
                self.filled.store(true, Ordering::SeqCst);
            }
            first
        };
        // Whoever filled an empty queue wakes the loop, for all that follow.
        if first {
            self.wake();
        }
    }

    /// Wakes the loop if it sleeps.
    pub(crate) fn wake(&self) {
        if self.state.load(Ordering::SeqCst) == ASLEEP
            && self
                .state
                .compare_exchange(ASLEEP, WOKEN, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            self.waker.lock().iter().for_each(Waker::wake);
        }
    }

    /// Whether something waits to be taken.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::SeqCst)
    }

    /// Moves all items to the end of `queue`, in order, each in its wrapper.
    pub(crate) fn drain_into<U>(&self, queue: &mut VecDeque<U>, wrap: impl Fn(T) -> U) {
        let mut items = self.queue.lock();
        self.filled.store(false, Ordering::SeqCst);
        queue.extend(items.drain(..).map(wrap));
    }

    /// Shows every item; nothing while another thread adds one.
    pub(crate) fn visit<E>(&self, mut see: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        let Some(items) = self.queue.try_lock() else { return Ok(()) };
        items.iter().try_for_each(&mut see)
    }

    /// Nobody is woken any more; gives all items back.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let mut items = self.queue.lock();
        self.filled.store(false, Ordering::SeqCst);
        *self.waker.lock() = None;
        std::mem::take(&mut *items)
    }

    /// The loop is about to wait: false where something came in, so that it must not.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state.store(ASLEEP, Ordering::SeqCst);
        if self.is_filled() {
            self.wake_up();
            return false;
        }
        true
    }

    /// The wait is over.
    pub(crate) fn wake_up(&self) {
        self.state.store(AWAKE, Ordering::SeqCst);
    }

    /// The selector found the waker readable: a sender's write may come after the wait was over
    /// for another reason, so it is reset whenever it is seen, and never on a guess.
    pub(crate) fn reset(&self) {
        self.waker.lock().iter().for_each(Waker::reset);
    }

    /// Shows `watch` what is to be watched for wake-ups.
    pub(crate) fn watch(
        &self,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.waker.lock().as_ref().map_or(Ok(()), |waker| watch(waker.descriptor()))
    }
}

//! Ends a wait from another thread: eventfd(2).

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A descriptor that the selector reports when woken.
#[derive(Debug)]
pub(crate) struct Waker {
    eventfd: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { eventfd })
    }

    /// Makes the selector report the descriptor once more, see `Selector::add_waker`. Never
    /// blocks.
    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // EAGAIN says that the counter is full, after 2^64 - 2 wake-ups.
        if rustix::io::write(&self.eventfd, &one) == Err(Errno::AGAIN) {
            let _ = rustix::io::read(&self.eventfd, &mut [0u8; 8]);
            let _ = rustix::io::write(&self.eventfd, &one);
        }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

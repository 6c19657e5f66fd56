//! Who closes a descriptor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A descriptor of a transport or a server: exactly one owner closes it, once (invariant 3).
#[derive(Debug)]
pub enum Descriptor {
    /// Ours: closed when dropped.
    Owned(OwnedFd),
    /// Lent by an object (a Python socket) which closes it after the loop has let go of it.
    Lent(RawFd),
    /// Given back or closed.
    Gone,
}

impl Descriptor {
    /// The number, or -1 once it is gone (what `socket.fileno()` says of a closed socket).
    pub fn raw(&self) -> RawFd {
        match self {
            Descriptor::Owned(fd) => fd.as_raw_fd(),
            Descriptor::Lent(fd) => *fd,
            Descriptor::Gone => -1,
        }
    }

    /// Borrows the descriptor for system calls; `None` once it is gone.
    pub fn borrow(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Descriptor::Owned(fd) => Some(fd.as_fd()),
            // SAFETY: the lender keeps the descriptor open until the loop has released it, and
            // a released `Descriptor` is `Gone`. A negative number is never lent.
            Descriptor::Lent(fd) if *fd >= 0 => Some(unsafe { BorrowedFd::borrow_raw(*fd) }),
            Descriptor::Lent(_) | Descriptor::Gone => None,
        }
    }

    /// Turns an owned descriptor into a lent one: the caller owns it from here on.
    pub fn lend(&mut self) -> Option<OwnedFd> {
        match std::mem::replace(self, Descriptor::Gone) {
            Descriptor::Owned(fd) => {
                *self = Descriptor::Lent(fd.as_raw_fd());
                Some(fd)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

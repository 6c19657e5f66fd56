//! Waits for many descriptors at once: epoll(7), level-triggered but for the waker.

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::Timespec;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a descriptor is watched for, or was found ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Watched for until the first event only; then the selector knows the descriptor still, and
    /// reports nothing until it is modified.
    pub(crate) once: bool,
}

impl Interest {
    pub(crate) const NONE: Interest = Interest { read: false, write: false, once: false };
    pub(crate) const READ: Interest = Interest { read: true, ..Interest::NONE };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        flags.set(epoll::EventFlags::ONESHOT, self.once);
        flags
    }
}

/// The kernel's list of watched descriptors. A token comes back with each event.
#[derive(Debug)]
pub(crate) struct Selector {
    epoll: OwnedFd,
    /// epoll_pwait2 (Linux 5.11) takes nanoseconds; older kernels round up to milliseconds.
    nanoseconds: AtomicBool,
}

/// The events of one wait.
pub(crate) struct Events {
    list: Vec<epoll::Event>,
}

// SAFETY: an event is a flag set and the token's 64 bits; the pointer that the kernel's union
// could hold instead is never stored nor read.
unsafe impl Send for Events {}

impl Events {
    /// Room for so many events a turn: the budget of one poll.
    pub(crate) fn with_capacity(events: usize) -> io::Result<Events> {
        let mut list = Vec::new();
        list.try_reserve_exact(events)?;
        Ok(Events { list })
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Token and readiness, in the kernel's order. An error or a hang-up wakes both sides, as
    /// the selectors module has it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Interest)> {
        self.list.iter().map(|event| {
            // A packed struct: copy the fields out.
            let (flags, data) = (event.flags, event.data);
            let ready = Interest {
                read: flags.intersects(!epoll::EventFlags::OUT),
                write: flags.intersects(!epoll::EventFlags::IN),
                once: false,
            };
            (data.u64(), ready)
        })
    }
}

impl Selector {
    pub(crate) fn new() -> io::Result<Selector> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Selector { epoll, nanoseconds: AtomicBool::new(true) })
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Watches a [`Waker`](super::Waker): each of its writes is reported once, edge-triggered, so
    /// that nobody has to read it again.
    pub(crate) fn add_waker(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    pub(crate) fn modify(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), interest.flags())?)
    }

    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something is ready or `timeout` is over (`None`: for ever). A signal ends the
    /// wait with no event.
    pub(crate) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.list.clear();
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        let spec = timeout.map(|timeout| to_timespec(timeout, nanoseconds));
        let room = rustix::buffer::spare_capacity(&mut events.list);
        match epoll::wait(&self.epoll, room, spec.as_ref()) {
            Ok(_) => Ok(()),
            Err(Errno::INTR) => Ok(()),
            Err(Errno::NOSYS | Errno::PERM) if nanoseconds && timeout.is_some() => {
                self.nanoseconds.store(false, Ordering::Relaxed);
                self.wait(events, timeout)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn to_timespec(timeout: Duration, nanoseconds: bool) -> Timespec {
    let timeout = if nanoseconds {
        timeout
    } else {
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        Duration::from_millis(millis.min(u128::from(u32::MAX)) as u64)
    };
    Timespec {
        tv_sec: timeout.as_secs().min(i64::MAX as u64) as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    }
}

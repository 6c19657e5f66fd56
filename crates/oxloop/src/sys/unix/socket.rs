//! The calls that move bytes: one system call each, never blocking, errno kept.

use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, SocketFlags,
};
use rustix::time::Timespec;
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

/// A connection taken from a listening socket: non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Accepted {
    /// The connected socket.
    pub descriptor: OwnedFd,
    /// The peer's address; `None` where the system names none.
    pub peer: Option<SocketAddrAny>,
}

/// Reads what is there, at most `buffer.len()` bytes; 0 is the end of the stream.
pub(crate) fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, received) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
    Ok(received)
}

/// Sends as much as the kernel takes. SIGPIPE is never raised: a dead peer is EPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, data, SendFlags::NOSIGNAL)?)
}

/// Sends several pieces by one call; at most IOV_MAX (1,024) of them.
pub(crate) fn send_vectored(socket: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let pieces = &pieces[..pieces.len().min(1024)];
    let mut control = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(socket, pieces, &mut control, SendFlags::NOSIGNAL)?)
}

/// Takes one waiting connection.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (descriptor, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    Ok(Accepted { descriptor, peer })
}

/// Sends a FIN after what has been sent: the peer reads the end of the stream.
pub(crate) fn shutdown_write(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
}

/// Whether a send would fail: an error or a hang-up is pending.
pub(crate) fn is_broken(socket: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut polled, Some(&none));
    ready.is_ok() && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

//! The calls that move bytes: one system call each, never blocking, errno kept.

use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, SocketFlags,
};
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

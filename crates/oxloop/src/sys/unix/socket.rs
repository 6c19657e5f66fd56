//! The calls that move bytes: one system call each, never blocking, errno kept.

use crate::sys::Room;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, MMsgHdr, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny,
    SocketFlags,
};
use rustix::time::Timespec;
use std::io::{self, IoSlice};
use std::mem::offset_of;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A connection taken from a listening socket: non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Accepted {
    /// The connected socket.
    pub descriptor: OwnedFd,
    /// The peer's address; `None` where the system names none.
    pub peer: Option<SocketAddrAny>,
}

/// Reads what is there, as much as there is room; nothing is the end of the stream.
pub(crate) fn recv<'a>(socket: BorrowedFd<'_>, room: Room<'a>) -> io::Result<&'a mut [u8]> {
    match room {
        Room::Written(room) => {
            let (_, received) = rustix::net::recv(socket, &mut *room, RecvFlags::empty())?;
            let received = received.min(room.len());
            Ok(&mut room[..received])
        }
        Room::Fresh(room) => {
            let ((received, _), _) = rustix::net::recv(socket, room, RecvFlags::empty())?;
            Ok(received)
        }
    }
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

/// Receives a datagram, cut off where the buffer ends, and its sender where the system names one.
pub(crate) fn recv_from(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<SocketAddrAny>)> {
    let (_, received, from) = rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::empty())?;
    Ok((received.min(buffer.len()), from))
}

/// Sends a datagram, to an address or to where the socket is connected to.
pub(crate) fn send_to(
    socket: BorrowedFd<'_>,
    data: &[u8],
    to: Option<&SocketAddrAny>,
) -> io::Result<()> {
    match to {
        Some(to) => rustix::net::sendto(socket, data, SendFlags::NOSIGNAL, to)?,
        None => rustix::net::send(socket, data, SendFlags::NOSIGNAL)?,
    };
    Ok(())
}

/// Datagrams sent by one call at most.
const BATCH: usize = 64;

/// Sends datagrams by one call (sendmmsg(2)), as many as the kernel takes; says how many. An error
/// is that of the first one.
pub(crate) fn send_batch<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a [u8], Option<&'a SocketAddrAny>)>,
) -> io::Result<usize> {
    let mut datagrams = datagrams.take(BATCH).peekable();
    let Some(&(first, to)) = datagrams.peek() else { return Ok(0) };
    let (mut batch, mut messages) = (Vec::new(), Vec::new());
    if batch.try_reserve_exact(BATCH).and(messages.try_reserve_exact(BATCH)).is_err() {
        return send_to(socket, first, to).map(|()| 1);
    }
    batch.extend(
        datagrams.map(|(data, to)| ([IoSlice::new(data)], to, SendAncillaryBuffer::default())),
    );
    messages.extend(batch.iter_mut().map(|(data, to, control)| match to {
        Some(to) => MMsgHdr::new_with_addr(to, data, control),
        None => MMsgHdr::new(data, control),
    }));
    Ok(rustix::net::sendmmsg(socket, &mut messages, SendFlags::NOSIGNAL)?)
}

/// Takes one waiting connection.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Accepted> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (descriptor, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    Ok(Accepted { descriptor, peer })
}

/// The name in a Unix socket's address: empty for an unnamed one, with a NUL byte in front for an
/// abstract one, else a path. `None` for other families.
pub(crate) fn unix_name(address: &SocketAddrAny) -> Option<&[u8]> {
    if address.address_family() != AddressFamily::UNIX {
        return None;
    }
    // SAFETY: of what `as_ptr` points to, the first `addr_len` bytes are initialised (the type's
    // invariant, whatever the kernel wrote); they are borrowed from `address`.
    let bytes = unsafe {
        std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), address.addr_len() as usize)
    };
    let name = bytes.get(offset_of!(libc::sockaddr_un, sun_path)..).unwrap_or_default();
    if name.first() == Some(&0) {
        return Some(name);
    }
    // A path that fills the field is followed by no NUL byte, or by one outside of it.
    name.split(|byte| *byte == 0).next()
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

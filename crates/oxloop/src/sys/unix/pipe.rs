//! Descriptors that are not sockets, or not used as such: pipes, FIFOs, character devices.

use crate::sys::Room;
use rustix::fs::{FileType, OFlags};
use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};

/// What kind of file a pipe transport is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeKind {
    /// A pipe or a FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A terminal or another character device.
    CharacterDevice,
}

impl PipeKind {
    /// The kind of an open file; `None` for those that cannot be a pipe's end (regular files,
    /// directories, block devices).
    ///
    /// # Errors
    /// EBADF for a descriptor that is not open.
    pub fn of(file: BorrowedFd<'_>) -> io::Result<Option<PipeKind>> {
        Ok(match FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) {
            FileType::Fifo => Some(PipeKind::Fifo),
            FileType::Socket => Some(PipeKind::Socket),
            FileType::CharacterDevice => Some(PipeKind::CharacterDevice),
            _ => None,
        })
    }
}

/// Calls on the descriptor do not block any more; nor do those of others who share the open file.
pub(crate) fn set_nonblocking(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK)?)
}

/// What Linux lets a pipe hold unless it is told otherwise, bytes.
pub(crate) const PIPE_SIZE: usize = 64 * 1024;

/// Lets a pipe hold `size` bytes, if it holds as much as most do. Where the user has too many pages
/// in pipes already (pipe(7), pipe-user-pages-soft) it stays as it is.
pub(crate) fn enlarge(pipe: BorrowedFd<'_>, size: usize) {
    if rustix::pipe::fcntl_getpipe_size(pipe) == Ok(PIPE_SIZE) {
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, size);
    }
}

/// Another descriptor of the same open file, close-on-exec.
pub(crate) fn duplicate(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(file, 3)?)
}

/// Reads what is there, as much as there is room; nothing is the end of the stream.
pub(crate) fn read<'a>(file: BorrowedFd<'_>, room: Room<'a>) -> io::Result<&'a mut [u8]> {
    match room {
        Room::Written(room) => {
            let count = rustix::io::read(file, &mut *room)?.min(room.len());
            Ok(&mut room[..count])
        }
        Room::Fresh(room) => Ok(rustix::io::read(file, room)?.0),
    }
}

/// Writes as much as the kernel takes. Where nobody reads any more it is EPIPE, and SIGPIPE
/// unless the program ignores that, as Python and Rust programs do.
pub(crate) fn write(file: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(file, data)?)
}

/// Writes several pieces by one call; at most IOV_MAX (1,024) of them.
pub(crate) fn write_vectored(file: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(file, &pieces[..pieces.len().min(1024)])?)
}

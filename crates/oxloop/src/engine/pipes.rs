//! Pipes: streams in one direction, by read(2) and write(2) instead of recv(2) and send(2).
//!
//! A read pipe is a stream that ends with its end of stream. A write pipe watches for reading,
//! too: that is how the kernel tells that the other end has gone. All else is in `streams.rs`
//! and `writes.rs`.

use super::streams::Stream;
use super::*;
use crate::sys::{self, PipeKind};
use crate::transport::connection_state::ConnectionState;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;

/// What a stream's descriptor is, and so how bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// A connected stream socket, both directions.
    Socket,
    /// Only read from.
    ReadPipe,
    /// Only written to.
    WritePipe {
        /// Whether readiness for reading says that the reader has gone: not on character
        /// devices, where it says that there is something to read.
        notices_reader: bool,
    },
}

/// The direction of a pipe transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeEnd {
    /// `connect_read_pipe`
    Read,
    /// `connect_write_pipe`
    Write,
}

/// The most that is read at once into fresh memory of a socket's kind, bytes: below glibc's mmap
/// threshold (128 KiB), over which each message would cost page faults.
const LARGEST_SOCKET_READ: u32 = 112 * 1024;
/// The most that is read at once from a pipe, bytes: what asyncio reads.
const LARGEST_PIPE_READ: u32 = 256 * 1024;

impl Medium {
    /// The most that is read at once into fresh memory, bytes.
    pub(super) fn largest_read(self) -> u32 {
        match self {
            Medium::Socket => LARGEST_SOCKET_READ,
            Medium::ReadPipe | Medium::WritePipe { .. } => LARGEST_PIPE_READ,
        }
    }

    pub(super) fn receive<'a>(
        self,
        fd: BorrowedFd<'_>,
        room: Room<'a>,
    ) -> io::Result<&'a mut [u8]> {
        match self {
            Medium::Socket => sys::recv(fd, room),
            Medium::ReadPipe | Medium::WritePipe { .. } => sys::read(fd, room),
        }
    }

    pub(super) fn send(self, fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
        match self {
            Medium::Socket => sys::send(fd, data),
            Medium::ReadPipe | Medium::WritePipe { .. } => sys::write(fd, data),
        }
    }

    pub(super) fn send_vectored(
        self,
        fd: BorrowedFd<'_>,
        pieces: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        match self {
            Medium::Socket => sys::send_vectored(fd, pieces),
            Medium::ReadPipe | Medium::WritePipe { .. } => sys::write_vectored(fd, pieces),
        }
    }

    /// Whether the descriptor is to be watched for reading.
    pub(super) fn wants_read(self, state: ConnectionState) -> bool {
        match self {
            Medium::Socket | Medium::ReadPipe => state.wants_read(),
            Medium::WritePipe { notices_reader } => notices_reader && state.awaits_hang_up(),
        }
    }

    /// Whether what is written now is dropped: on a pipe from `close()` on, on a socket once
    /// the connection is lost.
    pub(super) fn refuses_writes(self, state: ConnectionState) -> bool {
        match self {
            Medium::Socket => state.is_lost(),
            Medium::ReadPipe => true,
            Medium::WritePipe { .. } => state.is_closing(),
        }
    }

    pub(super) fn is_write_pipe(self) -> bool {
        matches!(self, Medium::WritePipe { .. })
    }
}

impl<F: Face> Stream<F> {
    /// A pipe that had as much in it as there is room for is made larger, once.
    pub(super) fn note_full(&mut self, read: usize) {
        if read >= sys::PIPE_SIZE {
            self.make_room();
        }
    }

    /// Makes a pipe larger, once, if it is one that may grow.
    pub(super) fn make_room(&mut self) {
        if std::mem::take(&mut self.grows) {
            if let Some(pipe) = self.descriptor.borrow() {
                sys::enlarge(pipe, LARGEST_PIPE_READ as usize);
            }
        }
    }
}

impl<F: Face> Engine<F> {
    /// Takes over one end of a pipe, which is made non-blocking; as
    /// [`add_stream`](Self::add_stream) otherwise.
    ///
    /// One terminal is often read and written under one number, but the selector knows each
    /// number once: character devices, and numbers that are in use already, are watched by a
    /// duplicate. A descriptor that was handed over is kept all the same.
    ///
    /// # Errors
    /// EMFILE where there is no descriptor left for a duplicate; OutOfMemory.
    pub fn add_pipe(
        &self,
        descriptor: Descriptor,
        kind: PipeKind,
        end: PipeEnd,
    ) -> io::Result<Token> {
        let device = kind == PipeKind::CharacterDevice;
        let shared = device || self.state.lock().token_of(descriptor.raw()).is_some();
        let descriptor = match descriptor.borrow() {
            Some(fd) => {
                sys::set_nonblocking(fd)?;
                let duplicate = shared.then(|| sys::duplicate(fd)).transpose()?;
                duplicate.map_or(descriptor, Descriptor::Owned)
            }
            None => return Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        let medium = match end {
            PipeEnd::Read => Medium::ReadPipe,
            PipeEnd::Write => Medium::WritePipe { notices_reader: !device },
        };
        Ok(self.add_source_stream(descriptor, medium)?)
    }

    /// Lets the pipe under this descriptor grow to 256 KiB when it is found full: four times as much
    /// moves between two switches of processes. One whose size was set, or that the system does not
    /// let grow, stays as it is.
    pub fn let_pipe_grow(&self, descriptor: RawFd) {
        let mut state = self.state.lock();
        let token = state.token_of(descriptor);
        if let Some(Source::Stream(stream)) = token.and_then(|token| state.sources.get_mut(token)) {
            stream.grows = stream.medium != Medium::Socket;
        }
    }

    /// Whether a stream is a pipe's end.
    pub fn is_pipe(&self, token: Token) -> bool {
        self.with_stream(token, |stream| stream.medium != Medium::Socket) == Some(true)
    }

    /// A write pipe's other end has gone, or so the kernel says.
    pub(super) fn hung_up(&self, cx: F::Context<'_>, token: Token) -> Result<(), F::Leave> {
        // What was gathered tells the reason, as asyncio's write did at once.
        self.flush_stream(cx, token)?;
        let state = self.with_stream(token, |stream| {
            let handler = stream.handler.get().filter(|_| !stream.state.is_lost());
            handler.map(|handler| (handler, stream.buffered_bytes() > 0))
        });
        match state.flatten() {
            Some((handler, unsent)) => handler.hung_up(cx, unsent),
            None => Ok(()),
        }
    }
}

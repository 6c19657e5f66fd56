//! Files, sent by the kernel where it can (asyncio: *Transferring files*).

use super::Transport;
use crate::engine::{Side, is_transient};
use crate::error::{Misuse, Result};
use crate::event_loop::face::Callback;
use crate::event_loop::{Handle, Promise, promise};
use crate::sys;
use rustix::io::{Errno, retry_on_intr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// sendfile(2) sends at most 2,147,479,552 bytes at once.
const AT_ONCE: u64 = 1 << 30;
/// What the fallback reads at once, bytes; asyncio's SENDFILE_FALLBACK_READBUFFER_SIZE.
const BLOCK: u64 = 256 * 1024;

impl Transport {
    /// Sends a file, behind what was written before: `count` bytes from `offset` on, or all there
    /// are. Answers how many were sent. The file's own position neither matters nor changes.
    ///
    /// The kernel sends it where it can (sendfile(2)). Else, and over TLS, it is read in pieces, in the
    /// loop's executor, and each is sent before the next is read; what has no positions, as a pipe,
    /// is read from where it is.
    ///
    /// Until it is sent the transport does not read, and what is written to it is refused with
    /// [`Misuse::SendfileInProgress`] at the loop's exception handler. Dropping the future stops
    /// sending; what was sent stays sent.
    ///
    /// Source: *loop.sendfile*; sendfile(2).
    ///
    /// # Errors
    /// [`Misuse::TransportClosing`], [`Misuse::SendfileUnsupported`] for a transport of a pipe,
    /// [`Misuse::SendfileInProgress`]; [`Error::Io`](crate::Error::Io) of the connection
    /// (ECONNABORTED where this side closed it) or of the file: EISDIR for a directory, ESPIPE
    /// for an offset into what has none, EAGAIN for one that has nothing yet and does not block.
    ///
    /// ```
    /// # async fn serve(transport: &oxloop::Transport) -> oxloop::Result<()> {
    /// transport.write("the file follows\n");
    /// let file = std::fs::File::open("/etc/hostname")?;
    /// let sent = transport.sendfile(&file, 0, None).await?;
    /// println!("sent {sent} bytes");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sendfile(&self, file: impl AsFd, offset: u64, count: Option<u64>) -> Result<u64> {
        self.send_file(file.as_fd(), offset, count, true).await
    }

    /// The same by the kernel alone.
    ///
    /// Source: *loop.sendfile* with `fallback=False`.
    ///
    /// # Errors
    /// Those of [`sendfile`](Self::sendfile), and EINVAL, ESPIPE or EOVERFLOW for a file that the
    /// kernel cannot send (asyncio: *SendfileNotAvailableError*); [`Misuse::SendfileUnsupported`] over
    /// TLS as well.
    pub async fn sendfile_native(
        &self,
        file: impl AsFd,
        offset: u64,
        count: Option<u64>,
    ) -> Result<u64> {
        self.send_file(file.as_fd(), offset, count, false).await
    }

    async fn send_file(
        &self,
        file: BorrowedFd<'_>,
        start: u64,
        count: Option<u64>,
        fallback: bool,
    ) -> Result<u64> {
        self.0.core.check_process()?;
        #[cfg(feature = "rustls")]
        if let Some(tls) = self.tls() {
            return if fallback {
                let sending = tls.begin_sendfile().await?;
                copy(self, file, start, count, Way::Tls(&sending)).await
            } else {
                Err(Misuse::SendfileUnsupported.into())
            };
        }
        let (begun, waiter) = promise();
        let transport = self.clone();
        self.0.core.act(move |_| _ = begun.set_result(transport.begin_sendfile()));
        let (sending, drained) = waiter.await.map_err(|_| Misuse::LoopClosed)??;
        drained.await.map_err(|_| Misuse::LoopClosed)??;
        let (mut offset, mut total) = (start, 0);
        loop {
            let left = count.map_or(AT_ONCE, |count| (count - total).min(AT_ONCE));
            if left == 0 {
                return Ok(total);
            }
            match rustix::fs::sendfile(&sending.socket, file, Some(&mut offset), left as usize) {
                Ok(0) => return Ok(total),
                Ok(sent) => total += sent as u64,
                Err(Errno::AGAIN | Errno::INTR) => {}
                // As asyncio: whatever it is, reading and sending will say it again.
                Err(_) if total == 0 && fallback => {
                    return copy(self, file, start, count, Way::Socket(&sending)).await;
                }
                Err(error) => return Err(io::Error::from(error).into()),
            }
            sending.writable().await?;
        }
    }

    /// On the loop's thread: keeps the transport from reading and writing. The waiter's turn
    /// comes when what was written before is sent.
    fn begin_sendfile(&self) -> Result<(Sending, crate::Waiter<io::Result<()>>)> {
        let engine = &self.0.core.engine;
        if engine.stream_info(self.0.token).is_none_or(|info| info.closing) {
            return Err(Misuse::TransportClosing.into());
        }
        if engine.is_pipe(self.0.token) {
            return Err(Misuse::SendfileUnsupported.into());
        }
        let socket = self.socket().ok_or(Misuse::TransportClosing)?;
        let socket = socket.as_fd().try_clone_to_owned()?;
        let Ok(held) = engine.hold_writing(self.0.core.cx(), self.0.token);
        let buffered = held.ok_or(Misuse::SendfileInProgress)?;
        let was_reading = engine.pause_reading(self.0.token);
        let (drained, waiter) = promise();
        self.wait_with(drained);
        if buffered == 0 {
            self.settle(Ok(()));
        }
        Ok((Sending { transport: self.clone(), socket, was_reading }, waiter))
    }

    fn wait_with(&self, waiter: Promise<io::Result<()>>) -> Arc<Promise<io::Result<()>>> {
        let waiter = Arc::new(waiter);
        let old = self.0.held.lock().waiter.replace(waiter.clone());
        drop(old);
        waiter
    }

    /// Wakes a `sendfile` that waits.
    pub(super) fn settle(&self, result: io::Result<()>) {
        let waiter = self.0.held.lock().waiter.take();
        if let Some(waiter) = waiter {
            waiter.set_result(result);
        }
    }
}

/// A file on its way: dropped, the transport reads and writes again.
struct Sending {
    transport: Transport,
    /// The transport has the descriptor itself, and the selector knows each only once.
    socket: OwnedFd,
    was_reading: bool,
}

impl Sending {
    async fn send_all(&self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            // Before the send: the connection may have been closed while the file was read.
            self.writable().await?;
            match sys::send(self.socket.as_fd(), data) {
                Ok(sent) => data = &data[sent..],
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits until the socket takes more, or the connection is lost.
    async fn writable(&self) -> Result<()> {
        let core = &self.transport.0.core;
        let (ready, waiter) = promise();
        let ready = self.transport.wait_with(ready);
        let ready = Handle::once(core.home, move || _ = ready.set_result(Ok(())));
        let descriptor = self.socket.as_raw_fd();
        core.engine.watch(descriptor, Side::Write, Callback::Call(ready))?;
        let _watching = Watching { transport: &self.transport, descriptor };
        core.nudge();
        if core.engine.stream_info(self.transport.0.token).is_none_or(|info| info.closed) {
            return Err(io::Error::from(Errno::CONNABORTED).into());
        }
        Ok(waiter.await.map_err(|_| Misuse::LoopClosed)??)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let (transport, was_reading) = (self.transport.clone(), self.was_reading);
        self.transport.0.core.act(move |cx| {
            let (engine, token) = (&cx.core.engine, transport.0.token);
            let waiter = transport.0.held.lock().waiter.take();
            drop(waiter);
            engine.release_writing(token);
            if was_reading {
                engine.resume_reading(token);
            }
        });
    }
}

/// How the pieces of a file are sent.
enum Way<'a> {
    Socket(&'a Sending),
    #[cfg(feature = "rustls")]
    Tls(&'a crate::tls::SendingFile),
}

impl Way<'_> {
    async fn send(&self, piece: Vec<u8>) -> Result<()> {
        match self {
            Way::Socket(sending) => sending.send_all(&piece).await,
            #[cfg(feature = "rustls")]
            Way::Tls(sending) => sending.send(piece).await,
        }
    }
}

/// Reads a file and sends it, a piece at a time.
async fn copy(
    transport: &Transport,
    file: BorrowedFd<'_>,
    start: u64,
    count: Option<u64>,
    way: Way<'_>,
) -> Result<u64> {
    // A read that is going on outlives this future.
    let file = Arc::new(file.try_clone_to_owned()?);
    let mut total = 0;
    loop {
        let size = count.map_or(BLOCK, |count| (count - total).min(BLOCK)) as usize;
        if size == 0 {
            return Ok(total);
        }
        let (file, at) = (file.clone(), start.saturating_add(total));
        let event_loop = transport.event_loop().ok_or(Misuse::LoopClosed)?;
        let read = event_loop.run_in_executor(move || read_at(&*file, start, at, size));
        // A handle in a future of the loop's own would keep the loop alive.
        drop(event_loop);
        let piece = read.await??;
        if piece.is_empty() {
            return Ok(total);
        }
        let sent = piece.len() as u64;
        way.send(piece).await?;
        total += sent;
    }
}

/// Reads at a position, or on from where the file is where it has no positions and none but its
/// beginning was asked for.
fn read_at(file: impl AsFd, start: u64, at: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut piece = sys::zeroed(size)?;
    let read = retry_on_intr(|| match rustix::io::pread(&file, &mut *piece, at) {
        Err(Errno::SPIPE) if start == 0 => rustix::io::read(&file, &mut *piece),
        result => result,
    })?;
    piece.truncate(read);
    Ok(piece)
}

/// Ends a watch, however the wait ends.
struct Watching<'a> {
    transport: &'a Transport,
    descriptor: RawFd,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let callback = self.transport.0.core.engine.unwatch(self.descriptor, Side::Write);
        drop(callback);
    }
}

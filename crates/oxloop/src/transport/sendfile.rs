//! Files, sent by the kernel (asyncio: *Transferring files*).

use super::{Transport, over_tls};
use crate::engine::Side;
use crate::error::{Misuse, Result};
use crate::event_loop::face::Callback;
use crate::event_loop::{Handle, Promise, promise};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// sendfile(2) sends at most 2,147,479,552 bytes at once.
const AT_ONCE: u64 = 1 << 30;

impl Transport {
    /// Sends a file by sendfile(2), behind what was written before: `count` bytes from `offset`
    /// on, or all there are. Answers how many were sent. The file's own position neither matters
    /// nor changes.
    ///
    /// Until then the transport does not read, and what is written to it is refused with
    /// [`Misuse::SendfileInProgress`] at the loop's exception handler. Dropping the future stops
    /// sending; what was sent stays sent.
    ///
    /// Source: *loop.sendfile* with `fallback=False`; sendfile(2).
    ///
    /// # Errors
    /// [`Misuse::TransportClosing`], [`Misuse::SendfileUnsupported`] for a pipe and over TLS,
    /// [`Misuse::SendfileInProgress`]; [`Error::Io`](crate::Error::Io) of the connection
    /// (ECONNABORTED where this side closed it), or EINVAL for a file that the kernel cannot send:
    /// read it then, and [`write`](Self::write).
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
        let (begun, waiter) = promise();
        let transport = self.clone();
        self.0.core.act(move |_| _ = begun.set_result(transport.begin_sendfile()));
        let (sending, drained) = waiter.await.map_err(|_| Misuse::LoopClosed)??;
        drained.await.map_err(|_| Misuse::LoopClosed)??;
        let (mut offset, mut total) = (offset, 0);
        loop {
            let left = count.map_or(AT_ONCE, |count| (count - total).min(AT_ONCE));
            if left == 0 {
                return Ok(total);
            }
            match rustix::fs::sendfile(&sending.socket, &file, Some(&mut offset), left as usize) {
                Ok(0) => return Ok(total),
                Ok(sent) => total += sent as u64,
                Err(Errno::AGAIN | Errno::INTR) => {}
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
        over_tls!(self, _tls => Err(Misuse::SendfileUnsupported.into()));
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
    /// Waits until the socket takes more, or the connection is lost.
    async fn writable(&self) -> Result<()> {
        let core = &self.transport.0.core;
        let (ready, waiter) = promise();
        let ready = self.transport.wait_with(ready);
        let ready = Handle::once(move || _ = ready.set_result(Ok(())));
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

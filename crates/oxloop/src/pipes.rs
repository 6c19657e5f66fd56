//! Pipes, FIFOs and terminals (asyncio: *Working with pipes*).

use crate::connect::Unclaimed;
use crate::engine::{PipeEnd, PipeKind};
use crate::error::{Misuse, Result};
use crate::event_loop::{EventLoop, promise};
use crate::protocol::{Protocol, ProtocolHandle};
use crate::transport::Transport;
use crate::transport::stream::Connection;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

impl EventLoop {
    /// Reads from a pipe, a FIFO, a terminal or another character device, or a socket.
    ///
    /// The transport owns `pipe` from here on, makes it non-blocking, and closes it in the end.
    /// After the end of the stream, for which `eof_received` is called and its answer ignored, the
    /// connection is lost. What is written to such a transport is dropped. Reading a terminal that
    /// was hung up fails with EIO.
    ///
    /// Source: *loop.connect_read_pipe*.
    ///
    /// # Errors
    /// [`Misuse::PipeExpected`] for files of other kinds; [`Error::Io`](crate::Error::Io) where
    /// there is no descriptor left; [`Misuse::LoopClosed`]. The descriptor is closed.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use oxloop::{EventLoop, Promise, Protocol, Transport};
    /// use std::io::Write;
    /// use std::os::unix::net::UnixStream;
    ///
    /// struct Reader(Promise<Vec<u8>>);
    ///
    /// impl Protocol for Reader {
    ///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
    ///         self.0.set_result(data.to_vec());
    ///     }
    /// }
    ///
    /// let (reader, mut writer) = UnixStream::pair()?;
    /// let event_loop = EventLoop::new()?;
    /// let data = event_loop.run_until_complete(async {
    ///     let (read, data) = event_loop.create_future();
    ///     event_loop.connect_read_pipe(|| Reader(read), reader).await?;
    ///     writer.write_all(b"abc")?;
    ///     data.await
    /// })??;
    /// assert_eq!(data, b"abc");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_read_pipe<P, F>(
        &self,
        factory: F,
        pipe: impl Into<OwnedFd>,
    ) -> Result<(Transport, ProtocolHandle<P>)>
    where
        P: Protocol + 'static,
        F: FnOnce() -> P,
    {
        self.connect_pipe(factory(), pipe.into(), PipeEnd::Read).await
    }

    /// Writes to a pipe, a FIFO, a terminal or another character device, or a socket.
    ///
    /// The transport owns `pipe` from here on, makes it non-blocking, and closes it in the end,
    /// which is how its reader sees the end of the stream:
    /// [`write_eof`](Transport::write_eof) and [`close`](Transport::close) are the same.
    /// When the reader goes, the connection is lost: with EPIPE where something was still to be
    /// written. That is noticed at once, except on character devices. On a socket data from the
    /// other side is taken for its going.
    ///
    /// Source: *loop.connect_write_pipe*.
    ///
    /// # Errors
    /// As [`connect_read_pipe`](Self::connect_read_pipe).
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use oxloop::{EventLoop, Protocol, Transport};
    /// use std::io::Read;
    /// use std::os::unix::net::UnixStream;
    ///
    /// struct Writer;
    ///
    /// impl Protocol for Writer {
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// let (mut reader, writer) = UnixStream::pair()?;
    /// let event_loop = EventLoop::new()?;
    /// event_loop.run_until_complete(async {
    ///     let (transport, _) = event_loop.connect_write_pipe(|| Writer, writer).await?;
    ///     transport.write("abc");
    ///     transport.close();
    ///     Ok::<(), oxloop::Error>(())
    /// })??;
    /// let mut data = [0; 3];
    /// reader.read_exact(&mut data)?;
    /// assert_eq!(&data, b"abc");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect_write_pipe<P, F>(
        &self,
        factory: F,
        pipe: impl Into<OwnedFd>,
    ) -> Result<(Transport, ProtocolHandle<P>)>
    where
        P: Protocol + 'static,
        F: FnOnce() -> P,
    {
        self.connect_pipe(factory(), pipe.into(), PipeEnd::Write).await
    }

    async fn connect_pipe<P: Protocol + 'static>(
        &self,
        protocol: P,
        pipe: OwnedFd,
        end: PipeEnd,
    ) -> Result<(Transport, ProtocolHandle<P>)> {
        self.core().check()?;
        let kind = PipeKind::of(pipe.as_fd())?.ok_or(Misuse::PipeExpected)?;
        let protocol = ProtocolHandle::new(self.core().home, protocol);
        let (made, waiter) = promise();
        let made = Arc::new(made);
        let erased = protocol.erased();
        self.core().act(move |cx| {
            let connected = made.clone();
            let opened = Connection::open_pipe(cx, pipe, (kind, end), erased, move |transport| {
                connected.set_result(Ok(Unclaimed::new(transport, Transport::close)));
            });
            if let Err(error) = opened {
                made.set_result(Err(error));
            }
        });
        let transport = waiter.await.map_err(|_| self.core().refused())??.claim()?;
        Ok((transport, protocol))
    }
}

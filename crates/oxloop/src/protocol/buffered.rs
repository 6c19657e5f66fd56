//! The protocol that is read into (asyncio: *BufferedProtocol*).

use super::Protocol;
use crate::error::Error;
use crate::transport::Transport;

/// A protocol that supplies the memory which data is received into: no copy is made on the way.
///
/// In the place of [`Protocol::data_received`] it has two methods, which alternate:
///
/// ```text
/// connection_made  ( get_buffer [ buffer_updated ] )*  [ eof_received ]  connection_lost
/// ```
///
/// Everything else is as with a [`Protocol`], panics included. Whatever takes a protocol takes
/// this kind wrapped into [`Buffered`], which is a `Protocol`: the two kinds can follow each
/// other on one connection ([`Transport::set_protocol`]).
///
/// Source: *asyncio.BufferedProtocol*.
///
/// ```
/// # fn main() -> oxloop::Result<()> {
/// use oxloop::{Buffered, BufferedProtocol, EventLoop, Promise, Transport};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// /// Receives messages of eight bytes.
/// struct Messages {
///     message: [u8; 8],
///     filled: usize,
///     first: Promise<[u8; 8]>,
/// }
///
/// impl BufferedProtocol for Messages {
///     fn get_buffer(&mut self, _sizehint: Option<usize>) -> &mut [u8] {
///         &mut self.message[self.filled..]
///     }
///
///     fn buffer_updated(&mut self, _: &Transport, nbytes: usize) {
///         self.filled += nbytes;
///         if self.filled == self.message.len() {
///             self.first.set_result(self.message);
///             self.filled = 0;
///         }
///     }
/// }
///
/// let (ours, mut theirs) = UnixStream::pair()?;
/// let event_loop = EventLoop::new()?;
/// let message = event_loop.run_until_complete(async {
///     let (first, message) = event_loop.create_future();
///     let factory = || Buffered(Messages { message: [0; 8], filled: 0, first });
///     event_loop.create_connection(factory, ours).await?;
///     theirs.write_all(b"message.mess")?;
///     message.await
/// })??;
/// assert_eq!(&message, b"message.");
/// # Ok(())
/// # }
/// ```
pub trait BufferedProtocol: Send {
    /// The connection is there, and this is its transport; keep a clone to write on it later.
    fn connection_made(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// Where the next data goes: memory of at least one byte, any more is used as far as there
    /// is data. An empty buffer is an error which ends the connection.
    ///
    /// `sizehint` is how many bytes there are, where that is known; from a socket it is not, and
    /// `None` (asyncio's -1). The end of the stream is found by such a read, too: then
    /// [`eof_received`](Self::eof_received) follows and no `buffer_updated`.
    fn get_buffer(&mut self, sizehint: Option<usize>) -> &mut [u8];

    /// The first `nbytes` of the buffer are new; never none. A protocol that has handed the
    /// connection over in `get_buffer` is told of this last piece all the same, as it has it.
    fn buffer_updated(&mut self, transport: &Transport, nbytes: usize);

    /// The peer will send nothing more. True keeps the connection open for writing, false
    /// closes it.
    fn eof_received(&mut self, transport: &Transport) -> bool {
        let _ = transport;
        false
    }

    /// The write buffer is over its high-water mark ([`Protocol::pause_writing`]).
    fn pause_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The write buffer is at or under its low-water mark: writing may go on.
    fn resume_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The connection is closed, the last call ([`Protocol::connection_lost`]).
    fn connection_lost(&mut self, transport: &Transport, error: Option<Error>) {
        let _ = (transport, error);
    }
}

/// A [`BufferedProtocol`] where a [`Protocol`] is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffered<P>(pub P);

impl<P: BufferedProtocol> Protocol for Buffered<P> {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.connection_made(transport);
    }

    /// Copies data that was not read by [`get_buffer`](BufferedProtocol::get_buffer) into the
    /// protocol's buffer, piece by piece. Where a buffer is empty the connection is aborted, and
    /// the rest dropped.
    ///
    /// Source: `asyncio.protocols._feed_data_to_buffered_proto`.
    fn data_received(&mut self, transport: &Transport, mut data: &[u8]) {
        while !data.is_empty() {
            let buffer = self.0.get_buffer(Some(data.len()));
            let nbytes = buffer.len().min(data.len());
            if nbytes == 0 {
                return transport.abort();
            }
            buffer[..nbytes].copy_from_slice(&data[..nbytes]);
            self.0.buffer_updated(transport, nbytes);
            data = &data[nbytes..];
        }
    }

    fn as_buffered(&mut self) -> Option<&mut dyn BufferedProtocol> {
        Some(&mut self.0)
    }

    fn eof_received(&mut self, transport: &Transport) -> bool {
        self.0.eof_received(transport)
    }

    fn pause_writing(&mut self, transport: &Transport) {
        self.0.pause_writing(transport);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        self.0.resume_writing(transport);
    }

    fn connection_lost(&mut self, transport: &Transport, error: Option<Error>) {
        self.0.connection_lost(transport, error);
    }
}

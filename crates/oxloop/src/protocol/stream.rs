//! The streaming protocol (asyncio: *Protocol*).

use super::BufferedProtocol;
use crate::error::Error;
use crate::transport::Transport;

/// What a program does on a connection: one object for each, with the state it needs.
///
/// All methods are called on the loop's thread, one at a time, with no lock of the loop held.
/// From inside of each the transport may be used freely; what follows from that for the
/// protocol itself ([`pause_writing`](Self::pause_writing)) is told when the callback has
/// returned. A panic goes to the loop's exception handler, the connection is aborted where
/// asyncio does so, and the loop goes on.
///
/// Source: *asyncio.Protocol*; only `data_received` has to be written.
///
/// ```
/// use oxloop::{Protocol, Transport};
///
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
/// ```
pub trait Protocol: Send {
    /// The connection is there, and this is its transport; keep a clone to write on it later.
    fn connection_made(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// Data arrived: bytes as the network cut them, never none.
    fn data_received(&mut self, transport: &Transport, data: &[u8]);

    /// The protocol as one that is read into, in the place of `data_received`; `None`, unless it
    /// is a [`Buffered`](super::Buffered) one or passes another's answer on. The answer is of the
    /// same kind each time.
    fn as_buffered(&mut self) -> Option<&mut dyn BufferedProtocol> {
        None
    }

    /// The peer will send nothing more. True keeps the connection open for writing, false
    /// closes it.
    fn eof_received(&mut self, transport: &Transport) -> bool {
        let _ = transport;
        false
    }

    /// The write buffer is over its high-water mark: write no more for now.
    ///
    /// A pause that one of this protocol's own callbacks brings about comes when that callback
    /// has returned, and not at all if the buffer is empty enough again by then.
    fn pause_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The write buffer is at or under its low-water mark: writing may go on.
    fn resume_writing(&mut self, transport: &Transport) {
        let _ = transport;
    }

    /// The connection is closed, the last call. `None` says that this side closed it, or that
    /// the peer did and that was all.
    fn connection_lost(&mut self, transport: &Transport, error: Option<Error>) {
        let _ = (transport, error);
    }
}

/// So that one factory can choose between protocols.
impl<P: Protocol + ?Sized> Protocol for Box<P> {
    fn connection_made(&mut self, transport: &Transport) {
        (**self).connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        (**self).data_received(transport, data);
    }

    fn as_buffered(&mut self) -> Option<&mut dyn BufferedProtocol> {
        (**self).as_buffered()
    }

    fn eof_received(&mut self, transport: &Transport) -> bool {
        (**self).eof_received(transport)
    }

    fn pause_writing(&mut self, transport: &Transport) {
        (**self).pause_writing(transport);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        (**self).resume_writing(transport);
    }

    fn connection_lost(&mut self, transport: &Transport, error: Option<Error>) {
        (**self).connection_lost(transport, error);
    }
}

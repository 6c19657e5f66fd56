//! The datagram protocol (asyncio: *DatagramProtocol*).

use crate::address::Address;
use crate::error::Error;
use crate::transport::DatagramTransport;
use std::io;

/// What a program does with datagrams: one object for each endpoint, with the state it needs.
///
/// All methods are called on the loop's thread, one at a time, with no lock of the loop held.
/// From inside of each the transport may be used freely; what follows from that for the
/// protocol itself is told when the callback has returned. A panic goes to the loop's exception
/// handler, and the endpoint goes on.
///
/// Source: *asyncio.DatagramProtocol*; only `datagram_received` has to be written.
///
/// ```
/// use oxloop::{Address, DatagramProtocol, DatagramTransport};
///
/// struct Echo;
///
/// impl DatagramProtocol for Echo {
///     fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], addr: &Address) {
///         transport.send_to(data, addr);
///     }
/// }
/// ```
pub trait DatagramProtocol: Send {
    /// The endpoint is there, and this is its transport; keep a clone to send by it later.
    fn connection_made(&mut self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// A datagram arrived, whole, and `addr` sent it; it may be empty. A Unix socket that has no
    /// name sends from an [unnamed](crate::UnixAddress::is_unnamed) address.
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], addr: &Address);

    /// A datagram could not be sent or received: EMSGSIZE for one that is too large, ECONNREFUSED
    /// where the network says that nobody is there... The endpoint goes on.
    ///
    /// What is wrong with a datagram that is being sent is told in a later turn.
    fn error_received(&mut self, transport: &DatagramTransport, error: io::Error) {
        let _ = (transport, error);
    }

    /// The write buffer is over its high-water mark: send no more for now.
    ///
    /// A pause that one of this protocol's own callbacks brings about comes when that callback
    /// has returned, and not at all if the buffer is empty enough again by then.
    fn pause_writing(&mut self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// The write buffer is at or under its low-water mark: sending may go on.
    fn resume_writing(&mut self, transport: &DatagramTransport) {
        let _ = transport;
    }

    /// The endpoint is closed, the last call. `None` says that this side closed it.
    fn connection_lost(&mut self, transport: &DatagramTransport, error: Option<Error>) {
        let _ = (transport, error);
    }
}

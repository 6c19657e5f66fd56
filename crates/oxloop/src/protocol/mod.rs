//! What the application writes (asyncio: *Protocols*).
//!
//! The legal order of the calls of one connection (invariant 1):
//!
//! ```text
//! connection_made  ( data_received* )  [ eof_received ]  connection_lost
//!                  ( pause_writing resume_writing )* [ pause_writing ]
//! ```
//!
//! With datagrams, `datagram_received` and `error_received` come in the place of `data_received`,
//! in any order and number, and there is no end of the stream.
//!
//! With a child process it is
//!
//! ```text
//! connection_made  ( pipe_data_received | pipe_connection_lost | process_exited )*  connection_lost
//! ```
//!
//! where `process_exited` comes once, `pipe_connection_lost` once for each pipe, and no data of a
//! pipe after that.
//!
//! `connection_made` and `connection_lost` come exactly once, everything else between them; no
//! data comes after `eof_received`; `pause_writing` and `resume_writing` take turns.

mod buffered;
pub(crate) mod cell;
mod datagram;
pub(crate) mod slot;
mod stream;
mod subprocess;

pub use buffered::{Buffered, BufferedProtocol};
pub use cell::ProtocolHandle;
pub use datagram::DatagramProtocol;
pub use stream::Protocol;
pub use subprocess::SubprocessProtocol;

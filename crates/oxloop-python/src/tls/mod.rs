//! TLS by Python's own `ssl` module: the caller's SSLContext, obeyed entirely.
//!
//! | file | what it is |
//! | --- | --- |
//! | `engine.rs` | an SSLObject between two MemoryBIOs |
//! | `protocol.rs` | `SSLProtocol`: the protocol of the transport below |
//! | `layer.rs` | how the crate's rules (`oxloop::tls`) reach Python objects |
//! | `reading.rs` | decrypted data on its way to the application |
//! | `transport.rs` | `SSLProtocolTransport`: what the application writes to |

mod engine;
mod layer;
mod protocol;
mod reading;
mod transport;

pub(crate) use layer::Layer;
pub(crate) use protocol::{Session, SslProtocol, make_ssl_protocol};
pub(crate) use transport::TlsTransport;

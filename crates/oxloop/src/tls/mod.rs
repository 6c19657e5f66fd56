//! TLS between a transport and a protocol (asyncio: *TLS Upgrade*, and `ssl=` everywhere).
//!
//! | file | what it does |
//! | --- | --- |
//! | `state.rs` | handshake, wrapped, flushing, shutdown; who is paused (pure) |
//! | `layer.rs` | the order of things: what each event makes happen |
//! | `engine.rs` | what encrypts: bytes in, bytes out |
//! | `options.rs`, `start_tls.rs`, `extra_info.rs` | what a Rust program says, and asks |
//! | `over.rs` | where a new connection gets it |
//! | `connection.rs`, `face.rs` | one connection of the Rust face: below, above, and the layer |
//! | `sendfile.rs` | files |
//! | `rustls.rs`, `wire.rs` | its engine, and what waits around it |
//!
//! A face says what encrypts and who is above and below, by [`TlsLayer`]; the rules are shared.
//! Programs use TLS by their face; only who writes one needs this module. The Rust face is there
//! with the feature `tls`.

mod engine;
mod layer;
pub(crate) mod over;
mod state;

#[cfg(feature = "rustls")]
mod connection;
#[cfg(feature = "rustls")]
mod extra_info;
#[cfg(feature = "rustls")]
mod face;
#[cfg(feature = "rustls")]
mod options;
#[cfg(feature = "rustls")]
mod rustls;
#[cfg(feature = "rustls")]
mod sendfile;
#[cfg(feature = "rustls")]
mod start_tls;
#[cfg(feature = "rustls")]
mod wire;

pub use engine::{Decrypted, TlsEngine};
pub use layer::{Failed, Progress, Pulled, Timer, TlsLayer};
pub use state::{Change, Direction, Session, TlsState};

#[cfg(feature = "rustls")]
pub(crate) use connection::TlsConnection;
#[cfg(feature = "rustls")]
pub(crate) use options::Secured;
#[cfg(feature = "rustls")]
pub use options::{StartTlsOptions, TlsClientOptions, TlsServerOptions};
#[cfg(feature = "rustls")]
pub(crate) use sendfile::SendingFile;

//! TLS between a transport and a protocol (asyncio: *TLS Upgrade*, and `ssl=` everywhere).
//!
//! | file | what it does |
//! | --- | --- |
//! | `state.rs` | handshake, wrapped, flushing, shutdown; who is paused (pure) |
//! | `layer.rs` | the order of things: what each event makes happen |
//!
//! A face says what encrypts and who is above and below, by [`TlsLayer`]; the rules are shared.
//! Programs use TLS by their face; only who writes one needs this module.

mod layer;
mod state;

pub use layer::{Failed, Progress, Pulled, Timer, TlsLayer};
pub use state::{Change, Direction, Session, TlsState};

//! What the loop hands to protocols.

mod callbacks;
pub(crate) mod common;
pub(crate) mod datagram;
mod datagram_callbacks;
pub(crate) mod extra_info;
mod handler;
mod peers;
pub(crate) mod pipe;
mod pipe_callbacks;
mod sendfile;
pub(crate) mod stream;

pub(crate) use handler::{TransportRef, finalize};

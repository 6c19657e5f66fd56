//! What the loop hands to protocols.

mod callbacks;
pub(crate) mod extra_info;
mod handler;
pub(crate) mod pipe;
mod pipe_callbacks;
pub(crate) mod stream;

pub(crate) use handler::{TransportRef, finalize};

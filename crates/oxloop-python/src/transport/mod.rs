//! What the loop hands to protocols.

mod callbacks;
pub(crate) mod extra_info;
mod handler;
pub(crate) mod pipe;
mod pipe_callbacks;
mod sendfile;
pub(crate) mod stream;

pub(crate) use handler::{TransportRef, finalize};

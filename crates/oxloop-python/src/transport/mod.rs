//! What the loop hands to protocols.

mod callbacks;
mod extra_info;
pub(crate) mod stream;

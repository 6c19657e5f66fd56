//! What the loop hands to protocols.

mod callbacks;
pub(crate) mod datagram;
mod datagram_callbacks;
pub(crate) mod extra_info;
mod peers;
pub(crate) mod stream;

//! What the loop hands to protocols.

mod callbacks;
pub(crate) mod extra_info;
pub(crate) mod stream;

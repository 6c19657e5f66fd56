//! Unix: what every system of the family has, and a file for each part that differs.

pub(super) mod clock;
pub(super) mod descriptor;
pub(crate) mod forks;
pub(super) mod pipe;
pub(super) mod process;
pub(super) mod selector;
pub(super) mod socket;
pub(super) mod waker;

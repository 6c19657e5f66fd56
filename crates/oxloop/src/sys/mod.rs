//! The operating system, and the only unsafe code of the crate.
//!
//! Each system supplies, under the same names:
//!
//! | name | what it is |
//! | --- | --- |
//! | [`Selector`], [`Interest`], [`Events`] | waits for many descriptors at once (level-triggered); what for; what came |
//! | [`Waker`] | ends a wait from another thread |
//! | [`Descriptor`] | a descriptor we own, or one lent to us by an object that closes it |
//! | `recv_from`, `send_to`, `send_batch` | datagrams: one system call each |
//! | `recv`, `send`, `send_vectored`, `accept`, `shutdown_write` | stream sockets: one system call each |
//! | [`Accepted`] | a connection that was taken, and its peer |
//! | `is_broken` | whether a send would fail |
//! | `read`, `write`, `write_vectored` | pipes: one system call each |
//! | [`PipeKind`] | whether a descriptor is a pipe's, a socket's or a character device's |
//! | `set_nonblocking`, `duplicate` | of a pipe's descriptor |
//! | `PIPE_SIZE`, `enlarge` | how much a pipe holds at first; lets it hold more, or does nothing where there is no such thing |
//! | [`Child`], [`ChildStatus`] | a child process: its exit, signals to it |
//! | `forks` | whether this process is a fork of the one that made something |
//! | `monotonic` | the clock |
//! | `unix_name` | the name in a Unix socket's address |
//! | `zeroed` | memory for a buffer |
//!
//! Linux has them by epoll(7) and eventfd(2). A kqueue system follows by adding
//! `unix/selector/kqueue.rs` and `unix/waker/pipe.rs` beside these.

#[cfg(not(target_os = "linux"))]
compile_error!("oxloop runs on Linux (x86-64, aarch64) only, for now");

#[cfg(test)]
pub(crate) mod failing;
mod room;
mod unix;
mod zeroed;

pub use room::Room;
pub(crate) use unix::clock::monotonic;
pub use unix::descriptor::Descriptor;
pub(crate) use unix::forks;
pub use unix::pipe::PipeKind;
pub(crate) use unix::pipe::{
    PIPE_SIZE, duplicate, enlarge, read, set_nonblocking, write, write_vectored,
};
pub(crate) use unix::process::{Child, ChildStatus};
pub(crate) use unix::selector::{Events, Interest, Selector};
pub use unix::socket::Accepted;
pub(crate) use unix::socket::{
    accept, is_broken, recv, recv_from, send, send_batch, send_to, send_vectored, shutdown_write,
    unix_name,
};
pub(crate) use unix::waker::Waker;
pub(crate) use zeroed::zeroed;

//! An event loop with asyncio's transports, protocols and write flow control.
//!
//! A *protocol* is what a program writes: an object with a method for each thing that can happen
//! on a connection. A *transport* is what the loop hands back: one side of a connection, to
//! write on. The *event loop* runs it all on one thread. Names, order and meaning are those of
//! Python's asyncio, pages *Transports and Protocols* and *Event Loop*; who knows them knows
//! this crate.
//!
//! ```
//! use oxloop::{Error, EventLoop, Promise, Protocol, Transport};
//!
//! struct EchoServer;
//!
//! impl Protocol for EchoServer {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! struct EchoClient {
//!     echo: Promise<Vec<u8>>,
//! }
//!
//! impl Protocol for EchoClient {
//!     fn connection_made(&mut self, transport: &Transport) {
//!         transport.write("Hello World!");
//!     }
//!
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         self.echo.set_result(data.to_vec());
//!         transport.close();
//!     }
//! }
//!
//! fn main() -> oxloop::Result<()> {
//!     let event_loop = EventLoop::new()?;
//!     event_loop.run_until_complete(async {
//!         let server = event_loop.create_server(|| EchoServer, ("127.0.0.1", 0)).await?;
//!         let (echo, echoed) = event_loop.create_future();
//!         event_loop.create_connection(|| EchoClient { echo }, server.local_addrs()).await?;
//!         assert_eq!(echoed.await?, b"Hello World!");
//!         server.close();
//!         Ok(())
//!     })?
//! }
//! ```
//!
//! # Glossary
//!
//! | word | what it is | asyncio |
//! | --- | --- | --- |
//! | [`EventLoop`] | a handle of a loop: runs, schedules, connects, listens | `AbstractEventLoop` |
//! | *turn* | what was ready, one look at the descriptors, the timers that are due; first in, first out | `_run_once` |
//! | *the loop's thread* | the one that runs the loop; while none does, whoever calls | |
//! | [`Protocol`] | what happens on a connection | `Protocol` |
//! | [`BufferedProtocol`] | the same, with a buffer of its own to read into | `BufferedProtocol` |
//! | [`ProtocolHandle`] | the protocol of a connection, from outside of its callbacks | the object itself |
//! | [`Transport`] | one side of a connection | `Transport` |
//! | [`DatagramTransport`], [`DatagramProtocol`] | the same two for datagrams: UDP, Unix sockets | the same |
//! | [`SubprocessTransport`], [`SubprocessProtocol`] | the same two for a child process | the same |
//! | [`ChildStdio`] | what a child's standard stream is: a pipe, a file, ... | `PIPE`, `DEVNULL`, ... |
//! | [`Payload`] | what can be written | bytes-like object |
//! | *pause*, *resume* | the write buffer is over its high-water mark, at or under its low one | flow control |
//! | [`Server`] | listening sockets, and the connections they made | `Server` |
//! | [`Handle`], [`TimerHandle`] | a scheduled callback, to cancel it | the same |
//! | [`WatchHandle`] | a watched descriptor, to end it | what `add_reader` makes |
//! | [`Task`] | a future that the loop runs beside others | `Task` |
//! | *TLS* (feature `tls`) | `ConnectOptions::tls`, `ServerOptions::tls`, `EventLoop::start_tls`: a transport that encrypts, over rustls | `ssl=`, `start_tls` |
//! | [`Promise`], [`Waiter`] | the two halves of a value that will come | `Future` |
//! | [`ExceptionContext`] | an error that has no caller | the handler's `context` |
//! | [`Misuse`] | an error of the caller | `RuntimeError`, `ValueError` |
//!
//! # Where what is
//!
//! | file | |
//! | --- | --- |
//! | `protocol/` | **what the application writes**: the traits, and how the loop calls them |
//! | `transport/` | **what the loop hands back**: transports, flow control, write buffer, states |
//! | `event_loop/` | **what runs it**: running, scheduling, watching, tasks, errors |
//! | `connect.rs`, `racing.rs`, `server.rs`, `target.rs` | opening connections, servers, to and at what |
//! | `unix.rs`, `address.rs` | the same for Unix sockets; names of sockets |
//! | `datagrams.rs` | datagram endpoints |
//! | `pipes.rs` | pipes and terminals |
//! | `process.rs`, `children.rs` | starting child processes; waiting for their exits |
//! | [`tls`] | TLS: its rules, its engine, and what the feature `tls` adds |
//! | `resolver.rs`, `executor.rs`, `signals.rs` | names, threads for what blocks, Unix signals |
//! | `error.rs` | the errors |
//! | [`engine`] | the loop itself, without an opinion on what a callback is: for those who put another face on it |
//! | `sys/` | the operating system, and the only unsafe code |
//!
//! # Errors
//!
//! What the system says keeps its errno ([`Error::raw_os_error`]). A panic in a callback or a
//! protocol goes to the loop's exception handler
//! ([`set_exception_handler`](EventLoop::set_exception_handler), by default the log), and the
//! loop goes on. So does a panic in the drop of whatever the loop was given: callbacks, futures and
//! their outputs, protocols, [`Bytes`]. Only a drop that panics while another panic unwinds through
//! the same closure, future or protocol cannot be caught: Rust ends the process then. Calls that come too late on a connection do nothing.

#![deny(unsafe_code)]
#![warn(missing_docs)]

#[allow(unreachable_pub, reason = "`pub` is what a part shows to the rest of the engine")]
pub mod engine;
pub mod error;

mod address;
mod children;
mod connect;
mod datagrams;
mod event_loop;
mod executor;
#[allow(unreachable_pub, reason = "`pub` is what a part shows to the engine")]
mod memory;
mod pipes;
mod process;
mod protocol;
mod racing;
mod resolver;
mod server;
mod signals;
#[allow(unsafe_code, reason = "the system's interface")]
mod sys;
mod target;
pub mod tls;
mod transport;
mod unix;

pub use address::{Address, UnixAddress};
pub use bytes::Bytes;
pub use connect::ConnectOptions;
pub use datagrams::{DatagramAddr, DatagramOptions, Family};
pub use error::{Error, Misuse, Result};
pub use event_loop::{
    EventLoop, ExceptionContext, Handle, Promise, Sleep, Task, TimerHandle, Waiter, WatchHandle,
    get_running_loop,
};
pub use executor::ExecutorCall;
pub use process::{ChildStdio, SubprocessOptions};
pub use protocol::{
    Buffered, BufferedProtocol, DatagramProtocol, Protocol, ProtocolHandle, SubprocessProtocol,
};
pub use server::{Server, ServerOptions};
pub use target::Target;
pub use transport::{DatagramTransport, Payload, SubprocessTransport, Transport, flow_control};
pub use unix::{UnixConnectOptions, UnixServerOptions, UnixTarget};

#[cfg(feature = "rustls")]
pub use rustls;
#[cfg(feature = "rustls")]
pub use tls::{StartTlsOptions, TlsClientOptions, TlsServerOptions};

/// The README's example is tested as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Errors: the caller's misuse apart from what the system says; errno is kept.

use crate::address::{Address, UnixAddress};
use std::io;
use std::net::SocketAddr;

/// Why an operation of the loop failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused; `raw_os_error()` of the source is its errno.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The caller asked for something that the state forbids.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// No address of a host could be connected to; the errors stand in the order of the tries.
    #[error("Multiple exceptions: {}", list(.0))]
    Connect(Vec<io::Error>),
    /// A listening socket could not be bound to one of its addresses.
    #[error("error while attempting to bind on address {address}: {source}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A listening Unix socket could not be bound to its address.
    #[error("error while attempting to bind on address {address:?}: {source}")]
    BindUnix {
        /// The address that was asked for.
        address: UnixAddress,
        /// What the system said.
        source: io::Error,
    },
    /// TLS failed: the peer broke its rules, or a certificate is not accepted (feature `tls`).
    #[cfg(feature = "rustls")]
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// A protocol's callback panicked; the text is the panic's.
    #[error("a callback panicked: {0}")]
    Panic(String),
    /// What was waited for will not come: a task was cancelled, a promise dropped, or the loop
    /// closed.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// The errno behind the error; of several, the first one's.
    ///
    /// ```
    /// let refused = std::io::Error::from_raw_os_error(111);
    /// assert_eq!(oxloop::Error::from(refused).raw_os_error(), Some(111));
    /// assert_eq!(oxloop::Error::Cancelled.raw_os_error(), None);
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Io(error)
            | Error::Bind { source: error, .. }
            | Error::BindUnix { source: error, .. } => error.raw_os_error(),
            Error::Connect(errors) => errors.first()?.raw_os_error(),
            #[cfg(feature = "rustls")]
            Error::Tls(_) => None,
            Error::Misuse(_) | Error::Panic(_) | Error::Cancelled => None,
        }
    }

    /// The same error for one more who has to hear of it.
    #[cfg(feature = "rustls")]
    pub(crate) fn again(&self) -> Error {
        let same = |error: &io::Error| match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        match self {
            Error::Io(error) => Error::Io(same(error)),
            Error::Misuse(misuse) => Error::Misuse(misuse.clone()),
            Error::Connect(errors) => Error::Connect(errors.iter().map(same).collect()),
            Error::Bind { address, source } => {
                Error::Bind { address: *address, source: same(source) }
            }
            Error::BindUnix { address, source } => {
                Error::BindUnix { address: address.clone(), source: same(source) }
            }
            Error::Tls(error) => Error::Tls(error.clone()),
            Error::Panic(text) => Error::Panic(text.clone()),
            Error::Cancelled => Error::Cancelled,
        }
    }
}

/// What a caller must not do: asyncio raises RuntimeError or ValueError for these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The loop was closed.
    #[error("Event loop is closed")]
    LoopClosed,
    /// The loop was made by a process of which this one is a fork: it is the parent's.
    #[error("Event loop belongs to the parent process")]
    Forked,
    /// The loop runs already.
    #[error("This event loop is already running")]
    LoopRunning,
    /// This thread runs another loop.
    #[error("Cannot run the event loop while another loop is running")]
    AnotherLoopRunning,
    /// `close()` while the loop runs.
    #[error("Cannot close a running event loop")]
    CloseRunning,
    /// `get_running_loop()` outside of a loop's callbacks.
    #[error("no running event loop")]
    NoRunningLoop,
    /// `run_until_complete` was ended by `stop()`.
    #[error("Event loop stopped before Future completed.")]
    LoopStopped,
    /// `write()` came after `write_eof()`.
    #[error("Cannot call write() after write_eof()")]
    WriteAfterEof,
    /// `writelines()` came after `write_eof()`.
    #[error("Cannot call writelines() after write_eof()")]
    WritelinesAfterEof,
    /// `set_write_buffer_limits` with limits that are none.
    #[error(transparent)]
    Limits(#[from] InvalidLimits),
    /// A server that was closed cannot be started again.
    #[error("server is closed")]
    ServerClosed,
    /// `serve_forever` waits already.
    #[error("server is already being awaited on serve_forever()")]
    ServerAwaited,
    /// A socket of another kind (datagrams, ...) where a stream is needed.
    #[error("A Stream Socket was expected")]
    StreamExpected,
    /// A socket of another kind (TCP, datagrams, ...) where a Unix stream is needed.
    #[error("A UNIX Domain Stream Socket was expected")]
    UnixStreamExpected,
    /// A socket of another kind (TCP, ...) where one for datagrams is needed.
    #[error("A datagram socket was expected")]
    DatagramExpected,
    /// `send_to()` on an endpoint that was made for another remote address.
    #[error("Invalid address: must be {0:?}")]
    RemoteAddress(Address),
    /// `create_datagram_endpoint` without an address, a family or a socket.
    #[error("unexpected address family")]
    NoFamily,
    /// Local and remote address of an endpoint have no family in common.
    #[error("can not get address information")]
    NoCommonFamily,
    /// Options that make a socket, given together with one.
    #[error("socket modifiers can not be used when a socket is specified")]
    SocketModifiers,
    /// A regular file, a directory or a block device where a pipe's end is needed.
    #[error("Pipe transport is only for pipes, sockets and character devices")]
    PipeExpected,
    /// `sendfile()` on a transport that is closing.
    #[error("Transport is closing")]
    TransportClosing,
    /// `sendfile()` on a pipe, or `sendfile_native()` over TLS.
    #[error("sendfile is not supported for the transport")]
    SendfileUnsupported,
    /// `write()`, or another `sendfile()`, before the file is sent.
    #[error("unable to write; sendfile is in progress")]
    SendfileInProgress,
    /// `write_eof()` over TLS, whose only end is `close()`.
    #[error("write_eof() is not supported over TLS")]
    NoWriteEof,
    /// `start_tls()` on a pipe, or on another loop's transport.
    #[error("transport is not supported by start_tls()")]
    StartTlsUnsupported,
    /// A TLS client needs a name to check the server's certificate for, and there is no host that
    /// it could be.
    #[error("You must set server_name when using TLS without a host")]
    NoServerName,
    /// What should be the name in a server's certificate can be none.
    #[error("{0:?} is not a valid server name")]
    ServerName(String),
    /// A time-out of TLS is zero.
    #[error("the time-out of a TLS {0} should be a positive number")]
    TlsTimeout(&'static str),
    /// The signal cannot be handled, or is none.
    #[error("signal {0} cannot be caught")]
    Signal(i32),
    /// A `BufferedProtocol` gave no memory to read into.
    #[error("get_buffer() returned an empty buffer")]
    EmptyBuffer,
    /// The descriptor belongs to a transport or a server: it cannot be watched as well.
    #[error("File descriptor {0} is used by transport")]
    UsedByTransport(i32),
    /// `Protocol` state was asked for from inside its own callback.
    #[error("the protocol is running a callback")]
    ProtocolBusy,
}

/// Limits of a write buffer that are in no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("high ({high}) must be >= low ({low}) must be >= 0")]
pub struct InvalidLimits {
    /// The high-water mark asked for, bytes.
    pub high: usize,
    /// The low-water mark asked for, bytes.
    pub low: usize,
}

/// Result of the crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn list(errors: &[io::Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

//! What the loop hands back (asyncio: *Transports*).
//!
//! | file | what it does |
//! | --- | --- |
//! | `stream.rs` | one connection between engine and protocol |
//! | `datagram.rs` | one datagram endpoint, likewise, and its transport |
//! | `subprocess.rs` | one child process, likewise |
//! | `sendfile.rs` | files, sent by the kernel where it can |
//! | `payload.rs` | what can be written |
//! | `posted.rs` | what other threads have written |
//! | `flow_control.rs` | watermarks: when to pause and to resume (pure) |
//! | `write_buffer.rs` | bytes waiting to be sent (pure) |
//! | `datagram_queue.rs` | datagrams waiting to be sent (pure) |
//! | `gather.rs` | the writes of one turn as one send (pure) |
//! | `connection_state.rs` | open, closing, lost (pure) |

#[allow(unreachable_pub, reason = "`pub` is what a part shows to the engine")]
pub(crate) mod connection_state;
pub(crate) mod datagram;
#[allow(unreachable_pub, reason = "`pub` is what a part shows to the engine")]
pub(crate) mod datagram_queue;
pub mod flow_control;
#[allow(unreachable_pub, reason = "`pub` is what a part shows to the engine")]
pub(crate) mod gather;
mod payload;
pub(crate) mod posted;
mod sendfile;
pub(crate) mod stream;
pub(crate) mod subprocess;
#[allow(unreachable_pub, reason = "`pub` is what a part shows to the engine")]
pub(crate) mod write_buffer;

pub use datagram::DatagramTransport;
pub use payload::Payload;
pub use subprocess::SubprocessTransport;

use crate::address::Address;
use crate::error::Misuse;
use crate::event_loop::EventLoop;
use crate::protocol::slot::Caller;
use crate::protocol::{Protocol, ProtocolHandle};
#[cfg(feature = "rustls")]
use crate::tls::{Direction, TlsConnection};
use flow_control::Limits;
use posted::post;
use socket2::Socket;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use stream::Connection;

/// One side of a connection: what is written on it, and how it is closed.
///
/// A clone is the same connection, and may be used from any thread: calls of other threads are
/// done on the loop's, in their order. Methods that need an answer at once
/// ([`is_closing`](Self::is_closing), [`get_write_buffer_size`](Self::get_write_buffer_size))
/// give the present state there. A call that comes after the end of the connection does nothing.
///
/// Dropping all transports of a connection does not close it: the loop keeps it, as its
/// protocol still hears of data.
///
/// Source: asyncio, *Transports* (Transport, ReadTransport, WriteTransport, BaseTransport).
#[derive(Clone)]
pub struct Transport(
    /// What has the descriptor.
    Arc<Connection>,
    /// What is on it.
    #[cfg(feature = "rustls")]
    Option<Arc<TlsConnection>>,
);

/// Over TLS it is done so.
macro_rules! over_tls {
    ($transport:expr, $tls:ident => $what:expr) => {
        #[cfg(feature = "rustls")]
        if let Some($tls) = &$transport.1 {
            return $what;
        }
    };
}
pub(crate) use over_tls;

impl Transport {
    fn plain(connection: Arc<Connection>) -> Transport {
        Transport(
            connection,
            #[cfg(feature = "rustls")]
            None,
        )
    }

    /// The transport of a TLS connection on this one.
    #[cfg(feature = "rustls")]
    pub(crate) fn under(&self, tls: Arc<TlsConnection>) -> Transport {
        Transport(self.0.clone(), Some(tls))
    }

    #[cfg(feature = "rustls")]
    pub(crate) fn tls(&self) -> Option<&Arc<TlsConnection>> {
        self.1.as_ref()
    }

    #[cfg(feature = "rustls")]
    pub(crate) fn is_pipe(&self) -> bool {
        self.0.core.engine.is_pipe(self.0.token)
    }

    /// Writes data without waiting: what the kernel does not take at once is buffered.
    ///
    /// Small writes of one turn leave together at its end (see the write rule in ARCHITECTURE.md).
    /// On a connection that is closed the data is dropped. Writing after
    /// [`write_eof`](Self::write_eof) is an error: the data is dropped and the loop's exception
    /// handler hears of [`Misuse::WriteAfterEof`].
    ///
    /// [`Bytes`](crate::Bytes) are kept without a copy; where they are made of an owner with a
    /// `Drop` of its own, that drop must not use the loop.
    ///
    /// Source: *WriteTransport.write*.
    ///
    /// ```
    /// # fn write(transport: &oxloop::Transport) {
    /// transport.write("borrowed, copied if it has to wait");
    /// transport.write(vec![0; 100_000]); // owned, never copied
    /// # }
    /// ```
    pub fn write<'a>(&self, data: impl Into<Payload<'a>>) {
        let data = data.into().owned_by(self.0.core.home);
        if self.0.core.acts_here() {
            self.write_here(&data);
        } else {
            let data = data.into_owned();
            post(self, data.as_ref().len(), move |transport| transport.write_here(&data));
        }
    }

    /// Writes several pieces as one: by one system call, and flow control looks at the whole.
    ///
    /// Source: *WriteTransport.writelines*.
    pub fn writelines<'a, I>(&self, lines: I)
    where
        I: IntoIterator<Item: Into<Payload<'a>>>,
    {
        let home = self.0.core.home;
        let lines: Vec<Payload<'a>> =
            lines.into_iter().map(|line| line.into().owned_by(home)).collect();
        if self.0.core.acts_here() {
            self.writelines_here(&lines);
        } else {
            let lines: Vec<Payload<'static>> = lines.into_iter().map(Payload::into_owned).collect();
            let len = lines.iter().map(|line| line.as_ref().len()).sum();
            post(self, len, move |transport| transport.writelines_here(&lines));
        }
    }

    /// Ends writing: the peer reads the end of stream after what was written. Reading goes on.
    /// On a pipe this is [`close`](Self::close).
    /// Where the peer is gone already nothing happens; reading says so. Over TLS it is an error: the
    /// loop's exception handler hears of [`Misuse::NoWriteEof`].
    ///
    /// Source: *WriteTransport.write_eof*.
    pub fn write_eof(&self) {
        let transport = self.clone();
        self.0.core.act(move |cx| {
            over_tls!(transport, tls => tls.write_eof());
            let Ok(shut) = cx.core.engine.write_eof(cx, transport.0.token);
            if let Err(error) = shut {
                log::debug!(target: "oxloop", "{transport:?}: write_eof() failed: {error}");
            }
        });
    }

    /// Whether [`write_eof`](Self::write_eof) is possible: on a stream socket always, over TLS
    /// never.
    ///
    /// Source: *WriteTransport.can_write_eof*.
    pub fn can_write_eof(&self) -> bool {
        over_tls!(self, _tls => false);
        true
    }

    /// Closes the connection once all that was written is sent. Nothing is read any more;
    /// [`connection_lost`](Protocol::connection_lost) comes in a later turn.
    ///
    /// Over TLS the closing alert (close_notify) is sent after the data, and the peer's is waited for,
    /// no longer than the shutdown's time-out. What has come in already is told first, and once the
    /// callback has returned that calls this. A peer that sends data in the alert's place is not
    /// waited for; `connection_lost` tells of it.
    ///
    /// Source: *BaseTransport.close*.
    pub fn close(&self) {
        let transport = self.clone();
        self.0.core.act(move |cx| {
            over_tls!(transport, tls => tls.close());
            let Ok(()) = cx.core.engine.close_stream(cx, transport.0.token);
        });
    }

    /// Closes the connection without waiting for what is buffered.
    /// [`connection_lost`](Protocol::connection_lost) comes in a later turn, with `None`.
    ///
    /// Source: *WriteTransport.abort*.
    pub fn abort(&self) {
        let transport = self.clone();
        self.0.core.act(move |cx| transport.force_close(cx, None));
    }

    /// Whether the connection is closed or about to be.
    ///
    /// Source: *BaseTransport.is_closing*.
    pub fn is_closing(&self) -> bool {
        self.flush();
        #[cfg(feature = "rustls")]
        if self.1.as_ref().is_some_and(|tls| tls.is_closing()) {
            return true;
        }
        self.0.core.engine.stream_info(self.0.token).is_none_or(|info| info.closing)
    }

    /// Stops reading: no data comes until [`resume_reading`](Self::resume_reading). Does nothing
    /// on a connection that is paused already, or closing.
    ///
    /// Source: *ReadTransport.pause_reading*.
    pub fn pause_reading(&self) {
        let transport = self.clone();
        self.0.core.act(move |cx| {
            over_tls!(transport, tls => tls.pause());
            cx.core.engine.pause_reading(transport.0.token);
        });
    }

    /// Reads again.
    ///
    /// Source: *ReadTransport.resume_reading*.
    pub fn resume_reading(&self) {
        let transport = self.clone();
        self.0.core.act(move |cx| {
            over_tls!(transport, tls => tls.resume());
            cx.core.engine.resume_reading(transport.0.token);
        });
    }

    /// Whether it reads: neither paused nor closing; over TLS not paused.
    ///
    /// Source: *ReadTransport.is_reading*.
    pub fn is_reading(&self) -> bool {
        over_tls!(self, tls => tls.is_reading());
        self.0.core.engine.stream_info(self.0.token).is_some_and(|info| info.reading)
    }

    /// How many bytes wait to be sent, what other threads have written included; over TLS to be
    /// encrypted, or taken by the transport below.
    ///
    /// Source: *WriteTransport.get_write_buffer_size*.
    pub fn get_write_buffer_size(&self) -> usize {
        over_tls!(self, tls => tls.write_buffer_size());
        self.flush();
        self.0.core.engine.write_buffer_size(self.0.token) + self.0.posted.bytes()
    }

    /// The low- and the high-water mark, bytes.
    ///
    /// Source: *WriteTransport.get_write_buffer_limits*.
    pub fn get_write_buffer_limits(&self) -> Limits {
        over_tls!(self, tls => tls.write_buffer_limits());
        self.0.core.engine.write_buffer_limits(self.0.token)
    }

    /// Sets when the protocol is paused (more than `high` bytes are buffered) and resumed (at
    /// most `low` are). A missing `high` is four times `low`, or 64 KiB; a missing `low` a
    /// quarter of `high`. With `high` 0 everything that has to wait pauses. Over TLS the protocol is
    /// paused at `high` already, and the default is 512 KiB.
    ///
    /// Source: *WriteTransport.set_write_buffer_limits*.
    ///
    /// # Errors
    /// [`Misuse::Limits`] where `low` is over `high`.
    ///
    /// ```
    /// # fn limits(transport: &oxloop::Transport) -> oxloop::Result<()> {
    /// transport.set_write_buffer_limits(Some(1 << 20), None)?;
    /// assert_eq!(transport.get_write_buffer_limits().low(), 1 << 18);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_write_buffer_limits(
        &self,
        high: Option<usize>,
        low: Option<usize>,
    ) -> Result<(), Misuse> {
        #[cfg(feature = "rustls")]
        let high = match (self.tls(), high, low) {
            (Some(_), None, None) => Some(Direction::Outgoing.default_high()),
            (_, high, _) => high,
        };
        let (limits, transport) = (Limits::new(high, low)?, self.clone());
        self.0.core.act(move |cx| {
            over_tls!(transport, tls => tls.set_write_buffer_limits(limits));
            transport.0.posted.set_high(limits.high());
            let Ok(()) = cx.core.engine.set_write_buffer_limits(cx, transport.0.token, limits);
        });
        Ok(())
    }

    /// Hands the connection over to another protocol, which hears of all that comes from now on;
    /// neither `connection_made` nor `connection_lost` is called for the change. A callback of
    /// the old one that is running completes.
    ///
    /// Source: *BaseTransport.set_protocol*.
    pub fn set_protocol<P: Protocol + 'static>(&self, protocol: P) -> ProtocolHandle<P> {
        let handle = ProtocolHandle::new(self.0.core.home, protocol);
        let (transport, erased) = (self.clone(), handle.erased());
        self.0.core.act(move |cx| {
            let Ok(()) = cx.core.engine.flush_stream(cx, transport.0.token);
            transport.replace_protocol(erased);
        });
        handle
    }

    /// The connection's protocol, if it is a `P`; `None` as well once the connection is lost.
    ///
    /// Source: *BaseTransport.get_protocol*.
    pub fn protocol<P: Protocol + 'static>(&self) -> Option<ProtocolHandle<P>> {
        self.current_protocol().and_then(ProtocolHandle::from_erased)
    }

    /// The peer's name, as it was when the connection was made. A Unix socket that was not
    /// bound, as clients seldom are, has an [unnamed](crate::UnixAddress::is_unnamed) one.
    ///
    /// Source: *get_extra_info('peername')*.
    pub fn peername(&self) -> Option<&Address> {
        self.0.peer.as_ref()
    }

    /// The name of this side, likewise.
    ///
    /// Source: *get_extra_info('sockname')*.
    pub fn sockname(&self) -> Option<&Address> {
        self.0.local.as_ref()
    }

    /// The [`peername`](Self::peername) if it is an internet address; `None` on a Unix socket.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peername()?.inet()
    }

    /// The [`sockname`](Self::sockname), likewise.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.sockname()?.inet()
    }

    /// Calls `f` with the socket, to read or set its options; `None` once it is closed. Leave
    /// reading, writing and closing to the transport. The descriptor stays open until `f`
    /// returns. That of a pipe knows no socket options (ENOTSOCK).
    ///
    /// Source: *get_extra_info('socket')*.
    ///
    /// ```
    /// # fn keepalive(transport: &oxloop::Transport) {
    /// transport.with_socket(|socket| socket.set_keepalive(true));
    /// # }
    /// ```
    pub fn with_socket<R>(&self, f: impl FnOnce(&Socket) -> R) -> Option<R> {
        self.flush();
        let socket = self.socket()?;
        Some(f(&socket))
    }

    /// The loop of this connection; `None` once its last handle is gone.
    pub fn event_loop(&self) -> Option<EventLoop> {
        self.0.core.event_loop()
    }

    /// What was written so far is sent before an answer could show that it was not.
    fn flush(&self) {
        let core = &self.0.core;
        if core.acts_here() {
            let Ok(()) = core.engine.flush_stream(core.cx(), self.0.token);
        }
    }
}

/// The descriptor's number, -1 once it is closed. It is the transport's to close.
impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().map_or(-1, |socket| socket.as_raw_fd())
    }
}

/// Two transports are equal when they are the same connection's.
impl PartialEq for Transport {
    fn eq(&self, other: &Transport) -> bool {
        #[cfg(feature = "rustls")]
        if self.1.as_ref().map(Arc::as_ptr) != other.1.as_ref().map(Arc::as_ptr) {
            return false;
        }
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Transport {}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engine = &self.0.core.engine;
        let Some(info) = engine.stream_info(self.0.token).filter(|info| !info.closed) else {
            return f.write_str("<Transport closed>");
        };
        let (closing, size) =
            (info.closing, engine.write_buffer_size(self.0.token) + self.0.posted.bytes());
        #[cfg(feature = "rustls")]
        let (closing, size) = match self.tls() {
            Some(tls) => {
                f.write_str("<Tls")?;
                (closing || tls.is_closing(), size + tls.write_buffer_size())
            }
            None => {
                f.write_str("<")?;
                (closing, size)
            }
        };
        #[cfg(not(feature = "rustls"))]
        f.write_str("<")?;
        let closing = if closing { " closing" } else { "" };
        let poll = |polls| if polls { "polling" } else { "idle" };
        write!(f, "Transport{closing} fd={} read={}", info.descriptor, poll(info.polls_read))?;
        write!(f, " write=<{}, bufsize={size}>", poll(info.polls_write))?;
        match self.peername() {
            Some(Address::Unix(name)) if name.is_unnamed() => {}
            Some(peer) => write!(f, " peer={peer}")?,
            None => {}
        }
        f.write_str(">")
    }
}

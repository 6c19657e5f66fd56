//! How a connection is secured: whose config, which name, how long to wait.

use super::connection::{Parts, TlsConnection};
use super::rustls::Rustls;
use crate::error::{Misuse, Result};
use crate::event_loop::Promise;
use crate::protocol::cell::AnyProtocol;
use crate::transport::Transport;
use ::rustls::pki_types::ServerName;
use ::rustls::{ClientConfig, ServerConfig};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How long the handshake and the shutdown may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) handshake: Duration,
    pub(super) shutdown: Duration,
}

/// asyncio's.
const TIMEOUTS: Timeouts =
    Timeouts { handshake: Duration::from_secs(60), shutdown: Duration::from_secs(30) };

impl Timeouts {
    fn check(self) -> Result<Timeouts, Misuse> {
        match self {
            Timeouts { handshake: Duration::ZERO, .. } => Err(Misuse::TlsTimeout("handshake")),
            Timeouts { shutdown: Duration::ZERO, .. } => Err(Misuse::TlsTimeout("shutdown")),
            timeouts => Ok(timeouts),
        }
    }
}

/// The client's side of TLS: made of a [`rustls::ClientConfig`](ClientConfig), which is used as it
/// is, and takes part in [`ConnectOptions::tls`](crate::ConnectOptions::tls) and
/// [`EventLoop::start_tls`](crate::EventLoop::start_tls).
///
/// ```
/// use oxloop::{ConnectOptions, TlsClientOptions, rustls};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let mut roots = rustls::RootCertStore::empty();
/// // roots.add(...)
/// let config = rustls::ClientConfig::builder()
///     .with_root_certificates(roots)
///     .with_no_client_auth();
/// let tls = TlsClientOptions::new(config).handshake_timeout(Duration::from_secs(10));
/// let options = ConnectOptions::new(("example.org", 443)).tls(tls);
/// ```
#[derive(Clone, Debug)]
pub struct TlsClientOptions {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
    timeouts: Timeouts,
}

impl TlsClientOptions {
    /// Options of a client: a `ClientConfig`, or an `Arc` of one.
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> TlsClientOptions {
        TlsClientOptions { config: config.into(), server_name: None, timeouts: TIMEOUTS }
    }

    /// The name that the server's certificate has to be for, and that the server is told (SNI): a
    /// DNS name or an IP address. By default it is the host that is connected to.
    ///
    /// Source: *loop.create_connection*, `server_hostname`.
    #[must_use]
    pub fn server_name(self, name: impl Into<String>) -> TlsClientOptions {
        TlsClientOptions { server_name: Some(name.into()), ..self }
    }

    /// How long the handshake may take before the connection is aborted; 60 seconds by default.
    ///
    /// Source: *loop.create_connection*, `ssl_handshake_timeout`.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> TlsClientOptions {
        self.timeouts.handshake = timeout;
        self
    }

    /// How long the closing connection waits for what is to be sent and for the peer's closing alert
    /// before it is aborted; 30 seconds by default.
    ///
    /// Source: *loop.create_connection*, `ssl_shutdown_timeout`.
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> TlsClientOptions {
        self.timeouts.shutdown = timeout;
        self
    }

    /// With the host that is connected to, where there is one.
    pub(crate) fn secure(self, host: Option<&str>) -> Result<Secured> {
        let name = self.server_name.as_deref().or(host).ok_or(Misuse::NoServerName)?;
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Misuse::ServerName(name.to_owned()))?;
        Ok(Secured { role: Role::Client(self.config, name), timeouts: self.timeouts.check()? })
    }
}

impl<T: Into<Arc<ClientConfig>>> From<T> for TlsClientOptions {
    fn from(config: T) -> TlsClientOptions {
        TlsClientOptions::new(config)
    }
}

/// The server's side of TLS: made of a [`rustls::ServerConfig`](ServerConfig), which is used as it
/// is, and takes part in [`ServerOptions::tls`](crate::ServerOptions::tls) and
/// [`EventLoop::start_tls`](crate::EventLoop::start_tls).
#[derive(Clone, Debug)]
pub struct TlsServerOptions {
    config: Arc<ServerConfig>,
    timeouts: Timeouts,
}

impl TlsServerOptions {
    /// Options of a server: a `ServerConfig`, or an `Arc` of one.
    pub fn new(config: impl Into<Arc<ServerConfig>>) -> TlsServerOptions {
        TlsServerOptions { config: config.into(), timeouts: TIMEOUTS }
    }

    /// How long a handshake may take before the connection is aborted; 60 seconds by default.
    ///
    /// Source: *loop.create_server*, `ssl_handshake_timeout`.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> TlsServerOptions {
        self.timeouts.handshake = timeout;
        self
    }

    /// How long a closing connection waits for what is to be sent and for the peer's closing alert
    /// before it is aborted; 30 seconds by default.
    ///
    /// Source: *loop.create_server*, `ssl_shutdown_timeout`.
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> TlsServerOptions {
        self.timeouts.shutdown = timeout;
        self
    }

    pub(crate) fn secure(self) -> Result<Secured> {
        Ok(Secured { role: Role::Server(self.config), timeouts: self.timeouts.check()? })
    }
}

impl<T: Into<Arc<ServerConfig>>> From<T> for TlsServerOptions {
    fn from(config: T) -> TlsServerOptions {
        TlsServerOptions::new(config)
    }
}

/// How [`EventLoop::start_tls`](crate::EventLoop::start_tls) secures a connection: as a client or a
/// server, whose options convert into it.
///
/// ```
/// use oxloop::{StartTlsOptions, TlsServerOptions, rustls::ServerConfig};
///
/// fn options(config: ServerConfig, rest: &[u8]) -> StartTlsOptions {
///     StartTlsOptions::new(TlsServerOptions::new(config)).received(rest.to_vec())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct StartTlsOptions {
    side: Side,
    received: Bytes,
}

#[derive(Clone, Debug)]
enum Side {
    Client(TlsClientOptions),
    Server(TlsServerOptions),
}

impl StartTlsOptions {
    /// Options for the role that [`TlsClientOptions`] or [`TlsServerOptions`] are for.
    pub fn new(tls: impl Into<StartTlsOptions>) -> StartTlsOptions {
        tls.into()
    }

    /// The peer's first bytes, where the protocol has read on beyond the point from which they are
    /// TLS.
    #[must_use]
    pub fn received(self, data: impl Into<Bytes>) -> StartTlsOptions {
        StartTlsOptions { received: data.into(), ..self }
    }

    pub(super) fn session(self) -> Result<TlsSession> {
        let secured = match self.side {
            Side::Client(client) => client.secure(None),
            Side::Server(server) => server.secure(),
        }?;
        Ok(TlsSession { received: self.received, ..secured.session()? })
    }
}

impl From<TlsClientOptions> for StartTlsOptions {
    fn from(client: TlsClientOptions) -> StartTlsOptions {
        StartTlsOptions { side: Side::Client(client), received: Bytes::new() }
    }
}

impl From<TlsServerOptions> for StartTlsOptions {
    fn from(server: TlsServerOptions) -> StartTlsOptions {
        StartTlsOptions { side: Side::Server(server), received: Bytes::new() }
    }
}

/// Options that were checked.
#[derive(Clone, Debug)]
pub(crate) struct Secured {
    role: Role,
    timeouts: Timeouts,
}

#[derive(Clone, Debug)]
enum Role {
    Client(Arc<ClientConfig>, ServerName<'static>),
    Server(Arc<ServerConfig>),
}

impl Secured {
    /// A new session, to be put on a transport.
    pub(crate) fn session(&self) -> Result<TlsSession> {
        let engine = match &self.role {
            Role::Client(config, name) => Rustls::client(config.clone(), name.clone())?,
            Role::Server(config) => Rustls::server(config.clone())?,
        };
        Ok(TlsSession { engine, timeouts: self.timeouts, received: Bytes::new() })
    }
}

/// A session without a transport.
pub(crate) struct TlsSession {
    engine: Rustls,
    timeouts: Timeouts,
    received: Bytes,
}

impl TlsSession {
    /// Puts it between a transport and a protocol; `made` where that has had its
    /// `connection_made`. The waiter is told of the end of the handshake.
    pub(crate) fn over(
        self,
        below: &Transport,
        protocol: Arc<dyn AnyProtocol>,
        made: bool,
        waiter: Option<Promise<Result<()>>>,
    ) -> Arc<TlsConnection> {
        let TlsSession { engine, timeouts, received } = self;
        TlsConnection::new(below, Parts { engine, timeouts, received, protocol, made, waiter })
    }
}

//! Certificates, configs, and blocking peers that speak TLS.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{HANG, Log, Recorder};
use oxloop::rustls::client::{ClientConnection, Resumption};
use oxloop::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use oxloop::rustls::server::{ServerConnection, WebPkiClientVerifier};
use oxloop::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion,
};
use oxloop::{ConnectOptions, EventLoop, ProtocolHandle, TlsClientOptions, Transport};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::thread::{self, JoinHandle};

pub static TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub const ANY: (&str, u16) = ("127.0.0.1", 0);

/// A certificate, and its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// Whom the tests trust.
pub struct Authority {
    pub roots: Arc<RootCertStore>,
    /// Its certificate.
    pub pem: String,
    /// localhost and 127.0.0.1.
    pub server: Identity,
    pub client: Identity,
    /// localhost, until the year 2001.
    pub expired: Identity,
}

pub static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let sign = |names: &[&str], change: &dyn Fn(&mut CertificateParams)| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names).unwrap();
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            Identity { chain: vec![certificate.der().clone()], key }
        };
        Authority {
            roots: Arc::new(roots),
            pem: root.pem(),
            server: sign(&["localhost", "127.0.0.1"], &|_| {}),
            client: sign(&["client"], &|_| {}),
            expired: sign(&["localhost"], &|params| {
                params.not_before = date_time_ymd(2000, 1, 1);
                params.not_after = date_time_ymd(2001, 1, 1);
            }),
        }
    }
}

/// A server's config that shows `identity`.
pub fn serving(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let Identity { chain, key } = identity.clone();
    ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

/// A server's config of any version.
pub fn server_config() -> ServerConfig {
    serving(&AUTHORITY.server, rustls::ALL_VERSIONS)
}

/// A server's config that asks clients for certificates, and requires them.
pub fn demanding(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let Identity { chain, key } = AUTHORITY.server.clone();
    let verifier = WebPkiClientVerifier::builder(AUTHORITY.roots.clone()).build().unwrap();
    ServerConfig::builder_with_protocol_versions(versions)
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap()
}

/// A client's config that trusts the authority; sessions are not resumed.
pub fn trusting(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(AUTHORITY.roots.clone())
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// A client's config of any version.
pub fn client_config() -> ClientConfig {
    trusting(rustls::ALL_VERSIONS)
}

/// A client's config with a certificate of its own.
pub fn known_client(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let Identity { chain, key } = AUTHORITY.client.clone();
    ClientConfig::builder_with_protocol_versions(versions)
        .with_root_certificates(AUTHORITY.roots.clone())
        .with_client_auth_cert(chain, key)
        .unwrap()
}

pub type BlockingClient = StreamOwned<ClientConnection, TcpStream>;
pub type BlockingServer = StreamOwned<ServerConnection, TcpStream>;

pub fn limited(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(HANG)).unwrap();
    socket.set_write_timeout(Some(HANG)).unwrap();
    socket
}

/// A client that blocks.
pub fn dial(address: SocketAddr, config: ClientConfig) -> BlockingClient {
    let name = "localhost".try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, limited(TcpStream::connect(address).unwrap()))
}

/// A server's session on a socket that blocks.
pub fn answer(socket: TcpStream, config: ServerConfig) -> BlockingServer {
    let session = ServerConnection::new(Arc::new(config)).unwrap();
    StreamOwned::new(session, limited(socket))
}

/// Serves one connection in a thread.
pub fn serve_once<R: Send + 'static>(
    f: impl FnOnce(TcpStream) -> R + Send + 'static,
) -> (SocketAddr, JoinHandle<R>) {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || f(limited(listener.accept().unwrap().0))))
}

/// Connects to a port on localhost.
pub fn secured(address: SocketAddr, tls: impl Into<TlsClientOptions>) -> ConnectOptions {
    ConnectOptions::new(address).tls(tls.into().server_name("localhost"))
}

/// A recording client of a server that blocks.
pub struct Client {
    pub log: Log,
    pub transport: Transport,
    pub protocol: ProtocolHandle<Recorder>,
}

impl Client {
    pub async fn connect(
        event_loop: &EventLoop,
        to: impl Into<ConnectOptions>,
        f: impl FnOnce(Recorder) -> Recorder,
    ) -> oxloop::Result<Client> {
        let log = Log::default();
        let factory = || f(Recorder::new(&log));
        let (transport, protocol) = event_loop.create_connection(factory, to).await?;
        Ok(Client { log, transport, protocol })
    }

    /// Why it was lost, in words.
    pub fn error(&self) -> String {
        let error = self.protocol.with(|recorder| recorder.error.take()).unwrap();
        error.map_or_else(|| "None".to_owned(), |error| error.to_string())
    }
}

/// What a client sends first.
pub fn client_hello() -> Vec<u8> {
    let name = "localhost".try_into().unwrap();
    let mut session = ClientConnection::new(Arc::new(client_config()), name).unwrap();
    let mut hello = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut hello).unwrap();
    }
    hello
}

/// Reads to the end of the stream: what came, and whether the end was a proper one.
pub fn read_all(stream: &mut impl Read) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let end = stream.read_to_end(&mut data);
    (data, end.is_ok())
}

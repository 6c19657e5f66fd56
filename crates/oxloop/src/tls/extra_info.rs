//! What a session says of itself (asyncio: *get_extra_info*).

use crate::transport::Transport;
use ::rustls::pki_types::CertificateDer;
use ::rustls::{Connection, ProtocolVersion, SupportedCipherSuite};

/// Of a TLS connection; everything is `None` on another.
impl Transport {
    /// Whether the connection is secured by TLS.
    pub fn is_tls(&self) -> bool {
        self.tls().is_some()
    }

    /// The application's protocol that was agreed on (ALPN), `b"h2"` for example; `None` where
    /// nothing was.
    ///
    /// Source: *SSLSocket.selected_alpn_protocol*; RFC 7301.
    pub fn alpn_protocol(&self) -> Option<Vec<u8>> {
        self.tls()?.with_session(|session| session.alpn_protocol().map(<[u8]>::to_vec))
    }

    /// The certificates that the peer has shown, its own first; `None` where it has shown none, as
    /// clients do unless the server's config asks them.
    ///
    /// Source: *get_extra_info('peercert')*, *SSLSocket.get_unverified_chain*.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.tls()?.with_session(|session| session.peer_certificates().map(<[_]>::to_vec))
    }

    /// The version of TLS.
    ///
    /// Source: *SSLSocket.version*.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.tls()?.with_session(|session| session.protocol_version())
    }

    /// The cipher suite that is in use.
    ///
    /// Source: *get_extra_info('cipher')*.
    pub fn cipher_suite(&self) -> Option<SupportedCipherSuite> {
        self.tls()?.with_session(|session| session.negotiated_cipher_suite())
    }

    /// The name that the client has asked for (SNI), on the server's side.
    ///
    /// Source: *SSLContext.sni_callback*; RFC 6066.
    pub fn server_name(&self) -> Option<String> {
        self.tls()?.with_session(|session| match session {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        })
    }
}

//! The TCP echo server over TLS. Takes a port, 8889 by default, and a file for its certificate,
//! which it makes for itself; the client trusts what is in there.

use oxloop::rustls::ServerConfig;
use oxloop::rustls::pki_types::PrivateKeyDer;
use oxloop::{Error, EventLoop, Protocol, ServerOptions, Transport};
use std::path::PathBuf;

struct EchoServerProtocol;

impl Protocol for EchoServerProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        // The handshake is done.
        let (version, name) = (transport.protocol_version(), transport.server_name());
        println!("Connection by {version:?} for {name:?}");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let message = String::from_utf8_lossy(data);
        println!("Data received: {message:?}");

        println!("Send: {message:?}");
        transport.write(data);

        println!("Close the client socket");
        transport.close();
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        if let Some(error) = error {
            println!("Lost: {error}");
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(8889);
    let file = args.next().map_or_else(|| std::env::temp_dir().join("tls_echo.pem"), PathBuf::from);

    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)?;

    std::fs::write(&file, identity.cert.pem())?;

    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let options = ServerOptions::new(("127.0.0.1", port)).tls(config);
        let server = event_loop.create_server(|| EchoServerProtocol, options).await?;
        println!("Serving on {:?}, certificate in {}", server.local_addrs(), file.display());
        server.serve_forever().await
    })??;
    Ok(())
}

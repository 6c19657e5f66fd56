//! The client of `tls_echo_server`. Takes a port, 8889 by default, and the file with the server's
//! certificate.

use oxloop::rustls::pki_types::CertificateDer;
use oxloop::rustls::pki_types::pem::PemObject;
use oxloop::rustls::{ClientConfig, RootCertStore};
use oxloop::{ConnectOptions, Error, EventLoop, Promise, Protocol, Transport};
use std::path::PathBuf;

struct EchoClientProtocol {
    message: &'static str,
    on_con_lost: Promise<Option<Error>>,
}

impl Protocol for EchoClientProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(self.message);
        println!("Data sent: {:?}", self.message);
    }

    fn data_received(&mut self, _transport: &Transport, data: &[u8]) {
        println!("Data received: {:?}", String::from_utf8_lossy(data));
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        println!("The server closed the connection");
        self.on_con_lost.set_result(error);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let port = args.next().and_then(|port| port.parse().ok()).unwrap_or(8889);
    let file = args.next().map_or_else(|| std::env::temp_dir().join("tls_echo.pem"), PathBuf::from);

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file)?)?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();

    let event_loop = EventLoop::new()?;
    let lost = event_loop.run_until_complete(async {
        let (on_con_lost, con_lost) = event_loop.create_future();
        let message = "Hello World!";

        let to = ConnectOptions::new(("localhost", port)).tls(config);
        let factory = || EchoClientProtocol { message, on_con_lost };
        let (transport, _protocol) = event_loop.create_connection(factory, to).await?;
        println!("Connected by {:?}", transport.protocol_version());

        con_lost.await
    })??;
    lost.map_or(Ok(()), |error| Err(error.into()))
}

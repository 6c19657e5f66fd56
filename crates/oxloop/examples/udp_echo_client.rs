//! The UDP echo client of asyncio's "Transports and Protocols" page. Takes a port, 9999 by
//! default.

use oxloop::{Address, DatagramOptions, DatagramProtocol, DatagramTransport};
use oxloop::{Error, EventLoop, Promise, Result};

struct EchoClientProtocol {
    message: &'static str,
    on_con_lost: Promise<()>,
}

impl DatagramProtocol for EchoClientProtocol {
    fn connection_made(&mut self, transport: &DatagramTransport) {
        println!("Send: {}", self.message);
        transport.send(self.message);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], _: &Address) {
        println!("Received: {}", String::from_utf8_lossy(data));

        println!("Close the socket");
        transport.close();
    }

    fn error_received(&mut self, _: &DatagramTransport, error: std::io::Error) {
        println!("Error received: {error}");
    }

    fn connection_lost(&mut self, _: &DatagramTransport, _error: Option<Error>) {
        println!("Connection closed");
        self.on_con_lost.set_result(());
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(9999);
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let (on_con_lost, con_lost) = event_loop.create_future();
        let message = "Hello World!";

        let options = DatagramOptions::new().remote_addr(("127.0.0.1", port));
        let protocol = || EchoClientProtocol { message, on_con_lost };
        let (transport, _protocol) = event_loop.create_datagram_endpoint(protocol, options).await?;

        con_lost.await?;
        transport.close();
        Ok(())
    })?
}

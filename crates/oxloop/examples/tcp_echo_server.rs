//! The TCP echo server of asyncio's "Transports and Protocols" page. Takes a port, 8888 by
//! default.

use oxloop::{EventLoop, Protocol, Result, Transport};

struct EchoServerProtocol;

impl Protocol for EchoServerProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        if let Some(peer) = transport.peer_addr() {
            println!("Connection from {peer}");
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let message = String::from_utf8_lossy(data);
        println!("Data received: {message:?}");

        println!("Send: {message:?}");
        transport.write(data);

        println!("Close the client socket");
        transport.close();
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8888);
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let server = event_loop.create_server(|| EchoServerProtocol, ("127.0.0.1", port)).await?;
        println!("Serving on {:?}", server.local_addrs());
        server.serve_forever().await
    })?
}

//! The UDP echo server of asyncio's "Transports and Protocols" page. Takes a port, 9999 by
//! default, and serves for one hour.

use oxloop::{Address, DatagramOptions, DatagramProtocol, DatagramTransport, EventLoop, Result};
use std::time::Duration;

struct EchoServerProtocol;

impl DatagramProtocol for EchoServerProtocol {
    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], addr: &Address) {
        let message = String::from_utf8_lossy(data);
        println!("Received {message:?} from {addr}");
        println!("Send {message:?} to {addr}");
        transport.send_to(data, addr);
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(9999);
    let event_loop = EventLoop::new()?;
    println!("Starting UDP server");
    event_loop.run_until_complete(async {
        let options = DatagramOptions::new().local_addr(("127.0.0.1", port));
        let (transport, _protocol) =
            event_loop.create_datagram_endpoint(|| EchoServerProtocol, options).await?;
        println!("Serving on {:?}", transport.sockname());
        event_loop.sleep(Duration::from_secs(3600)).await;
        transport.close();
        Ok(())
    })?
}

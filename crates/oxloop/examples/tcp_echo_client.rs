//! The TCP echo client of asyncio's "Transports and Protocols" page. Takes a port, 8888 by
//! default.

use oxloop::{Error, EventLoop, Promise, Protocol, Result, Transport};

struct EchoClientProtocol {
    message: &'static str,
    on_con_lost: Promise<()>,
}

impl Protocol for EchoClientProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(self.message);
        println!("Data sent: {:?}", self.message);
    }

    fn data_received(&mut self, _transport: &Transport, data: &[u8]) {
        println!("Data received: {:?}", String::from_utf8_lossy(data));
    }

    fn connection_lost(&mut self, _: &Transport, _error: Option<Error>) {
        println!("The server closed the connection");
        self.on_con_lost.set_result(());
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(8888);
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let (on_con_lost, con_lost) = event_loop.create_future();
        let message = "Hello World!";

        let (transport, _protocol) = event_loop
            .create_connection(|| EchoClientProtocol { message, on_con_lost }, ("127.0.0.1", port))
            .await?;

        // Wait until the protocol signals that the connection is lost and close the transport.
        con_lost.await?;
        transport.close();
        Ok(())
    })?
}

//! "Connecting existing sockets" of asyncio's "Transports and Protocols" page: waits until a
//! socket receives data, with a protocol.

use oxloop::{Error, EventLoop, Promise, Protocol, Result, Transport};
use std::io::Write;
use std::os::unix::net::UnixStream;

struct MyProtocol {
    on_con_lost: Promise<()>,
}

impl Protocol for MyProtocol {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        println!("Received: {:?}", String::from_utf8_lossy(data));

        // We are done: close the transport; connection_lost() will be called automatically.
        transport.close();
    }

    fn connection_lost(&mut self, _: &Transport, _error: Option<Error>) {
        // The socket has been closed.
        self.on_con_lost.set_result(());
    }
}

fn main() -> Result<()> {
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let (on_con_lost, con_lost) = event_loop.create_future();

        // Create a pair of connected sockets.
        let (rsock, mut wsock) = UnixStream::pair()?;

        // Register the socket to wait for data.
        let (transport, _protocol) =
            event_loop.create_connection(|| MyProtocol { on_con_lost }, rsock).await?;

        // Simulate the reception of data from the network.
        event_loop.call_soon(move || wsock.write_all(b"abc").unwrap_or_default());

        con_lost.await?;
        transport.close();
        Ok(())
    })?
}

//! A TCP proxy: what comes on one connection goes out on another, in both directions, at the pace
//! of the slower one. Takes a port and the address to connect to.

use oxloop::{Error, EventLoop, Protocol, Result, Server, Transport, get_running_loop};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One of the two connections of a pair.
struct Side {
    /// Where the other connection is to be opened; on the client's side only.
    upstream: Option<SocketAddr>,
    /// The other connection, once it is there.
    other: Option<Transport>,
    /// Whether one of the two directions has ended.
    half_closed: Arc<AtomicBool>,
}

impl Protocol for Side {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(upstream) = self.upstream else { return };
        // There is nowhere to send to yet.
        transport.pause_reading();
        let (client, half_closed) = (transport.clone(), self.half_closed.clone());
        let Ok(event_loop) = get_running_loop() else { return };
        drop(event_loop.create_task(async move {
            if let Err(error) = connect(&client, upstream, half_closed).await {
                eprintln!("{upstream}: {error}");
                client.abort();
            }
        }));
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        if let Some(other) = &self.other {
            other.write(data);
        }
    }

    /// A connection that is kept open is closed by nobody else: the second end has to do it.
    fn eof_received(&mut self, _: &Transport) -> bool {
        if let Some(other) = &self.other {
            other.write_eof();
        }
        !self.half_closed.swap(true, Ordering::Relaxed)
    }

    /// This side's peer does not read as fast as the other side's peer writes.
    fn pause_writing(&mut self, _: &Transport) {
        if let Some(other) = &self.other {
            other.pause_reading();
        }
    }

    fn resume_writing(&mut self, _: &Transport) {
        if let Some(other) = &self.other {
            other.resume_reading();
        }
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        // Taken: the two sides refer to each other.
        let Some(other) = self.other.take() else { return };
        match error {
            Some(_) => other.abort(),
            None => other.close(),
        }
    }
}

/// Opens the second connection of a pair, and tells the first one's protocol of it.
async fn connect(
    client: &Transport,
    upstream: SocketAddr,
    half_closed: Arc<AtomicBool>,
) -> Result<()> {
    let other = Some(client.clone());
    let side = Side { upstream: None, other, half_closed };
    let (transport, _) = get_running_loop()?.create_connection(|| side, upstream).await?;
    match client.protocol::<Side>() {
        Some(protocol) => {
            protocol.with(|side| side.other = Some(transport))?;
            client.resume_reading();
        }
        // The client is gone already.
        None => transport.abort(),
    }
    Ok(())
}

pub(crate) async fn serve(
    event_loop: &EventLoop,
    port: u16,
    upstream: SocketAddr,
) -> Result<Server> {
    let factory = move || {
        let half_closed = Arc::new(AtomicBool::new(false));
        Side { upstream: Some(upstream), other: None, half_closed }
    };
    event_loop.create_server(factory, ("127.0.0.1", port)).await
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (port, upstream) = match arguments.as_slice() {
        [port, upstream] => (port.parse().ok(), upstream.parse().ok()),
        _ => (None, None),
    };
    let (Some(port), Some(upstream)) = (port, upstream) else {
        eprintln!("usage: proxy PORT ADDRESS:PORT");
        return Ok(());
    };
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let server = serve(&event_loop, port, upstream).await?;
        println!("Serving on {:?}", server.local_addrs());
        server.serve_forever().await
    })?
}

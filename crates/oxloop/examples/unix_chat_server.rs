//! A chat over a Unix socket: what one member writes goes to all others. Takes a path,
//! /tmp/chat.sock by default.

use oxloop::{Bytes, Error, EventLoop, Protocol, Result, Transport};
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Clone, Default)]
struct ChatServerProtocol {
    members: Arc<Mutex<Vec<Transport>>>,
    transport: Option<Transport>,
    unfinished: Vec<u8>,
}

impl Protocol for ChatServerProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        self.transport = Some(transport.clone());
        self.members.lock().push(transport.clone());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        // Whole lines only: what two members write must not mix.
        self.unfinished.extend_from_slice(data);
        let end = self.unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Bytes = self.unfinished.drain(..end).collect();
        for member in self.members.lock().iter().filter(|member| *member != transport) {
            member.write(lines.clone());
        }
    }

    fn pause_writing(&mut self, _: &Transport) {
        // A member that does not read has to leave, or what it missed would pile up.
        self.transport.iter().for_each(Transport::abort);
    }

    fn connection_lost(&mut self, _: &Transport, _error: Option<Error>) {
        self.members.lock().retain(|member| Some(member) != self.transport.as_ref());
    }
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or("/tmp/chat.sock".into());
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let newcomer = ChatServerProtocol::default();
        let server = event_loop.create_unix_server(move || newcomer.clone(), &*path).await?;
        println!("The chat is at {path}");
        server.serve_forever().await
    })?
}

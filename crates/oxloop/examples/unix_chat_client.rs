//! A member of the chat over a Unix socket. Takes a name, and the path of unix_chat_server.

use oxloop::{Error, EventLoop, Promise, Protocol, Result, Transport};
use std::io::stdin;

struct ChatClientProtocol {
    on_con_lost: Promise<()>,
}

impl Protocol for ChatClientProtocol {
    fn data_received(&mut self, _transport: &Transport, data: &[u8]) {
        print!("{}", String::from_utf8_lossy(data));
    }

    fn connection_lost(&mut self, _: &Transport, _error: Option<Error>) {
        println!("The chat is over");
        self.on_con_lost.set_result(());
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or("somebody".into());
    let path = args.next().unwrap_or("/tmp/chat.sock".into());
    let event_loop = EventLoop::new()?;
    event_loop.run_until_complete(async {
        let (on_con_lost, con_lost) = event_loop.create_future();
        let (transport, _protocol) = event_loop
            .create_unix_connection(|| ChatClientProtocol { on_con_lost }, &*path)
            .await?;
        println!("{name} joins");

        // What is typed goes to the others, up to the end of the input (Ctrl-D).
        while let Some(line) = event_loop.run_in_executor(|| stdin().lines().next()).await? {
            transport.write(format!("{name}: {}\n", line?));
        }
        transport.close();
        con_lost.await
    })?
}

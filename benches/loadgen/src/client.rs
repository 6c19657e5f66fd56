//! Many connections on one selector, one request under way on each.

use crate::Result;
use crate::exchange::Exchange;
use crate::window::Window;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

/// Runs `exchange` over so many connections until `window` is over; its report.
pub fn run(
    address: SocketAddr,
    connections: usize,
    exchange: &Exchange,
    mut window: Window,
) -> Result<String> {
    let mut poll = Poll::new()?;
    let mut clients = Vec::with_capacity(connections);
    for index in 0..connections {
        let mut client = Client::connect(address)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut client.stream, Token(index), interest)?;
        clients.push(client);
    }
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 256 * 1024];
    while let Some(left) = window.remaining()? {
        if let Err(error) = poll.poll(&mut events, Some(left)) {
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error.into());
        }
        for event in &events {
            clients[event.token().0].advance(exchange, &mut buffer, &mut window)?;
        }
    }
    Ok(window.report()?)
}

struct Client {
    stream: TcpStream,
    /// How much of the request is sent.
    sent: usize,
    reply: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Client> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Client { stream: TcpStream::from_std(stream), sent: 0, reply: Vec::new() })
    }

    /// Sends and receives until the socket blocks (events are edge-triggered).
    fn advance(
        &mut self,
        exchange: &Exchange,
        buffer: &mut [u8],
        window: &mut Window,
    ) -> Result<()> {
        loop {
            let unsent = &exchange.request()[self.sent..];
            if !unsent.is_empty() {
                let Some(sent) = unless_blocked(self.stream.write(unsent))? else {
                    return self.receive(exchange, buffer, window).map(|_| ());
                };
                self.sent += sent;
            } else if !self.receive(exchange, buffer, window)? {
                return Ok(());
            }
        }
    }

    /// Receives until the reply is complete (true) or the socket blocks (false).
    fn receive(
        &mut self,
        exchange: &Exchange,
        buffer: &mut [u8],
        window: &mut Window,
    ) -> Result<bool> {
        while let Some(size) = unless_blocked(self.stream.read(buffer))? {
            if size == 0 {
                return Err("the server closed a connection".into());
            }
            self.reply.extend_from_slice(&buffer[..size]);
            if exchange.is_complete(&self.reply)? {
                self.reply.clear();
                self.sent = 0;
                window.count();
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// `None` where the call would block.
fn unless_blocked(outcome: std::io::Result<usize>) -> Result<Option<usize>> {
    match outcome {
        Ok(size) => Ok(Some(size)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

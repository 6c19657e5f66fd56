//! TLS connections leave nothing behind, whatever ends them.
//!
//! One test, as descriptors are counted for the whole process.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::{EventLoop, Protocol, ServerOptions, Transport};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tls::*;
use util::*;

#[test]
fn nothing_is_left() {
    let alive = Arc::new(AtomicUsize::new(0));
    for scenario in [dropped_loop, aborted_handshakes, given_up_connects, failed_upgrades] {
        // What is made once and kept: the authority, the threads of an allocator.
        scenario(&alive);
        let before = descriptors();
        scenario(&alive);
        assert_eq!(descriptors(), before);
        assert_eq!(alive.load(Ordering::SeqCst), 0, "protocols are dropped");
    }
}

/// A protocol that keeps its transport, and is counted.
struct Counted {
    transport: Option<Transport>,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Counted {
        alive.fetch_add(1, Ordering::SeqCst);
        Counted { transport: None, alive: alive.clone() }
    }
}

impl Protocol for Counted {
    fn connection_made(&mut self, transport: &Transport) {
        self.transport = Some(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn dropped_loop(alive: &Arc<AtomicUsize>) {
    for rounds in 0..3 {
        let event_loop = new_loop();
        run(&event_loop, async {
            let counted = alive.clone();
            let options = ServerOptions::new(ANY).tls(server_config());
            let factory = move || Counted::new(&counted);
            let server = event_loop.create_server(factory, options).await.unwrap();
            for _ in 0..rounds {
                let to = secured(server.local_addrs()[0], client_config());
                event_loop.create_connection(|| Counted::new(alive), to).await.unwrap();
            }
            until(&event_loop, || alive.load(Ordering::SeqCst) == 2 * rounds).await;
        });
        drop(event_loop);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}

async fn serve(event_loop: &EventLoop, alive: &Arc<AtomicUsize>) -> SocketAddr {
    let counted = alive.clone();
    let options = ServerOptions::new(ANY).tls(server_config());
    let server = event_loop.create_server(move || Counted::new(&counted), options).await.unwrap();
    server.local_addrs()[0]
}

/// 200 clients that give up at some point of the handshake.
fn aborted_handshakes(alive: &Arc<AtomicUsize>) {
    let event_loop = new_loop();
    run(&event_loop, async {
        let address = serve(&event_loop, alive).await;
        let peers = thread::spawn(move || {
            let hello = client_hello();
            for number in 0..200 {
                let mut socket = limited(TcpStream::connect(address).unwrap());
                socket.write_all(&hello[..number * hello.len() / 199]).unwrap();
                match number % 3 {
                    0 => drop(socket),
                    1 => {
                        // The answer may be there or not: with unread data it is a reset.
                        socket.shutdown(Shutdown::Write).unwrap();
                    }
                    _ => {
                        socket.shutdown(Shutdown::Write).unwrap();
                        let _ = socket.read_to_end(&mut Vec::new());
                    }
                }
            }
        });
        until(&event_loop, || peers.is_finished()).await;
        until(&event_loop, || alive.load(Ordering::SeqCst) == 0).await;
        peers.join().unwrap();
    });
}

/// Connects that are dropped while the server is silent.
fn given_up_connects(alive: &Arc<AtomicUsize>) {
    let event_loop = new_loop();
    run(&event_loop, async {
        for turns_given in 0..20 {
            let (address, peer) = serve_once(|mut socket| {
                let mut seen = Vec::new();
                // It ends, by a reset where the hello had been sent.
                let _ = socket.read_to_end(&mut seen);
            });
            let to = secured(address, client_config());
            let connecting = event_loop.create_connection(|| Counted::new(alive), to);
            let mut connecting = Box::pin(connecting);
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            for _ in 0..turns_given {
                assert!(connecting.as_mut().poll(&mut cx).is_pending());
                event_loop.sleep(Duration::from_millis(u64::from(turns_given == 10))).await;
            }
            drop(connecting);
            let wake = TcpStream::connect(address);
            until(&event_loop, || peer.is_finished() || turns_given == 0).await;
            drop(wake);
            until(&event_loop, || peer.is_finished()).await;
            peer.join().unwrap();
        }
        until(&event_loop, || alive.load(Ordering::SeqCst) == 0).await;
    });
}

/// Connections that fail to become TLS.
fn failed_upgrades(alive: &Arc<AtomicUsize>) {
    let event_loop = new_loop();
    run(&event_loop, async {
        for _ in 0..20 {
            let (address, peer) = serve_once(|mut socket| {
                socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
                let _ = socket.read_to_end(&mut Vec::new());
            });
            let (transport, counted) =
                event_loop.create_connection(|| Counted::new(alive), address).await.unwrap();
            let tls = oxloop::TlsClientOptions::new(client_config()).server_name("localhost");
            let failed = event_loop.start_tls(&transport, &counted, tls).await;
            assert!(matches!(failed, Err(oxloop::Error::Tls(_))));
            drop((transport, counted));
            until(&event_loop, || peer.is_finished()).await;
            peer.join().unwrap();
        }
        until(&event_loop, || alive.load(Ordering::SeqCst) == 0).await;
    });
}

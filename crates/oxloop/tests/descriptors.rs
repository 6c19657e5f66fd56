//! Invariant 3: one owner for each descriptor, closed exactly once, whatever is given up.
//!
//! One test, as descriptors are counted for the whole process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Address, DatagramOptions, DatagramProtocol, DatagramTransport};
use oxloop::{ConnectOptions, EventLoop, ServerOptions, Transport};
use std::future::poll_fn;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use util::*;

type Scenario = fn(&EventLoop);

#[test]
fn no_descriptor_is_left() {
    let scenarios: &[(&str, Scenario)] = &[
        ("connections", connections),
        ("connections that are lost", lost_connections),
        ("a connection given up at any point", abandoned_connections),
        ("a connect that waits", waiting_connect),
        ("a race of connects", racing_connects),
        ("connects that fail", failing_connects),
        ("servers", servers),
        ("a server with connections", busy_server),
        ("unix connections given up at any point", abandoned_unix_connections),
        ("unix connections and servers that fail", failing_unix_sockets),
        ("datagram endpoints", datagram_endpoints),
        ("signals", signals),
        ("watched descriptors", watched),
        ("what the loop's end finds", left_open),
    ];
    for &(name, scenario) in scenarios {
        let before = descriptors();
        let event_loop = new_loop();
        scenario(&event_loop);
        if name != "what the loop's end finds" {
            // The loop's own: selector and waker.
            assert_eq!(descriptors(), before + 2, "{name}");
        }
        drop(event_loop);
        assert_eq!(descriptors(), before, "{name}, after the loop's end");
    }
}

fn watched(event_loop: &EventLoop) {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let owned = || ours.try_clone().unwrap();
    event_loop.add_reader(owned(), || {}).unwrap().cancel();
    let (kept, replaced) = (Arc::new(owned()), owned());
    event_loop.add_writer(kept.clone(), || {}).unwrap();
    assert!(event_loop.remove_writer(&kept));
    event_loop.add_writer(replaced, || {}).unwrap().cancel();
    run(event_loop, async {
        let other = owned();
        let mut wait = pin!(event_loop.readable(&other));
        let poll = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await;
        assert!(poll.is_pending());
    });
}

fn connections(event_loop: &EventLoop) {
    run(event_loop, async {
        let mut kept = Vec::new();
        for close in [Transport::close, Transport::abort] {
            let pair = Pair::open(event_loop).await;
            close(&pair.transport);
            pair.saw(event_loop, "lost").await;
            kept.push(pair.transport); // keeps no descriptor
        }
    });
}

fn lost_connections(event_loop: &EventLoop) {
    run(event_loop, async {
        let Pair { log, transport, peer, .. } = Pair::open(event_loop).await;
        drop(peer);
        until(event_loop, || log.has("lost")).await;
        transport.close();
        let pair = Pair::with(event_loop, |recorder| recorder.on_data(|_, _| panic!())).await;
        event_loop.set_exception_handler(|_, _| ());
        std::io::Write::write_all(&mut &pair.peer, b"x").unwrap();
        pair.saw(event_loop, "lost").await;
    });
}

/// The future is dropped after each number of polls it can have.
fn abandoned_connections(event_loop: &EventLoop) {
    for polls in 0.. {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(HANG)).unwrap();
        let log = Log::default();
        let done = run(event_loop, async {
            let mut future = pin!(event_loop.create_connection(|| Recorder::new(&log), ours));
            for _ in 0..polls {
                let poll = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
                if let Poll::Ready(result) = poll {
                    result.unwrap().0.close();
                    return true;
                }
                turns(event_loop, 1).await;
            }
            false
        });
        run(event_loop, turns(event_loop, 3));
        assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0, "closed after {polls} polls");
        let expected: &[&str] = if polls == 0 { &[] } else { &["made", "lost"] };
        assert_eq!(log.lines(), expected, "after {polls} polls");
        if done {
            return assert!(polls > 1);
        }
    }
}

fn waiting_connect(event_loop: &EventLoop) {
    let (silent, sockets) = silent();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let before = descriptors();
    let mut waiting = Box::pin(event_loop.create_connection(|| Echo, silent));
    let mut cx = Context::from_waker(Waker::noop());
    run(event_loop, async {
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        turns(event_loop, 3).await;
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert_eq!(descriptors(), before + 1);
        drop(waiting);
        assert_eq!(descriptors(), before);
        // The next socket has the same number; a watcher that was left would have its event.
        let place = listener.local_addr().unwrap();
        let (transport, _) = event_loop.create_connection(|| Echo, place).await.unwrap();
        transport.abort();
        turns(event_loop, 3).await;
    });
    drop(sockets);
}

fn racing_connects(event_loop: &EventLoop) {
    let (silent, sockets) = silent();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let place = listener.local_addr().unwrap();
    let before = descriptors();
    let race = |places: Vec<SocketAddr>, delay| {
        let options = ConnectOptions::new(places).happy_eyeballs_delay(delay);
        event_loop.create_connection(|| Echo, options)
    };
    run(event_loop, async {
        let (transport, _) =
            race(vec![silent, silent, place], Duration::from_millis(1)).await.unwrap();
        assert_eq!(descriptors(), before + 1, "the losers are gone");
        transport.abort();
        turns(event_loop, 3).await;
        assert_eq!(descriptors(), before);
        let mut waiting = Box::pin(race(vec![silent, silent, silent], Duration::ZERO));
        let mut cx = Context::from_waker(Waker::noop());
        until(event_loop, || {
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            descriptors() == before + 3
        })
        .await;
    });
    assert_eq!(descriptors(), before, "given up");
    drop(sockets);
}

fn failing_connects(event_loop: &EventLoop) {
    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    run(event_loop, async {
        event_loop.create_connection(|| Echo, vec![nobody; 3]).await.unwrap_err();
        let datagrams = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let socket = OwnedFd::from(datagrams);
        event_loop.create_connection(|| Echo, socket).await.unwrap_err();
    });
}

fn servers(event_loop: &EventLoop) {
    let place = ("127.0.0.1", 0);
    run(event_loop, async {
        let server = event_loop.create_server(|| Echo, place).await.unwrap();
        let taken = server.local_addrs()[0];
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        event_loop.create_server(|| Echo, vec![free, taken]).await.unwrap_err();
        server.close();
        let idle = ServerOptions::new(place).start_serving(false);
        drop(event_loop.create_server(|| Echo, idle).await.unwrap());
        {
            // Given up while it starts.
            let mut starting = pin!(event_loop.create_server(|| Echo, place));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(starting.as_mut().poll(&mut cx).is_pending());
        }
        let forever = event_loop.create_server(|| Echo, place).await.unwrap();
        let task = event_loop.create_task(async move { forever.serve_forever().await });
        turns(event_loop, 3).await;
        task.cancel();
        turns(event_loop, 3).await;
    });
}

fn busy_server(event_loop: &EventLoop) {
    run(event_loop, async {
        let server = event_loop.create_server(|| Echo, ("127.0.0.1", 0)).await.unwrap();
        let place = server.local_addrs()[0];
        let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(place).unwrap()).collect();
        // Some are accepted and not yet connections.
        turns(event_loop, 2).await;
        server.close();
        drop(clients);
        server.wait_closed().await;
        turns(event_loop, 5).await;
    });
}

fn abandoned_unix_connections(event_loop: &EventLoop) {
    let folder = Folder::new();
    run(event_loop, async {
        let path = folder.join("server");
        let log = Log::default();
        let seen = log.clone();
        let factory = move || Recorder::new(&seen);
        let server = event_loop.create_unix_server(factory, path.as_path()).await.unwrap();
        for polls in 0..4 {
            let mut connecting =
                pin!(event_loop.create_unix_connection(Recorder::default, path.as_path()));
            for _ in 0..polls {
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(connected) = connecting.as_mut().poll(&mut cx) {
                    connected.unwrap().0.close();
                    break;
                }
                turns(event_loop, 1).await;
            }
        }
        until(event_loop, || log.has("made") && log.count("made") == log.count("lost")).await;
        server.close();
    });
}

fn failing_unix_sockets(event_loop: &EventLoop) {
    let folder = Folder::new();
    run(event_loop, async {
        let file = folder.join("file");
        std::fs::write(&file, "").unwrap();
        for path in [file, folder.join("a/b"), folder.join(&"x".repeat(108)), "".into()] {
            let connecting = event_loop.create_unix_connection(Recorder::default, path.as_path());
            assert!(connecting.await.is_err());
            assert!(event_loop.create_unix_server(|| Echo, path.as_path()).await.is_err());
        }
        let datagrams = || UnixDatagram::unbound().map(OwnedFd::from).unwrap();
        assert!(event_loop.create_unix_connection(|| Echo, datagrams()).await.is_err());
        assert!(event_loop.create_unix_server(|| Echo, datagrams()).await.is_err());
    });
}

struct Ignore;

impl DatagramProtocol for Ignore {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &[u8], _: &Address) {}
}

fn datagram_endpoints(event_loop: &EventLoop) {
    let any = || DatagramOptions::new().local_addr(("127.0.0.1", 0));
    run(event_loop, async {
        for close in [DatagramTransport::close, DatagramTransport::abort] {
            let (transport, _) =
                event_loop.create_datagram_endpoint(|| Ignore, any()).await.unwrap();
            close(&transport);
            turns(event_loop, 2).await;
            // A second endpoint for the same address takes no more than the first.
            let taken = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            let again = DatagramOptions::new().local_addr(taken.local_addr().unwrap());
            assert!(event_loop.create_datagram_endpoint(|| Ignore, again).await.is_err());
            let stream = UnixStream::pair().unwrap().0;
            let wrong = DatagramOptions::from(OwnedFd::from(stream));
            assert!(event_loop.create_datagram_endpoint(|| Ignore, wrong).await.is_err());
        }
        // Given up at any point.
        for polls in 0..4 {
            let mut making = pin!(event_loop.create_datagram_endpoint(|| Ignore, any()));
            for _ in 0..polls {
                let made = making.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if let Poll::Ready(made) = made {
                    made.unwrap().0.abort();
                    break;
                }
                turns(event_loop, 1).await;
            }
        }
        turns(event_loop, 3).await;
    });
}

fn signals(event_loop: &EventLoop) {
    for _ in 0..3 {
        event_loop.add_signal_handler(signal_hook::consts::SIGUSR1, || ()).unwrap();
    }
    run(event_loop, turns(event_loop, 2));
    event_loop.remove_signal_handler(signal_hook::consts::SIGUSR1);
}

fn left_open(event_loop: &EventLoop) {
    let (ours, _) = UnixStream::pair().unwrap();
    event_loop.add_reader(ours, || {}).unwrap();
    let server = run(event_loop, event_loop.create_server(|| Echo, ("127.0.0.1", 0))).unwrap();
    let client = TcpStream::connect(server.local_addrs()[0]).unwrap();
    let pair = run(event_loop, async {
        turns(event_loop, 5).await;
        event_loop.add_signal_handler(signal_hook::consts::SIGUSR1, || ()).unwrap();
        Pair::open(event_loop).await
    });
    let (silent, sockets) = silent();
    let connecting = event_loop.clone();
    drop(event_loop.create_task(async move {
        drop(connecting.create_connection(|| Echo, silent).await);
    }));
    run(event_loop, turns(event_loop, 3));
    event_loop.close().unwrap();
    drop((client, sockets, pair, server));
}

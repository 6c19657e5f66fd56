//! Servers: where they listen, how they stop.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Misuse, Server, ServerOptions};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use util::*;

const ANY: (&str, u16) = ("127.0.0.1", 0);

fn address(server: &Server) -> SocketAddr {
    server.local_addrs()[0]
}

/// A server of recorders, and what they record.
async fn serve(event_loop: &EventLoop, options: impl Into<ServerOptions>) -> (Server, Log) {
    let log = Log::default();
    let seen = log.clone();
    let server = event_loop.create_server(move || Recorder::new(&seen), options).await.unwrap();
    (server, log)
}

#[test]
fn listens_on_several_addresses() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let places: Vec<SocketAddr> =
            ["127.0.0.1:0", "127.0.0.2:0"].map(|place| place.parse().unwrap()).into();
        let (server, log) = serve(&event_loop, places.as_slice()).await;
        let addresses = server.local_addrs();
        assert_eq!(addresses.len(), 2);
        assert_eq!(server.sockets().len(), 2);
        for (address, place) in addresses.iter().zip(&places) {
            assert_eq!(address.ip(), place.ip());
            TcpStream::connect(address).unwrap();
        }
        until(&event_loop, || log.count("lost") == 2).await;
    });
}

#[test]
fn listens_on_several_hosts() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let hosts = ["127.0.0.1", "localhost", "127.0.0.2"];
        let (server, log) = serve(&event_loop, (hosts.as_slice(), 0)).await;
        for address in server.local_addrs() {
            TcpStream::connect(address).unwrap();
        }
        let count = server.local_addrs().len();
        assert!(count >= 2, "one host names one address, or another's");
        until(&event_loop, || log.count("made") == count).await;
    });
}

#[test]
fn an_empty_host_is_every_interface() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, log) = serve(&event_loop, ("", 0)).await;
        let all = server.local_addrs();
        assert!(all.iter().all(|address| address.ip().is_unspecified()));
        let port = all.iter().find(|address| address.is_ipv4()).unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        until(&event_loop, || log.has("made")).await;
    });
}

#[test]
fn takes_an_existing_listener() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let listener = TcpListener::bind(ANY).unwrap();
        let place = listener.local_addr().unwrap();
        let (server, log) = serve(&event_loop, listener).await;
        assert_eq!(server.local_addrs(), [place]);
        TcpStream::connect(place).unwrap();
        until(&event_loop, || log.has("lost")).await;
        let path = std::env::temp_dir().join(format!("oxloop-{}.sock", std::process::id()));
        let (server, log) = serve(&event_loop, UnixListener::bind(&path).unwrap()).await;
        assert_eq!(server.local_addrs(), [], "it has none");
        UnixStream::connect(&path).unwrap();
        until(&event_loop, || log.has("lost")).await;
        std::fs::remove_file(path).unwrap();
        let datagrams = OwnedFd::from(UdpSocket::bind(ANY).unwrap());
        let refused = event_loop.create_server(|| Echo, datagrams).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::StreamExpected))));
    });
}

#[test]
fn a_port_that_is_taken() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, _) = serve(&event_loop, ANY).await;
        let taken = address(&server);
        let error = event_loop.create_server(|| Echo, taken).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(98), "EADDRINUSE");
        assert!(error.to_string().contains(&taken.to_string()));
        let Error::Bind { address, .. } = error else { panic!("{error:?}") };
        assert_eq!(address, taken);
    });
}

#[test]
fn addresses_that_this_machine_has_not_are_left_out() {
    let event_loop = new_loop();
    run(&event_loop, async {
        // TEST-NET-1 is nobody's.
        let foreign: SocketAddr = "192.0.2.1:0".parse().unwrap();
        let error = event_loop.create_server(|| Echo, foreign).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(99), "EADDRNOTAVAIL");
        let (server, _) = serve(&event_loop, vec![foreign, "127.0.0.1:0".parse().unwrap()]).await;
        assert_eq!(server.local_addrs().len(), 1);
    });
}

#[test]
fn servers_may_share_a_port() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let shared = |place| ServerOptions::new(place).reuse_port(true);
        let (first, one) = serve(&event_loop, shared("127.0.0.1:0".parse().unwrap())).await;
        let place: SocketAddr = address(&first);
        let (_second, two) = serve(&event_loop, shared(place)).await;
        for _ in 0..10 {
            TcpStream::connect(place).unwrap();
        }
        until(&event_loop, || one.count("made") + two.count("made") == 10).await;
        let alone = ServerOptions::new(place);
        assert!(event_loop.create_server(|| Echo, alone).await.is_err());
    });
}

#[test]
fn serves_when_it_is_told_to() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, log) =
            serve(&event_loop, ServerOptions::new(ANY).start_serving(false).backlog(5)).await;
        assert!(!server.is_serving());
        assert!(TcpStream::connect(address(&server)).is_err(), "nobody listens");
        server.start_serving().await.unwrap();
        server.start_serving().await.unwrap();
        assert!(server.is_serving());
        TcpStream::connect(address(&server)).unwrap();
        until(&event_loop, || log.has("made")).await;
    });
}

#[test]
fn close_stops_listening_and_leaves_connections_open() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, log) = serve(&event_loop, ANY).await;
        let place = address(&server);
        let mut client = TcpStream::connect(place).unwrap();
        client.set_read_timeout(Some(HANG)).unwrap();
        until(&event_loop, || log.has("made")).await;
        server.close();
        server.close();
        assert!(!server.is_serving());
        assert_eq!((server.sockets().len(), server.local_addrs().len()), (0, 0));
        assert!(TcpStream::connect(place).is_err());
        let started = server.start_serving().await;
        assert!(matches!(started, Err(Error::Misuse(Misuse::ServerClosed))));
        let closed = server.clone();
        let waiting = event_loop.create_task(async move { closed.wait_closed().await });
        turns(&event_loop, 5).await;
        assert!(!waiting.done(), "a connection is open");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        within(&event_loop, waiting).await.unwrap();
        assert!(log.has("lost"));
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        server.wait_closed().await;
    });
}

#[test]
fn clients_are_closed_or_aborted() {
    let event_loop = new_loop();
    run(&event_loop, async {
        for abort in [false, true] {
            let log = Log::default();
            let seen = log.clone();
            let factory = move || {
                Recorder::new(&seen).on_made(|transport| transport.write(vec![7; 4_000_000]))
            };
            let server = event_loop.create_server(factory, ANY).await.unwrap();
            assert!(server.event_loop().is_some());
            let place = address(&server);
            let connect = || {
                let client = TcpStream::connect(place).unwrap();
                client.set_read_timeout(Some(HANG)).unwrap();
                client
            };
            let mut clients = vec![connect(), connect()];
            until(&event_loop, || log.count("made") == 2).await;
            if abort {
                server.abort_clients()
            } else {
                server.close_clients()
            }
            assert!(!log.has("lost"), "not from inside");
            assert!(server.is_serving());
            clients.push(connect());
            until(&event_loop, || log.count("made") == 3).await;
            let reading = std::thread::spawn(move || {
                let read = |mut client: TcpStream| {
                    let mut data = Vec::new();
                    client.read_to_end(&mut data).map_or(0, |_| data.len())
                };
                let last = clients.pop().unwrap();
                (clients.into_iter().map(read).collect::<Vec<_>>(), last)
            });
            until(&event_loop, || reading.is_finished()).await;
            let (read, last) = reading.join().unwrap();
            assert_eq!(read.iter().all(|size| *size == 4_000_000), !abort, "{read:?}");
            until(&event_loop, || log.count("lost") == 2).await;
            // From another thread, on a closed server.
            server.close();
            let waiting = server.clone();
            let closed = event_loop.create_task(async move { waiting.wait_closed().await });
            turns(&event_loop, 3).await;
            assert!(!closed.done(), "one is left");
            let other = server.clone();
            std::thread::spawn(move || other.abort_clients()).join().unwrap();
            within(&event_loop, closed).await.unwrap();
            assert_eq!(log.count("lost"), 3);
            server.close_clients();
            server.abort_clients();
            drop(last);
        }
    });
}

#[test]
fn connections_are_kept_alive_where_asked_for() {
    let event_loop = new_loop();
    run(&event_loop, async {
        for keep_alive in [false, true] {
            let (seen, transports) = std::sync::mpsc::channel();
            let factory = move || {
                let seen = seen.clone();
                Recorder::default().on_made(move |transport| seen.send(transport.clone()).unwrap())
            };
            let options = ServerOptions::new(ANY).keep_alive(keep_alive);
            let server = event_loop.create_server(factory, options).await.unwrap();
            let _client = TcpStream::connect(address(&server)).unwrap();
            let mut made = None;
            until(&event_loop, || {
                made = transports.try_recv().ok();
                made.is_some()
            })
            .await;
            let kept = made.unwrap().with_socket(|socket| socket.keepalive().unwrap());
            assert_eq!(kept, Some(keep_alive));
        }
    });
}

#[test]
fn wait_closed_waits_for_close() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, _) = serve(&event_loop, ANY).await;
        let waited = server.clone();
        let waiting = event_loop.create_task(async move { waited.wait_closed().await });
        turns(&event_loop, 5).await;
        assert!(!waiting.done());
        server.close();
        within(&event_loop, waiting).await.unwrap();
    });
}

#[test]
fn serves_forever_until_it_is_closed() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let options = ServerOptions::new(ANY).start_serving(false);
        let (server, log) = serve(&event_loop, options).await;
        let forever = server.clone();
        let task = event_loop.create_task(async move { forever.serve_forever().await });
        until(&event_loop, || server.is_serving()).await;
        let twice = server.serve_forever().await;
        assert!(matches!(twice, Err(Error::Misuse(Misuse::ServerAwaited))));
        assert!(server.is_serving(), "the first goes on");
        let client = TcpStream::connect(address(&server)).unwrap();
        until(&event_loop, || log.has("made")).await;
        server.close();
        turns(&event_loop, 5).await;
        assert!(!task.done(), "a connection is open");
        drop(client);
        within(&event_loop, task).await.unwrap().unwrap();
        let again = server.serve_forever().await;
        assert!(matches!(again, Err(Error::Misuse(Misuse::ServerClosed))));
    });
}

#[test]
fn giving_serve_forever_up_closes_the_server() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, _) = serve(&event_loop, ANY).await;
        let forever = server.clone();
        let task = event_loop.create_task(async move { forever.serve_forever().await });
        turns(&event_loop, 3).await;
        assert!(server.is_serving());
        task.cancel();
        until(&event_loop, || !server.is_serving()).await;
        server.wait_closed().await;
    });
}

#[test]
fn a_server_that_nobody_holds_serves_on() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, log) = serve(&event_loop, ANY).await;
        let place = address(&server);
        drop(server);
        TcpStream::connect(place).unwrap();
        until(&event_loop, || log.has("lost")).await;
    });
}

#[test]
fn a_connection_is_made_one_turn_after_its_factory() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let (seen, inner) = (log.clone(), event_loop.clone());
        let factory = move || {
            seen.add("factory");
            let soon = seen.clone();
            inner.call_soon(move || soon.add("soon"));
            Recorder::new(&seen)
        };
        let server = event_loop.create_server(factory, ANY).await.unwrap();
        let mut client = TcpStream::connect(address(&server)).unwrap();
        std::io::Write::write_all(&mut client, b"x").unwrap();
        until(&event_loop, || log.has("data")).await;
        assert_eq!(log.lines(), ["factory", "soon", "made", "data"]);
    });
}

#[test]
fn a_factory_that_panics_costs_its_connection_only() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let factory = move || {
            seen.add("factory");
            assert!(seen.count("factory") > 1, "not the first");
            Recorder::new(&seen)
        };
        let server = event_loop.create_server(factory, ANY).await.unwrap();
        let mut first = TcpStream::connect(address(&server)).unwrap();
        first.set_read_timeout(Some(HANG)).unwrap();
        until(&event_loop, || told.lines().len() == 1).await;
        assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "closed");
        let message = "Error on transport creation for incoming connection";
        assert_eq!(told.take(), [format!("{message}|a callback panicked: not the first")]);
        let _second = TcpStream::connect(address(&server)).unwrap();
        until(&event_loop, || log.has("made")).await;
        server.close();
    });
}

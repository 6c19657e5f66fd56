//! Connections that become TLS.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::rustls::StreamOwned;
use oxloop::rustls::client::ClientConnection;
use oxloop::{
    Error, EventLoop, Misuse, Promise, Protocol, ProtocolHandle, StartTlsOptions, TlsClientOptions,
    TlsServerOptions, Transport,
};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;
use tls::*;
use util::*;

/// One end of a connection in the loop.
struct End {
    log: Log,
    transport: Transport,
    protocol: ProtocolHandle<Recorder>,
}

impl End {
    async fn open(event_loop: &EventLoop, socket: UnixStream) -> End {
        let log = Log::default();
        let factory = || Recorder::new(&log).on_data(|_, _| {});
        let (transport, protocol) = event_loop.create_connection(factory, socket).await.unwrap();
        End { log, transport, protocol }
    }

    async fn pair(event_loop: &EventLoop) -> (End, End) {
        let (near, far) = UnixStream::pair().unwrap();
        (End::open(event_loop, near).await, End::open(event_loop, far).await)
    }

    async fn heard(&self, event_loop: &EventLoop, data: &[u8]) {
        until(event_loop, || self.protocol.with(|it| it.data.ends_with(data)).unwrap()).await;
    }

    fn error(&self) -> Option<Error> {
        self.protocol.with(|recorder| recorder.error.take()).unwrap()
    }
}

fn client() -> TlsClientOptions {
    TlsClientOptions::new(client_config()).server_name("localhost")
}

fn server() -> TlsServerOptions {
    TlsServerOptions::new(server_config())
}

/// Both ends become TLS.
async fn upgrade(event_loop: &EventLoop, near: &mut End, far: &mut End) {
    let upgrading = {
        let (event_loop, transport) = (event_loop.clone(), far.transport.clone());
        let protocol = far.protocol.clone();
        async move { event_loop.start_tls(&transport, &protocol, server()).await }
    };
    let upgrading = event_loop.create_task(upgrading);
    near.transport = event_loop.start_tls(&near.transport, &near.protocol, client()).await.unwrap();
    far.transport = upgrading.await.unwrap().unwrap();
}

async fn talk(event_loop: &EventLoop, near: &End, far: &End, first: &[u8]) {
    for end in [near, far] {
        end.protocol.with(|recorder| recorder.data.clear()).unwrap();
    }
    near.transport.write(first);
    far.heard(event_loop, first).await;
    far.transport.write(b"the answer");
    near.heard(event_loop, b"the answer").await;
}

#[test]
fn both_roles() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (mut near, mut far) = End::pair(&event_loop).await;
        talk(&event_loop, &near, &far, b"plain").await;
        upgrade(&event_loop, &mut near, &mut far).await;
        assert!(near.transport.is_tls() && far.transport.is_tls());
        assert!(near.transport.peer_certificates().is_some());
        talk(&event_loop, &near, &far, b"secret").await;
        near.transport.close();
        until(&event_loop, || near.log.has("lost") && far.log.has("lost")).await;
        for end in [&near, &far] {
            assert_eq!(end.log.lines(), ["made", "data", "data", "eof", "lost"]);
            assert!(end.error().is_none());
        }
    });
}

#[test]
fn tls_in_tls_in_tls() {
    let event_loop = new_loop();
    let before = errors(&event_loop);
    run(&event_loop, async {
        let (mut near, mut far) = End::pair(&event_loop).await;
        for depth in 0..3u8 {
            upgrade(&event_loop, &mut near, &mut far).await;
            talk(&event_loop, &near, &far, &[depth; 10]).await;
        }
        near.transport.write(pattern(1 << 20));
        far.heard(&event_loop, &pattern(1 << 20)[1000..]).await;
        far.transport.close();
        until(&event_loop, || near.log.has("lost") && far.log.has("lost")).await;
        assert_eq!((near.log.count("eof"), near.log.count("lost")), (1, 1));
        assert!(near.error().is_none() && far.error().is_none());
    });
    assert_eq!(before.lines(), Vec::<String>::new());
}

#[test]
fn tls_is_closing_where_the_one_below_is() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (mut near, mut far) = End::pair(&event_loop).await;
        upgrade(&event_loop, &mut near, &mut far).await;
        let below = near.transport.clone();
        upgrade(&event_loop, &mut near, &mut far).await;
        assert!(!near.transport.is_closing());
        below.close();
        assert!(near.transport.is_closing());
        assert!(format!("{:?}", near.transport).contains(" closing "));
        until(&event_loop, || near.log.has("lost") && far.log.has("lost")).await;
    });
}

#[test]
fn tls_in_tls_is_let_go_with_the_loop() {
    let event_loop = new_loop();
    let log = run(&event_loop, async {
        let (mut near, mut far) = End::pair(&event_loop).await;
        for _ in 0..2 {
            upgrade(&event_loop, &mut near, &mut far).await;
        }
        let kept = far.protocol.clone();
        let log = far.log.clone();
        // The protocol keeps its own transport, and is kept by it.
        let inner = far.transport.clone();
        kept.with(|recorder| recorder.transport = Some(inner)).unwrap();
        let (promise, waiter) = event_loop.create_future();
        near.transport.set_protocol(Silent(promise));
        (log, waiter)
    });
    event_loop.close().unwrap();
    // The promise went with its protocol, before the handle of the loop.
    let other = new_loop();
    assert!(matches!(run(&other, log.1), Err(Error::Cancelled)));
    assert_eq!(log.0.count("lost"), 0);
}

struct Silent(#[allow(dead_code, reason = "dropped with it")] Promise<()>);

impl Protocol for Silent {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A protocol that becomes TLS when it is asked to, in the middle of what it has read.
struct StartTls {
    event_loop: EventLoop,
    log: Log,
}

impl Protocol for StartTls {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.log.add(format!("{}:{}", transport.is_tls(), data.len()));
        if transport.is_tls() {
            return transport.write(data);
        }
        let command = b"STARTTLS\n".len();
        assert_eq!(&data[..command], b"STARTTLS\n");
        transport.write("go on\n");
        let tls = StartTlsOptions::new(server()).received(data[command..].to_vec());
        let (transport, event_loop) = (transport.clone(), self.event_loop.clone());
        let protocol = transport.protocol::<StartTls>().unwrap();
        self.event_loop.create_task(async move {
            event_loop.start_tls(&transport, &protocol, tls).await.unwrap();
        });
    }
}

/// The client does not wait for the answer to its command.
#[test]
fn bytes_that_were_read_already() {
    let event_loop = new_loop();
    run(&event_loop, async {
        for cut in [0, 1, 5, 100, usize::MAX] {
            let (near, mut peer) = UnixStream::pair().unwrap();
            peer.set_read_timeout(Some(HANG)).unwrap();
            let log = Log::default();
            let factory = || StartTls { event_loop: event_loop.clone(), log: log.clone() };
            event_loop.create_connection(factory, near).await.unwrap();
            let peer = thread::spawn(move || {
                let name = "localhost".try_into().unwrap();
                let config = std::sync::Arc::new(client_config());
                let mut session = ClientConnection::new(config, name).unwrap();
                let mut hello = b"STARTTLS\n".to_vec();
                session.write_tls(&mut hello).unwrap();
                let (first, rest) = hello.split_at((9 + cut.min(1000)).min(hello.len()));
                peer.write_all(first).unwrap();
                thread::sleep(Duration::from_millis(5));
                peer.write_all(rest).unwrap();
                let mut answer = [0; 6];
                peer.read_exact(&mut answer).unwrap();
                assert_eq!(&answer, b"go on\n");
                let mut stream = StreamOwned::new(session, peer);
                stream.write_all(b"hello").unwrap();
                let mut echo = [0; 5];
                stream.read_exact(&mut echo).unwrap();
                echo
            });
            until(&event_loop, || peer.is_finished()).await;
            assert_eq!(&peer.join().unwrap(), b"hello");
            assert!(log.lines()[0].starts_with("false:"));
            assert_eq!(log.lines()[1..], ["true:5"]);
        }
    });
}

#[test]
fn a_server_may_write_first() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (mut near, mut far) = End::pair(&event_loop).await;
        upgrade(&event_loop, &mut near, &mut far).await;
        far.transport.write("welcome");
        near.heard(&event_loop, b"welcome").await;
    });
}

#[test]
fn what_is_written_before_stays_plain() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (near, mut peer) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(HANG)).unwrap();
        let near = End::open(&event_loop, near).await;
        near.transport.write("plain\n");
        let peer = thread::spawn(move || {
            let mut first = [0; 7];
            peer.read_exact(&mut first).unwrap();
            first
        });
        let tls = client().handshake_timeout(Duration::from_millis(50));
        let error = event_loop.start_tls(&near.transport, &near.protocol, tls).await.unwrap_err();
        assert_eq!(&peer.join().unwrap(), b"plain\n\x16");
        assert!(matches!(error, Error::Io(_)), "{error:?}");
    });
}

type Peer = fn(UnixStream);

/// The caller and the protocol both hear of it, the protocol once.
#[test]
fn upgrades_that_fail() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let kinds: [(&str, Peer); 4] = [
            ("end", |mut peer| {
                let _ = peer.read(&mut [0]);
                peer.shutdown(std::net::Shutdown::Write).unwrap();
                let _ = peer.read_to_end(&mut Vec::new());
            }),
            ("reset", |mut peer| {
                // What is not read makes a reset of the end.
                peer.read_exact(&mut [0]).unwrap();
            }),
            ("silence", |mut peer| {
                let _ = peer.read_to_end(&mut Vec::new());
            }),
            ("no TLS", |mut peer| {
                peer.write_all(b"500 not now\n").unwrap();
                let _ = peer.read_to_end(&mut Vec::new());
            }),
        ];
        for (kind, act) in kinds {
            let (near, peer) = UnixStream::pair().unwrap();
            peer.set_read_timeout(Some(HANG)).unwrap();
            let end = End::open(&event_loop, near).await;
            let peer = thread::spawn(move || act(peer));
            let tls = client().handshake_timeout(Duration::from_millis(match kind {
                "silence" => 50,
                _ => 30_000,
            }));
            let error = event_loop.start_tls(&end.transport, &end.protocol, tls).await.unwrap_err();
            until(&event_loop, || end.log.has("lost")).await;
            assert_eq!(end.log.lines(), ["made", "lost"], "{kind}");
            assert_eq!(end.error().unwrap().to_string(), error.to_string());
            match (kind, &error) {
                ("end" | "reset", error) => assert_eq!(error.raw_os_error(), Some(104)),
                ("silence", Error::Io(error)) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
                }
                ("no TLS", Error::Tls(_)) => {}
                _ => panic!("{kind}: {error:?}"),
            }
            until(&event_loop, || peer.is_finished()).await;
            peer.join().unwrap();
        }
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

#[test]
fn an_abort_ends_it() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (near, _peer) = UnixStream::pair().unwrap();
        let end = End::open(&event_loop, near).await;
        let transport = end.transport.clone();
        event_loop.call_later(Duration::from_millis(5), move || transport.abort());
        let error =
            event_loop.start_tls(&end.transport, &end.protocol, client()).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(103), "ECONNABORTED");
        until(&event_loop, || end.log.has("lost")).await;
        assert!(end.error().is_none());
    });
}

#[test]
fn an_upgrade_that_is_given_up_closes() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (near, mut peer) = UnixStream::pair().unwrap();
        let end = End::open(&event_loop, near).await;
        {
            let mut upgrading =
                Box::pin(event_loop.start_tls(&end.transport, &end.protocol, client()));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            for _ in 0..5 {
                assert!(upgrading.as_mut().poll(&mut cx).is_pending());
                turns(&event_loop, 1).await;
            }
        }
        until(&event_loop, || end.log.has("lost")).await;
        assert_eq!(end.log.lines(), ["made", "lost"]);
        peer.set_read_timeout(Some(HANG)).unwrap();
        peer.read_to_end(&mut Vec::new()).unwrap();
    });
}

#[test]
fn what_cannot_become_tls() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (near, _far) = UnixStream::pair().unwrap();
        let end = End::open(&event_loop, near).await;
        let nameless = TlsClientOptions::new(client_config());
        let refused = event_loop.start_tls(&end.transport, &end.protocol, nameless).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::NoServerName))));
        let other = new_loop();
        let refused = other.start_tls(&end.transport, &end.protocol, client()).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::StartTlsUnsupported))));
        end.transport.write("still plain");
        end.transport.close();
        let refused = event_loop.start_tls(&end.transport, &end.protocol, client()).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::TransportClosing))));

        let (near, _far) = UnixStream::pair().unwrap();
        let (pipe, protocol) =
            event_loop.connect_read_pipe(|| Recorder::new(&Log::default()), near).await.unwrap();
        let refused = event_loop.start_tls(&pipe, &protocol, client()).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::StartTlsUnsupported))));
    });
}

//! Connections over TLS.

#![cfg(feature = "tls")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails panics"
)]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::rustls::{self, ProtocolVersion};
use oxloop::{
    Buffered, BufferedProtocol, Bytes, ConnectOptions, Error, EventLoop, Misuse, Protocol, Server,
    ServerOptions, TlsClientOptions, Transport, UnixConnectOptions, UnixServerOptions,
};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use tls::*;
use util::*;

/// A server of recorders that echo, and what they record.
async fn echo_server(
    event_loop: &EventLoop,
    config: rustls::ServerConfig,
) -> (Server, Log, Arc<Mutex<Vec<Transport>>>) {
    let (log, transports) = (Log::default(), Arc::new(Mutex::new(Vec::new())));
    let (seen, kept) = (log.clone(), transports.clone());
    let factory = move || {
        let kept = kept.clone();
        Recorder::new(&seen)
            .on_made(move |transport| kept.lock().unwrap().push(transport.clone()))
            .on_data(|transport, data| transport.write(data))
    };
    let options = ServerOptions::new(ANY).tls(config);
    (event_loop.create_server(factory, options).await.unwrap(), log, transports)
}

#[test]
fn echoes_in_both_versions() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    for (versions, version) in
        [(TLS12, ProtocolVersion::TLSv1_2), (TLS13, ProtocolVersion::TLSv1_3)]
    {
        run(&event_loop, async {
            let mut config = serving(&AUTHORITY.server, rustls::ALL_VERSIONS);
            config.alpn_protocols = vec![b"h2".to_vec(), b"echo".to_vec()];
            let (server, log, accepted) = echo_server(&event_loop, config).await;
            let mut config = trusting(versions);
            config.alpn_protocols = vec![b"echo".to_vec()];
            // The name is the host's.
            let to = ConnectOptions::new(("localhost", server.local_addrs()[0].port())).tls(config);
            let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
            assert_eq!(client.log.lines(), ["made"]);
            client.transport.write("hello");
            until(&event_loop, || client.log.has("data")).await;
            assert_eq!(client.protocol.with(|recorder| recorder.data.clone()).unwrap(), b"hello");

            let theirs = accepted.lock().unwrap().pop().unwrap();
            for side in [&client.transport, &theirs] {
                assert!(side.is_tls());
                assert_eq!(side.alpn_protocol().as_deref(), Some(&b"echo"[..]));
                assert_eq!(side.protocol_version(), Some(version));
            }
            assert_eq!(
                client.transport.cipher_suite().unwrap().suite(),
                theirs.cipher_suite().unwrap().suite()
            );
            assert_eq!(theirs.server_name().as_deref(), Some("localhost"));
            assert_eq!(client.transport.server_name(), None);
            assert_eq!(theirs.peer_certificates(), None);
            assert_eq!(client.transport.peer_certificates().unwrap(), AUTHORITY.server.chain);
            assert_eq!(client.transport.peer_addr(), theirs.local_addr());

            client.transport.close();
            until(&event_loop, || client.log.has("lost") && log.has("lost")).await;
            assert_eq!(client.log.lines(), ["made", "data", "eof", "lost"]);
            assert_eq!(log.take(), ["made", "data", "eof", "lost"]);
            assert_eq!(client.error(), "None");
            assert!(client.transport.is_closing());
            assert_eq!(client.transport.protocol_version(), Some(version), "known after the end");
        });
    }
    assert_eq!(reported.lines(), Vec::<String>::new());
}

#[test]
fn plain_connections_know_nothing_of_it() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let pair = Pair::open(&event_loop).await;
        assert!(!pair.transport.is_tls());
        assert_eq!(pair.transport.alpn_protocol(), None);
        assert_eq!(pair.transport.peer_certificates(), None);
        assert_eq!(pair.transport.protocol_version(), None);
        assert_eq!(pair.transport.cipher_suite().map(|suite| suite.suite()), None);
        assert_eq!(pair.transport.server_name(), None);
    });
}

#[test]
fn clients_show_their_certificates() {
    let event_loop = new_loop();
    for versions in [TLS12, TLS13] {
        run(&event_loop, async {
            let (server, _, accepted) = echo_server(&event_loop, demanding(versions)).await;
            let to = secured(server.local_addrs()[0], known_client(versions));
            let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
            client.transport.write("hello");
            until(&event_loop, || client.log.has("data")).await;
            let theirs = accepted.lock().unwrap().pop().unwrap();
            assert_eq!(theirs.peer_certificates().unwrap(), AUTHORITY.client.chain);
        });
    }
}

/// Writes on until it is paused, and goes on when it is resumed.
struct Source {
    left: usize,
    paused: bool,
    pauses: Log,
    received: Vec<u8>,
    transport: Option<Transport>,
}

impl Source {
    const SIZE: usize = 8 << 20;

    fn new(pauses: &Log) -> Source {
        Source {
            left: Source::SIZE,
            paused: false,
            pauses: pauses.clone(),
            received: Vec::new(),
            transport: None,
        }
    }

    fn pump(&mut self) {
        let Some(transport) = self.transport.clone() else { return };
        let all = Bytes::from_owner(PATTERN.as_slice());
        // All at once, which no socket takes: the pause that this brings about comes when the
        // callback has returned.
        while !self.paused && self.left > 0 {
            let start = Source::SIZE - self.left;
            let count = self.left.min(60_000);
            transport.write(all.slice(start..start + count));
            self.left -= count;
        }
    }
}

static PATTERN: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| pattern(Source::SIZE));

impl Protocol for Source {
    fn connection_made(&mut self, transport: &Transport) {
        self.transport = Some(transport.clone());
        self.pump();
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.received.extend_from_slice(data);
        self.pump();
    }

    fn pause_writing(&mut self, _: &Transport) {
        assert!(!self.paused);
        self.paused = true;
        self.pauses.add("pause");
    }

    fn resume_writing(&mut self, _: &Transport) {
        assert!(self.paused);
        self.paused = false;
        self.pauses.add("resume");
        self.pump();
    }
}

#[test]
fn much_goes_both_ways() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (pauses, theirs) = (Log::default(), Log::default());
        let options = ServerOptions::new(ANY).tls(server_config());
        let sources = Arc::new(Mutex::new(Vec::new()));
        let (kept, seen) = (sources.clone(), theirs.clone());
        let factory = move || {
            let kept = kept.clone();
            Told { source: Source::new(&seen), kept }
        };
        let server = event_loop.create_server(factory, options).await.unwrap();
        let to = secured(server.local_addrs()[0], client_config());
        let (transport, source) =
            event_loop.create_connection(|| Source::new(&pauses), to).await.unwrap();
        until(&event_loop, || source.with(|source| source.received.len()).unwrap() == Source::SIZE)
            .await;
        until(&event_loop, || {
            let transport = sources.lock().unwrap().first().cloned();
            let told = transport.and_then(|transport: Transport| transport.protocol::<Told>());
            told.is_some_and(|told| {
                told.with(|told| told.source.received.len()).unwrap() == Source::SIZE
            })
        })
        .await;
        assert!(source.with(|source| source.received == *PATTERN).unwrap());
        let told = sources.lock().unwrap()[0].protocol::<Told>().unwrap();
        assert!(told.with(|told| told.source.received == *PATTERN).unwrap());
        for log in [&pauses, &theirs] {
            let lines = log.lines();
            assert!(!lines.is_empty(), "so much has to wait");
            for (index, line) in lines.iter().enumerate() {
                assert_eq!(line, ["pause", "resume"][index % 2]);
            }
        }
        assert_eq!(transport.get_write_buffer_size(), 0);
    });
}

/// A source that says which transport it has.
struct Told {
    source: Source,
    kept: Arc<Mutex<Vec<Transport>>>,
}

impl Protocol for Told {
    fn connection_made(&mut self, transport: &Transport) {
        self.kept.lock().unwrap().push(transport.clone());
        self.source.connection_made(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.source.data_received(transport, data);
    }

    fn pause_writing(&mut self, transport: &Transport) {
        self.source.pause_writing(transport);
    }

    fn resume_writing(&mut self, transport: &Transport) {
        self.source.resume_writing(transport);
    }
}

/// Reads into a small buffer of its own.
struct Small {
    buffer: [u8; 1000],
    data: Vec<u8>,
    log: Log,
}

impl BufferedProtocol for Small {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.buffer
    }

    fn buffer_updated(&mut self, _: &Transport, nbytes: usize) {
        assert!(nbytes > 0);
        self.data.extend_from_slice(&self.buffer[..nbytes]);
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.log.add("eof");
        false
    }

    fn connection_lost(&mut self, _: &Transport, _: Option<Error>) {
        self.log.add("lost");
    }
}

#[test]
fn buffered_protocols_are_decrypted_into() {
    let event_loop = new_loop();
    // With the closing alert, and without: all that came before is read.
    for alert in [true, false] {
        run(&event_loop, buffered(&event_loop, alert));
    }
}

async fn buffered(event_loop: &EventLoop, alert: bool) {
    let (address, peer) = serve_once(move |socket| {
        let mut stream = answer(socket, server_config());
        stream.write_all(&pattern(100_000)).unwrap();
        if alert {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        } else {
            stream.flush().unwrap();
            stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
        }
        read_all(&mut stream)
    });
    let log = Log::default();
    let factory = || Buffered(Small { buffer: [0; 1000], data: Vec::new(), log: log.clone() });
    let to = secured(address, client_config());
    let (_, small) = event_loop.create_connection(factory, to).await.unwrap();
    until(event_loop, || log.has("lost")).await;
    assert_eq!(log.lines(), ["eof", "lost"]);
    assert_eq!(small.with(|small| small.0.data.clone()).unwrap(), pattern(100_000));
    assert_eq!(peer.join().unwrap(), (Vec::new(), alert));
}

/// Gives no memory.
struct Empty(Log);

impl BufferedProtocol for Empty {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut []
    }

    fn buffer_updated(&mut self, _: &Transport, _: usize) {}

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.0.add(error.map_or(String::new(), |error| error.to_string()));
    }
}

#[test]
fn an_empty_buffer_is_an_error() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let mut stream = answer(socket, server_config());
            let _ = stream.write_all(b"data");
            read_all(&mut stream)
        });
        let log = Log::default();
        let to = secured(address, client_config());
        let factory = || Buffered(Empty(log.clone()));
        event_loop.create_connection(factory, to).await.unwrap();
        until(&event_loop, || !log.lines().is_empty()).await;
        let empty = Misuse::EmptyBuffer.to_string();
        assert_eq!(log.lines(), [empty.as_str()]);
        assert_eq!(reported.lines(), [format!("Fatal error on SSL protocol|{empty}")]);
        peer.join().unwrap();
    });
}

#[test]
fn over_unix_sockets() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let path = folder.join("echo.sock");
        let options = UnixServerOptions::new(path.as_path()).tls(server_config());
        let _server = event_loop.create_unix_server(|| Echo, options).await.unwrap();
        let tls = TlsClientOptions::new(client_config());
        let nameless = UnixConnectOptions::new(path.as_path()).tls(tls.clone());
        let refused = event_loop.create_unix_connection(|| Echo, nameless).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::NoServerName))));
        let to = UnixConnectOptions::new(path.as_path()).tls(tls.server_name("localhost"));
        let log = Log::default();
        let factory = || Recorder::new(&log);
        let (transport, recorder) = event_loop.create_unix_connection(factory, to).await.unwrap();
        transport.writelines(["a", "", "bc"]);
        transport.writelines([vec![b'x'; 5000], vec![b'y'; 30_000]]);
        until(&event_loop, || recorder.with(|recorder| recorder.data.len()).unwrap() == 35_003)
            .await;
        let data = recorder.with(|recorder| recorder.data.clone()).unwrap();
        assert_eq!((&data[..3], data[3], data[35_002]), (&b"abc"[..], b'x', b'y'));
    });
}

#[test]
fn a_transport_does_what_it_can() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let mut stream = answer(socket, server_config());
            stream.write_all(b"first").unwrap();
            read_all(&mut stream)
        });
        let to = secured(address, client_config());
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        let transport = &client.transport;
        until(&event_loop, || client.log.has("data")).await;

        assert!(!transport.can_write_eof());
        transport.write_eof();
        let refused = format!("{0}|{0}", Misuse::NoWriteEof);
        assert_eq!(reported.take(), [refused]);

        let limits = transport.get_write_buffer_limits();
        assert_eq!((limits.low(), limits.high()), (128 << 10, 512 << 10));
        assert!(transport.set_write_buffer_limits(Some(1), Some(2)).is_err());
        // asyncio's edge for TLS: at the high-water mark, 0 included.
        transport.set_write_buffer_limits(Some(0), None).unwrap();
        assert_eq!(transport.get_write_buffer_limits().high(), 0);
        until(&event_loop, || client.log.has("pause")).await;
        transport.set_write_buffer_limits(Some(100), None).unwrap();
        assert_eq!(client.log.lines().last().unwrap(), "resume");

        assert!(transport.is_reading());
        transport.pause_reading();
        assert!(!transport.is_reading());
        transport.resume_reading();
        assert!(transport.is_reading());

        assert_eq!(transport.with_socket(|socket| socket.tcp_nodelay().unwrap()), Some(true));
        let name = format!("{transport:?}");
        assert!(name.starts_with("<TlsTransport fd="), "{name}");
        assert_eq!(transport, &transport.clone());
        let file = folder.join("file");
        std::fs::write(&file, "data").unwrap();
        let file = std::fs::File::open(file).unwrap();
        let sent = transport.sendfile_native(&file, 0, None).await;
        assert!(matches!(sent, Err(Error::Misuse(Misuse::SendfileUnsupported))));

        transport.write("");
        transport.write("last");
        transport.close();
        assert!(transport.is_closing());
        assert!(format!("{transport:?}").starts_with("<TlsTransport closing"));
        transport.write("too late");
        until(&event_loop, || peer.is_finished()).await;
        assert_eq!(peer.join().unwrap(), (b"last".to_vec(), true));
    });
}

#[test]
fn another_protocol_takes_over() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, _, _) = echo_server(&event_loop, server_config()).await;
        let to = secured(server.local_addrs()[0], client_config());
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        let log = Log::default();
        let second = client.transport.set_protocol(Recorder::new(&log));
        client.transport.write("hello");
        until(&event_loop, || log.has("data")).await;
        assert!(client.transport.protocol::<Recorder>().is_some());
        assert_eq!(second.with(|recorder| recorder.data.clone()).unwrap(), b"hello");
        let small = Small { buffer: [0; 1000], data: Vec::new(), log: log.clone() };
        let third = client.transport.set_protocol(Buffered(small));
        client.transport.write("again");
        until(&event_loop, || third.with(|small| small.0.data.len()).unwrap() == 5).await;
        client.transport.close();
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made"], "the first hears nothing more");
        assert_eq!(log.lines(), ["data", "eof", "lost"]);
    });
}

#[test]
fn other_threads_write_in_their_order() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (server, _, _) = echo_server(&event_loop, server_config()).await;
        let to = secured(server.local_addrs()[0], client_config());
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        let writers: Vec<_> = (0..4u8)
            .map(|thread| {
                let transport = client.transport.clone();
                thread::spawn(move || {
                    for number in 0..100u8 {
                        transport.write([thread, number].to_vec());
                    }
                })
            })
            .collect();
        until(&event_loop, || client.protocol.with(|recorder| recorder.data.len()).unwrap() == 800)
            .await;
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let data = client.protocol.with(|recorder| recorder.data.clone()).unwrap();
        for thread in 0..4 {
            let own = data.chunks(2).filter(|pair| pair[0] == thread).map(|pair| pair[1]);
            assert!(own.eq(0..100));
        }
        let closer = client.transport.clone();
        thread::spawn(move || closer.close()).join().unwrap();
        until(&event_loop, || client.log.has("lost")).await;
    });
}

/// What another thread writes counts from the call on, and pauses the protocol.
#[test]
fn what_a_thread_writes_counts_at_once() {
    const PIECE: usize = 10_000;
    let event_loop = new_loop();
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let (data, _) = read_all(&mut answer(socket, server_config()));
            data.len()
        });
        let to = secured(address, client_config());
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        let transport = client.transport.clone();
        let high = transport.get_write_buffer_limits().high();
        let writing = thread::spawn(move || {
            let mut written = 0;
            while written <= high {
                transport.write(vec![0; PIECE]);
                written += PIECE;
                assert_eq!(transport.get_write_buffer_size(), written);
            }
            written
        });
        // The loop waits for the writer here: it hears of all at once.
        let written = writing.join().unwrap();
        assert_eq!(client.log.lines(), ["made"]);
        until(&event_loop, || client.log.has("resume")).await;
        assert_eq!(client.log.lines(), ["made", "pause", "resume"]);
        client.transport.close();
        until(&event_loop, || peer.is_finished()).await;
        assert_eq!(peer.join().unwrap(), written);
    });
}

/// While nobody runs the loop each caller acts as its thread, several of them at once.
#[test]
fn records_of_several_threads_keep_their_order() {
    let event_loop = new_loop();
    let (address, peer) = serve_once(|socket| {
        let mut stream = answer(socket, server_config());
        let mut data = vec![0; 4 * 200 * 2];
        stream.read_exact(&mut data).unwrap();
        data
    });
    let client = run(&event_loop, async {
        let to = secured(address, client_config());
        Client::connect(&event_loop, to, |recorder| recorder).await.unwrap()
    });
    thread::scope(|scope| {
        for thread in 0..4u8 {
            let transport = &client.transport;
            scope.spawn(move || {
                for number in 0..200u8 {
                    transport.write([thread, number].to_vec());
                }
            });
        }
    });
    run(&event_loop, until(&event_loop, || peer.is_finished()));
    let data = peer.join().unwrap();
    for thread in 0..4 {
        let own = data.chunks(2).filter(|pair| pair[0] == thread).map(|pair| pair[1]);
        assert!(own.eq(0..200));
    }
}

#[test]
fn sessions_resume_with_early_data() {
    let event_loop = new_loop();
    let mut config = serving(&AUTHORITY.server, TLS13);
    config.max_early_data_size = 1000;
    config.send_half_rtt_data = true;
    let server = run(&event_loop, echo_server(&event_loop, config));
    let address = server.0.local_addrs()[0];
    let mut config = trusting(TLS13);
    config.resumption = rustls::client::Resumption::default();
    config.enable_early_data = true;
    let peer = thread::spawn(move || {
        let mut echo = [0; 5];
        let mut first = dial(address, config.clone());
        first.write_all(b"first").unwrap();
        first.read_exact(&mut echo).unwrap();
        let mut second = dial(address, config);
        second.conn.early_data().expect("a ticket").write_all(b"early").unwrap();
        second.read_exact(&mut echo).unwrap();
        assert!(second.conn.is_early_data_accepted());
        (echo, second.conn.handshake_kind())
    });
    run(&event_loop, until(&event_loop, || peer.is_finished()));
    let (echo, kind) = peer.join().unwrap();
    assert_eq!((&echo, kind), (b"early", Some(rustls::HandshakeKind::Resumed)));
}

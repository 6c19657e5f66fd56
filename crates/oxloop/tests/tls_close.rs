//! How TLS connections end.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::rustls::{self, AlertDescription};
use oxloop::{
    Buffered, BufferedProtocol, Error, EventLoop, Protocol, ServerOptions, TlsClientOptions,
    Transport,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tls::*;
use util::*;

/// A client of a server that blocks in a thread.
async fn client<R: Send + 'static>(
    event_loop: &EventLoop,
    serve: impl FnOnce(BlockingServer) -> R + Send + 'static,
) -> (Client, JoinHandle<R>) {
    let (address, peer) = serve_once(|socket| serve(answer(socket, server_config())));
    let to = secured(address, client_config());
    let client = Client::connect(event_loop, to, |recorder| recorder).await.unwrap();
    (client, peer)
}

async fn join<R>(event_loop: &EventLoop, peer: JoinHandle<R>) -> R {
    until(event_loop, || peer.is_finished()).await;
    peer.join().unwrap()
}

fn send_close_notify(stream: &mut BlockingServer) {
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}

#[test]
fn all_is_sent_before_the_alert() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| {
            let end = read_all(&mut stream);
            send_close_notify(&mut stream);
            // Only now the other side ends the connection below.
            (end, stream.sock.read(&mut [0]).unwrap())
        })
        .await;
        client.transport.write(pattern(1 << 20));
        client.transport.close();
        client.transport.close();
        client.transport.write("too late");
        assert!(client.transport.is_closing());
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(join(&event_loop, peer).await, ((pattern(1 << 20), true), 0));
        assert_eq!(client.error(), "None");
        let told: Vec<_> =
            client.log.lines().into_iter().filter(|line| !line.contains("s")).collect();
        assert_eq!(told, ["made", "eof"]);
        assert_eq!(client.log.count("lost"), 1);
    });
}

#[test]
fn the_peers_alert_is_answered() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| {
            stream.write_all(b"bye").unwrap();
            send_close_notify(&mut stream);
            read_all(&mut stream)
        })
        .await;
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "data", "eof", "lost"]);
        assert_eq!(client.error(), "None");
        assert_eq!(join(&event_loop, peer).await, (Vec::new(), true));
    });
}

/// The answer of a protocol to the end is written before the alert.
#[test]
fn a_last_word_at_the_end() {
    let event_loop = new_loop();
    struct Last(Log);
    impl Protocol for Last {
        fn data_received(&mut self, transport: &Transport, _: &[u8]) {
            transport.write("an answer");
        }
        fn eof_received(&mut self, _: &Transport) -> bool {
            // Without effect over TLS.
            true
        }
        fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
            self.0.add(format!("{error:?}"));
        }
    }
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let mut stream = answer(socket, server_config());
            stream.write_all(b"a question").unwrap();
            send_close_notify(&mut stream);
            read_all(&mut stream)
        });
        let log = Log::default();
        let to = secured(address, client_config());
        event_loop.create_connection(|| Last(log.clone()), to).await.unwrap();
        until(&event_loop, || log.has("None")).await;
        assert_eq!(join(&event_loop, peer).await, (b"an answer".to_vec(), true));
    });
}

#[test]
fn an_end_without_an_alert() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| {
            stream.write_all(b"bye").unwrap();
        })
        .await;
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "data", "eof", "lost"]);
        assert_eq!(client.error(), "None", "as in asyncio");
        join(&event_loop, peer).await;
    });
}

#[test]
fn a_peer_that_sends_on_is_not_waited_for() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| {
            // It never reads, hence never hears of the end but by its own failure.
            while stream.write_all(&[0; 10_000]).and_then(|()| stream.flush()).is_ok() {}
        })
        .await;
        until(&event_loop, || client.log.has("data")).await;
        client.transport.close();
        until(&event_loop, || client.log.has("lost")).await;
        assert!(client.error().ends_with("application data after close notify"));
        join(&event_loop, peer).await;
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

#[test]
fn a_silent_peer_is_waited_for_so_long() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (over, wait) = mpsc::channel::<()>();
        let (address, peer) = serve_once(move |socket| {
            let mut stream = answer(socket, server_config());
            stream.flush().unwrap();
            let _ = wait.recv();
        });
        let tls = TlsClientOptions::new(client_config());
        let to = secured(address, tls.shutdown_timeout(Duration::from_millis(50)));
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        client.transport.close();
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "lost"]);
        let error = client.protocol.with(|recorder| recorder.error.take()).unwrap();
        let Some(Error::Io(error)) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "SSL shutdown timed out");
        drop(over);
        join(&event_loop, peer).await;
    });
}

#[test]
fn abort_is_at_once() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| read_all(&mut stream)).await;
        client.transport.abort();
        assert!(client.transport.is_closing());
        turns(&event_loop, 4).await;
        assert_eq!(client.log.lines(), ["made", "lost"]);
        assert_eq!(client.error(), "None");
        assert_eq!(join(&event_loop, peer).await, (Vec::new(), false), "no alert");
    });
}

#[test]
fn a_reset_is_told() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| {
            stream.read_exact(&mut [0; 3]).unwrap();
            socket2::SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO)).unwrap();
        })
        .await;
        client.transport.write("abc");
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "lost"]);
        let error = client.protocol.with(|recorder| recorder.error.take()).unwrap();
        assert_eq!(error.unwrap().raw_os_error(), Some(104), "ECONNRESET");
        join(&event_loop, peer).await;
    });
}

#[test]
fn a_record_that_is_broken() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (client, peer) = client(&event_loop, |mut stream| {
            stream.write_all(b"good").unwrap();
            let mut broken = vec![23, 3, 3, 0, 40];
            broken.extend([7; 40]);
            stream.sock.write_all(&broken).unwrap();
            stream.read(&mut [0]).unwrap_err()
        })
        .await;
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "data", "lost"], "what is good was received");
        assert_eq!(client.error(), rustls::Error::DecryptError.to_string());
        let told = join(&event_loop, peer).await;
        let told = told.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let alert = rustls::Error::AlertReceived(AlertDescription::BadRecordMac);
        assert_eq!(told, Some(&alert));
    });
    assert_eq!(reported.lines(), Vec::<String>::new(), "a peer's fault");
}

#[test]
fn data_waits_while_reading_is_paused() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (paused, go) = mpsc::channel::<()>();
        let (client, peer) = client(&event_loop, move |mut stream| {
            stream.flush().unwrap();
            go.recv().unwrap();
            // More than is kept, so that the transport below is paused as well.
            stream.write_all(&pattern(2 << 20)).unwrap();
            send_close_notify(&mut stream);
            read_all(&mut stream).1
        })
        .await;
        client.transport.pause_reading();
        paused.send(()).unwrap();
        event_loop.sleep(Duration::from_millis(50)).await;
        assert_eq!(client.log.lines(), ["made"]);
        assert!(!peer.is_finished());
        // Several times, as each pause lets some of it through.
        while !client.log.has("eof") {
            client.transport.resume_reading();
            turns(&event_loop, 3).await;
            client.transport.pause_reading();
            turns(&event_loop, 3).await;
        }
        until(&event_loop, || client.log.has("lost")).await;
        let data = client.protocol.with(|recorder| recorder.data.clone()).unwrap();
        assert!(data == pattern(2 << 20), "{} bytes", data.len());
        assert!(join(&event_loop, peer).await);
    });
}

/// The end of the stream, found while reading is paused, waits for the data before it.
#[test]
fn the_end_waits_while_reading_is_paused() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (paused, go) = mpsc::channel::<()>();
        let (client, peer) = client(&event_loop, move |mut stream| {
            stream.flush().unwrap();
            go.recv().unwrap();
            stream.write_all(b"data").unwrap();
        })
        .await;
        client.transport.pause_reading();
        paused.send(()).unwrap();
        join(&event_loop, peer).await;
        event_loop.sleep(Duration::from_millis(20)).await;
        assert_eq!(client.log.lines(), ["made"]);
        client.transport.resume_reading();
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "data", "eof", "lost"]);
    });
}

/// A protocol that panics where it is told to.
struct Panics(&'static str, Log);

impl Panics {
    fn at(&self, place: &str) {
        self.1.add(place);
        assert!(place != self.0, "no luck");
    }
}

impl Protocol for Panics {
    fn connection_made(&mut self, _: &Transport) {
        self.at("made");
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        self.at("data");
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.at("eof");
        false
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.1.add(error.map_or_else(|| "lost".to_owned(), |error| error.to_string()));
        self.at("lost");
    }
}

#[test]
fn panics_end_the_connection_and_are_reported() {
    let (event_loop, told) = (new_loop(), "a callback panicked: no luck");
    let reported = errors(&event_loop);
    for (place, report, heard) in [
        ("made", "Fatal error: protocol.data_received() call failed.", vec!["made", told, "lost"]),
        ("data", "Fatal error on SSL protocol", vec!["made", "data", told, "lost"]),
        ("eof", "Error calling eof_received()", vec!["made", "data", "eof", told, "lost"]),
    ] {
        run(&event_loop, async {
            let log = Log::default();
            let (address, peer) = serve_once(|socket| {
                let mut stream = answer(socket, server_config());
                let _ = stream.write_all(b"data").and_then(|()| stream.flush());
                stream.conn.send_close_notify();
                let _ = stream.flush();
                read_all(&mut stream)
            });
            let to = secured(address, client_config());
            let made = event_loop.create_connection(|| Panics(place, log.clone()), to).await;
            match made {
                Ok(_) => assert_ne!(place, "made"),
                Err(error) => assert_eq!((place, error.to_string()), ("made", told.to_owned())),
            }
            until(&event_loop, || log.has("lost")).await;
            assert_eq!(log.lines(), heard);
            assert_eq!(reported.take(), [format!("{report}|{told}")]);
            join(&event_loop, peer).await;
        });
    }
}

#[test]
fn a_panic_in_connection_lost_is_reported() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| read_all(&mut answer(socket, server_config())));
        let log = Log::default();
        let to = secured(address, client_config());
        let factory = || Panics("lost", log.clone());
        let (transport, _) = event_loop.create_connection(factory, to).await.unwrap();
        transport.abort();
        until(&event_loop, || !reported.lines().is_empty()).await;
        assert!(reported.lines()[0].contains("Panics::connection_lost|a callback panicked"));
        assert_eq!(log.lines(), ["made", "lost", "lost"]);
        join(&event_loop, peer).await;
    });
}

/// Data and the closing alert in one segment: what is behind the data is there when the protocol
/// closes.
fn data_and_alert(stream: &mut BlockingServer, data: &[u8]) {
    stream.flush().unwrap();
    stream.conn.writer().write_all(data).unwrap();
    stream.conn.send_close_notify();
    let mut together = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut together).unwrap();
    }
    stream.sock.write_all(&together).unwrap();
}

/// A protocol cannot be called from inside of itself: it hears of the rest afterwards.
#[test]
fn a_callback_that_closes_is_told_of_what_has_come() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let mut stream = answer(socket, server_config());
            data_and_alert(&mut stream, b"data");
            read_all(&mut stream)
        });
        let closing = |recorder: Recorder| {
            recorder.on_data(|transport, _| {
                transport.close();
                assert!(transport.is_closing());
                transport.write("too late");
            })
        };
        let client = Client::connect(&event_loop, secured(address, client_config()), closing);
        let client = client.await.unwrap();
        until(&event_loop, || client.log.has("lost")).await;
        assert_eq!(client.log.lines(), ["made", "data", "eof", "lost"]);
        assert_eq!(client.error(), "None");
        assert_eq!(join(&event_loop, peer).await, (Vec::new(), true));
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

/// Closes with the first byte that it reads; the others come one by one.
struct Hasty {
    buffer: [u8; 1],
    data: Vec<u8>,
    log: Log,
}

impl BufferedProtocol for Hasty {
    fn get_buffer(&mut self, _: Option<usize>) -> &mut [u8] {
        &mut self.buffer
    }

    fn buffer_updated(&mut self, transport: &Transport, _: usize) {
        self.data.extend(self.buffer);
        transport.close();
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.log.add("eof");
        false
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.log.add(format!("lost {error:?}"));
    }
}

#[test]
fn a_buffer_that_closes_is_filled_with_what_has_come() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let mut stream = answer(socket, server_config());
            data_and_alert(&mut stream, &pattern(100));
            read_all(&mut stream)
        });
        let log = Log::default();
        let factory = || Buffered(Hasty { buffer: [0], data: Vec::new(), log: log.clone() });
        let to = secured(address, client_config());
        let (_, hasty) = event_loop.create_connection(factory, to).await.unwrap();
        until(&event_loop, || log.has("lost None")).await;
        assert_eq!(log.lines(), ["eof", "lost None"]);
        assert_eq!(hasty.with(|hasty| hasty.0.data.clone()).unwrap(), pattern(100));
        assert_eq!(join(&event_loop, peer).await, (Vec::new(), true));
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

/// What a protocol does to its connection from inside of its callbacks.
#[test]
fn connections_end_from_inside() {
    let event_loop = new_loop();
    for (close, clean) in [(true, true), (false, false)] {
        run(&event_loop, async {
            let end = move |transport: &Transport| {
                if close { transport.close() } else { transport.abort() }
            };
            let (address, peer) = serve_once(|socket| {
                let mut stream = answer(socket, server_config());
                let _ = stream.flush();
                let end = read_all(&mut stream);
                stream.conn.send_close_notify();
                let _ = stream.flush();
                end
            });
            let log = Log::default();
            let recorder = Recorder::new(&log);
            let factory = move || recorder.on_made(end);
            let to = secured(address, client_config());
            event_loop.create_connection(factory, to).await.unwrap();
            until(&event_loop, || log.has("lost")).await;
            assert_eq!(log.count("lost"), 1);
            assert_eq!(join(&event_loop, peer).await.1, clean);

            let (address, peer) = serve_once(move |socket| {
                let mut stream = answer(socket, server_config());
                stream.write_all(b"data").unwrap();
                let end = read_all(&mut stream);
                stream.conn.send_close_notify();
                let _ = stream.flush();
                end
            });
            let log = Log::default();
            let recorder = Recorder::new(&log);
            let factory = move || recorder.on_data(move |transport, _| end(transport));
            let to = secured(address, client_config());
            event_loop.create_connection(factory, to).await.unwrap();
            until(&event_loop, || log.has("lost")).await;
            assert_eq!(log.lines()[..2], ["made", "data"]);
            assert_eq!(join(&event_loop, peer).await.1, clean);
        });
    }
}

#[test]
fn servers_end_their_connections() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let options = ServerOptions::new(ANY).tls(server_config());
        let factory = move || Recorder::new(&seen);
        let server = event_loop.create_server(factory, options).await.unwrap();
        let address = server.local_addrs()[0];
        let peer = std::thread::spawn(move || {
            let mut stream = dial(address, client_config());
            stream.flush().unwrap();
            read_all(&mut stream)
        });
        until(&event_loop, || log.has("made")).await;
        server.close();
        server.close_clients();
        server.wait_closed().await;
        until(&event_loop, || log.has("lost")).await;
        // Below TLS, as in asyncio.
        assert_eq!(join(&event_loop, peer).await, (Vec::new(), false));
        assert!(TcpStream::connect(address).is_err());
    });
}

//! Handshakes that fail, and how.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/tls.rs"]
mod tls;
mod util;

use oxloop::rustls::server::ServerConnection;
use oxloop::rustls::{self, AlertDescription, CertificateError, ServerConfig};
use oxloop::{ConnectOptions, Error, EventLoop, Misuse, Server, ServerOptions};
use oxloop::{TlsClientOptions, TlsServerOptions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tls::*;
use util::*;

const ECONNRESET: Option<i32> = Some(104);

/// A server of recorders, and what they record.
async fn serve(
    event_loop: &EventLoop,
    tls: impl Into<TlsServerOptions>,
) -> (Server, SocketAddr, Log) {
    let log = Log::default();
    let seen = log.clone();
    let options = ServerOptions::new(ANY).tls(tls);
    let factory = move || Recorder::new(&seen);
    let server = event_loop.create_server(factory, options).await.unwrap();
    let address = server.local_addrs()[0];
    (server, address, log)
}

/// Connects, and tells why that fails.
async fn failure(event_loop: &EventLoop, to: impl Into<ConnectOptions>) -> Error {
    let log = Log::default();
    let factory = || Recorder::new(&log);
    let error = event_loop.create_connection(factory, to).await.unwrap_err();
    assert_eq!(log.lines(), Vec::<String>::new(), "the protocol hears nothing");
    error
}

fn certificate_error(error: Error) -> CertificateError {
    match error {
        Error::Tls(rustls::Error::InvalidCertificate(error)) => error,
        error => panic!("{error:?}"),
    }
}

/// The server goes on: a good client is served.
async fn still_serves(event_loop: &EventLoop, address: SocketAddr, log: &Log) {
    assert_eq!(log.lines(), Vec::<String>::new());
    let client = Client::connect(event_loop, secured(address, client_config()), |it| it).await;
    until(event_loop, || log.has("made")).await;
    client.unwrap().transport.abort();
    until(event_loop, || log.has("lost")).await;
    log.take();
}

#[test]
fn certificates_that_are_not_accepted() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        for versions in [TLS12, TLS13] {
            let (_server, address, log) = serve(&event_loop, server_config()).await;
            let wrong_host = TlsClientOptions::new(trusting(versions)).server_name("example.org");
            let error = failure(&event_loop, ConnectOptions::new(address).tls(wrong_host)).await;
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, error.to_string());
            assert_eq!(error.raw_os_error(), None);
            let error = certificate_error(error);
            assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{error:?}");
            // The address is in the certificate: it serves as a name, too.
            let by_address = ConnectOptions::new(address).tls(trusting(versions));
            let client = Client::connect(&event_loop, by_address, |it| it).await.unwrap();
            client.transport.abort();
            until(&event_loop, || log.has("lost")).await;
            log.take();

            let stranger = rustls::ClientConfig::builder_with_protocol_versions(versions)
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            let error = certificate_error(failure(&event_loop, secured(address, stranger)).await);
            assert_eq!(error, CertificateError::UnknownIssuer);
            still_serves(&event_loop, address, &log).await;

            let config = serving(&AUTHORITY.expired, versions);
            let (_server, address, log) = serve(&event_loop, config).await;
            let to = secured(address, trusting(versions));
            let error = certificate_error(failure(&event_loop, to).await);
            assert!(matches!(error, CertificateError::ExpiredContext { .. }), "{error:?}");
            assert_eq!(log.lines(), Vec::<String>::new());
        }
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

#[test]
fn the_peer_is_told_why() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (address, peer) = serve_once(|socket| {
            let mut stream = answer(socket, serving(&AUTHORITY.expired, TLS13));
            stream.flush().and_then(|()| stream.read(&mut [0]).map(drop)).unwrap_err()
        });
        failure(&event_loop, secured(address, client_config())).await;
        let error = peer.join().unwrap();
        let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let expired = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
        assert_eq!(error, Some(&expired));
    });
}

#[test]
fn clients_without_a_certificate() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_server, address, log) = serve(&event_loop, demanding(TLS12)).await;
        let error = failure(&event_loop, secured(address, trusting(TLS12))).await;
        assert!(matches!(error, Error::Tls(rustls::Error::AlertReceived(_))), "{error:?}");
        assert_eq!(log.lines(), Vec::<String>::new());
        // In 1.3 the client is done before the server has seen that there is none.
        let (_server, address, log) = serve(&event_loop, demanding(TLS13)).await;
        let to = secured(address, trusting(TLS13));
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        until(&event_loop, || client.log.has("lost")).await;
        let required = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(client.error(), required.to_string());
        assert_eq!(log.lines(), Vec::<String>::new());
    });
}

#[test]
fn no_protocol_in_common() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut config = server_config();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (_server, address, log) = serve(&event_loop, config).await;
        let mut config = client_config();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let error = failure(&event_loop, secured(address, config)).await;
        let alert = AlertDescription::NoApplicationProtocol;
        assert!(matches!(error, Error::Tls(rustls::Error::AlertReceived(told)) if told == alert));
        // A client that asks for nothing is served.
        still_serves(&event_loop, address, &log).await;
    });
}

#[test]
fn peers_that_speak_no_tls() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let (_server, address, log) = serve(&event_loop, server_config()).await;
        let peer = thread::spawn(move || {
            let mut socket = limited(TcpStream::connect(address).unwrap());
            socket.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            let _ = socket.read_to_end(&mut answer);
            answer
        });
        until(&event_loop, || peer.is_finished()).await;
        // A fatal alert, and the end.
        assert_eq!(peer.join().unwrap()[..1], [21]);
        still_serves(&event_loop, address, &log).await;

        let (address, peer) = serve_once(|mut socket| {
            socket.write_all(b"220 localhost ESMTP\r\n").unwrap();
            let mut asked = Vec::new();
            let _ = socket.read_to_end(&mut asked);
            asked
        });
        let error = failure(&event_loop, secured(address, client_config())).await;
        assert!(matches!(error, Error::Tls(rustls::Error::InvalidMessage(_))), "{error:?}");
        assert_eq!(peer.join().unwrap()[..1], [22], "a hello, and perhaps the alert");
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

/// What a server answers to the hello that is read from the socket.
fn first_flight(socket: &mut TcpStream, config: ServerConfig) -> Vec<u8> {
    let mut session = ServerConnection::new(Arc::new(config)).unwrap();
    while !session.wants_write() {
        session.read_tls(socket).unwrap();
        session.process_new_packets().unwrap();
    }
    let mut flight = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut flight).unwrap();
    }
    flight
}

#[test]
fn servers_that_end_it_at_any_byte() {
    let event_loop = new_loop();
    run(&event_loop, async {
        for versions in [TLS12, TLS13] {
            let (mut cut, mut whole) = (0, 1);
            while cut < whole {
                let (address, peer) = serve_once(move |mut socket| {
                    let flight = first_flight(&mut socket, serving(&AUTHORITY.server, versions));
                    // The last byte of 1.3's flight would complete the handshake.
                    let end = flight.len() - 1;
                    socket.write_all(&flight[..cut.min(end)]).unwrap();
                    socket.shutdown(Shutdown::Write).unwrap();
                    let _ = socket.read_to_end(&mut Vec::new());
                    end
                });
                let error = failure(&event_loop, secured(address, trusting(versions))).await;
                assert_eq!(error.raw_os_error(), ECONNRESET, "{error:?}");
                until(&event_loop, || peer.is_finished()).await;
                whole = peer.join().unwrap();
                cut += 53;
            }
        }
    });
}

#[test]
fn clients_that_end_it_at_any_byte() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_server, address, log) = serve(&event_loop, server_config()).await;
        let hello = client_hello();
        for cut in (0..hello.len()).step_by(17).chain([hello.len()]) {
            let mut socket = limited(TcpStream::connect(address).unwrap());
            socket.write_all(&hello[..cut]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let peer = thread::spawn(move || socket.read_to_end(&mut Vec::new()).is_ok());
            until(&event_loop, || peer.is_finished()).await;
            assert!(peer.join().unwrap(), "an orderly end, after {cut} bytes");
        }
        still_serves(&event_loop, address, &log).await;
    });
}

#[test]
fn resets_in_the_middle() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (address, peer) = serve_once(|mut socket| {
            socket.read_exact(&mut [0; 10]).unwrap();
            // What is not read makes a reset of the end.
            drop(socket);
        });
        let error = failure(&event_loop, secured(address, client_config())).await;
        assert_eq!(error.raw_os_error(), ECONNRESET, "{error:?}");
        peer.join().unwrap();

        let (_server, address, log) = serve(&event_loop, server_config()).await;
        let peer = thread::spawn(move || {
            let mut socket = limited(TcpStream::connect(address).unwrap());
            socket.write_all(&client_hello()).unwrap();
            // The answer is there, and not read.
            socket.peek(&mut [0]).unwrap();
        });
        until(&event_loop, || peer.is_finished()).await;
        peer.join().unwrap();
        still_serves(&event_loop, address, &log).await;
    });
}

#[test]
fn byte_by_byte_is_fast_enough() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (address, peer) = serve_once(|mut socket| {
            let mut session = ServerConnection::new(Arc::new(server_config())).unwrap();
            socket.set_nodelay(true).unwrap();
            while session.is_handshaking() {
                let mut flight = Vec::new();
                while session.wants_write() {
                    session.write_tls(&mut flight).unwrap();
                }
                for byte in flight {
                    socket.write_all(&[byte]).unwrap();
                }
                session.read_tls(&mut socket).unwrap();
                session.process_new_packets().unwrap();
            }
        });
        let to = secured(address, client_config());
        let client = Client::connect(&event_loop, to, |recorder| recorder).await.unwrap();
        assert_eq!(client.log.lines()[0], "made");
        until(&event_loop, || peer.is_finished()).await;
        peer.join().unwrap();
    });
}

#[test]
fn silence_is_no_handshake() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let brief = Duration::from_millis(50);
        let (address, peer) = serve_once(|mut socket| socket.read_to_end(&mut Vec::new()).is_ok());
        let tls = TlsClientOptions::new(client_config()).handshake_timeout(brief);
        let error = failure(&event_loop, secured(address, tls)).await;
        let Error::Io(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let told = "SSL handshake is taking longer than 0.05 seconds: aborting the connection";
        assert_eq!(error.to_string(), told);
        assert!(peer.join().unwrap());

        let tls = TlsServerOptions::new(server_config()).handshake_timeout(brief);
        let (_server, address, log) = serve(&event_loop, tls).await;
        let mut silent = limited(TcpStream::connect(address).unwrap());
        let peer = thread::spawn(move || silent.read_to_end(&mut Vec::new()).unwrap());
        until(&event_loop, || peer.is_finished()).await;
        assert_eq!(peer.join().unwrap(), 0);
        assert_eq!(log.lines(), Vec::<String>::new());
    });
    assert_eq!(reported.lines(), Vec::<String>::new());
}

#[test]
fn what_cannot_begin() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (_server, address, _) = serve(&event_loop, server_config()).await;
        let several = ConnectOptions::new(vec![address, address]).tls(client_config());
        let error = failure(&event_loop, several).await;
        assert!(matches!(error, Error::Misuse(Misuse::NoServerName)));
        let tls = || TlsClientOptions::new(client_config());
        let nameless = ConnectOptions::new(address).tls(tls().server_name("no name"));
        let error = failure(&event_loop, nameless).await;
        assert_eq!(error.to_string(), r#""no name" is not a valid server name"#);
        for (zero, which) in [
            (tls().handshake_timeout(Duration::ZERO), "handshake"),
            (tls().shutdown_timeout(Duration::ZERO), "shutdown"),
        ] {
            let error = failure(&event_loop, secured(address, zero)).await;
            assert!(matches!(error, Error::Misuse(Misuse::TlsTimeout(told)) if told == which));
        }
        let zero = TlsServerOptions::new(server_config()).shutdown_timeout(Duration::ZERO);
        let refused = event_loop.create_server(|| Echo, ServerOptions::new(ANY).tls(zero)).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::TlsTimeout("shutdown")))));
        let mut config = client_config();
        config.max_fragment_size = Some(1);
        let error = failure(&event_loop, secured(address, config)).await;
        assert!(matches!(error, Error::Tls(rustls::Error::BadMaxFragmentSize)), "{error:?}");
    });
}

#[test]
fn a_server_whose_config_makes_no_session() {
    let event_loop = new_loop();
    let reported = errors(&event_loop);
    run(&event_loop, async {
        let mut config = server_config();
        config.max_fragment_size = Some(1);
        let (_server, address, log) = serve(&event_loop, config).await;
        let error = failure(&event_loop, secured(address, client_config())).await;
        assert_eq!(error.raw_os_error(), ECONNRESET, "{error:?}");
        assert_eq!(log.lines(), Vec::<String>::new());
    });
    let message = "Error on transport creation for incoming connection";
    let error = rustls::Error::BadMaxFragmentSize;
    assert_eq!(reported.lines(), [format!("{message}|{error}")]);
}

#[test]
fn a_loop_that_is_closed_meanwhile() {
    let event_loop = new_loop();
    let (address, peer) = serve_once(|mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let connecting = event_loop.create_task({
        let event_loop = event_loop.clone();
        async move {
            let to = secured(address, client_config());
            event_loop.create_connection(|| Echo, to).await.map(drop)
        }
    });
    run(&event_loop, event_loop.sleep(Duration::from_millis(20)));
    event_loop.close().unwrap();
    drop((connecting, event_loop));
    peer.join().unwrap();
}

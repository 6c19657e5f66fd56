//! Connections over TCP: reading, writing, closing, and what a transport says of itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Bytes, Error, EventLoop, Protocol, ProtocolHandle, Transport};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use util::*;

/// A recording protocol connected to a plain socket.
async fn connect(
    event_loop: &EventLoop,
    recorder: Recorder,
) -> (Transport, ProtocolHandle<Recorder>, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (transport, protocol) = event_loop.create_connection(|| recorder, address).await.unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(HANG)).unwrap();
    (transport, protocol, peer)
}

/// Reads the peer's side to its end, off the loop's thread.
async fn read_all(event_loop: &EventLoop, mut peer: impl Read + Send + 'static) -> Vec<u8> {
    let reading = event_loop.run_in_executor(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).map(|_| all)
    });
    within(event_loop, reading).await.unwrap().unwrap()
}

#[test]
fn echoes() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let server = event_loop.create_server(|| Echo, ("127.0.0.1", 0)).await.unwrap();
        let address = server.local_addrs()[0];
        let clients: Vec<_> = (1..20)
            .map(|number: usize| {
                event_loop.run_in_executor(move || {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(HANG)).unwrap();
                    for round in 1..20 {
                        let sent = pattern(number * round * 13);
                        let mut received = vec![0; sent.len()];
                        client.write_all(&sent).unwrap();
                        client.read_exact(&mut received).unwrap();
                        assert_eq!(received, sent);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        server.close();
    });
}

#[test]
fn large_transfers_arrive_whole() {
    let event_loop = new_loop();
    let data = pattern(10 << 20);
    run(&event_loop, async {
        let log = Log::default();
        let (transport, protocol, mut peer) = connect(&event_loop, Recorder::new(&log)).await;
        let (sent, back) = (data.clone(), peer.try_clone().unwrap());
        let writing = event_loop.run_in_executor(move || {
            peer.write_all(&sent).and_then(|()| peer.shutdown(Shutdown::Write))
        });
        let reading = read_all(&event_loop, back);
        protocol.with(|recorder| recorder.keep_open = true).unwrap();
        transport.write(data.clone());
        transport.write_eof();
        assert_eq!(reading.await, data, "what was written");
        writing.await.unwrap().unwrap();
        until(&event_loop, || log.has("eof")).await;
        protocol.with(|recorder| assert_eq!(recorder.data, data, "what was read")).unwrap();
        transport.close();
        until(&event_loop, || log.has("lost")).await;
    });
}

#[test]
fn all_kinds_of_data_can_be_written() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (transport, _, peer) = connect(&event_loop, Recorder::default()).await;
        transport.write(b"array ");
        transport.write("text ");
        transport.write(&b"slice "[..]);
        transport.write(String::from("string "));
        transport.write(b"vector ".to_vec());
        transport.write(Bytes::from_static(b"bytes "));
        transport.write("");
        transport.writelines(["one ", "two "]);
        transport.writelines(vec![Bytes::from_static(b"three "), Bytes::new()]);
        transport.close();
        let all = read_all(&event_loop, peer).await;
        let expected = "array text slice string vector bytes one two three ";
        assert_eq!(String::from_utf8(all).unwrap(), expected);
    });
}

#[test]
fn says_what_it_is() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (transport, _, peer) = connect(&event_loop, Recorder::default()).await;
        assert_eq!(transport.peer_addr(), peer.local_addr().ok());
        assert_eq!(transport.local_addr(), peer.peer_addr().ok());
        assert!(transport.can_write_eof());
        assert_eq!(transport.event_loop(), Some(event_loop.clone()));
        assert!(transport.with_socket(|socket| socket.tcp_nodelay().unwrap()).unwrap());
        let number = transport.with_socket(AsRawFd::as_raw_fd).unwrap();
        assert_eq!(transport.as_raw_fd(), number);
        let text = format!("{transport:?}");
        assert!(text.starts_with(&format!("<Transport fd={number} read=polling write=<idle")));
        transport.abort();
        assert!(format!("{transport:?}").contains("closing"));
        until(&event_loop, || transport.as_raw_fd() == -1).await;
        assert_eq!(format!("{transport:?}"), "<Transport closed>");
        assert_eq!(transport.with_socket(|_| ()), None);
        assert_eq!(transport.peer_addr(), peer.local_addr().ok(), "still known");
    });
}

#[test]
fn accepted_connections_say_what_they_are() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (seen, known) = std::sync::mpsc::channel();
        let factory = move || {
            let seen = seen.clone();
            Recorder::default().on_made(move |transport| {
                let nodelay = transport.with_socket(|socket| socket.tcp_nodelay().unwrap());
                let addresses = (transport.peer_addr(), transport.local_addr());
                seen.send((addresses, nodelay)).unwrap();
            })
        };
        let server = event_loop.create_server(factory, ("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(server.local_addrs()[0]).unwrap();
        let mut told = None;
        until(&event_loop, || {
            told = told.or(known.try_recv().ok());
            told.is_some()
        })
        .await;
        let addresses = (client.local_addr().ok(), client.peer_addr().ok());
        assert_eq!(told, Some((addresses, Some(true))));
    });
}

#[test]
fn end_of_stream_closes() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let (_, protocol, mut peer) = connect(&event_loop, Recorder::new(&log)).await;
        peer.write_all(b"last").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(log.lines(), ["made", "data", "eof", "lost"]);
        protocol.with(|recorder| assert!(recorder.error.is_none())).unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn end_of_stream_may_leave_the_write_side_open() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let recorder = Recorder::new(&log).keeping_open();
        let (transport, _, mut peer) = connect(&event_loop, recorder).await;
        peer.shutdown(Shutdown::Write).unwrap();
        until(&event_loop, || log.has("eof")).await;
        turns(&event_loop, 5).await;
        assert_eq!(log.lines(), ["made", "eof"]);
        assert!(!transport.is_closing());
        transport.write("answer");
        transport.close();
        let mut answer = [0; 6];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(log.lines(), ["made", "eof", "lost"]);
    });
}

#[test]
fn write_eof_leaves_the_read_side_open() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let (transport, protocol, mut peer) = connect(&event_loop, Recorder::new(&log)).await;
        transport.write("question");
        transport.write_eof();
        transport.write_eof();
        let question = read_all(&event_loop, peer.try_clone().unwrap()).await;
        assert_eq!(question, b"question");
        peer.write_all(b"answer").unwrap();
        drop(peer);
        until(&event_loop, || log.has("lost")).await;
        protocol.with(|recorder| assert_eq!(recorder.data, b"answer")).unwrap();
    });
}

#[test]
fn write_eof_comes_after_what_was_buffered() {
    let event_loop = new_loop();
    let data = pattern(8 << 20);
    run(&event_loop, async {
        let (transport, _, peer) = connect(&event_loop, Recorder::default()).await;
        transport.write(&data);
        assert!(transport.get_write_buffer_size() > 0);
        transport.write_eof();
        assert_eq!(read_all(&event_loop, peer.try_clone().unwrap()).await, data);
        assert!(!transport.is_closing());
    });
}

#[test]
fn close_sends_what_is_buffered() {
    let event_loop = new_loop();
    let data = pattern(8 << 20);
    run(&event_loop, async {
        let log = Log::default();
        let (transport, _, peer) = connect(&event_loop, Recorder::new(&log)).await;
        transport.write(&data);
        transport.close();
        assert!(transport.is_closing() && !transport.is_reading());
        turns(&event_loop, 5).await;
        assert!(!log.has("lost"), "there is data to be sent");
        assert_eq!(read_all(&event_loop, peer).await, data);
        until(&event_loop, || log.has("lost")).await;
    });
}

#[test]
fn abort_drops_what_is_buffered() {
    let event_loop = new_loop();
    let data = pattern(8 << 20);
    run(&event_loop, async {
        let log = Log::default();
        let (transport, protocol, peer) = connect(&event_loop, Recorder::new(&log)).await;
        transport.write(&data);
        transport.abort();
        assert_eq!(transport.get_write_buffer_size(), 0);
        assert!(!log.has("lost"));
        until(&event_loop, || log.has("lost")).await;
        protocol.with(|recorder| assert!(recorder.error.is_none())).unwrap();
        assert!(read_all(&event_loop, peer).await.len() < data.len());
    });
}

/// The writes of one callback leave together, and nothing shows that they waited.
#[test]
fn gathered_writes_are_not_noticed() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (transport, _, peer) = connect(&event_loop, Recorder::default()).await;
        peer.set_nonblocking(true).unwrap();
        let read = |room: usize| {
            let mut buffer = vec![0; room];
            (&peer).read(&mut buffer).map(|count| buffer[..count].to_vec()).unwrap_or_default()
        };
        transport.write("head ");
        transport.write("body");
        assert_eq!(transport.get_write_buffer_size(), 0);
        assert_eq!(read(99), b"head body");
        transport.write("with_socket");
        transport.with_socket(|_| ());
        assert_eq!(read(99), b"with_socket");
        transport.write("limits");
        transport.set_write_buffer_limits(None, None).unwrap();
        assert_eq!(read(99), b"limits");
        transport.write("protocol");
        transport.set_protocol(Echo);
        assert_eq!(read(99), b"protocol");
        transport.write("large");
        transport.write(vec![0; 64 * 1024 + 1]);
        assert_eq!(&read(5), b"large", "over the limit it is sent at once");
        while !read(1 << 20).is_empty() {}
        transport.write("turn");
        turns(&event_loop, 1).await;
        assert_eq!(read(99), b"turn");
        transport.write("abort");
        transport.abort();
        assert_eq!(read(99), b"abort");
    });
}

#[test]
fn what_is_written_before_stop_arrives() {
    let event_loop = new_loop();
    let (transport, _, mut peer) = run(&event_loop, connect(&event_loop, Recorder::default()));
    let stopper = event_loop.clone();
    event_loop.call_soon(move || {
        transport.write("before ");
        transport.write("the end");
        transport.close();
        stopper.stop();
    });
    event_loop.run_forever().unwrap();
    let mut all = [0; 14];
    peer.read_exact(&mut all).unwrap();
    assert_eq!(&all, b"before the end");
}

#[test]
fn a_dead_peer_shows() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let (transport, protocol, peer) = connect(&event_loop, Recorder::new(&log)).await;
        transport.pause_reading();
        drop(peer);
        until(&event_loop, || {
            transport.write("anybody?");
            transport.is_closing()
        })
        .await;
        until(&event_loop, || log.has("lost")).await;
        protocol
            .with(|recorder| {
                let errno = recorder.error.as_ref().and_then(Error::raw_os_error);
                assert!(matches!(errno, Some(32 | 104)), "EPIPE or ECONNRESET: {errno:?}");
            })
            .unwrap();
    });
}

#[test]
fn a_reset_is_told_with_its_errno() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let log = Log::default();
        let (transport, protocol, mut peer) = connect(&event_loop, Recorder::new(&log)).await;
        transport.write("unread");
        peer.write_all(b"x").unwrap();
        until(&event_loop, || log.has("data")).await;
        drop(peer); // closed with unread data: a reset
        until(&event_loop, || log.has("lost")).await;
        let errno = protocol.with(|recorder| recorder.error.as_ref()?.raw_os_error()).unwrap();
        assert_eq!(errno, Some(104));
    });
    assert!(told.lines().is_empty(), "the peer's doing is no error of the program");
}

#[test]
fn reading_can_rest() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let (transport, protocol, mut peer) = connect(&event_loop, Recorder::new(&log)).await;
        assert!(transport.is_reading());
        transport.pause_reading();
        transport.pause_reading();
        assert!(!transport.is_reading());
        peer.write_all(b"abc").unwrap();
        turns(&event_loop, 10).await;
        assert!(!log.has("data"));
        transport.resume_reading();
        transport.resume_reading();
        assert!(transport.is_reading());
        until(&event_loop, || log.has("data")).await;
        protocol.with(|recorder| assert_eq!(recorder.data, b"abc")).unwrap();
    });
}

#[test]
fn reading_may_rest_from_the_start() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let recorder = Recorder::new(&log).on_made(|transport| transport.pause_reading());
        let (transport, _, mut peer) = connect(&event_loop, recorder).await;
        peer.write_all(b"abc").unwrap();
        turns(&event_loop, 10).await;
        assert!(!log.has("data"));
        transport.resume_reading();
        until(&event_loop, || log.has("data")).await;
    });
}

/// A protocol that hands the connection on is told of nothing more, but lives until its
/// callback has returned.
#[test]
fn set_protocol_in_mid_stream() {
    struct First(Log, Vec<u8>);

    impl Protocol for First {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            self.0.add("first");
            self.1.extend_from_slice(data);
            let second = transport.set_protocol(Recorder::new(&self.0));
            assert!(transport.protocol::<First>().is_none());
            assert!(transport.protocol::<Recorder>().is_some());
            second.with(|second| second.data = self.1.clone()).unwrap();
            self.0.add("first is done");
        }
        fn connection_lost(&mut self, _: &Transport, _: Option<Error>) {
            self.0.add("first lost");
        }
    }

    impl Drop for First {
        fn drop(&mut self) {
            self.0.add("first dropped");
        }
    }

    let event_loop = new_loop();
    let log = Log::default();
    run(&event_loop, async {
        let (transport, _, mut peer) = connect(&event_loop, Recorder::default()).await;
        drop(transport.set_protocol(First(log.clone(), Vec::new())));
        peer.write_all(b"one").unwrap();
        until(&event_loop, || log.has("first is done")).await;
        peer.write_all(b"two").unwrap();
        drop(peer);
        let second = transport.protocol::<Recorder>().unwrap();
        until(&event_loop, || log.has("lost")).await;
        second.with(|second| assert_eq!(second.data, b"onetwo")).unwrap();
    });
    let expected = ["first", "first is done", "first dropped", "data", "eof", "lost"];
    assert_eq!(log.lines(), expected);
}

#[test]
fn a_factory_may_choose() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let factory = move || -> Box<dyn Protocol> {
            if seen.lines().is_empty() { Box::new(Recorder::new(&seen)) } else { Box::new(Echo) }
        };
        let server = event_loop.create_server(factory, ("127.0.0.1", 0)).await.unwrap();
        let address = server.local_addrs()[0];
        let _first = TcpStream::connect(address).unwrap();
        until(&event_loop, || log.has("made")).await;
        let mut second = TcpStream::connect(address).unwrap();
        second.write_all(b"echo").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&event_loop, second).await, b"echo");
    });
}

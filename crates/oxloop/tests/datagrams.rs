//! Datagram endpoints over real sockets: UDP and Unix.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{
    Address, DatagramOptions, DatagramProtocol, DatagramTransport, Error, EventLoop, Family,
    Misuse, UnixAddress,
};
use rustix::io::Errno;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use util::{Folder, HANG, Log, errors, until};

/// Records the names of its callbacks, and what came.
#[derive(Default)]
struct Recorder {
    log: Log,
    datagrams: Vec<(Vec<u8>, Address)>,
    errors: Vec<Option<i32>>,
    received: Option<fn(&DatagramTransport, &[u8], &Address)>,
}

impl Recorder {
    fn new(log: &Log) -> Recorder {
        Recorder { log: log.clone(), ..Recorder::default() }
    }
}

impl DatagramProtocol for Recorder {
    fn connection_made(&mut self, _: &DatagramTransport) {
        self.log.add("made");
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, data: &[u8], addr: &Address) {
        self.log.add("datagram");
        self.datagrams.push((data.to_vec(), addr.clone()));
        if let Some(received) = self.received {
            received(transport, data, addr);
        }
    }

    fn error_received(&mut self, _: &DatagramTransport, error: io::Error) {
        self.log.add("error");
        self.errors.push(error.raw_os_error());
    }

    fn pause_writing(&mut self, _: &DatagramTransport) {
        self.log.add("pause");
    }

    fn resume_writing(&mut self, _: &DatagramTransport) {
        self.log.add("resume");
    }

    fn connection_lost(&mut self, _: &DatagramTransport, error: Option<Error>) {
        assert!(error.is_none());
        self.log.add("lost");
    }
}

fn any() -> DatagramOptions {
    DatagramOptions::new().local_addr(("127.0.0.1", 0))
}

fn peer() -> UdpSocket {
    let peer = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    peer.set_read_timeout(Some(HANG)).unwrap();
    peer
}

fn run<F: Future<Output = ()>>(f: impl FnOnce(EventLoop) -> F) {
    let event_loop = EventLoop::new().unwrap();
    event_loop.run_until_complete(f(event_loop.clone())).unwrap();
}

fn read(peer: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 100];
    let count = peer.recv(&mut buffer).unwrap();
    buffer[..count].to_vec()
}

#[test]
fn datagrams_go_both_ways() {
    run(|event_loop| async move {
        let (log, peer) = (Log::default(), peer());
        let echo = || Recorder {
            received: Some(|transport, data, addr| transport.send_to(data, addr)),
            ..Recorder::new(&log)
        };
        let (transport, protocol) = event_loop.create_datagram_endpoint(echo, any()).await.unwrap();
        assert_eq!(log.lines(), ["made"]);
        assert_eq!(transport.peername(), None);
        let there = transport.local_addr().unwrap();
        for data in ["one", "", "three"] {
            peer.send_to(data.as_bytes(), there).unwrap();
        }
        until(&event_loop, || log.count("datagram") == 3).await;
        assert_eq!([read(&peer), read(&peer), read(&peer)], [&b"one"[..], b"", b"three"]);
        let from = Address::from(peer.local_addr().unwrap());
        let got = protocol.with(|protocol| protocol.datagrams.clone()).unwrap();
        assert!(got.iter().all(|(_, addr)| *addr == from));
        transport.close();
        assert!(transport.is_closing());
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(transport.as_raw_fd(), -1);
        assert_eq!(format!("{transport:?}"), "<DatagramTransport closed>");
    });
}

#[test]
fn a_remote_address_is_the_only_one() {
    run(|event_loop| async move {
        let (log, peer, told) = (Log::default(), peer(), errors(&event_loop));
        let remote = peer.local_addr().unwrap();
        let options = DatagramOptions::new().remote_addr(("localhost", remote.port()));
        let options = options.family(Family::Ipv4);
        let factory = || Recorder::new(&log);
        let (transport, _) = event_loop.create_datagram_endpoint(factory, options).await.unwrap();
        assert_eq!(transport.peer_addr(), Some(remote));
        transport.send("ping");
        transport.send_to("pong", remote);
        assert_eq!([read(&peer), read(&peer)], [b"ping", b"pong"]);
        transport.send_to("nowhere", "127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap());
        let text = Misuse::RemoteAddress(remote.into()).to_string();
        assert_eq!(told.lines(), [format!("{text}|{text}")]);
        assert!(!transport.is_closing());
        transport.abort();
        transport.send("late");
        until(&event_loop, || log.has("lost")).await;
        transport.send("later");
        peer.set_nonblocking(true).unwrap();
        assert!(peer.recv(&mut [0]).is_err());
        assert_eq!(log.lines(), ["made", "lost"]);
    });
}

#[test]
fn errors_are_told_and_the_endpoint_goes_on() {
    run(|event_loop| async move {
        let (log, peer) = (Log::default(), peer());
        let nobody = self::peer().local_addr().unwrap();
        let factory = || Recorder::new(&log);
        let options = DatagramOptions::new().remote_addr(nobody);
        let (refused, protocol) =
            event_loop.create_datagram_endpoint(factory, options).await.unwrap();
        refused.send("ping");
        until(&event_loop, || log.has("error")).await;
        let numbers = protocol.with(|protocol| protocol.errors.clone()).unwrap();
        assert_eq!(numbers, [Some(Errno::CONNREFUSED.raw_os_error())]);
        refused.abort();

        let log = Log::default();
        let factory = || Recorder::new(&log);
        let (transport, protocol) =
            event_loop.create_datagram_endpoint(factory, any()).await.unwrap();
        let there = peer.local_addr().unwrap();
        transport.send_to(vec![0; 70_000], there);
        transport.send("to whom?");
        assert!(!log.has("error"), "told in a later turn");
        until(&event_loop, || log.count("error") == 2).await;
        let numbers = protocol.with(|protocol| protocol.errors.clone()).unwrap();
        assert_eq!(
            numbers,
            [Errno::MSGSIZE, Errno::DESTADDRREQ].map(|errno| Some(errno.raw_os_error()))
        );
        transport.send_to("good", there);
        assert_eq!(read(&peer), b"good");
    });
}

#[test]
fn a_panic_is_reported() {
    run(|event_loop| async move {
        let (log, peer, told) = (Log::default(), peer(), errors(&event_loop));
        let factory = || Recorder {
            received: Some(|_, data, _| assert_ne!(data, b"bad", "no luck")),
            ..Recorder::new(&log)
        };
        let (transport, _) = event_loop.create_datagram_endpoint(factory, any()).await.unwrap();
        for data in ["bad", "good"] {
            peer.send_to(data.as_bytes(), transport.local_addr().unwrap()).unwrap();
        }
        until(&event_loop, || log.count("datagram") == 2).await;
        assert_eq!(told.lines().len(), 1);
        assert!(told.lines()[0].contains("::datagram_received|a callback panicked"));
        assert!(!transport.is_closing());
    });
}

#[test]
fn a_queue_leaves_in_order_and_pauses() {
    run(|event_loop| async move {
        let (folder, log) = (Folder::new(), Log::default());
        let peer = UnixDatagram::bind(folder.join("peer")).unwrap();
        peer.set_read_timeout(Some(HANG)).unwrap();
        let options = DatagramOptions::new().remote_addr(folder.join("peer"));
        let factory = || Recorder::new(&log);
        let (transport, _) = event_loop.create_datagram_endpoint(factory, options).await.unwrap();
        transport.set_write_buffer_limits(Some(50), Some(0)).unwrap();
        let mut sent = 0;
        while transport.get_write_buffer_size() == 0 {
            transport.send(format!("{sent:04}"));
            sent += 1;
        }
        assert_eq!(transport.get_write_buffer_size(), 12, "a header is counted");
        for number in sent..sent + 200 {
            transport.send(format!("{number:04}"));
        }
        assert_eq!(log.lines(), ["made", "pause"]);
        transport.close();
        let reader = event_loop.run_in_executor(move || {
            let mut buffer = [0; 10];
            (0..sent + 200)
                .map(|_| {
                    let count = peer.recv(&mut buffer).unwrap();
                    String::from_utf8_lossy(&buffer[..count]).into_owned()
                })
                .collect::<Vec<_>>()
        });
        let got = reader.await.unwrap();
        assert_eq!(got, (0..sent + 200).map(|number| format!("{number:04}")).collect::<Vec<_>>());
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(log.lines(), ["made", "pause", "resume", "lost"]);
    });
}

#[test]
fn unix_names() {
    run(|event_loop| async move {
        let (folder, log) = (Folder::new(), Log::default());
        let path = folder.join("socket");
        drop(UnixDatagram::bind(&path).unwrap());
        let bound = DatagramOptions::new().local_addr(path.as_path());
        let factory = || Recorder::new(&log);
        // What an earlier one left is replaced.
        let (_one, protocol) = event_loop.create_datagram_endpoint(factory, bound).await.unwrap();
        let hidden = format!("\0oxloop-datagrams-{}", std::process::id());
        let hidden = UnixAddress::from(hidden);
        let other = DatagramOptions::new().local_addr(hidden.clone());
        let (two, _) = event_loop.create_datagram_endpoint(factory, other).await.unwrap();
        two.send_to("named", UnixAddress::from(path.as_path()));
        let unnamed = DatagramOptions::new().family(Family::Unix);
        let (three, _) = event_loop.create_datagram_endpoint(factory, unnamed).await.unwrap();
        three.send_to("unnamed", UnixAddress::from(path.as_path()));
        until(&event_loop, || log.count("datagram") == 2).await;
        let got = protocol.with(|protocol| protocol.datagrams.clone()).unwrap();
        assert_eq!(got[0], (b"named".to_vec(), hidden.into()));
        let Address::Unix(name) = &got[1].1 else { panic!() };
        assert!(name.is_unnamed());
    });
}

#[test]
fn existing_sockets_and_wrong_ones() {
    run(|event_loop| async move {
        let log = Log::default();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let factory = || Recorder::new(&log);
        let (transport, _) = event_loop.create_datagram_endpoint(factory, ours).await.unwrap();
        transport.send("ping");
        let mut buffer = [0; 10];
        assert_eq!(theirs.recv(&mut buffer).unwrap(), 4);
        theirs.send(b"pong").unwrap();
        until(&event_loop, || log.has("datagram")).await;
        transport.close();
        until(&event_loop, || log.has("lost")).await;

        let stream = std::os::unix::net::UnixStream::pair().unwrap().0;
        let refused = event_loop.create_datagram_endpoint(factory, OwnedFd::from(stream)).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::DatagramExpected))));
        let both = DatagramOptions::from(peer()).reuse_port(true);
        let refused = event_loop.create_datagram_endpoint(factory, both).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::SocketModifiers))));
        let nothing = event_loop.create_datagram_endpoint(factory, DatagramOptions::new()).await;
        assert!(matches!(nothing, Err(Error::Misuse(Misuse::NoFamily))));
        let mixed = any().remote_addr(("::1", 1));
        let refused = event_loop.create_datagram_endpoint(factory, mixed).await;
        assert!(matches!(refused, Err(Error::Misuse(Misuse::NoCommonFamily))));
        let taken = peer();
        let again = DatagramOptions::new().local_addr(taken.local_addr().unwrap());
        let refused = event_loop.create_datagram_endpoint(factory, again).await;
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::ADDRINUSE.raw_os_error()));
    });
}

#[test]
fn ports_are_shared_and_broadcasters_do_not_connect() {
    run(|event_loop| async move {
        let (log, peer) = (Log::default(), peer());
        let factory = || Recorder::new(&log);
        let first = any().reuse_port(true);
        let (first, _) = event_loop.create_datagram_endpoint(factory, first).await.unwrap();
        let name = first.local_addr().unwrap();
        let second = DatagramOptions::new().local_addr(name).reuse_port(true);
        let (second, _) = event_loop.create_datagram_endpoint(factory, second).await.unwrap();
        assert_eq!(second.local_addr(), Some(name));
        let options = any().remote_addr(peer.local_addr().unwrap()).allow_broadcast(true);
        let (transport, _) = event_loop.create_datagram_endpoint(factory, options).await.unwrap();
        assert_eq!(transport.peername(), None);
        assert_eq!(transport.with_socket(|socket| socket.broadcast().unwrap()), Some(true));
        transport.send("ping");
        assert_eq!(read(&peer), b"ping");
    });
}

#[test]
fn other_threads_send() {
    run(|event_loop| async move {
        let (log, peer) = (Log::default(), peer());
        let options = DatagramOptions::new().remote_addr(peer.local_addr().unwrap());
        let factory = || Recorder::new(&log);
        let (transport, _) = event_loop.create_datagram_endpoint(factory, options).await.unwrap();
        let sender = transport.clone();
        let sent = event_loop.run_in_executor(move || {
            sender.send("from a thread");
            sender.close();
        });
        sent.await.unwrap();
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(read(&peer), b"from a thread");
    });
}

#[test]
fn a_dropped_loop_closes_its_endpoints() {
    let event_loop = EventLoop::new().unwrap();
    let making = event_loop.create_datagram_endpoint(Recorder::default, any());
    let (transport, _) = event_loop.run_until_complete(making).unwrap().unwrap();
    drop(event_loop);
    assert_eq!(transport.as_raw_fd(), -1);
    transport.send("late");
    assert!(transport.is_closing());
}

#[test]
fn protocols_can_be_exchanged() {
    run(|event_loop| async move {
        let (old, new, peer) = (Log::default(), Log::default(), peer());
        let (transport, _) =
            event_loop.create_datagram_endpoint(|| Recorder::new(&old), any()).await.unwrap();
        transport.set_protocol(Recorder::new(&new));
        assert!(transport.protocol::<Recorder>().is_some());
        peer.send_to(b"ping", transport.local_addr().unwrap()).unwrap();
        until(&event_loop, || new.has("datagram")).await;
        transport.close();
        until(&event_loop, || new.has("lost")).await;
        assert_eq!(old.lines(), ["made"]);
        assert!(transport.protocol::<Recorder>().is_none());
    });
}

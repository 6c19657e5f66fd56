//! BufferedProtocol: reads go into the protocol's own memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{
    Buffered, BufferedProtocol, Error, EventLoop, Misuse, Protocol, ProtocolHandle, Transport,
};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use util::*;

type Hook<A> = Option<Box<dyn FnMut(&Transport, A) + Send>>;

/// Records its callbacks as [`Recorder`] does, and reads into a buffer of `size` bytes.
#[derive(Default)]
struct Reader {
    log: Log,
    data: Vec<u8>,
    buffer: Vec<u8>,
    transport: Option<Transport>,
    keep_open: bool,
    error: Option<Error>,
    asked: Hook<()>,
    updated: Hook<usize>,
}

impl Reader {
    fn new(log: &Log, size: usize) -> Reader {
        Reader { log: log.clone(), buffer: vec![0; size], ..Reader::default() }
    }
}

impl BufferedProtocol for Reader {
    fn connection_made(&mut self, transport: &Transport) {
        self.log.add("made");
        self.transport = Some(transport.clone());
    }

    fn get_buffer(&mut self, sizehint: Option<usize>) -> &mut [u8] {
        assert_eq!(sizehint, None);
        if let (Some(asked), Some(transport)) = (&mut self.asked, &self.transport) {
            asked(transport, ());
        }
        &mut self.buffer
    }

    fn buffer_updated(&mut self, transport: &Transport, nbytes: usize) {
        self.log.add(format!("updated {nbytes}"));
        self.data.extend_from_slice(&self.buffer[..nbytes]);
        if let Some(updated) = &mut self.updated {
            updated(transport, nbytes);
        }
    }

    fn eof_received(&mut self, _: &Transport) -> bool {
        self.log.add("eof");
        self.keep_open
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.log.add("pause");
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.log.add("resume");
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.log.add("lost");
        self.error = error;
    }
}

struct Open {
    log: Log,
    transport: Transport,
    protocol: ProtocolHandle<Buffered<Reader>>,
    peer: UnixStream,
}

async fn open(event_loop: &EventLoop, size: usize, f: impl FnOnce(&mut Reader)) -> Open {
    let log = Log::default();
    let (ours, peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(HANG)).unwrap();
    let mut reader = Reader::new(&log, size);
    f(&mut reader);
    let factory = || Buffered(reader);
    let (transport, protocol) = event_loop.create_connection(factory, ours).await.unwrap();
    Open { log, transport, protocol, peer }
}

impl Open {
    fn data(&self) -> Vec<u8> {
        self.protocol.with(|protocol| protocol.0.data.clone()).unwrap()
    }
}

#[test]
fn pieces_are_as_large_as_the_buffer() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut open = open(&event_loop, 4, |_| {}).await;
        open.peer.write_all(b"0123456789").unwrap();
        open.peer.shutdown(Shutdown::Write).unwrap();
        until(&event_loop, || open.log.has("lost")).await;
        let expected = ["made", "updated 4", "updated 4", "updated 2", "eof", "lost"];
        assert_eq!(open.log.lines(), expected);
        assert_eq!(open.data(), b"0123456789");
        assert!(open.protocol.with(|protocol| protocol.0.error.is_none()).unwrap());
    });
}

#[test]
fn much_data_over_tcp() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let factory = move || Buffered(Reader::new(&seen, 50_000));
        let server = event_loop.create_server(factory, ("127.0.0.1", 0)).await.unwrap();
        let place = server.local_addrs()[0];
        let sender = std::thread::spawn(move || {
            TcpStream::connect(place).unwrap().write_all(&pattern(3_000_000)).unwrap();
        });
        until(&event_loop, || log.has("lost")).await;
        sender.join().unwrap();
        let sizes = log.lines().into_iter().filter_map(|line| {
            line.strip_prefix("updated ").map(|size| size.parse::<usize>().unwrap())
        });
        assert_eq!(sizes.sum::<usize>(), 3_000_000);
    });
}

#[test]
fn it_answers_and_is_paused() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut open = open(&event_loop, 4, |reader| {
            reader.updated = Some(Box::new(|transport, _| {
                transport.write("answer");
                transport.pause_reading();
            }));
        })
        .await;
        open.peer.write_all(b"12345678").unwrap();
        let mut answer = [0; 6];
        until(&event_loop, || open.log.has("updated 4")).await;
        turns(&event_loop, 3).await;
        open.peer.read_exact(&mut answer).unwrap();
        assert_eq!(open.data(), b"1234", "it is paused");
        open.transport.resume_reading();
        until(&event_loop, || open.data() == b"12345678").await;
    });
}

#[test]
fn flow_control_is_told_after_the_callback() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut open = open(&event_loop, 4, |reader| {
            let log = reader.log.clone();
            reader.updated = Some(Box::new(move |transport, _| {
                transport.write(vec![7; 2_000_000]);
                log.add("written");
            }));
        })
        .await;
        open.peer.write_all(b"x").unwrap();
        until(&event_loop, || open.log.has("pause")).await;
        let mut received = 0;
        while !open.log.has("resume") {
            received += open.peer.read(&mut [0; 65_536]).unwrap();
            turns(&event_loop, 1).await;
        }
        assert!(received > 0);
        assert_eq!(open.log.lines(), ["made", "updated 1", "written", "pause", "resume"]);
    });
}

#[test]
fn the_end_may_be_kept_open() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut open = open(&event_loop, 4, |reader| reader.keep_open = true).await;
        open.peer.shutdown(Shutdown::Write).unwrap();
        until(&event_loop, || open.log.has("eof")).await;
        open.transport.write("still open");
        turns(&event_loop, 2).await;
        let mut data = [0; 10];
        open.peer.read_exact(&mut data).unwrap();
        assert_eq!(open.log.lines(), ["made", "eof"]);
    });
}

#[test]
fn panics_and_empty_buffers_end_the_connection() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        type Change = fn(&mut Reader);
        let cases: [(Change, &str, &str); 3] = [
            (
                |reader| reader.asked = Some(Box::new(|_, ()| panic!("no buffer"))),
                "get_buffer",
                "a callback panicked: no buffer",
            ),
            (|reader| reader.buffer.clear(), "get_buffer", "get_buffer() returned an empty buffer"),
            (
                |reader| reader.updated = Some(Box::new(|_, _| panic!("not updated"))),
                "buffer_updated",
                "a callback panicked: not updated",
            ),
        ];
        for (change, callback, error) in cases {
            let mut open = open(&event_loop, 4, change).await;
            open.peer.write_all(b"data").unwrap();
            until(&event_loop, || open.log.has("lost")).await;
            let message = format!("Fatal error: protocol.{callback}() call failed.");
            assert_eq!(told.take(), [format!("{message}|{error}")]);
            let lost = open.protocol.with(|protocol| protocol.0.error.take()).unwrap().unwrap();
            assert_eq!(lost.to_string(), error);
            let empty = matches!(lost, Error::Misuse(Misuse::EmptyBuffer));
            assert_eq!(empty, error.ends_with("empty buffer"));
        }
    });
}

#[test]
fn closed_in_get_buffer() {
    let event_loop = new_loop();
    run(&event_loop, async {
        for abort in [false, true] {
            let mut open = open(&event_loop, 4, |reader| {
                reader.asked =
                    Some(Box::new(
                        move |transport, ()| {
                            if abort { transport.abort() } else { transport.close() }
                        },
                    ));
            })
            .await;
            open.peer.write_all(b"0123456789").unwrap();
            until(&event_loop, || open.log.has("lost")).await;
            assert_eq!(open.log.lines(), ["made", "updated 4", "lost"], "this read goes on");
        }
    });
}

#[test]
fn protocols_of_both_kinds_follow_each_other() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut pair = Pair::open(&event_loop).await;
        for _ in 0..3 {
            let log = Log::default();
            let buffered = pair.transport.set_protocol(Buffered(Reader::new(&log, 3)));
            pair.peer.write_all(b"12345").unwrap();
            until(&event_loop, || log.has("updated 2")).await;
            assert_eq!(buffered.with(|protocol| protocol.0.data.clone()).unwrap(), b"12345");
            assert!(pair.transport.protocol::<Buffered<Reader>>().is_some());
            assert!(pair.transport.protocol::<Recorder>().is_none());
            let log = Log::default();
            let plain = pair.transport.set_protocol(Recorder::new(&log));
            pair.peer.write_all(b"plain").unwrap();
            until(&event_loop, || log.has("data")).await;
            assert_eq!(plain.with(|recorder| recorder.data.clone()).unwrap(), b"plain");
        }
        assert_eq!(pair.log.lines(), ["made"], "the first one heard nothing of it");
    });
}

#[test]
fn handed_over_from_inside() {
    let event_loop = new_loop();
    run(&event_loop, async {
        // In data_received, to a buffered one, which hands over in get_buffer, in the midst.
        let (buffered, last) = (Log::default(), Log::default());
        let (to, end) = (buffered.clone(), last.clone());
        let mut pair = Pair::with(&event_loop, |recorder| {
            recorder.on_data(move |transport, _| {
                let mut reader = Reader::new(&to, 3);
                let end = end.clone();
                reader.transport = Some(transport.clone());
                reader.asked = Some(Box::new(move |transport, ()| {
                    transport.set_protocol(Recorder::new(&end));
                }));
                transport.set_protocol(Buffered(reader));
            })
        })
        .await;
        pair.peer.write_all(b"one").unwrap();
        until(&event_loop, || pair.log.has("data")).await;
        pair.peer.write_all(b"two, three").unwrap();
        pair.peer.shutdown(Shutdown::Write).unwrap();
        until(&event_loop, || last.has("lost")).await;
        assert_eq!(pair.log.lines(), ["made", "data"]);
        assert_eq!(buffered.lines(), ["updated 3"], "what its buffer got");
        assert_eq!(last.lines(), ["data", "eof", "lost"]);
    });
}

#[test]
fn one_factory_makes_both_kinds() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let factory = move || -> Box<dyn Protocol> {
            seen.add("factory");
            if seen.count("factory") == 1 {
                Box::new(Buffered(Reader::new(&seen, 9)))
            } else {
                Box::new(Recorder::new(&seen))
            }
        };
        let server = event_loop.create_server(factory, ("127.0.0.1", 0)).await.unwrap();
        for expected in ["updated 5", "data"] {
            let mut client = TcpStream::connect(server.local_addrs()[0]).unwrap();
            client.write_all(b"hello").unwrap();
            until(&event_loop, || log.has("eof") || log.has(expected)).await;
            assert!(log.take().contains(&expected.to_owned()));
            log.add("factory");
        }
    });
}

#[test]
fn data_from_elsewhere_is_copied_into_the_buffer() {
    let event_loop = new_loop();
    run(&event_loop, async {
        struct Hinted(Vec<u8>, [u8; 4], Vec<Option<usize>>);

        impl BufferedProtocol for Hinted {
            fn get_buffer(&mut self, sizehint: Option<usize>) -> &mut [u8] {
                self.2.push(sizehint);
                if self.0.len() > 8 { &mut [] } else { &mut self.1 }
            }

            fn buffer_updated(&mut self, _: &Transport, nbytes: usize) {
                self.0.extend_from_slice(&self.1[..nbytes]);
            }
        }

        let pair = Pair::open(&event_loop).await;
        let mut protocol = Buffered(Hinted(Vec::new(), [0; 4], Vec::new()));
        protocol.data_received(&pair.transport, b"0123456");
        assert_eq!(protocol.0.0, b"0123456");
        assert_eq!(protocol.0.2, [Some(7), Some(3)]);
        assert!(!pair.transport.is_closing());
        protocol.data_received(&pair.transport, b"789abc");
        assert_eq!(protocol.0.0, b"0123456789a", "then there is no room");
        assert!(pair.transport.is_closing());
    });
}

//! Invariants 1, 4 and 8 of ARCHITECTURE.md; 2 is in `flow_control.rs`, 3 in `descriptors.rs`,
//! 5 in `errors.rs`, 7 beside the operations (`connect.rs`, `servers.rs`, `tcp.rs`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, ExceptionContext, Protocol, Server, Transport};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;
use util::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize),
    WriteEof,
    Close,
    Abort,
    PauseReading,
    ResumeReading,
    Limits(usize),
    SetProtocol,
    PeerWrites(usize),
    PeerReads,
    PeerEnds,
    PeerLeaves,
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..300_000).prop_map(Step::Write),
        1 => Just(Step::WriteEof),
        1 => Just(Step::Close),
        1 => Just(Step::Abort),
        2 => Just(Step::PauseReading),
        2 => Just(Step::ResumeReading),
        2 => (0usize..100_000).prop_map(Step::Limits),
        1 => Just(Step::SetProtocol),
        4 => (1usize..5000).prop_map(Step::PeerWrites),
        4 => Just(Step::PeerReads),
        1 => Just(Step::PeerEnds),
        1 => Just(Step::PeerLeaves),
        8 => Just(Step::Turn),
    ]
}

/// The calls of one connection, as `protocol/mod.rs` allows them.
fn check_order(lines: &[String]) {
    assert_eq!(lines.first().map(String::as_str), Some("made"));
    assert_eq!(lines.last().map(String::as_str), Some("lost"));
    let (mut ended, mut paused) = (false, false);
    for line in &lines[1..lines.len() - 1] {
        match line.as_str() {
            "data" => assert!(!ended, "data after the end of stream"),
            "eof" => assert!(!std::mem::replace(&mut ended, true), "two ends of stream"),
            "pause" => assert!(!std::mem::replace(&mut paused, true), "paused twice"),
            "resume" => assert!(std::mem::replace(&mut paused, false), "resumed twice"),
            line => panic!("{line} in {lines:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Invariants 1 and 2, whatever is done by either side, from inside and from outside of the
    /// callbacks.
    #[test]
    fn callbacks_come_in_their_order(
        steps in prop::collection::vec((step(), any::<bool>()), 0..40),
    ) {
        let event_loop = new_loop();
        let told = errors(&event_loop);
        let log = Log::default();
        run(&event_loop, async {
            let mut inside: Vec<Step> =
                steps.iter().filter(|(_, inside)| *inside).map(|(step, _)| *step).collect();
            let (seen, pair_log) = (log.clone(), log.clone());
            let received = move |transport: &Transport, _: Vec<u8>| {
                let before = seen.lines();
                inside.pop().into_iter().for_each(|step| apply(step, transport, &seen));
                assert_eq!(seen.lines(), before, "nothing comes while a callback runs");
            };
            let mut pair = Pair::with(&event_loop, |recorder| {
                Recorder { log: pair_log, ..recorder.on_data(received) }
            })
            .await;
            pair.peer.set_nonblocking(true).unwrap();
            let mut peer = Some(&mut pair.peer);
            for (step, inside) in &steps {
                match (step, &mut peer) {
                    (Step::Turn, _) => turns(&event_loop, 1).await,
                    (Step::PeerWrites(len), Some(peer)) => {
                        let _ = peer.write(&pattern(*len));
                    }
                    (Step::PeerReads, Some(peer)) => {
                        let _ = peer.read(&mut vec![0; 1 << 18]);
                    }
                    (Step::PeerEnds, Some(peer)) => {
                        let _ = peer.shutdown(Shutdown::Write);
                    }
                    (Step::PeerLeaves, Some(gone)) => {
                        let _ = gone.shutdown(Shutdown::Both);
                        peer = None;
                    }
                    (_, _) if !inside => {
                        let lost = log.count("lost");
                        apply(*step, &pair.transport, &log);
                        assert_eq!(log.count("lost"), lost, "never from inside of a call");
                    }
                    _ => {}
                }
            }
            pair.transport.abort();
            until(&event_loop, || log.has("lost")).await;
            turns(&event_loop, 3).await;
        });
        check_order(&log.lines());
        for line in told.lines() {
            assert!(line.starts_with("Cannot call write() after write_eof()"), "{line}");
        }
    }
}

fn apply(step: Step, transport: &Transport, log: &Log) {
    match step {
        Step::Write(len) => transport.write(vec![7; len]),
        Step::WriteEof => transport.write_eof(),
        Step::Close => transport.close(),
        Step::Abort => transport.abort(),
        Step::PauseReading => transport.pause_reading(),
        Step::ResumeReading => transport.resume_reading(),
        Step::Limits(high) => transport.set_write_buffer_limits(Some(high), None).unwrap(),
        Step::SetProtocol => drop(transport.set_protocol(Recorder::new(log))),
        _ => {}
    }
}

/// Invariant 4: what comes too late does nothing, and nobody is told.
#[test]
fn late_calls_do_nothing() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    let pair = run(&event_loop, async {
        let pair = Pair::open(&event_loop).await;
        pair.transport.close();
        late(&pair.transport);
        pair.saw(&event_loop, "lost").await;
        late(&pair.transport);
        drop(pair.transport.set_protocol(Echo));
        assert!(pair.transport.protocol::<Echo>().is_none());
        turns(&event_loop, 3).await;
        pair
    });
    event_loop.close().unwrap();
    late(&pair.transport);
    drop(event_loop);
    late(&pair.transport);
    assert_eq!(pair.log.lines(), ["made", "lost"]);
    assert!(told.lines().is_empty());
}

fn late(transport: &Transport) {
    transport.write("late");
    transport.writelines(["very", "late"]);
    transport.write_eof();
    transport.pause_reading();
    transport.resume_reading();
    transport.set_write_buffer_limits(Some(0), None).unwrap();
    transport.abort();
    transport.close();
    assert!(transport.is_closing() && !transport.is_reading());
    assert_eq!(transport.get_write_buffer_size(), 0);
    assert!(!format!("{transport:?}").is_empty());
}

/// Uses all that can be used, wherever it is called from.
#[derive(Clone)]
struct Busy {
    event_loop: EventLoop,
    server: Server,
    others: Vec<Transport>,
}

impl Busy {
    fn use_all(&self, own: Option<&Transport>) {
        for transport in self.others.iter().chain(own) {
            transport.pause_reading();
            transport.resume_reading();
            transport.write(vec![0; 100]);
            transport.writelines(["a", "b"]);
            transport.set_write_buffer_limits(None, None).unwrap();
            transport.with_socket(|socket| socket.nonblocking().unwrap());
            let _ = transport.protocol::<Recorder>().map(|protocol| protocol.with(|_| ()));
            let _ = format!("{transport:?} {}", transport.is_closing());
            transport.get_write_buffer_size();
        }
        self.event_loop.call_soon(|| ()).cancel();
        self.event_loop.call_soon(|| ());
        self.event_loop.call_later(Duration::from_secs(999), || ()).cancel();
        drop(self.event_loop.create_task(async {}));
        drop(self.event_loop.run_in_executor(|| ()));
        let _ = self.event_loop.close();
        let _ = self.event_loop.run_forever();
        self.event_loop.add_signal_handler(10, || ()).unwrap_or_default();
        self.event_loop.remove_signal_handler(10);
        let _ = format!("{:?} {:?}", self.event_loop, self.server);
    }
}

struct Nosy(Busy, Option<Transport>);

impl Protocol for Nosy {
    fn connection_made(&mut self, transport: &Transport) {
        self.1 = Some(transport.clone());
        self.0.use_all(self.1.as_ref());
    }
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.use_all(Some(transport));
        // Pauses, and more than the peer will ever read.
        transport.write(vec![0; 8 << 20]);
        assert!(data != b"panic", "as told");
    }
    fn eof_received(&mut self, transport: &Transport) -> bool {
        self.0.use_all(Some(transport));
        true
    }
    fn pause_writing(&mut self, _: &Transport) {
        self.0.use_all(self.1.as_ref());
    }
    fn resume_writing(&mut self, _: &Transport) {
        self.0.use_all(self.1.as_ref());
    }
    fn connection_lost(&mut self, _: &Transport, _: Option<Error>) {
        self.0.use_all(self.1.as_ref());
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.0.use_all(self.1.as_ref());
    }
}

/// Invariant 8: no lock of the loop is held, and nothing is borrowed, where user code runs.
/// Were one, this would hang.
#[test]
fn everything_may_be_used_from_everywhere() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        use_everything();
        done.send(()).unwrap();
    });
    finished.recv_timeout(HANG).unwrap();
}

fn use_everything() {
    let event_loop = new_loop();
    let server = run(&event_loop, event_loop.create_server(|| Echo, ("127.0.0.1", 0))).unwrap();
    let pairs = [(); 2].map(|()| run(&event_loop, Pair::open(&event_loop)));
    let others = pairs.iter().map(|pair| pair.transport.clone()).collect();
    let busy = Busy { event_loop: event_loop.clone(), server: server.clone(), others };
    let log = Log::default();
    let (told, handling) = (log.clone(), busy.clone());
    event_loop.set_exception_handler(move |_, context: &ExceptionContext| {
        handling.use_all(context.transport.as_ref());
        told.add(&context.message);
    });
    run(&event_loop, async {
        let factory = || {
            let nosy = Nosy(busy.clone(), None);
            nosy.0.use_all(None);
            nosy
        };
        let making = busy.clone();
        let serving = event_loop
            .create_server(
                move || {
                    making.use_all(None);
                    Nosy(making.clone(), None)
                },
                ("127.0.0.1", 0),
            )
            .await
            .unwrap();
        let client = std::net::TcpStream::connect(serving.local_addrs()[0]).unwrap();
        for word in ["fine", "panic"] {
            let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
            let (transport, protocol) = event_loop.create_connection(factory, ours).await.unwrap();
            protocol.with(|nosy| nosy.0.use_all(Some(&transport))).unwrap();
            peer.write_all(word.as_bytes()).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            peer.set_read_timeout(Some(HANG)).unwrap();
            let reading = event_loop.run_in_executor(move || {
                let mut left = 8 << 20;
                while let Ok(count @ 1..) = peer.read(&mut vec![0; 1 << 20]) {
                    left -= count.min(left);
                    if left == 0 {
                        break;
                    }
                }
            });
            within(&event_loop, reading).await.unwrap();
            transport.abort();
            until(&event_loop, || transport.protocol::<Nosy>().is_none()).await;
        }
        let dropped = Nosy(busy.clone(), None);
        event_loop.call_soon(move || drop(dropped));
        let cancelled = Nosy(busy.clone(), None);
        event_loop.call_soon(move || drop(cancelled)).cancel();
        let replaced = Nosy(busy.clone(), None);
        drop(pairs[0].transport.set_protocol(replaced));
        drop(pairs[0].transport.set_protocol(Recorder::default()));
        drop(client);
        serving.close();
    });
    assert!(log.has("Fatal error: protocol.data_received() call failed."));
    let late = Nosy(busy, None);
    event_loop.call_soon(move || drop(late));
    event_loop.close().unwrap();
}

//! Invariant 2: when a protocol is told to pause and to resume writing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::flow_control::Limits;
use oxloop::{EventLoop, Misuse, Transport};
use std::io::Read;
use std::sync::{Arc, Mutex};
use util::*;

/// A pair whose kernel buffer is small and full: all that is written from now on is buffered.
async fn filled(event_loop: &EventLoop) -> Pair {
    let pair = Pair::open(event_loop).await;
    pair.transport.with_socket(|socket| socket.set_send_buffer_size(1)).unwrap().unwrap();
    pair.transport.set_write_buffer_limits(Some(usize::MAX), None).unwrap();
    while pair.transport.get_write_buffer_size() == 0 {
        pair.transport.write(vec![0; 4096]);
    }
    // The next byte is the first one that counts.
    pair
}

fn buffered(pair: &Pair) -> usize {
    pair.transport.get_write_buffer_size()
}

async fn drain(event_loop: &EventLoop, pair: &Pair, to: usize) {
    pair.peer.set_nonblocking(true).unwrap();
    // In small steps where the way there matters.
    let mut room = vec![0; if to == 0 { 1 << 20 } else { 1024 }];
    until(event_loop, || {
        let _ = (&pair.peer).read(&mut room);
        buffered(pair) <= to
    })
    .await;
}

#[test]
fn pauses_strictly_over_high() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let pair = filled(&event_loop).await;
        let high = buffered(&pair) + 10;
        pair.transport.set_write_buffer_limits(Some(high), Some(0)).unwrap();
        pair.transport.write([0; 10].as_slice());
        assert_eq!(buffered(&pair), high);
        assert!(!pair.log.has("pause"), "at the mark is not over it");
        pair.transport.write("x");
        assert_eq!(pair.log.count("pause"), 1);
        pair.transport.write("x");
        assert_eq!(pair.log.count("pause"), 1, "told once");
    });
}

#[test]
fn resumes_at_or_under_low() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let pair = filled(&event_loop).await;
        pair.transport.write(vec![0; 100_000]);
        pair.transport.set_write_buffer_limits(Some(50_000), Some(20_000)).unwrap();
        assert_eq!(pair.log.lines(), ["made", "pause"], "limits may pause as well");
        drain(&event_loop, &pair, 40_000).await;
        assert!(buffered(&pair) <= 20_000 || !pair.log.has("resume"));
        drain(&event_loop, &pair, 20_000).await;
        pair.saw(&event_loop, "resume").await;
        assert_eq!(pair.log.lines(), ["made", "pause", "resume"]);
    });
}

#[test]
fn limits_of_zero() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let pair = filled(&event_loop).await;
        pair.transport.set_write_buffer_limits(Some(0), None).unwrap();
        assert_eq!(pair.log.lines(), ["made", "pause"], "anything buffered is too much");
        drain(&event_loop, &pair, 0).await;
        pair.saw(&event_loop, "resume").await;
        // What the kernel takes is not buffered, so it does not pause.
        while buffered(&pair) == 0 {
            assert_eq!(pair.log.lines(), ["made", "pause", "resume"]);
            pair.transport.write("x");
        }
        assert_eq!(pair.log.lines(), ["made", "pause", "resume", "pause"]);
    });
}

#[test]
fn limits_are_checked_and_kept() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let pair = Pair::open(&event_loop).await;
        let limits = |transport: &Transport| {
            let limits = transport.get_write_buffer_limits();
            (limits.low(), limits.high())
        };
        assert_eq!(limits(&pair.transport), (16 * 1024, 64 * 1024));
        for (high, low, expected) in [
            (Some(100), Some(50), (50, 100)),
            (Some(100), None, (25, 100)),
            (None, Some(100), (100, 400)),
            (Some(0), None, (0, 0)),
            (None, None, (16 * 1024, 64 * 1024)),
        ] {
            pair.transport.set_write_buffer_limits(high, low).unwrap();
            assert_eq!(limits(&pair.transport), expected);
        }
        let error = pair.transport.set_write_buffer_limits(Some(1), Some(2)).unwrap_err();
        assert!(matches!(error, Misuse::Limits(_)));
        assert_eq!(error.to_string(), "high (1) must be >= low (2) must be >= 0");
        assert_eq!(limits(&pair.transport), (16 * 1024, 64 * 1024));
        assert_eq!(Limits::new(Some(3), Some(3)).unwrap().high(), 3);
    });
}

/// A pause that a callback of the protocol brings about comes when that callback has returned.
#[test]
fn a_pause_waits_for_the_running_callback() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let mut pair = Pair::with(&event_loop, |recorder| Recorder {
            log: log.clone(),
            ..recorder.on_data(move |transport, _| {
                transport.write(vec![0; 8 << 20]);
                seen.add("written");
                transport.write("more");
                seen.add("returning");
            })
        })
        .await;
        std::io::Write::write_all(&mut pair.peer, b"go").unwrap();
        until(&event_loop, || log.has("pause")).await;
        assert_eq!(log.lines(), ["made", "data", "written", "returning", "pause"]);
    });
}

/// The same holds where somebody else looks at the protocol.
#[test]
fn a_pause_waits_for_whoever_looks_at_the_protocol() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let pair = filled(&event_loop).await;
        pair.transport.set_write_buffer_limits(Some(0), None).unwrap_or_default();
        let log = pair.log.clone();
        drain(&event_loop, &pair, 0).await;
        pair.saw(&event_loop, "resume").await;
        log.take();
        pair.protocol
            .with(|_| {
                pair.transport.write(vec![0; 8 << 20]);
                log.add("looked");
                assert_eq!(pair.protocol.with(|_| ()), Err(Misuse::ProtocolBusy));
            })
            .unwrap();
        assert_eq!(log.lines(), ["looked", "pause"]);
    });
}

/// Another connection's protocol is told at once: a proxy can stop reading in time.
#[test]
fn a_pause_of_another_protocol_comes_at_once() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let log = Log::default();
        let target = filled(&event_loop).await;
        target.transport.set_write_buffer_limits(None, None).unwrap();
        let paused = log.clone();
        target
            .protocol
            .with(|recorder| recorder.paused = Some(Box::new(move || paused.add("paused"))))
            .unwrap();
        let (seen, out) = (log.clone(), target.transport.clone());
        let forward = move |_: &Transport, _: Vec<u8>| {
            out.write(vec![0; 1 << 20]);
            seen.add("written");
        };
        let mut source = Pair::with(&event_loop, |recorder| recorder.on_data(forward)).await;
        std::io::Write::write_all(&mut source.peer, b"go").unwrap();
        until(&event_loop, || log.has("written")).await;
        assert_eq!(log.lines(), ["paused", "written"]);
    });
}

/// A protocol that was replaced is told of the pause it brought about, its successor of the
/// rest, as on asyncio.
#[test]
fn a_pause_goes_to_the_protocol_of_its_moment() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let second = Log::default();
        let next = second.clone();
        let mut pair = Pair::with(&event_loop, |recorder| {
            recorder.on_data(move |transport, _| {
                transport.write(vec![0; 8 << 20]);
                drop(transport.set_protocol(Recorder::new(&next)));
            })
        })
        .await;
        std::io::Write::write_all(&mut pair.peer, b"go").unwrap();
        pair.saw(&event_loop, "pause").await;
        assert_eq!(second.lines(), [""; 0]);
        drain(&event_loop, &pair, 0).await;
        until(&event_loop, || second.has("resume")).await;
        assert_eq!(pair.log.lines(), ["made", "data", "pause"]);
    });
}

#[test]
fn a_panic_in_a_flow_control_callback_is_reported_and_changes_nothing() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let pair = filled(&event_loop).await;
        pair.protocol
            .with(|recorder| recorder.paused = Some(Box::new(|| panic!("not now"))))
            .unwrap();
        pair.transport.set_write_buffer_limits(None, None).unwrap();
        pair.transport.write(vec![0; 1 << 20]);
        let expected = "protocol.pause_writing() failed|a callback panicked: not now";
        assert_eq!(told.lines(), [expected]);
        assert!(!pair.transport.is_closing());
        drain(&event_loop, &pair, 0).await;
        pair.saw(&event_loop, "resume").await;
    });
}

/// Whatever is written in whatever callback, pauses and resumes take turns, and all arrives.
#[test]
fn pauses_and_resumes_take_turns() {
    let event_loop = new_loop();
    let (total, rounds) = (Arc::new(Mutex::new(0)), 200);
    let pair = run(&event_loop, async {
        let sum = total.clone();
        let pair = Pair::with(&event_loop, |recorder| {
            recorder.on_data(move |transport, data| {
                for byte in data {
                    let len = usize::from(byte) * 331;
                    *sum.lock().unwrap() += len;
                    transport.write(vec![byte; len]);
                    let high = usize::from(byte) * 17 % 3 * 1000;
                    transport.set_write_buffer_limits(Some(high), None).unwrap();
                }
            })
        })
        .await;
        pair.transport.with_socket(|socket| socket.set_send_buffer_size(1)).unwrap().unwrap();
        let orders = pattern(rounds);
        let mut reader = pair.peer.try_clone().unwrap();
        let mut writer = pair.peer.try_clone().unwrap();
        let reading = event_loop.run_in_executor(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all.len())
        });
        for (number, orders) in orders.chunks(3).enumerate() {
            std::io::Write::write_all(&mut writer, orders).unwrap();
            turns(&event_loop, 2).await;
            if number % 5 == 0 {
                until(&event_loop, || pair.transport.get_write_buffer_size() == 0).await;
            }
        }
        until(&event_loop, || {
            pair.protocol.with(|recorder| recorder.data.len()).unwrap() == rounds
        })
        .await;
        pair.transport.close();
        let read = within(&event_loop, reading).await.unwrap().unwrap();
        assert_eq!(read, *total.lock().unwrap());
        pair
    });
    let flow: Vec<_> =
        pair.log.lines().into_iter().filter(|l| l == "pause" || l == "resume").collect();
    assert!(flow.len() > 2, "{flow:?}");
    for (number, line) in flow.iter().enumerate() {
        assert_eq!(line, ["pause", "resume"][number % 2]);
    }
}

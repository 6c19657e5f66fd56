//! Watched descriptors: `add_reader`, `add_writer`, `readable`, `writable`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, Misuse};
use std::fs::File;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::{Pin, pin};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::thread;
use util::*;

fn pair() -> (Arc<UnixStream>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Arc::new(ours), theirs)
}

fn read(mut stream: &UnixStream) -> Vec<u8> {
    let mut data = [0; 64];
    let count = stream.read(&mut data).unwrap();
    data[..count].to_vec()
}

/// Fills the socket until it takes no more.
fn fill(mut stream: &UnixStream) {
    let mut size = 0;
    let error = loop {
        match stream.write(&[0; 65536]) {
            Ok(count) => size += count,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(size > 0);
}

/// Polls once.
async fn is_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[test]
fn a_reader_runs_while_there_is_something_to_read() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (ours, mut theirs) = pair();
    let told = log.clone();
    let watch = event_loop.add_reader(ours.clone(), move || told.add("readable")).unwrap();
    run(&event_loop, async {
        turns(&event_loop, 2).await;
        assert!(log.lines().is_empty());
        theirs.write_all(b"abc").unwrap();
        until(&event_loop, || log.lines().len() >= 2).await;
        assert_eq!(read(&ours), b"abc");
        // What this turn's poll found is called for all the same.
        turns(&event_loop, 1).await;
        log.take();
        turns(&event_loop, 2).await;
        assert!(log.lines().is_empty());
    });
    assert!(!watch.cancelled());
    assert!(event_loop.remove_reader(&ours));
    assert!(watch.cancelled());
    assert!(!event_loop.remove_reader(&ours));
    assert!(!event_loop.remove_writer(&ours));
}

#[test]
fn both_sides_in_one_turn_the_reader_first() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (ours, mut theirs) = pair();
    theirs.write_all(b"abc").unwrap();
    let (reader, writer) = (log.clone(), log.clone());
    event_loop.add_writer(ours.clone(), move || writer.add("write")).unwrap();
    event_loop.add_reader(ours.clone(), move || reader.add("read")).unwrap();
    run(&event_loop, until(&event_loop, || log.lines().len() >= 4));
    assert_eq!(log.take()[..4], ["read", "write", "read", "write"]);
    assert!(event_loop.remove_writer(&ours));
    run(&event_loop, until(&event_loop, || log.lines().len() >= 2));
    assert_eq!(log.lines()[..2], ["read", "read"]);
}

#[test]
fn a_reader_takes_the_place_of_another() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (ours, mut theirs) = pair();
    theirs.write_all(b"abc").unwrap();
    let first = event_loop.add_reader(ours.clone(), || unreachable!()).unwrap();
    let told = log.clone();
    let second = event_loop.add_reader(ours.clone(), move || told.add("second")).unwrap();
    assert!(first.cancelled());
    // The first is not the watch that there is.
    first.cancel();
    run(&event_loop, until(&event_loop, || !log.lines().is_empty()));
    second.cancel();
    second.cancel();
    log.take();
    run(&event_loop, turns(&event_loop, 2));
    assert!(log.lines().is_empty());
    assert!(!event_loop.remove_reader(&ours));
}

#[test]
fn a_callback_may_end_its_own_watch() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    theirs.write_all(b"abc").unwrap();
    let (stopper, descriptor) = (event_loop.clone(), ours.clone());
    let watch = event_loop
        .add_reader(ours.clone(), move || {
            assert!(stopper.remove_reader(&descriptor));
            stopper.stop();
        })
        .unwrap();
    event_loop.run_forever().unwrap();
    assert!(watch.cancelled());
    drop(watch);
    assert_eq!(Arc::strong_count(&ours), 1, "the callback and its descriptor are let go");
}

#[test]
fn the_loop_keeps_what_it_watches_open() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let told = log.clone();
    let watch = event_loop.add_reader(ours, move || told.add("readable")).unwrap();
    theirs.write_all(b"abc").unwrap();
    run(&event_loop, until(&event_loop, || !log.lines().is_empty()));
    watch.cancel();
    // Closed by its only owner, with data unread.
    let error = theirs.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn closing_the_loop_lets_go() {
    let event_loop = new_loop();
    let (ours, _theirs) = pair();
    event_loop.add_reader(ours.clone(), || {}).unwrap();
    event_loop.add_writer(ours.clone(), || {}).unwrap();
    event_loop.close().unwrap();
    assert_eq!(Arc::strong_count(&ours), 1);
    let refused = event_loop.add_reader(ours.clone(), || {}).unwrap_err();
    assert!(matches!(refused, Error::Misuse(Misuse::LoopClosed)));
    assert!(!event_loop.remove_reader(&ours));
}

#[test]
fn what_cannot_be_watched_is_refused() {
    const EPERM: i32 = 1;
    let event_loop = new_loop();
    let file = File::open("/proc/self/exe").unwrap();
    let refused = run(&event_loop, event_loop.readable(&file)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(EPERM));
    let refused = event_loop.add_writer(file, || {}).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(EPERM));
}

#[test]
fn a_panic_is_told_and_the_watch_goes_on() {
    let event_loop = new_loop();
    let log = errors(&event_loop);
    let (ours, mut theirs) = pair();
    theirs.write_all(b"abc").unwrap();
    event_loop.add_reader(ours.clone(), || panic!("in a reader")).unwrap();
    run(&event_loop, until(&event_loop, || log.lines().len() >= 2));
    assert!(log.lines().iter().all(|line| line.contains("in a reader")));
}

#[test]
fn readable_waits_for_data_and_for_the_end() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    run(&event_loop, async {
        let mut wait = pin!(event_loop.readable(&ours));
        assert!(is_pending(wait.as_mut()).await);
        theirs.write_all(b"abc").unwrap();
        wait.await.unwrap();
        assert_eq!(read(&ours), b"abc");
        drop(theirs);
        event_loop.readable(&ours).await.unwrap();
        assert_eq!(read(&ours), b"");
    });
}

#[test]
fn writable_waits_for_room() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    run(&event_loop, async {
        event_loop.writable(&ours).await.unwrap();
        fill(&ours);
        let mut wait = pin!(event_loop.writable(&ours));
        assert!(is_pending(wait.as_mut()).await);
        turns(&event_loop, 2).await;
        theirs.set_nonblocking(true).unwrap();
        while theirs.read(&mut [0; 65536]).is_ok() {}
        wait.await.unwrap();
    });
}

#[test]
fn a_dropped_wait_leaves_nothing() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (ours, mut theirs) = pair();
    run(&event_loop, async {
        for _ in 0..3 {
            let mut wait = Box::pin(event_loop.readable(&ours));
            assert!(is_pending(wait.as_mut()).await);
        }
        assert!(!event_loop.remove_reader(&ours));
        // What came meanwhile is there for the next.
        theirs.write_all(b"abc").unwrap();
        event_loop.readable(&ours).await.unwrap();
        assert_eq!(read(&ours), b"abc");
        let told = log.clone();
        event_loop.add_reader(ours.clone(), move || told.add("readable")).unwrap();
        turns(&event_loop, 2).await;
    });
    assert!(log.lines().is_empty());
}

#[test]
fn the_later_wait_takes_the_place_of_the_earlier() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    run(&event_loop, async {
        let mut first = Box::pin(event_loop.readable(&ours));
        assert!(is_pending(first.as_mut()).await);
        let mut second = Box::pin(event_loop.readable(&ours));
        assert!(is_pending(second.as_mut()).await);
        assert!(matches!(first.await, Err(Error::Cancelled)));
        theirs.write_all(b"abc").unwrap();
        second.await.unwrap();
    });
}

#[test]
fn from_another_thread() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (ours, mut theirs) = pair();
    let barrier = Arc::new(Barrier::new(2));
    let helper = thread::spawn({
        let (event_loop, log, barrier) = (event_loop.clone(), log.clone(), barrier.clone());
        move || {
            barrier.wait();
            let (stopper, reader) = (event_loop.clone(), ours.clone());
            let watch = event_loop.add_reader(ours, move || {
                log.add(String::from_utf8(read(&reader)).unwrap());
                stopper.stop();
            });
            theirs.write_all(b"abc").unwrap();
            watch.unwrap()
        }
    });
    event_loop.call_soon(move || _ = barrier.wait());
    event_loop.run_forever().unwrap();
    helper.join().unwrap().cancel();
    assert_eq!(log.lines(), ["abc"]);
}

#[test]
fn a_wait_ends_with_the_loop() {
    let event_loop = new_loop();
    let (ours, _theirs) = pair();
    let mut wait = Box::pin(event_loop.readable(&ours));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(wait.as_mut().poll(&mut cx).is_pending());
    event_loop.close().unwrap();
    assert!(matches!(wait.as_mut().poll(&mut cx), Poll::Ready(Err(Error::Cancelled))));
}

#[test]
fn many_descriptors_and_no_confusion() {
    let event_loop = new_loop();
    let log = Log::default();
    let pairs: Vec<_> = (0..50).map(|_| pair()).collect();
    for (index, (ours, _)) in pairs.iter().enumerate() {
        let (told, reader) = (log.clone(), ours.clone());
        let callback = move || told.add(format!("{index} {:?}", read(&reader)));
        event_loop.add_reader(ours.clone(), callback).unwrap();
    }
    for (index, (_, theirs)) in pairs.iter().enumerate() {
        (&*theirs).write_all(&[index as u8]).unwrap();
    }
    run(&event_loop, until(&event_loop, || log.lines().len() == 50));
    let mut lines = log.lines();
    lines.sort_by_key(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
    let expected: Vec<_> = (0..50).map(|index| format!("{index} [{index}]")).collect();
    assert_eq!(lines, expected);
}

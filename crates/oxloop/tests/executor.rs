//! Calls that block, on threads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, Misuse};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread;
use util::*;

#[test]
fn calls_run_beside_the_loop() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let (go, wait) = mpsc::channel();
        let call = event_loop.run_in_executor(move || {
            wait.recv_timeout(HANG).unwrap();
            thread::current().name().map(str::to_owned)
        });
        turns(&event_loop, 5).await;
        go.send(()).unwrap();
        let name = call.await.unwrap().unwrap();
        assert!(name.starts_with("oxloop-executor-"), "{name}");
    });
}

#[test]
fn calls_run_beside_each_other() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let together = Arc::new(Barrier::new(4));
        let calls: Vec<_> = (0..4)
            .map(|number| {
                let together = together.clone();
                event_loop.run_in_executor(move || {
                    together.wait();
                    number
                })
            })
            .collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(within(&event_loop, call).await.unwrap(), number);
        }
    });
}

#[test]
fn there_are_only_so_many_threads() {
    let event_loop = new_loop();
    let most = 32.min(thread::available_parallelism().unwrap().get() + 4);
    run(&event_loop, async {
        let calls: Vec<_> = (0..200)
            .map(|_| event_loop.run_in_executor(|| thread::current().name().map(str::to_owned)))
            .collect();
        let mut names = std::collections::HashSet::new();
        for call in calls {
            names.insert(call.await.unwrap());
        }
        assert!(names.len() <= most, "{names:?}");
    });
}

#[test]
fn a_panic_is_the_callers() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let call = event_loop.run_in_executor(|| -> u32 { panic!("in the thread") });
        let Err(Error::Panic(text)) = call.await else { panic!() };
        assert_eq!(text, "in the thread");
        assert_eq!(event_loop.run_in_executor(|| 1).await.unwrap(), 1);
    });
    assert!(told.lines().is_empty());
}

#[test]
fn a_call_that_nobody_waits_for_does_not_start() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let most = 32.min(thread::available_parallelism().unwrap().get() + 4);
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        // All threads are busy.
        let busy: Vec<_> = (0..most)
            .map(|_| {
                let wait = wait.clone();
                event_loop.run_in_executor(move || _ = wait.lock().unwrap().recv())
            })
            .collect();
        let queued = event_loop.run_in_executor(|| panic!("started"));
        let kept = Arc::new(());
        let held = kept.clone();
        let dropped = event_loop.run_in_executor(move || drop(held));
        drop((queued, dropped));
        drop(go);
        for call in busy {
            within(&event_loop, call).await.unwrap();
        }
        until(&event_loop, || Arc::strong_count(&kept) == 1).await;
    });
}

#[test]
fn closing_lets_queued_calls_finish_and_takes_no_more() {
    let event_loop = new_loop();
    let (go, wait) = mpsc::channel::<()>();
    let (done, finished) = mpsc::channel();
    let call = event_loop.run_in_executor(move || {
        let _ = wait.recv();
        done.send("finished").unwrap();
    });
    event_loop.close().unwrap();
    let late = event_loop.run_in_executor(|| ());
    drop(go);
    assert_eq!(finished.recv_timeout(HANG), Ok("finished"));
    let other = new_loop();
    assert!(matches!(run(&other, late), Err(Error::Misuse(Misuse::LoopClosed))));
    run(&other, call).unwrap();
}

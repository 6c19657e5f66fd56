//! Unix signals on the loop.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, Misuse};
use signal_hook::consts::{SIGKILL, SIGSEGV, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::low_level::raise;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use util::*;

// Signals are the process's: each test has one of its own.

#[test]
fn each_signal_calls_back_once() {
    let (event_loop, log) = (new_loop(), Log::default());
    let seen = log.clone();
    event_loop.add_signal_handler(SIGUSR1, move || seen.add("usr1")).unwrap();
    run(&event_loop, async {
        for count in 1..4 {
            raise(SIGUSR1).unwrap();
            assert_eq!(log.lines().len(), count - 1, "never from inside of the signal handler");
            until(&event_loop, || log.lines().len() == count).await;
        }
        turns(&event_loop, 5).await;
        assert_eq!(log.lines().len(), 3);
    });
}

#[test]
fn a_signal_wakes_a_waiting_loop() {
    let event_loop = new_loop();
    let (stopper, thread) = (event_loop.clone(), event_loop.clone());
    event_loop.add_signal_handler(SIGUSR2, move || stopper.stop()).unwrap();
    let sender = std::thread::spawn(move || {
        while !thread.is_running() {
            std::thread::yield_now();
        }
        raise(SIGUSR2).unwrap();
    });
    event_loop.run_forever().unwrap();
    sender.join().unwrap();
}

#[test]
fn handlers_are_replaced_and_removed() {
    let (event_loop, log) = (new_loop(), Log::default());
    let alive = Arc::new(());
    let (first, kept) = (log.clone(), alive.clone());
    event_loop
        .add_signal_handler(SIGWINCH, move || {
            let _ = &kept;
            first.add("first");
        })
        .unwrap();
    let second = log.clone();
    event_loop.add_signal_handler(SIGWINCH, move || second.add("second")).unwrap();
    assert_eq!(Arc::strong_count(&alive), 1, "the first is dropped");
    run(&event_loop, async {
        raise(SIGWINCH).unwrap();
        until(&event_loop, || log.has("second")).await;
        // Queued already when the handler is removed.
        raise(SIGWINCH).unwrap();
        assert!(event_loop.remove_signal_handler(SIGWINCH));
        assert!(!event_loop.remove_signal_handler(SIGWINCH));
        raise(SIGWINCH).unwrap();
        turns(&event_loop, 5).await;
    });
    assert_eq!(log.lines(), ["second"]);
}

#[test]
fn some_signals_cannot_be_handled() {
    let event_loop = new_loop();
    for signal in [SIGKILL, SIGSTOP, SIGSEGV, 0, -1, 1000] {
        let result = event_loop.add_signal_handler(signal, || ());
        let Err(Error::Misuse(misuse)) = result else { panic!("{result:?}") };
        assert_eq!(misuse, Misuse::Signal(signal));
        assert!(!event_loop.remove_signal_handler(signal));
    }
}

/// Without a handler the process ends by the signal again.
#[test]
fn the_default_action_comes_back() {
    const CHILD: &str = "OXLOOP_SIGNAL_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let event_loop = new_loop();
        let stopper = event_loop.clone();
        event_loop.add_signal_handler(SIGTERM, move || stopper.stop()).unwrap();
        event_loop.call_soon(|| raise(SIGTERM).unwrap());
        event_loop.run_forever().unwrap();
        // Closing removes the handlers.
        event_loop.close().unwrap();
        raise(SIGTERM).unwrap();
        return;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_default_action_comes_back"])
        .env(CHILD, "1")
        .output()
        .unwrap()
        .status;
    assert_eq!(status.signal(), Some(SIGTERM), "{status}");
}

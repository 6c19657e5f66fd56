//! Running, stopping and closing the loop.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Misuse, get_running_loop};
use std::future::{poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;
use util::*;

fn misuse<T: std::fmt::Debug>(result: oxloop::Result<T>) -> Misuse {
    match result {
        Err(Error::Misuse(misuse)) => misuse,
        other => panic!("{other:?}"),
    }
}

#[test]
fn drives_a_future_that_borrows_and_is_not_send() {
    let event_loop = new_loop();
    let (text, shared) = (String::from("abc"), Rc::new(1));
    let len = run(&event_loop, async {
        turns(&event_loop, 2).await;
        text.len() + *shared
    });
    assert_eq!(len, 4);
}

#[test]
fn what_is_queued_when_the_future_is_done_still_runs() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (seen, inner) = (log.clone(), event_loop.clone());
    event_loop
        .run_until_complete(async {
            let later = seen.clone();
            inner.call_soon(move || later.add("queued"));
        })
        .unwrap();
    assert_eq!(log.lines(), ["queued"]);
}

#[test]
fn connection_lost_is_told_of_a_close_at_the_end() {
    let event_loop = new_loop();
    let pair = run(&event_loop, async {
        let pair = Pair::open(&event_loop).await;
        pair.transport.close();
        assert_eq!(pair.log.lines(), ["made"], "never from inside of close()");
        pair
    });
    assert_eq!(pair.log.lines(), ["made", "lost"]);
}

#[test]
fn stop_completes_the_turn() {
    let (event_loop, log) = (new_loop(), Log::default());
    let (first, second, stopper) = (log.clone(), log.clone(), event_loop.clone());
    event_loop.call_soon(move || {
        stopper.stop();
        let third = first.clone();
        stopper.call_soon(move || third.add("next turn"));
        first.add("first");
    });
    event_loop.call_soon(move || second.add("second"));
    event_loop.run_forever().unwrap();
    assert_eq!(log.lines(), ["first", "second"]);
    run(&event_loop, async {});
    assert_eq!(log.lines(), ["first", "second", "next turn"]);
}

#[test]
fn a_stop_in_advance_leaves_one_turn() {
    let (event_loop, log) = (new_loop(), Log::default());
    let seen = log.clone();
    event_loop.call_soon(move || seen.add("ran"));
    event_loop.stop();
    event_loop.run_forever().unwrap();
    assert_eq!(log.lines(), ["ran"]);
}

#[test]
fn stop_before_the_future_is_done() {
    let event_loop = new_loop();
    let kept = Arc::new(());
    let inside = kept.clone();
    let result = event_loop.run_until_complete(async {
        let _inside = inside;
        event_loop.stop();
        std::future::pending::<()>().await;
    });
    assert_eq!(misuse(result), Misuse::LoopStopped);
    assert_eq!(Arc::strong_count(&kept), 1, "the future is dropped");
    assert_eq!(run(&event_loop, async { 1 }), 1);
}

#[test]
fn the_end_of_one_run_does_not_stop_the_next() {
    let event_loop = new_loop();
    // The future is done in the turn in which stop() ends the run.
    let result = event_loop.run_until_complete(async {
        event_loop.stop();
        1
    });
    assert_eq!(result.unwrap(), 1);
    run(&event_loop, turns(&event_loop, 5));
}

/// Whichever future is done first; both stay the caller's.
async fn first<A: Future + Unpin, B: Future + Unpin>(a: &mut A, b: &mut B) {
    poll_fn(|cx| match (Pin::new(&mut *a).poll(cx), Pin::new(&mut *b).poll(cx)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
}

/// Runs that leave something behind which wakes their future when it is dropped.
type Leftover = (&'static str, fn(&EventLoop) -> Box<dyn Send>);
const LEFTOVERS: [Leftover; 5] = [
    ("a run that was stopped", |event_loop| {
        let stopper = event_loop.clone();
        event_loop.call_soon(move || stopper.stop());
        let sleeping = event_loop.sleep(Duration::from_secs(999));
        assert_eq!(misuse(event_loop.run_until_complete(sleeping)), Misuse::LoopStopped);
        Box::new(())
    }),
    ("a sleep that lost at once", |event_loop| {
        let mut sleep = event_loop.sleep(Duration::from_secs(999));
        run(event_loop, first(&mut sleep, &mut ready(())));
        Box::new(sleep)
    }),
    ("a sleep that lost later", |event_loop| {
        let mut sleep = event_loop.sleep(Duration::from_secs(999));
        run(event_loop, first(&mut sleep, &mut event_loop.run_in_executor(|| ())));
        Box::new(sleep)
    }),
    ("a promise", |event_loop| {
        let (promise, mut waiter) = event_loop.create_future::<()>();
        run(event_loop, first(&mut waiter, &mut event_loop.run_in_executor(|| ())));
        Box::new((promise, waiter))
    }),
    ("a waker itself", |event_loop| {
        struct Wakes(Waker);
        impl Drop for Wakes {
            fn drop(&mut self) {
                self.0.wake_by_ref();
            }
        }
        Box::new(run(event_loop, poll_fn(|cx| Poll::Ready(Wakes(cx.waker().clone())))))
    }),
];

/// A waker that is late, of a run that has ended, does nothing to the runs that follow.
#[test]
fn late_wakers_do_nothing() {
    for (name, leave) in LEFTOVERS {
        type Late = fn(&EventLoop, Box<dyn Send>);
        let lates: [Late; 4] = [
            |_, left| drop(left),
            |_, left| thread::spawn(move || drop(left)).join().unwrap(),
            |event_loop, left| drop(event_loop.call_soon(move || drop(left))),
            |event_loop, left| drop(event_loop.call_later(Duration::ZERO, move || drop(left))),
        ];
        for late in lates {
            let event_loop = new_loop();
            let left = leave(&event_loop);
            late(&event_loop, left);
            let stopper = event_loop.clone();
            let limit = event_loop.call_later(HANG, move || stopper.stop());
            for _ in 0..3 {
                let slow = async {
                    event_loop.sleep(Duration::from_millis(1)).await;
                    7
                };
                assert_eq!(event_loop.run_until_complete(ready(7)).unwrap(), 7, "{name}");
                assert_eq!(event_loop.run_until_complete(slow).unwrap(), 7, "{name}");
            }
            limit.cancel();
        }
    }
}

#[test]
fn a_loop_runs_once_at_a_time() {
    let event_loop = new_loop();
    run(&event_loop, async {
        assert!(event_loop.is_running());
        assert_eq!(misuse(event_loop.run_forever()), Misuse::LoopRunning);
        assert_eq!(misuse(event_loop.run_until_complete(async {})), Misuse::LoopRunning);
        assert_eq!(event_loop.close(), Err(Misuse::CloseRunning));
        let other = new_loop();
        assert_eq!(misuse(other.run_forever()), Misuse::AnotherLoopRunning);
        assert_eq!(misuse(other.run_until_complete(async {})), Misuse::AnotherLoopRunning);
        assert!(!other.is_running(), "a refused run leaves it as it was");
        let elsewhere = event_loop.clone();
        thread::scope(|scope| {
            let result = scope.spawn(|| misuse(elsewhere.run_forever())).join().unwrap();
            assert_eq!(result, Misuse::LoopRunning);
            let result = scope.spawn(|| elsewhere.close()).join().unwrap();
            assert_eq!(result, Err(Misuse::CloseRunning));
        });
    });
    assert!(!event_loop.is_running());
}

#[test]
fn one_thread_after_the_other_may_run_it() {
    let event_loop = new_loop();
    for _ in 0..3 {
        thread::scope(|scope| {
            scope.spawn(|| run(&event_loop, turns(&event_loop, 3)));
        });
    }
}

#[test]
fn a_loop_is_not_run_from_inside_of_a_protocol() {
    let event_loop = new_loop();
    let pair = run(&event_loop, Pair::open(&event_loop));
    let result = pair.protocol.with(|_| new_loop().run_forever()).unwrap();
    assert_eq!(misuse(result), Misuse::ProtocolBusy);
    let result = pair.protocol.with(|_| event_loop.run_forever()).unwrap();
    assert_eq!(misuse(result), Misuse::ProtocolBusy);
    run(&event_loop, async {});
}

#[test]
fn the_running_loop_is_known() {
    let event_loop = new_loop();
    assert_eq!(get_running_loop().unwrap_err(), Misuse::NoRunningLoop);
    run(&event_loop, async {
        assert_eq!(get_running_loop().unwrap(), event_loop);
        let elsewhere = thread::spawn(get_running_loop).join().unwrap();
        assert_eq!(elsewhere.unwrap_err(), Misuse::NoRunningLoop);
    });
    assert!(get_running_loop().is_err());
}

#[test]
fn a_panic_of_the_future_is_the_callers() {
    let event_loop = new_loop();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let result: oxloop::Result<()> = event_loop.run_until_complete(async { panic!("mine") });
        result
    }));
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"mine"));
    assert!(!event_loop.is_running());
    assert_eq!(run(&event_loop, async { 1 }), 1);
}

#[test]
fn a_future_is_woken_from_another_thread() {
    let event_loop = new_loop();
    let (promise, waiter) = event_loop.create_future();
    let thread = thread::spawn(move || promise.set_result("from afar"));
    assert_eq!(run(&event_loop, waiter).unwrap(), "from afar");
    assert!(thread.join().unwrap());
}

#[test]
fn a_closed_loop_takes_nothing() {
    let event_loop = new_loop();
    event_loop.close().unwrap();
    event_loop.close().unwrap();
    assert!(event_loop.is_closed());
    assert_eq!(misuse(event_loop.run_forever()), Misuse::LoopClosed);
    assert_eq!(misuse(event_loop.run_until_complete(async {})), Misuse::LoopClosed);
    let dropped = Arc::new(());
    let kept = dropped.clone();
    assert!(event_loop.call_soon(move || drop(kept)).cancelled());
    let kept = dropped.clone();
    assert!(event_loop.call_later(Duration::ZERO, move || drop(kept)).cancelled());
    let kept = dropped.clone();
    let task = event_loop.create_task(async move { drop(kept) });
    assert!(task.done());
    assert_eq!(Arc::strong_count(&dropped), 1);
    // Another loop can ask what became of it.
    let other = new_loop();
    assert!(matches!(run(&other, task), Err(Error::Cancelled)));
    let call = event_loop.run_in_executor(|| ());
    assert_eq!(misuse(run(&other, call)), Misuse::LoopClosed);
    assert_eq!(misuse(event_loop.add_signal_handler(10, || ())), Misuse::LoopClosed);
    let connect = event_loop.create_connection(|| Echo, ("127.0.0.1", 1));
    assert_eq!(misuse(run(&other, connect)), Misuse::LoopClosed);
    let listen = event_loop.create_server(|| Echo, ("127.0.0.1", 0));
    assert_eq!(misuse(run(&other, listen)), Misuse::LoopClosed);
}

#[test]
fn close_drops_what_is_queued() {
    let event_loop = new_loop();
    let alive = Arc::new(());
    let kept: Vec<_> = (0..3).map(|_| (alive.clone(), event_loop.clone())).collect();
    for (number, kept) in kept.into_iter().enumerate() {
        match number {
            0 => drop(event_loop.call_soon(move || drop(kept))),
            1 => drop(event_loop.call_later(Duration::from_secs(999), move || drop(kept))),
            _ => drop(event_loop.create_task(async move { drop(kept) })),
        }
    }
    assert_eq!(Arc::strong_count(&alive), 4);
    event_loop.close().unwrap();
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// A task that sleeps holds the timer that would wake it.
#[test]
fn close_drops_a_task_that_sleeps() {
    let event_loop = new_loop();
    let alive = Arc::new(());
    let (kept, sleep) = (alive.clone(), event_loop.sleep(Duration::from_secs(999)));
    drop(event_loop.create_task(async move {
        sleep.await;
        drop(kept);
    }));
    run(&event_loop, turns(&event_loop, 2));
    assert_eq!(Arc::strong_count(&alive), 2);
    event_loop.close().unwrap();
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// A callback's drop is user code, too: it may use the loop that is being closed.
#[test]
fn what_is_dropped_at_close_may_use_the_loop() {
    struct Nosy(EventLoop, oxloop::Transport, mpsc::Sender<bool>);

    impl Drop for Nosy {
        fn drop(&mut self) {
            self.0.call_soon(|| ());
            self.1.write("late");
            self.1.close();
            drop(self.0.create_task(async {}));
            let _ = self.2.send(self.1.is_closing());
        }
    }

    let event_loop = new_loop();
    let pair = run(&event_loop, Pair::open(&event_loop));
    let (told, asked) = mpsc::channel();
    let nosy = Nosy(event_loop.clone(), pair.transport.clone(), told);
    event_loop.call_soon(move || drop(nosy));
    event_loop.close().unwrap();
    asked.recv_timeout(HANG).unwrap();
}

#[test]
fn dropping_the_last_handle_drops_protocols_and_callbacks() {
    struct Counted(Arc<AtomicUsize>, Option<oxloop::Transport>);

    impl oxloop::Protocol for Counted {
        fn connection_made(&mut self, transport: &oxloop::Transport) {
            self.1 = Some(transport.clone());
        }
        fn data_received(&mut self, _: &oxloop::Transport, _: &[u8]) {}
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    let dropped = Arc::new(AtomicUsize::new(0));
    let event_loop = new_loop();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let count = dropped.clone();
    let connecting = event_loop.create_connection(|| Counted(count, None), ours);
    let (transport, protocol) = run(&event_loop, connecting).unwrap();
    drop(protocol);
    drop(event_loop);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(transport.is_closing() && transport.event_loop().is_none());
    transport.write("nobody is there");
    assert_eq!(std::io::Read::read(&mut theirs, &mut [0; 9]).unwrap(), 0, "it was closed");
}

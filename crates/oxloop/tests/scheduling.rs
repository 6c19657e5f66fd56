//! Callbacks, timers, tasks: what runs, and in which order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Task};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use util::*;

/// `hop2, soon, data, later0`: what was ready before the poll, then I/O, then due timers.
#[test]
fn ready_then_io_then_timers() {
    let event_loop = new_loop();
    let log = Log::default();
    run(&event_loop, async {
        let seen = log.clone();
        let received = move |_: &oxloop::Transport, _| seen.add("data");
        let pair = Pair::with(&event_loop, |recorder| recorder.on_data(received)).await;
        let (inner, seen, mut peer) = (event_loop.clone(), log.clone(), pair.peer);
        let (done, waiter) = event_loop.create_future();
        event_loop.call_soon(move || {
            let [hop2, soon, later] = [(); 3].map(|()| seen.clone());
            inner.call_later(Duration::ZERO, move || {
                later.add("later0");
                done.set_result(());
            });
            inner.call_soon(move || hop2.add("hop2"));
            peer.write_all(b"data").unwrap();
            inner.call_soon(move || soon.add("soon"));
        });
        waiter.await.unwrap();
    });
    assert_eq!(log.lines(), ["hop2", "soon", "data", "later0"]);
}

/// What a callback adds waits for another poll: I/O that is ready comes first.
#[test]
fn additions_wait_for_another_poll() {
    let event_loop = new_loop();
    let log = Log::default();
    run(&event_loop, async {
        let seen = log.clone();
        let received = move |_: &oxloop::Transport, _| seen.add("data");
        let pair = Pair::with(&event_loop, |recorder| recorder.on_data(received)).await;
        let (inner, seen, mut peer) = (event_loop.clone(), log.clone(), pair.peer);
        let (done, waiter) = event_loop.create_future();
        event_loop.call_soon(move || {
            peer.write_all(b"data").unwrap();
            let again = inner.clone();
            inner.call_soon(move || {
                seen.add("second");
                again.call_soon(move || {
                    seen.add("third");
                    done.set_result(());
                });
            });
        });
        waiter.await.unwrap();
    });
    assert_eq!(log.lines(), ["second", "data", "third"]);
}

#[test]
fn callbacks_run_in_order_and_once() {
    let (event_loop, log) = (new_loop(), Log::default());
    for number in 0..100 {
        let seen = log.clone();
        let handle = event_loop.call_soon(move || seen.add(number.to_string()));
        if number % 3 == 0 {
            handle.cancel();
            assert!(handle.cancelled());
        }
    }
    run(&event_loop, turns(&event_loop, 2));
    let expected: Vec<_> = (0..100).filter(|n| n % 3 != 0).map(|n| n.to_string()).collect();
    assert_eq!(log.lines(), expected);
}

#[test]
fn cancelling_drops_the_callback() {
    let event_loop = new_loop();
    let alive = Arc::new(());
    let kept = alive.clone();
    let handle = event_loop.call_soon(move || drop(kept));
    assert!(!handle.cancelled());
    handle.cancel();
    handle.clone().cancel();
    assert_eq!(Arc::strong_count(&alive), 1);
    let kept = alive.clone();
    let timer = event_loop.call_later(Duration::from_secs(999), move || drop(kept));
    timer.cancel();
    assert!(timer.cancelled());
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn timers_run_by_time_then_by_age() {
    let (event_loop, log) = (new_loop(), Log::default());
    let now = event_loop.time();
    let (done, waiter) = event_loop.create_future();
    for (delay, name) in [(0.006, "c"), (0.002, "a"), (0.006, "d"), (0.004, "b")] {
        let seen = log.clone();
        let timer = event_loop.call_at(now + delay, move || seen.add(name));
        assert_eq!(timer.when(), now + delay);
    }
    event_loop.call_at(now + 0.006, move || _ = done.set_result(()));
    run(&event_loop, waiter).unwrap();
    assert_eq!(log.lines(), ["a", "b", "c", "d"]);
    assert!(event_loop.time() >= now + 0.006, "never early");
}

#[test]
fn a_time_that_is_past_is_due_at_once() {
    let (event_loop, log) = (new_loop(), Log::default());
    for when in [0.0, -1.0, f64::NEG_INFINITY, event_loop.time() - 5.0] {
        let seen = log.clone();
        event_loop.call_at(when, move || seen.add(when.to_string()));
    }
    run(&event_loop, until(&event_loop, || log.lines().len() == 4));
}

#[test]
fn endless_delays_are_kept() {
    let event_loop = new_loop();
    let timers =
        [Duration::MAX, Duration::from_secs(1 << 40)].map(|d| event_loop.call_later(d, || ()));
    event_loop.call_at(f64::INFINITY, || panic!("never"));
    run(&event_loop, event_loop.sleep(Duration::from_millis(2)));
    timers.iter().for_each(|timer| timer.cancel());
}

#[test]
fn many_cancelled_timers_leave_the_others_alone() {
    let event_loop = new_loop();
    let ran = Arc::new(AtomicUsize::new(0));
    let mut timers = Vec::new();
    for number in 0..2000 {
        let count = ran.clone();
        timers.push(event_loop.call_later(Duration::from_millis(number % 7), move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
    }
    timers.iter().step_by(2).for_each(|timer| timer.cancel());
    run(&event_loop, until(&event_loop, || ran.load(Ordering::SeqCst) == 1000));
    run(&event_loop, event_loop.sleep(Duration::from_millis(10)));
    assert_eq!(ran.load(Ordering::SeqCst), 1000);
}

#[test]
fn a_callback_may_cancel_the_next() {
    let event_loop = new_loop();
    let log = Log::default();
    let slot = Arc::new(std::sync::Mutex::new(None::<oxloop::Handle>));
    let (cancels, seen) = (slot.clone(), log.clone());
    event_loop.call_soon(move || cancels.lock().unwrap().take().unwrap().cancel());
    *slot.lock().unwrap() = Some(event_loop.call_soon(move || seen.add("cancelled")));
    run(&event_loop, turns(&event_loop, 3));
    assert!(log.lines().is_empty());
}

#[test]
fn tasks_run_beside_each_other_in_order() {
    let (event_loop, log) = (new_loop(), Log::default());
    let tasks: Vec<_> = ["a", "b"]
        .map(|name| {
            let (seen, inner) = (log.clone(), event_loop.clone());
            event_loop.create_task(async move {
                for step in 0..3 {
                    seen.add(format!("{name}{step}"));
                    inner.sleep(Duration::ZERO).await;
                }
                name
            })
        })
        .into();
    assert!(tasks.iter().all(|task| !task.done()));
    let mut outputs = Vec::new();
    run(&event_loop, async {
        for task in tasks {
            outputs.push(task.await.unwrap());
        }
    });
    assert_eq!(log.lines(), ["a0", "b0", "a1", "b1", "a2", "b2"]);
    assert_eq!(outputs, ["a", "b"]);
}

#[test]
fn a_panic_ends_its_task_alone() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    let task: Task<()> = event_loop.create_task(async { panic!("task {}", 1) });
    let Err(Error::Panic(text)) = run(&event_loop, task) else { panic!() };
    assert_eq!(text, "task 1");
    assert!(told.lines().is_empty(), "whoever awaited it knows");
    let task: Task<()> = event_loop.create_task(async { panic!("nobody asks") });
    drop(task);
    run(&event_loop, turns(&event_loop, 3));
    let expected = "Task exception was never retrieved|a callback panicked: nobody asks";
    assert_eq!(told.take(), [expected]);
    // Done, but never awaited.
    let task: Task<()> = event_loop.create_task(async { panic!("nobody asked") });
    run(&event_loop, until(&event_loop, || task.done()));
    assert!(told.lines().is_empty());
    drop(task);
    assert_eq!(told.lines().len(), 1);
}

#[test]
fn a_dropped_task_runs_on_and_a_cancelled_one_ends() {
    let event_loop = new_loop();
    let alive = Arc::new(AtomicUsize::new(0));
    let start = |event_loop: &EventLoop| {
        let (count, inner) = (alive.clone(), event_loop.clone());
        event_loop.create_task(async move {
            inner.sleep(Duration::from_millis(2)).await;
            count.fetch_add(1, Ordering::SeqCst);
        })
    };
    drop(start(&event_loop));
    let cancelled = start(&event_loop);
    run(&event_loop, turns(&event_loop, 2));
    cancelled.cancel();
    run(&event_loop, until(&event_loop, || Arc::strong_count(&alive) == 1));
    assert_eq!(alive.load(Ordering::SeqCst), 1);
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let long = event_loop.sleep(Duration::from_secs(999));
        let short = within(&event_loop, event_loop.sleep(Duration::from_millis(1)));
        drop(long);
        short.await;
    });
    // Polled once, then dropped: its callback is gone with it.
    let mut sleep = Box::pin(event_loop.sleep(Duration::from_secs(999)));
    let waker = Arc::new(Alive);
    let weak = Arc::downgrade(&waker);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(sleep.as_mut().poll(&mut cx).is_pending());
    let waker = std::task::Waker::from(waker);
    assert!(sleep.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    drop(waker);
    assert!(weak.upgrade().is_some());
    drop(sleep);
    assert!(weak.upgrade().is_none());
}

struct Alive;

impl std::task::Wake for Alive {
    fn wake(self: Arc<Alive>) {}
}

#[test]
fn a_future_gets_what_a_callback_gives() {
    let event_loop = new_loop();
    let (promise, waiter) = event_loop.create_future();
    event_loop.call_soon(move || {
        assert!(promise.set_result(1));
        assert!(!promise.set_result(2));
    });
    assert_eq!(run(&event_loop, waiter).unwrap(), 1);
    let (promise, waiter) = event_loop.create_future::<()>();
    event_loop.call_soon(move || drop(promise));
    assert!(matches!(run(&event_loop, waiter), Err(Error::Cancelled)));
}

//! What the loop itself costs: `cargo bench -p oxloop`.
//!
//! | bench | question |
//! | --- | --- |
//! | `call_soon_chain` | a callback that queues the next one: a turn each |
//! | `call_soon_batch` | 1,000 callbacks of one turn |
//! | `call_later_cancel` | 1,000 timers scheduled and cancelled |
//! | `call_later_fire` | 1,000 timers that are due |
//! | `task_steps` | a future that yields 1,000 times |
//! | `threadsafe` | a callback from another thread, and its answer |
//! | `echo_64` | 64 bytes to an echoing protocol and back, over a socket pair |

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that fails panics")]

use criterion::{Criterion, criterion_group, criterion_main};
use oxloop::{EventLoop, Promise, Protocol, Transport};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const MANY: u64 = 1000;

fn new_loop() -> EventLoop {
    EventLoop::new().unwrap()
}

fn chain(event_loop: EventLoop, left: u64) {
    if left == 0 {
        event_loop.stop();
    } else {
        let next = event_loop.clone();
        event_loop.call_soon(move || chain(next, left - 1));
    }
}

fn scheduling(c: &mut Criterion) {
    let event_loop = new_loop();
    c.bench_function("call_soon_chain", |b| {
        b.iter_custom(|count| {
            let start = std::time::Instant::now();
            chain(event_loop.clone(), count);
            event_loop.run_forever().unwrap();
            start.elapsed()
        });
    });
    c.bench_function("call_soon_batch", |b| {
        b.iter(|| {
            for _ in 0..MANY {
                event_loop.call_soon(|| ());
            }
            event_loop.run_until_complete(async {}).unwrap();
        });
    });
    c.bench_function("call_later_cancel", |b| {
        b.iter(|| {
            for _ in 0..MANY {
                event_loop.call_later(Duration::from_secs(60), || ()).cancel();
            }
            event_loop.run_until_complete(async {}).unwrap();
        });
    });
    c.bench_function("call_later_fire", |b| {
        b.iter(|| {
            for _ in 0..MANY {
                event_loop.call_later(Duration::ZERO, || ());
            }
            event_loop.run_until_complete(event_loop.sleep(Duration::ZERO)).unwrap();
        });
    });
    c.bench_function("task_steps", |b| {
        b.iter(|| {
            let inner = event_loop.clone();
            let task = event_loop.create_task(async move {
                for _ in 0..MANY {
                    inner.sleep(Duration::ZERO).await;
                }
            });
            event_loop.run_until_complete(task).unwrap().unwrap();
        });
    });
}

fn threads(c: &mut Criterion) {
    let event_loop = new_loop();
    let own = event_loop.clone();
    let thread = std::thread::spawn(move || own.run_forever().unwrap());
    let (told, answer) = std::sync::mpsc::channel();
    c.bench_function("threadsafe", |b| {
        b.iter(|| {
            let told = told.clone();
            event_loop.call_soon(move || told.send(()).unwrap());
            answer.recv().unwrap();
        });
    });
    event_loop.stop();
    thread.join().unwrap();
}

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Sends its message as often as it is told to.
#[derive(Default)]
struct Client {
    left: u64,
    done: Option<Promise<()>>,
}

impl Protocol for Client {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.left -= 1;
        if self.left > 0 {
            transport.write(data);
        } else if let Some(done) = self.done.take() {
            done.set_result(());
        }
    }
}

fn connections(c: &mut Criterion) {
    let event_loop = new_loop();
    let (near, far) = UnixStream::pair().unwrap();
    let connecting = async {
        let client = event_loop.create_connection(Client::default, near).await;
        event_loop.create_connection(|| Echo, far).await.and(client)
    };
    let (transport, client) = event_loop.run_until_complete(connecting).unwrap().unwrap();
    c.bench_function("echo_64", |b| {
        b.iter_custom(|count| {
            let (done, waiter) = event_loop.create_future();
            client.with(|client| *client = Client { left: count, done: Some(done) }).unwrap();
            let start = std::time::Instant::now();
            transport.write(&[7; 64]);
            event_loop.run_until_complete(waiter).unwrap().unwrap();
            start.elapsed()
        });
    });
}

criterion_group!(benches, scheduling, threads, connections);
criterion_main!(benches);

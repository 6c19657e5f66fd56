//! Many connects, half of them given up at any moment: no byte reaches another's connection, no
//! descriptor is left. `OXLOOP_STRESS_CONNECTS` says how many.
//!
//! One test, as descriptors are counted for the whole process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{ConnectOptions, EventLoop, Promise, Protocol, ServerOptions, Task, Transport};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use util::*;

const AT_ONCE: u64 = 200;
/// Each has ports of its own for the connections that linger.
const PLACES: usize = 8;

/// What went wrong, and the numbers that servers were told.
#[derive(Default)]
struct Ledger {
    told: HashSet<u64>,
    wrong: Vec<String>,
}

type Shared = Arc<Mutex<Ledger>>;

/// Is told a number, once, and repeats it.
struct Served {
    ledger: Shared,
    data: Vec<u8>,
}

impl Protocol for Served {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.data.extend_from_slice(data);
        let mut ledger = self.ledger.lock().unwrap();
        match <[u8; 8]>::try_from(self.data.as_slice()) {
            Ok(bytes) if ledger.told.insert(u64::from_le_bytes(bytes)) => transport.write(&bytes),
            Err(_) if self.data.len() < 8 => {}
            _ => ledger.wrong.push(format!("a server was told {:?}", self.data)),
        }
    }
}

/// Tells its number, and hears it again.
struct Client {
    number: u64,
    ledger: Shared,
    data: Vec<u8>,
    heard: Option<Promise<()>>,
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(&self.number.to_le_bytes());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.data.extend_from_slice(data);
        if self.data.len() < 8 {
            return;
        }
        if self.data != self.number.to_le_bytes() {
            let line = format!("client {} heard {:?}", self.number, self.data);
            self.ledger.lock().unwrap().wrong.push(line);
        }
        if let Some(heard) = self.heard.take() {
            heard.set_result(());
        }
        transport.close();
    }
}

/// xorshift64*: the same moments in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

#[test]
fn connects_given_up_at_any_moment() {
    let count = std::env::var("OXLOOP_STRESS_CONNECTS").map_or(4_000, |text| text.parse().unwrap());
    let before = descriptors();
    let event_loop = new_loop();
    let ledger = Shared::default();
    let heard = event_loop.run_until_complete(connect_all(&event_loop, &ledger, count)).unwrap();
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    assert_eq!(ledger.wrong, Vec::<String>::new());
    assert!(ledger.told.len() as u64 >= heard);
    assert!(heard >= count / 2, "of {count} half are not given up, {heard} were heard");
    drop(event_loop);
    assert_eq!(descriptors(), before);
}

async fn connect_all(event_loop: &EventLoop, ledger: &Shared, count: u64) -> u64 {
    let hosts: Vec<SocketAddr> =
        (1..=PLACES).map(|host| format!("127.0.0.{host}:0").parse().unwrap()).collect();
    let served = ledger.clone();
    let factory = move || Served { ledger: served.clone(), data: Vec::new() };
    let options = ServerOptions::new(hosts).backlog(1000);
    let server = event_loop.create_server(factory, options).await.unwrap();
    let places = server.local_addrs();
    let dead = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let listening = descriptors();
    let mut chance = Chance(2024);
    let mut heard = 0;
    for first in (0..count).step_by(AT_ONCE as usize) {
        let mut kept = Vec::new();
        // By the turn in which that happens.
        let mut given_up: [Vec<_>; 10] = Default::default();
        for number in first..count.min(first + AT_ONCE) {
            let place = places[number as usize % places.len()];
            let options = match chance.below(3) {
                0 => ConnectOptions::new(place),
                1 => ConnectOptions::new(vec![dead, place]),
                _ => ConnectOptions::new(vec![dead, place, dead])
                    .happy_eyeballs_delay(Duration::from_micros(chance.below(500))),
            };
            let (promise, echo) = event_loop.create_future();
            let client =
                Client { number, ledger: ledger.clone(), data: Vec::new(), heard: Some(promise) };
            let inner = event_loop.clone();
            let task = event_loop.create_task(async move {
                inner.create_connection(|| client, options).await?;
                echo.await
            });
            if number % 2 == 0 {
                kept.push(task);
            } else {
                given_up[chance.below(10) as usize].push(task);
            }
        }
        for tasks in given_up {
            tasks.into_iter().for_each(Task::cancel);
            turns(event_loop, 1).await;
        }
        for task in kept {
            within(event_loop, task).await.unwrap().unwrap();
            heard += 1;
        }
    }
    // Connections that were given up after they were made are closed by then.
    until(event_loop, || descriptors() == listening).await;
    server.close();
    server.wait_closed().await;
    heard
}

//! The guide's proxy: the example, between a client and a server that use blocking sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[allow(dead_code, reason = "its main")]
#[path = "../examples/proxy.rs"]
mod proxy;
mod util;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use util::*;

/// Runs the proxy while `talk` uses it, which is given a function that makes a pair of ends.
fn through<R: Send>(talk: impl FnOnce(&dyn Fn() -> (TcpStream, TcpStream)) -> R + Send) -> R {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let serving = proxy::serve(&event_loop, 0, upstream.local_addr().unwrap());
    let server = run(&event_loop, serving).unwrap();
    let address = server.local_addrs()[0];
    let result = thread::scope(|scope| {
        let talking = scope.spawn(|| {
            let ends = || {
                let client = TcpStream::connect(address).unwrap();
                let (end, _) = upstream.accept().unwrap();
                for stream in [&client, &end] {
                    stream.set_read_timeout(Some(HANG)).unwrap();
                    stream.set_write_timeout(Some(HANG)).unwrap();
                }
                (client, end)
            };
            talk(&ends)
        });
        run(&event_loop, until(&event_loop, || talking.is_finished()));
        talking.join().unwrap()
    });
    server.close();
    // All that was opened is closed by itself.
    run(&event_loop, server.wait_closed());
    assert_eq!(told.lines(), [""; 0]);
    result
}

fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn a_half_closed_pair_stays_open_until_both_ends_have_ended() {
    through(|ends| {
        for client_first in [true, false] {
            let (client, end) = ends();
            let (mut first, mut second) = if client_first { (client, end) } else { (end, client) };
            first.write_all(b"request").unwrap();
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut second), b"request");
            second.write_all(b"an answer, after the end of the request").unwrap();
            second.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut first), b"an answer, after the end of the request");
        }
    });
}

#[test]
fn data_waits_in_the_sender_until_the_receiver_reads() {
    const ALL: usize = 64 << 20;
    through(|ends| {
        for client_sends in [true, false] {
            let (client, end) = ends();
            let (mut sender, mut receiver) =
                if client_sends { (client, end) } else { (end, client) };
            let sent = Arc::new(AtomicUsize::new(0));
            let count = sent.clone();
            let sending = thread::spawn(move || {
                let block = pattern(1 << 16);
                while count.load(Ordering::SeqCst) < ALL {
                    sender.write_all(&block).unwrap();
                    count.fetch_add(block.len(), Ordering::SeqCst);
                }
                sender.shutdown(Shutdown::Write).unwrap();
                read_all(&mut sender)
            });
            // Nobody reads: the sender comes to a halt.
            let mut before = usize::MAX;
            while std::mem::replace(&mut before, sent.load(Ordering::SeqCst)) != before {
                thread::sleep(Duration::from_millis(50));
            }
            assert!(before < ALL / 2, "{before} bytes are nowhere but in the proxy");
            let (mut total, mut block) = (0, vec![0; 1 << 16]);
            loop {
                match receiver.read(&mut block).unwrap() {
                    0 => break,
                    nbytes => total += nbytes,
                }
            }
            assert_eq!(total, ALL);
            drop(receiver);
            assert_eq!(sending.join().unwrap(), b"");
        }
    });
}

#[test]
fn a_reset_is_passed_on() {
    through(|ends| {
        let (client, mut end) = ends();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        // As an end of stream or as a reset, as the kernel has it.
        assert!(end.read(&mut [0]).map_or(true, |nbytes| nbytes == 0));
    });
}

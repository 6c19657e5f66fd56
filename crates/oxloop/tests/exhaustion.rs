//! A server without descriptors rests for a second, says so, and goes on.
//!
//! One test, as it takes all descriptors of the process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use std::fs::File;
use std::net::TcpStream;
use util::*;

#[test]
fn accepting_goes_on_when_there_are_descriptors_again() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let log = Log::default();
        let seen = log.clone();
        let factory = move || Recorder::new(&seen);
        let server = event_loop.create_server(factory, ("127.0.0.1", 0)).await.unwrap();
        let place = server.local_addrs()[0];
        let mut all = Vec::new();
        let error = loop {
            match File::open("/dev/null") {
                Ok(file) => all.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(24), "EMFILE");
        all.pop();
        let client = TcpStream::connect(place).unwrap(); // takes the last one
        until(&event_loop, || !told.lines().is_empty()).await;
        turns(&event_loop, 20).await;
        let expected = format!("socket.accept() out of system resource|{error}");
        assert_eq!(told.take(), [expected], "told once, as it does not try meanwhile");
        assert!(!log.has("made"));
        drop(all);
        until(&event_loop, || log.has("made")).await;
        drop(client);
        until(&event_loop, || log.has("lost")).await;
        assert!(told.lines().is_empty());
    });
}

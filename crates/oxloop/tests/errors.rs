//! Invariant 5: errors that have no caller go to the exception handler, and the loop goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, ExceptionContext, Protocol, Transport};
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::Duration;
use util::*;

#[test]
fn a_callback_that_panics() {
    let event_loop = new_loop();
    let (told, seen) = mpsc::channel();
    let own = event_loop.clone();
    event_loop.set_exception_handler(move |event_loop, context| {
        assert_eq!(*event_loop, own);
        let handle = format!("{:?}", context.handle.as_ref().unwrap());
        told.send((context.message.clone(), context.to_string(), handle)).unwrap();
    });
    event_loop.call_soon(|| panic!("soon"));
    event_loop.call_later(Duration::ZERO, || std::panic::panic_any(7));
    run(&event_loop, event_loop.sleep(Duration::from_millis(2)));
    let (message, text, handle) = seen.recv().unwrap();
    assert!(message.starts_with("Exception in callback errors::a_callback_that_panics"));
    assert!(text.contains(": a callback panicked: soon\nhandle: <Handle errors::"), "{text}");
    assert!(handle.starts_with("<Handle errors::a_callback_that_panics"));
    assert!(seen.recv().unwrap().1.contains("a callback panicked: Box<dyn Any>"));
    event_loop.close().unwrap(); // the handler holds the loop
}

struct Panics(&'static str);

impl Panics {
    fn here(&self, name: &str) {
        assert!(self.0 != name, "in {name}");
    }
}

impl Protocol for Panics {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write("hello");
        self.here("connection_made");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
        self.here("data_received");
    }

    fn eof_received(&mut self, transport: &Transport) -> bool {
        transport.write("bye");
        self.here("eof_received");
        true
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.here("connection_lost");
        assert!(error.is_none(), "after {error:?}");
    }
}

/// Runs a connection whose protocol panics; returns what the handler and the peer were told.
fn scenario(name: &'static str) -> (Vec<String>, Vec<u8>) {
    let event_loop = new_loop();
    let told = Log::default();
    let log = told.clone();
    event_loop.set_exception_handler(move |_, context| {
        assert!(context.transport.is_some());
        assert_eq!(context.protocol, Some("errors::Panics"));
        let error = context.error.as_ref().unwrap();
        log.add(format!("{}|{error}", context.message));
    });
    run(&event_loop, async {
        let (ours, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (transport, _) = event_loop.create_connection(|| Panics(name), ours).await.unwrap();
        peer.write_all(b"data").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let reading = event_loop.run_in_executor(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        if matches!(name, "connection_made" | "connection_lost") {
            // They do not end the connection.
            event_loop.sleep(Duration::from_millis(5)).await;
            transport.close();
        }
        let all = within(&event_loop, reading).await.unwrap().unwrap();
        turns(&event_loop, 3).await;
        assert!(transport.is_closing());
        (told.take(), all)
    })
}

#[test]
fn a_protocol_that_panics() {
    let (told, all) = scenario("connection_made");
    let made = "Exception in callback errors::Panics::connection_made";
    assert_eq!(told, [format!("{made}|a callback panicked: in connection_made")]);
    assert_eq!(all, b"hellodatabye");

    let lost = "Exception in callback errors::Panics::connection_lost";
    let (told, all) = scenario("data_received");
    let expected = [
        "Fatal error: protocol.data_received() call failed.|a callback panicked: in data_received"
            .to_owned(),
        format!("{lost}|a callback panicked: after Some(Panic(\"in data_received\"))"),
    ];
    assert_eq!(told, expected);
    assert_eq!(all, b"hellodata", "what was written before arrives");

    let (told, all) = scenario("eof_received");
    let fatal = "Fatal error: protocol.eof_received() call failed.";
    assert_eq!(told[0], format!("{fatal}|a callback panicked: in eof_received"));
    assert_eq!((told.len(), all.as_slice()), (2, &b"hellodatabye"[..]));

    let (told, _) = scenario("connection_lost");
    assert_eq!(told, [format!("{lost}|a callback panicked: in connection_lost")]);
}

#[test]
fn writing_after_the_end_is_reported() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let mut pair = Pair::open(&event_loop).await;
        pair.transport.write("last");
        pair.transport.write_eof();
        pair.transport.write("late");
        pair.transport.writelines(["later", "latest"]);
        let mut all = Vec::new();
        pair.peer.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"last");
        assert!(!pair.transport.is_closing());
    });
    let expected =
        ["write", "writelines"].map(|name| format!("Cannot call {name}() after write_eof()"));
    assert_eq!(told.lines(), expected.map(|text| format!("{text}|{text}")));
}

#[test]
fn a_handler_that_panics_is_survived() {
    let event_loop = new_loop();
    event_loop.set_exception_handler(|_, _| panic!("the handler"));
    event_loop.call_soon(|| panic!("the callback"));
    assert_eq!(run(&event_loop, async { 1 }), 1);
    // The default again.
    event_loop.set_exception_handler(EventLoop::default_exception_handler);
    event_loop.call_soon(|| panic!("the callback"));
    assert_eq!(run(&event_loop, async { 1 }), 1);
}

#[test]
fn programs_may_report_as_well() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    let error = std::io::Error::from_raw_os_error(5);
    event_loop.call_exception_handler(ExceptionContext::new("disk").error(error));
    assert_eq!(told.lines(), ["disk|Input/output error (os error 5)"]);
}

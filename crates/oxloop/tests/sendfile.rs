//! Files sent over transports.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Misuse, Transport};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use util::*;

const SIZE: usize = 1 << 20;

fn file(folder: &Folder) -> File {
    let path = folder.join("data");
    fs::write(&path, pattern(SIZE)).unwrap();
    File::open(path).unwrap()
}

async fn connected(event_loop: &EventLoop) -> (Transport, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    let made = event_loop.create_connection(Recorder::default, near).await;
    (made.unwrap().0, far)
}

fn read_all(mut far: UnixStream) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut data = Vec::new();
        far.read_to_end(&mut data).unwrap();
        data
    })
}

#[test]
fn behind_and_before_other_writes() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let file = file(&folder);
    let received = run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let reader = read_all(far);
        transport.write(vec![b'x'; SIZE]);
        assert_eq!(transport.sendfile(&file, 0, None).await.unwrap(), SIZE as u64);
        assert_eq!(transport.sendfile(&file, 10, Some(20)).await.unwrap(), 20);
        assert_eq!(transport.sendfile(&file, SIZE as u64, None).await.unwrap(), 0);
        assert!(transport.is_reading());
        transport.write("end");
        transport.close();
        reader
    });
    let mut expected = vec![b'x'; SIZE];
    expected.extend(pattern(SIZE));
    expected.extend(&pattern(SIZE)[10..30]);
    expected.extend(b"end");
    run(&event_loop, until(&event_loop, || received.is_finished()));
    assert_eq!(received.join().unwrap(), expected);
}

#[test]
fn meanwhile_nothing_else_is_written() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let file = file(&folder);
    let log = errors(&event_loop);
    run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let mut sending = Box::pin(transport.sendfile(&file, 0, None));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..5 {
            assert!(sending.as_mut().poll(&mut cx).is_pending());
            turns(&event_loop, 1).await;
        }
        assert!(!transport.is_reading());
        transport.write("refused");
        assert_eq!(log.take().len(), 1);
        let again = transport.sendfile(&file, 0, None).await;
        assert!(matches!(again, Err(Error::Misuse(Misuse::SendfileInProgress))));
        let before = descriptors();
        drop(sending);
        assert_eq!(descriptors(), before - 1);
        assert!(transport.is_reading());
        transport.write("taken");
        transport.close();
        drop(far);
    });
    assert_eq!(log.lines(), Vec::<String>::new());
}

#[test]
fn a_connection_that_is_lost_ends_it() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let file = file(&folder);
    run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let aborted = transport.clone();
        event_loop.call_soon(move || aborted.abort());
        let error = transport.sendfile(&file, 0, None).await.unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error:?}");
        drop(far);
        let closing = transport.sendfile(&file, 0, None).await;
        assert!(matches!(closing, Err(Error::Misuse(Misuse::TransportClosing))));

        let (transport, far) = connected(&event_loop).await;
        transport.pause_reading();
        event_loop.call_soon(move || drop(far));
        let error = transport.sendfile(&file, 0, None).await.unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error:?}");
    });
}

#[test]
fn pipes_are_refused() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let file = file(&folder);
    run(&event_loop, async {
        let (near, _far) = UnixStream::pair().unwrap();
        let made = event_loop.connect_write_pipe(Recorder::default, near).await;
        let sent = made.unwrap().0.sendfile(&file, 0, None).await;
        assert!(matches!(sent, Err(Error::Misuse(Misuse::SendfileUnsupported))));
    });
}

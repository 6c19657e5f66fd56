//! Files sent over transports.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Misuse, Transport};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
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
    let _alone = alone();
    let (event_loop, folder) = (new_loop(), Folder::new());
    let file = file(&folder);
    run(&event_loop, async {
        let (near, _far) = UnixStream::pair().unwrap();
        let made = event_loop.connect_write_pipe(Recorder::default, near).await;
        let sent = made.unwrap().0.sendfile(&file, 0, None).await;
        assert!(matches!(sent, Err(Error::Misuse(Misuse::SendfileUnsupported))));
    });
}

fn errno(error: &Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

/// A file with positions that the kernel does not send: this process's memory.
struct Memory {
    data: Vec<u8>,
    file: File,
}

impl Memory {
    fn new() -> Memory {
        Memory { data: pattern(SIZE), file: File::open("/proc/self/mem").unwrap() }
    }

    fn offset(&self) -> u64 {
        self.data.as_ptr().addr() as u64
    }
}

#[test]
fn what_the_kernel_cannot_send_is_read() {
    let _alone = alone();
    let (event_loop, memory) = (new_loop(), Memory::new());
    let (file, start) = (&memory.file, memory.offset());
    let received = run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let native = transport.sendfile_native(file, start, Some(10)).await.unwrap_err();
        assert!(matches!(errno(&native), Some(Errno::INVAL | Errno::OVERFLOW)), "{native:?}");
        assert!(transport.is_reading());
        let reader = read_all(far);
        transport.write(vec![b'x'; SIZE]);
        // More than one piece, and the last one is not whole.
        let count = SIZE as u64 - 100;
        assert_eq!(transport.sendfile(file, start, Some(count)).await.unwrap(), count);
        assert_eq!(transport.sendfile(file, start + 10, Some(20)).await.unwrap(), 20);
        assert_eq!(transport.sendfile(file, start, Some(0)).await.unwrap(), 0);
        assert!(transport.is_reading());
        transport.write("end");
        transport.close();
        reader
    });
    let mut expected = vec![b'x'; SIZE];
    expected.extend(&memory.data[..SIZE - 100]);
    expected.extend(&memory.data[10..30]);
    expected.extend(b"end");
    run(&event_loop, until(&event_loop, || received.is_finished()));
    assert_eq!(received.join().unwrap(), expected);
}

#[test]
fn a_pipe_is_read_from_where_it_is() {
    let _alone = alone();
    let event_loop = new_loop();
    let received = run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let reader = read_all(far);
        let (source, mut sink) = pipe();
        let native = transport.sendfile_native(&source, 0, None).await.unwrap_err();
        assert!(matches!(errno(&native), Some(Errno::INVAL | Errno::SPIPE)), "{native:?}");
        let within_it = transport.sendfile(&source, 1, None).await.unwrap_err();
        assert_eq!(errno(&within_it), Some(Errno::SPIPE));
        let writing = thread::spawn(move || sink.write_all(&pattern(SIZE)).unwrap());
        assert_eq!(transport.sendfile(&source, 0, Some(100)).await.unwrap(), 100);
        let rest = SIZE as u64 - 100;
        assert_eq!(transport.sendfile(&source, 0, None).await.unwrap(), rest);
        writing.join().unwrap();
        transport.close();
        reader
    });
    run(&event_loop, until(&event_loop, || received.is_finished()));
    assert_eq!(received.join().unwrap(), pattern(SIZE));
}

#[test]
fn files_that_cannot_be_read() {
    let _alone = alone();
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let directory = File::open(folder.join("")).unwrap();
        let error = transport.sendfile(&directory, 0, None).await.unwrap_err();
        assert_eq!(errno(&error), Some(Errno::ISDIR));
        let unreadable = File::create(folder.join("written")).unwrap();
        let error = transport.sendfile(&unreadable, 0, None).await.unwrap_err();
        assert_eq!(errno(&error), Some(Errno::BADF));
        let (silent, _sink) = pipe();
        rustix::io::ioctl_fionbio(&silent, true).unwrap();
        let error = transport.sendfile(&silent, 0, None).await.unwrap_err();
        assert_eq!(errno(&error), Some(Errno::AGAIN));
        // The transport has come through all that.
        assert!(transport.is_reading());
        transport.write("end");
        transport.close();
        let reader = read_all(far);
        until(&event_loop, || reader.is_finished()).await;
        assert_eq!(reader.join().unwrap(), b"end");
    });
}

#[test]
fn no_more_is_read_than_the_peer_takes() {
    let _alone = alone();
    let (event_loop, memory) = (new_loop(), Memory::new());
    let log = errors(&event_loop);
    run(&event_loop, async {
        let (transport, mut far) = connected(&event_loop).await;
        far.set_nonblocking(true).unwrap();
        let before = descriptors();
        let mut sending =
            Box::pin(transport.sendfile(&memory.file, memory.offset(), Some(SIZE as u64)));
        for _ in 0..50 {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(sending.as_mut().poll(&mut cx).is_pending());
            event_loop.sleep(std::time::Duration::from_millis(1)).await;
        }
        transport.write("refused");
        assert_eq!(log.take().len(), 1);
        assert!(!transport.is_reading());
        drop(sending);
        assert_eq!(descriptors(), before);
        assert!(transport.is_reading());
        // What was sent is the beginning, and what is written now follows upon it.
        transport.write("end");
        let mut received = Vec::new();
        let mut piece = vec![0; 1 << 16];
        until(&event_loop, || {
            while let Ok(count @ 1..) = far.read(&mut piece) {
                received.extend_from_slice(&piece[..count]);
            }
            received.ends_with(b"end")
        })
        .await;
        received.truncate(received.len() - 3);
        assert!(received.len() < SIZE);
        assert_eq!(received, memory.data[..received.len()]);
    });
}

#[test]
fn a_connection_that_is_lost_ends_the_fallback() {
    let _alone = alone();
    let (event_loop, memory) = (new_loop(), Memory::new());
    let (file, offset, count) = (&memory.file, memory.offset(), Some(SIZE as u64));
    run(&event_loop, async {
        let (transport, far) = connected(&event_loop).await;
        let aborted = transport.clone();
        event_loop.call_later(std::time::Duration::from_millis(5), move || aborted.abort());
        let error = transport.sendfile(file, offset, count).await.unwrap_err();
        assert_eq!(errno(&error), Some(Errno::CONNABORTED));
        drop(far);

        // Aborted while the file is read: the peer still has a connection.
        let (transport, _far) = connected(&event_loop).await;
        let (silent, mut sink) = pipe();
        let aborted = transport.clone();
        event_loop.call_later(std::time::Duration::from_millis(5), move || {
            aborted.abort();
            sink.write_all(b"late").unwrap();
        });
        let error = transport.sendfile(silent, 0, None).await.unwrap_err();
        assert_eq!(errno(&error), Some(Errno::CONNABORTED));

        let (transport, far) = connected(&event_loop).await;
        event_loop.call_soon(move || drop(far));
        let error = transport.sendfile(file, offset, count).await.unwrap_err();
        assert!(matches!(errno(&error), Some(Errno::PIPE | Errno::CONNRESET)), "{error:?}");
    });
}

#[test]
fn over_tcp() {
    let _alone = alone();
    let (event_loop, folder, memory) = (new_loop(), Folder::new(), Memory::new());
    let file = file(&folder);
    let received = run(&event_loop, async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let reader = thread::spawn(move || {
            let mut data = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut data).unwrap();
            data
        });
        let (transport, _) = event_loop.create_connection(Recorder::default, place).await.unwrap();
        assert_eq!(transport.sendfile(&file, 0, None).await.unwrap(), SIZE as u64);
        let (start, count) = (memory.offset(), SIZE as u64);
        assert_eq!(transport.sendfile(&memory.file, start, Some(count)).await.unwrap(), count);
        transport.close();
        reader
    });
    run(&event_loop, until(&event_loop, || received.is_finished()));
    assert_eq!(received.join().unwrap(), [pattern(SIZE), pattern(SIZE)].concat());
}

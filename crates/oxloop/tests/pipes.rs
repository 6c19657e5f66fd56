//! Pipes and terminals: both ends, in both directions, and what becomes of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod util;

use oxloop::{Error, EventLoop, Misuse, ProtocolHandle, Transport};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use util::*;

async fn read(event_loop: &EventLoop, log: &Log, pipe: impl Into<OwnedFd>) -> Transport {
    let factory = || Recorder::new(log);
    event_loop.connect_read_pipe(factory, pipe).await.unwrap().0
}

async fn write(event_loop: &EventLoop, log: &Log, pipe: impl Into<OwnedFd>) -> Transport {
    let factory = || Recorder::new(log);
    event_loop.connect_write_pipe(factory, pipe).await.unwrap().0
}

async fn saw(event_loop: &EventLoop, log: &Log, line: &str) {
    until(event_loop, || log.has(line)).await;
}

fn pipe() -> (File, File) {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

/// The protocol's error, once the connection is lost.
async fn lost(event_loop: &EventLoop, protocol: ProtocolHandle<Recorder>) -> Option<Error> {
    until(event_loop, || protocol.with(|recorder| recorder.log.has("lost")).unwrap()).await;
    protocol.with(|recorder| recorder.error.take()).unwrap()
}

#[test]
fn through_a_pipe() {
    let _alone = alone();
    let event_loop = new_loop();
    let before = descriptors();
    run(&event_loop, async {
        let (reader, writer) = pipe();
        let (near, far) = (Log::default(), Log::default());
        let source = write(&event_loop, &near, writer).await;
        let sink = read(&event_loop, &far, reader).await;
        let data = pattern(1 << 20);
        source.write(data.clone());
        assert!(source.get_write_buffer_size() > 0);
        source.write_eof();
        assert!(source.is_closing());
        saw(&event_loop, &far, "lost").await;
        saw(&event_loop, &near, "lost").await;
        assert_eq!(far.count("eof"), 1);
        assert!(near.has("pause"));
        sink.write("dropped");
    });
    drop(event_loop);
    assert!(descriptors() <= before);
}

#[test]
fn the_end_closes_a_reader_that_would_stay() {
    let _alone = alone();
    let event_loop = new_loop();
    run(&event_loop, async {
        let (reader, writer) = pipe();
        let log = Log::default();
        let factory = || Recorder::new(&log).keeping_open();
        event_loop.connect_read_pipe(factory, reader).await.unwrap();
        drop(writer);
        saw(&event_loop, &log, "lost").await;
    });
}

#[test]
fn pause_and_resume() {
    let _alone = alone();
    let event_loop = new_loop();
    run(&event_loop, async {
        let (reader, mut writer) = pipe();
        let log = Log::default();
        let transport = read(&event_loop, &log, reader).await;
        transport.pause_reading();
        writer.write_all(b"abc").unwrap();
        turns(&event_loop, 5).await;
        assert!(!log.has("data"));
        transport.resume_reading();
        saw(&event_loop, &log, "data").await;
        transport.close();
        saw(&event_loop, &log, "lost").await;
        assert!(writer.write_all(b"x").is_err());
    });
}

#[test]
fn the_reader_goes() {
    let _alone = alone();
    let event_loop = new_loop();
    run(&event_loop, async {
        let (reader, writer) = pipe();
        let log = Log::default();
        write(&event_loop, &log, writer).await;
        drop(reader);
        saw(&event_loop, &log, "lost").await;

        let (reader, writer) = pipe();
        let (transport, protocol) =
            event_loop.connect_write_pipe(Recorder::default, writer).await.unwrap();
        transport.write(pattern(1 << 20));
        assert!(transport.get_write_buffer_size() > 0);
        drop(reader);
        let error = lost(&event_loop, protocol).await.unwrap();
        assert_eq!(error.raw_os_error(), Some(Errno::PIPE.raw_os_error()));
    });
}

#[test]
fn a_socket_is_read_and_written() {
    let _alone = alone();
    let event_loop = new_loop();
    run(&event_loop, async {
        let (near, mut far) = UnixStream::pair().unwrap();
        let log = Log::default();
        let source = write(&event_loop, &Log::default(), near.try_clone().unwrap()).await;
        read(&event_loop, &log, near).await;
        source.write("out");
        turns(&event_loop, 2).await;
        let mut data = [0; 3];
        far.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"out");
        far.write_all(b"in").unwrap();
        saw(&event_loop, &log, "data").await;
    });
}

#[test]
fn a_terminal_in_both_directions() {
    let _alone = alone();
    let event_loop = new_loop();
    run(&event_loop, async {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let mut slave = OpenOptions::new().read(true).write(true).open(name).unwrap();
        let twin = master.try_clone().unwrap();
        let (_, protocol) = event_loop.connect_read_pipe(Recorder::default, master).await.unwrap();
        let source = write(&event_loop, &Log::default(), twin).await;
        source.write("a line\n");
        turns(&event_loop, 2).await;
        let mut data = [0; 7];
        slave.read_exact(&mut data).unwrap();
        assert_eq!(&data, b"a line\n");
        slave.write_all(b"answer").unwrap();
        let came = || protocol.with(|recorder| recorder.data.ends_with(b"answer")).unwrap();
        until(&event_loop, came).await;
        drop(slave);
        let error = lost(&event_loop, protocol).await.unwrap();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        source.close();
    });
}

#[test]
fn regular_files_are_refused() {
    let _alone = alone();
    let event_loop = new_loop();
    let folder = Folder::new();
    let path = folder.join("file");
    File::create(&path).unwrap();
    let before = descriptors();
    run(&event_loop, async {
        let file = File::open(&path).unwrap();
        let read = event_loop.connect_read_pipe(Recorder::default, file).await;
        assert!(matches!(read, Err(Error::Misuse(Misuse::PipeExpected))));
        let file = File::open(&path).unwrap();
        let write = event_loop.connect_write_pipe(Recorder::default, file).await;
        assert!(matches!(write, Err(Error::Misuse(Misuse::PipeExpected))));
    });
    assert_eq!(descriptors(), before);
    event_loop.close().unwrap();
    let (reader, _writer) = pipe();
    let mut connecting = std::pin::pin!(event_loop.connect_read_pipe(Recorder::default, reader));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(closed) = connecting.as_mut().poll(&mut cx) else { panic!() };
    assert!(matches!(closed, Err(Error::Misuse(Misuse::LoopClosed))));
}

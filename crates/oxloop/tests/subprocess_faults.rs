//! Child processes that cannot start, that die in the middle of something, or for which there is
//! no descriptor left: a clear error, nothing leaked, and the loop goes on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/children.rs"]
mod children;
mod util;

use children::{ChildRecorder, Running, shell};
use oxloop::{ChildStdio, Error, EventLoop, SubprocessOptions};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs::{self, File};
use std::process::Command;
use util::*;

/// Why a child could not be started; one that could is closed.
async fn refusal(event_loop: &EventLoop, options: impl Into<SubprocessOptions>) -> Option<Errno> {
    match event_loop.subprocess_exec(ChildRecorder::default, options).await {
        Ok((transport, _)) => {
            transport.close();
            None
        }
        Err(Error::Io(error)) => Some(Errno::from_io_error(&error).unwrap()),
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn programs_that_cannot_be_run() {
    let _alone = alone();
    let (event_loop, folder) = (new_loop(), Folder::new());
    let before = descriptors();
    run(&event_loop, async {
        let missing = Command::new(folder.join("missing"));
        assert_eq!(refusal(&event_loop, missing).await, Some(Errno::NOENT));
        let file = folder.join("file");
        fs::write(&file, "no program").unwrap();
        assert_eq!(refusal(&event_loop, Command::new(&file)).await, Some(Errno::ACCESS));
        let options = SubprocessOptions::new(Command::new(&file)).stderr_to_stdout();
        assert_eq!(refusal(&event_loop, options).await, Some(Errno::ACCESS));
        let mut nowhere = Command::new("true");
        nowhere.current_dir(folder.join("missing"));
        assert_eq!(refusal(&event_loop, nowhere).await, Some(Errno::NOENT));
        let options = SubprocessOptions::new(Command::new(folder.join("missing")));
        let options = options.stdin(File::open(&file).unwrap());
        assert_eq!(refusal(&event_loop, options).await, Some(Errno::NOENT));
    });
    assert_eq!(descriptors(), before);
    assert_eq!(shell(&event_loop, "echo on").1, b"on\n");
}

#[test]
fn killed_while_it_writes() {
    let _alone = alone();
    let event_loop = new_loop();
    let before = descriptors();
    run(&event_loop, async {
        let mut command = Command::new("cat");
        command.arg("/dev/zero");
        let mut child = Running::start(&event_loop, command).await;
        until(&event_loop, || child.log.has("data 1")).await;
        // The pipe is full, and the child inside of its write.
        child.transport.pipe_transport(1).unwrap().pause_reading();
        child.transport.kill().unwrap();
        (&mut child.exited).await.unwrap();
        assert!(!child.log.has("pipe 1 lost"));
        child.transport.pipe_transport(1).unwrap().resume_reading();
        assert_eq!(child.finish().await, -9);
        assert!(child.log.has("pipe 1 lost"), "{:?}", child.log.lines());
        let output = child.output();
        assert!(!output.is_empty() && output.iter().all(|byte| *byte == 0));
    });
    assert_eq!(descriptors(), before);
}

#[test]
fn killed_while_it_is_written_to() {
    let _alone = alone();
    let event_loop = new_loop();
    let before = descriptors();
    run(&event_loop, async {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut child = Running::fed(&event_loop, command, [vec![0; 1 << 20], vec![0]]).await;
        assert!(child.log.has("pause"), "the pipe is full");
        child.transport.kill().unwrap();
        assert_eq!(child.finish().await, -9);
        assert!(child.log.has("pipe 0 lost errno 32"), "{:?}", child.log.lines());
        assert!(!child.log.has("resume"));
    });
    assert_eq!(descriptors(), before);
}

#[test]
fn nothing_is_left_of_many_children() {
    let _alone = alone();
    let event_loop = new_loop();
    let before = descriptors();
    run(&event_loop, async {
        for _ in 0..5 {
            let mut children = Vec::new();
            for number in 0..50 {
                let line = SubprocessOptions::shell("read go; exit $go");
                let line = if number % 2 == 0 { line } else { line.stderr_to_stdout() };
                let input = [format!("{number}\n").into_bytes()];
                children.push(Running::fed(&event_loop, line, input).await);
            }
            for (number, child) in children.iter_mut().enumerate() {
                assert_eq!(child.finish().await, number as i32);
            }
        }
    });
    assert_eq!(descriptors(), before);
}

#[test]
fn loops_that_are_dropped_keep_no_descriptor() {
    let _alone = alone();
    let before = descriptors();
    let event_loop = new_loop();
    run(&event_loop, async {
        for _ in 0..10 {
            Running::start(&event_loop, SubprocessOptions::shell("read go")).await;
        }
    });
    drop(event_loop);
    assert_eq!(descriptors(), before);
}

/// So many descriptors that a test can take them all.
struct Limited(Vec<File>);

impl Limited {
    fn take_all() -> Limited {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(limit.maximum.map_or(512, |maximum| maximum.min(512)));
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut files = Vec::new();
        let error = loop {
            match File::open("/dev/null") {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MFILE));
        Limited(files)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

#[test]
fn without_descriptors() {
    let _alone = alone();
    let event_loop = new_loop();
    let before = descriptors();
    let mut limited = Limited::take_all();
    let full = limited.0.len();
    let mut free = 0;
    loop {
        limited.0.truncate(full - free);
        let both = SubprocessOptions::shell("read line").stderr_to_stdout();
        let three = SubprocessOptions::shell("read line");
        let refused = run(&event_loop, async {
            let both = refusal(&event_loop, both).await;
            assert!(both.is_none_or(|error| error == Errno::MFILE), "{both:?} with {free}");
            refusal(&event_loop, three).await
        });
        // All comes back: so many, and no more, can be opened.
        let room = || (0..).map_while(|_| File::open("/dev/null").ok()).collect::<Vec<_>>();
        run(&event_loop, until(&event_loop, || room().len() == free));
        match refused {
            Some(error) => assert_eq!(error, Errno::MFILE, "with {free}"),
            None => break,
        }
        free += 1;
    }
    assert!(free >= 6, "three pipes are six descriptors");

    // No pipe and no pidfd: a thread waits.
    limited.0.extend((0..).map_while(|_| File::open("/dev/null").ok()));
    run(&event_loop, async {
        let options = SubprocessOptions::shell("exit 7").stdin(ChildStdio::Inherit);
        let options = options.stdout(ChildStdio::Inherit).stderr(ChildStdio::Inherit);
        let mut child = Running::start(&event_loop, options).await;
        assert_eq!(child.finish().await, 7);
        assert_eq!(child.log.lines(), ["made", "exited", "lost"]);
    });
    drop(limited);
    run(&event_loop, until(&event_loop, || descriptors() == before));
    assert_eq!(shell(&event_loop, "echo on").1, b"on\n");
}

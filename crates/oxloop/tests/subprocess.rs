//! Child processes: their pipes, exits and signals, and the order in which a protocol hears of
//! them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

#[path = "util/children.rs"]
mod children;
mod util;

use children::{ChildRecorder, Running, exists, shell};
use oxloop::{ChildStdio, Error, EventLoop, Misuse, SubprocessOptions};
use oxloop::{SubprocessProtocol, SubprocessTransport};
use rustix::io::Errno;
use std::fs::{self, File};
use std::future::Future;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use util::*;

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000");
    command
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[test]
fn callbacks_come_in_order() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let options = SubprocessOptions::shell("echo out; echo err >&2; exit 3");
        let mut child = Running::start(&event_loop, options).await;
        assert_eq!(child.log.lines().first().unwrap(), "made");
        assert!(child.transport.pid() > 0);
        assert_eq!(child.transport.event_loop().as_ref(), Some(&event_loop));
        for (fd, there) in [(0, true), (1, true), (2, true), (3, false), (-1, false)] {
            assert_eq!(child.transport.pipe_transport(fd).is_some(), there);
        }
        assert_eq!(child.finish().await, 3);
        assert_eq!(child.output(), b"out\n");
        assert_eq!(child.errors(), b"err\n");
        let lines = child.log.lines();
        assert_eq!(lines.first().unwrap(), "made");
        assert_eq!(lines.last().unwrap(), "lost");
        for line in ["exited", "pipe 0 lost", "pipe 1 lost", "pipe 2 lost"] {
            assert_eq!(child.log.count(line), 1, "{lines:?}");
        }
        let index = |line: &str| lines.iter().position(|other| other == line);
        assert!(index("data 1") < index("pipe 1 lost"), "{lines:?}");
        assert!(index("data 2") < index("pipe 2 lost"), "{lines:?}");
        turns(&event_loop, 5).await;
        assert_eq!(child.log.lines(), lines, "nothing comes after connection_lost");
        assert!(!exists(child.transport.pid()), "it is reaped");
    });
}

#[test]
fn exit_statuses_and_signals() {
    let event_loop = new_loop();
    for code in [0, 1, 127, 255] {
        assert_eq!(shell(&event_loop, &format!("exit {code}")).0, code);
    }
    for signal in [1, 6, 9, 15] {
        assert_eq!(shell(&event_loop, &format!("kill -{signal} $$")).0, -signal);
    }
    assert_eq!(shell(&event_loop, "/nonexistent/program").0, 127);
    run(&event_loop, async {
        type Send = fn(&SubprocessTransport) -> std::io::Result<()>;
        let sends: [(i32, Send); 4] = [
            (9, |transport| transport.kill()),
            (15, |transport| transport.terminate()),
            (10, |transport| transport.send_signal(10)),
            (34, |transport| transport.send_signal(34)), // a real-time signal
        ];
        for (signal, send) in sends {
            let mut child = Running::start(&event_loop, sleeper()).await;
            assert_eq!(child.transport.returncode(), None);
            child.transport.send_signal(0).unwrap();
            let refused = child.transport.send_signal(1000).unwrap_err();
            assert_eq!(errno(&refused), Some(Errno::INVAL));
            send(&child.transport).unwrap();
            assert_eq!(child.finish().await, -signal);
            let late = child.transport.kill().unwrap_err();
            assert_eq!(errno(&late), Some(Errno::SRCH), "asyncio's ProcessLookupError");
        }
    });
}

#[test]
fn signals_after_the_exit_go_nowhere() {
    let event_loop = new_loop();
    run(&event_loop, async {
        // The pipe outlives the child, so that connection_lost has not been called.
        let options = SubprocessOptions::shell("sleep 1000 & echo $!");
        let mut child = Running::start(&event_loop, options).await;
        (&mut child.exited).await.unwrap();
        assert_eq!(child.transport.returncode(), Some(0));
        child.transport.kill().unwrap();
        until(&event_loop, || child.output().ends_with(b"\n")).await;
        assert!(!child.log.has("lost"));
        let grandchild: i32 = String::from_utf8(child.output()).unwrap().trim().parse().unwrap();
        assert!(exists(grandchild));
        child.transport.close();
        assert_eq!(child.finish().await, 0);
        let pid = rustix::process::Pid::from_raw(grandchild).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
}

#[test]
fn a_hundred_megabytes_through_cat() {
    const PIECE: usize = 1 << 20;
    const COUNT: usize = 100;
    let event_loop = new_loop();
    run(&event_loop, async {
        let piece = pattern(PIECE);
        let input = vec![piece.clone(); COUNT];
        let mut child = Running::fed(&event_loop, Command::new("cat"), input).await;
        assert_eq!(child.finish().await, 0);
        let output = child.output();
        assert_eq!(output.len(), PIECE * COUNT);
        assert!(output.chunks(PIECE).all(|chunk| chunk == piece));
        let (pauses, resumes) = (child.log.count("pause"), child.log.count("resume"));
        assert!(pauses >= COUNT - 1, "flow control took part: {pauses}");
        assert!(resumes == pauses || resumes + 1 == pauses);
    });
}

#[test]
fn a_child_exits_before_its_pipes_are_drained() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let options = SubprocessOptions::shell("read go; head -c 60000 /dev/zero");
        let mut child = Running::start(&event_loop, options).await;
        let stdout = child.transport.pipe_transport(1).unwrap();
        stdout.pause_reading();
        child.transport.pipe_transport(0).unwrap().write("go\n");
        (&mut child.exited).await.unwrap();
        turns(&event_loop, 5).await;
        assert!(!child.log.has("data 1") && !child.log.has("lost"));
        stdout.resume_reading();
        assert_eq!(child.finish().await, 0);
        assert_eq!(child.output(), vec![0; 60000]);
        let lines = child.log.lines();
        let index = |line: &str| lines.iter().position(|other| other == line).unwrap();
        assert!(index("exited") < index("data 1") && index("data 1") < index("pipe 1 lost"));
    });
}

#[test]
fn what_nobody_reads_is_told() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let options = SubprocessOptions::shell("head -c 1 > /dev/null");
        let mut child = Running::fed(&event_loop, options, [vec![0; 1 << 20]]).await;
        assert_eq!(child.finish().await, 0);
        assert!(child.log.has("pause"), "told by the write of its own connection_made");
        assert!(child.log.has("pipe 0 lost errno 32"), "{:?}", child.log.lines());
    });
}

#[test]
fn streams_of_every_kind() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    let line = || SubprocessOptions::shell("cat; echo error >&2");
    run(&event_loop, async {
        let path = folder.join("input");
        fs::write(&path, "input\n").unwrap();
        let output = File::create(folder.join("output")).unwrap();
        let options = line().stdin(File::open(&path).unwrap()).stdout(output);
        let mut child = Running::start(&event_loop, options).await;
        assert!(child.transport.pipe_transport(0).is_none());
        assert!(child.transport.pipe_transport(1).is_none());
        assert_eq!(child.finish().await, 0);
        assert_eq!(child.errors(), b"error\n");
        assert_eq!(fs::read(folder.join("output")).unwrap(), b"input\n");

        // Both into one pipe, in their order.
        let options = line().stdin(File::open(&path).unwrap()).stderr_to_stdout();
        let mut child = Running::start(&event_loop, options).await;
        assert!(child.transport.pipe_transport(2).is_none());
        assert_eq!(child.finish().await, 0);
        assert_eq!(child.output(), b"input\nerror\n");
        assert_eq!(child.log.count("pipe 1 lost"), 1);

        // Both into one file.
        let both = File::create(folder.join("both")).unwrap();
        let options = line().stdin(File::open(&path).unwrap()).stdout(both).stderr_to_stdout();
        assert_eq!(Running::start(&event_loop, options).await.finish().await, 0);
        assert_eq!(fs::read(folder.join("both")).unwrap(), b"input\nerror\n");

        // No pipe at all: what is left is the exit.
        for stream in [|| ChildStdio::Null, || ChildStdio::Inherit] {
            let options = SubprocessOptions::shell("exit 7").stdin(ChildStdio::Null);
            let options = options.stdout(stream()).stderr_to_stdout();
            let mut child = Running::start(&event_loop, options).await;
            assert_eq!(child.finish().await, 7);
            assert_eq!(child.log.lines(), ["made", "exited", "lost"]);
        }
    });
}

#[test]
fn the_command_says_what_runs() {
    let (event_loop, folder) = (new_loop(), Folder::new());
    run(&event_loop, async {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "pwd; echo $1 $NAME", "sh", "argument"]);
        command.current_dir(folder.join("")).env_clear().env("NAME", "value");
        // The options', not the command's.
        command.stdout(std::process::Stdio::null());
        let mut child = Running::start(&event_loop, command).await;
        assert_eq!(child.finish().await, 0);
        let folder = fs::canonicalize(folder.join("")).unwrap();
        let expected = format!("{}\nargument value\n", folder.display());
        assert_eq!(String::from_utf8(child.output()).unwrap(), expected);
    });
}

#[test]
fn closing_kills() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut child = Running::start(&event_loop, sleeper()).await;
        assert!(!child.transport.is_closing());
        assert!(format!("{:?}", child.transport).contains(" running stdin=<Transport"));
        child.transport.close();
        child.transport.close();
        assert!(child.transport.is_closing());
        assert_eq!(child.finish().await, -9);
        let told = format!("{:?}", child.transport);
        assert!(told.starts_with("<SubprocessTransport closed pid="), "{told}");
        assert!(told.contains(" returncode=-9 "), "{told}");
        assert_eq!(child.log.lines().last().unwrap(), "lost");

        let mut child = Running::start(&event_loop, Command::new("true")).await;
        (&mut child.exited).await.unwrap();
        child.transport.close();
        assert_eq!(child.finish().await, 0, "the status of one that has exited stays");
    });
}

#[test]
fn a_future_that_is_given_up_leaves_no_child() {
    let event_loop = new_loop();
    let folder = Folder::new();
    run(&event_loop, async {
        let path = folder.join("pid");
        let line = format!("echo $$ > {}; exec sleep 1000", path.display());
        let log = Log::default();
        let recorder = || ChildRecorder { log: log.clone(), ..ChildRecorder::default() };
        {
            let mut starting = pin!(event_loop.subprocess_shell(recorder, line));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(starting.as_mut().poll(&mut cx).is_pending());
        }
        until(&event_loop, || log.has("lost")).await;
        assert_eq!(log.lines().first().unwrap(), "made");
        let pid = fs::read_to_string(path).unwrap_or_default();
        // It may have been killed before it wrote its pid.
        assert!(pid.trim().parse().is_ok_and(|pid| !exists(pid)) || pid.is_empty());
    });
}

#[test]
fn a_loop_that_is_dropped_kills_its_children() {
    let event_loop = new_loop();
    let (pid, kept) = run(&event_loop, async {
        let forgotten = Running::start(&event_loop, sleeper()).await;
        let kept = Running::start(&event_loop, sleeper()).await;
        (forgotten.transport.pid(), kept)
    });
    drop(event_loop);
    assert_eq!(kept.log.lines(), ["made"], "nobody is told");
    assert!(exists(kept.transport.pid()), "whoever has a transport decides");
    kept.transport.close();
    let kept_pid = kept.transport.pid();
    drop(kept);
    // Reaped when another one is started, once the signal has done its work.
    let event_loop = new_loop();
    run(
        &event_loop,
        until(&event_loop, || {
            let mut starting = pin!(event_loop.subprocess_shell(ChildRecorder::default, "exit"));
            let _ = starting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            !exists(pid) && !exists(kept_pid)
        }),
    );
}

#[test]
fn a_closed_loop_starts_nothing() {
    let event_loop = new_loop();
    event_loop.close().unwrap();
    let mut starting = pin!(event_loop.subprocess_exec(ChildRecorder::default, sleeper()));
    let Poll::Ready(closed) = starting.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("it waits");
    };
    assert!(matches!(closed, Err(Error::Misuse(Misuse::LoopClosed))));
}

#[test]
fn protocols_are_exchanged() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut child = Running::start(&event_loop, Command::new("cat")).await;
        assert!(child.transport.protocol::<ChildRecorder>().is_some());
        assert!(child.transport.protocol::<Panicking>().is_none());
        let (log, (finish, finished)) = (Log::default(), event_loop.create_future());
        child.protocol = child.transport.set_protocol(ChildRecorder {
            log: log.clone(),
            finished: Some(finish),
            ..ChildRecorder::default()
        });
        let stdin = child.transport.pipe_transport(0).unwrap();
        stdin.write("abc");
        stdin.write_eof();
        finished.await.unwrap();
        assert_eq!(child.output(), b"abc");
        assert_eq!(child.log.lines(), ["made"]);
        assert_eq!(log.lines().last().unwrap(), "lost");
        assert!(child.transport.protocol::<ChildRecorder>().is_none());
    });
}

struct Panicking;

impl SubprocessProtocol for Panicking {
    fn connection_made(&mut self, _: &SubprocessTransport) {
        panic!("made");
    }

    fn pipe_data_received(&mut self, _: &SubprocessTransport, _: i32, _: &[u8]) {
        panic!("data");
    }

    fn pipe_connection_lost(&mut self, _: &SubprocessTransport, _: i32, _: Option<Error>) {
        panic!("pipe");
    }

    fn process_exited(&mut self, _: &SubprocessTransport) {
        panic!("exited");
    }

    fn connection_lost(&mut self, _: &SubprocessTransport, _: Option<Error>) {
        panic!("lost");
    }
}

#[test]
fn panics_end_nothing() {
    let event_loop = new_loop();
    let told = errors(&event_loop);
    run(&event_loop, async {
        let boxed = || Box::new(Panicking) as Box<dyn SubprocessProtocol>;
        let (transport, _) = event_loop.subprocess_shell(boxed, "echo abc").await.unwrap();
        let lost = |line: &String| line.ends_with("connection_lost|a callback panicked: lost");
        until(&event_loop, || told.lines().iter().any(lost)).await;
        assert_eq!(transport.returncode(), Some(0));
        let lines = told.lines();
        for (name, text) in [
            ("connection_made", "made"),
            ("pipe_data_received", "data"),
            ("pipe_connection_lost", "pipe"),
            ("process_exited", "exited"),
        ] {
            let end = format!("::{name}|a callback panicked: {text}");
            let count = lines.iter().filter(|line| line.ends_with(&end)).count();
            assert_eq!(count, if text == "pipe" { 3 } else { 1 }, "{lines:?}");
        }
    });
}

#[test]
fn a_child_that_somebody_else_reaps() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut child = Running::start(&event_loop, SubprocessOptions::shell("read go")).await;
        let pid = rustix::process::Pid::from_raw(child.transport.pid()).unwrap();
        child.transport.kill().unwrap();
        // Before the loop looks at it.
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        assert_eq!(child.finish().await, 255);
    });
}

#[test]
fn two_hundred_children_at_once() {
    let event_loop = new_loop();
    run(&event_loop, async {
        let mut children = Vec::new();
        for number in 0..200 {
            let line = SubprocessOptions::shell(format!("read go; echo $go; exit {number}"));
            children.push(Running::start(&event_loop, line).await);
        }
        for (number, child) in children.iter().enumerate() {
            child.transport.pipe_transport(0).unwrap().write(format!("{number}\n").into_bytes());
        }
        for (number, child) in children.iter_mut().enumerate() {
            assert_eq!(child.finish().await, number as i32);
            assert_eq!(child.output(), format!("{number}\n").as_bytes());
        }
    });
}

/// Waits for a future in a thread that runs no loop.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

#[test]
fn several_loops_in_several_threads() {
    // A future of a child can be a task's, as of all that a loop opens.
    fn is_send(_: &impl Send) {}
    is_send(&new_loop().subprocess_exec(ChildRecorder::default, sleeper()));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            thread::spawn(move || {
                let event_loop = new_loop();
                for round in 0..20 {
                    let code = thread * 20 + round;
                    let (returncode, output, _) =
                        shell(&event_loop, &format!("echo {code}; exit {code}"));
                    assert_eq!(returncode, code);
                    assert_eq!(output, format!("{code}\n").as_bytes());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn from_another_thread() {
    let event_loop = new_loop();
    let (asked, other): (EventLoop, _) = (event_loop.clone(), event_loop.clone());
    let thread = thread::spawn(move || {
        block_on(async {
            let mut child = Running::start(&asked, sleeper()).await;
            child.transport.terminate().unwrap();
            let code = child.finish().await;
            other.stop();
            (code, child.log.lines())
        })
    });
    event_loop.run_forever().unwrap();
    let (code, lines) = thread.join().unwrap();
    assert_eq!(code, -15);
    assert_eq!((lines.first().unwrap().as_str(), lines.last().unwrap().as_str()), ("made", "lost"));
}

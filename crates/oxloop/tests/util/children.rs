//! What the tests of child processes share.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use super::util::{Log, run};
use oxloop::{Error, EventLoop, Promise, ProtocolHandle, Waiter};
use oxloop::{SubprocessOptions, SubprocessProtocol, SubprocessTransport};
use std::collections::VecDeque;
use std::path::Path;

/// Records what it is told, and does what it is told at its beginning.
#[derive(Default)]
pub struct ChildRecorder {
    pub log: Log,
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
    pub exited: Option<Promise<()>>,
    pub finished: Option<Promise<()>>,
    /// What is still to be written to standard input, as flow control lets it.
    pub input: VecDeque<Vec<u8>>,
    pub transport: Option<SubprocessTransport>,
}

impl ChildRecorder {
    fn feed(&mut self) {
        let Some(stdin) = self.transport.as_ref().and_then(|it| it.pipe_transport(0)) else {
            return;
        };
        // The pause that a write brings about is told when this callback has returned: the next
        // piece waits for what follows upon it.
        if let Some(piece) = self.input.pop_front() {
            stdin.write(piece);
            if self.input.is_empty() {
                stdin.close();
            }
        }
    }
}

impl SubprocessProtocol for ChildRecorder {
    fn connection_made(&mut self, transport: &SubprocessTransport) {
        self.log.add("made");
        self.transport = Some(transport.clone());
        self.feed();
    }

    fn pipe_data_received(&mut self, _: &SubprocessTransport, fd: i32, data: &[u8]) {
        assert!(!data.is_empty());
        if !self.log.has(&format!("data {fd}")) {
            self.log.add(format!("data {fd}"));
        }
        if fd == 1 { &mut self.output } else { &mut self.errors }.extend_from_slice(data);
    }

    fn pipe_connection_lost(&mut self, _: &SubprocessTransport, fd: i32, error: Option<Error>) {
        let errno = error.and_then(|error| error.raw_os_error());
        let end = errno.map_or(String::new(), |errno| format!(" errno {errno}"));
        self.log.add(format!("pipe {fd} lost{end}"));
    }

    fn process_exited(&mut self, transport: &SubprocessTransport) {
        assert!(transport.returncode().is_some());
        self.log.add("exited");
        self.exited.take().inspect(|exited| _ = exited.set_result(()));
    }

    fn pause_writing(&mut self, _: &SubprocessTransport) {
        self.log.add("pause");
    }

    fn resume_writing(&mut self, _: &SubprocessTransport) {
        self.log.add("resume");
        self.feed();
    }

    fn connection_lost(&mut self, _: &SubprocessTransport, error: Option<Error>) {
        assert!(error.is_none());
        self.log.add("lost");
        self.finished.take().inspect(|finished| _ = finished.set_result(()));
    }
}

/// A child that runs.
pub struct Running {
    pub transport: SubprocessTransport,
    pub protocol: ProtocolHandle<ChildRecorder>,
    pub log: Log,
    pub exited: Waiter<()>,
    pub finished: Waiter<()>,
}

impl Running {
    pub async fn start(event_loop: &EventLoop, options: impl Into<SubprocessOptions>) -> Running {
        Running::fed(event_loop, options, []).await
    }

    /// With pieces to write to its standard input, which is closed after them.
    pub async fn fed(
        event_loop: &EventLoop,
        options: impl Into<SubprocessOptions>,
        input: impl IntoIterator<Item = Vec<u8>>,
    ) -> Running {
        let log = Log::default();
        let (exit, exited) = event_loop.create_future();
        let (finish, finished) = event_loop.create_future();
        let factory = || ChildRecorder {
            log: log.clone(),
            input: input.into_iter().collect(),
            exited: Some(exit),
            finished: Some(finish),
            ..ChildRecorder::default()
        };
        let (transport, protocol) = event_loop.subprocess_exec(factory, options).await.unwrap();
        Running { transport, protocol, log, exited, finished }
    }

    /// Its exit, and the end of all its pipes; then its return code.
    pub async fn finish(&mut self) -> i32 {
        (&mut self.finished).await.unwrap();
        self.transport.returncode().unwrap()
    }

    pub fn output(&self) -> Vec<u8> {
        self.protocol.with(|it| it.output.clone()).unwrap()
    }

    pub fn errors(&self) -> Vec<u8> {
        self.protocol.with(|it| it.errors.clone()).unwrap()
    }
}

/// Runs a command line with the shell to its end: return code, output, errors.
pub fn shell(event_loop: &EventLoop, line: &str) -> (i32, Vec<u8>, Vec<u8>) {
    run(event_loop, async {
        let mut child = Running::start(event_loop, SubprocessOptions::shell(line)).await;
        child.transport.pipe_transport(0).unwrap().close();
        (child.finish().await, child.output(), child.errors())
    })
}

/// Whether a process is there, be it as a zombie.
pub fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

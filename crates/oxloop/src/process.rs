//! Starting child processes (asyncio: *Running Subprocesses* of the event loop page).

use crate::children::reap_forsaken;
use crate::connect::Unclaimed;
use crate::error::{Misuse, Result};
use crate::event_loop::{EventLoop, promise};
use crate::protocol::{ProtocolHandle, SubprocessProtocol};
use crate::sys::Child;
use crate::transport::SubprocessTransport;
use rustix::pipe::{PipeFlags, pipe_with};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};

/// What a child's standard stream is. A file, a socket, or any other descriptor converts into it.
#[derive(Debug, Default)]
pub enum ChildStdio {
    /// A pipe, whose other end is a transport of the loop (asyncio: *PIPE*).
    #[default]
    Pipe,
    /// The stream of this process (asyncio: *None*).
    Inherit,
    /// `/dev/null` (asyncio: *DEVNULL*).
    Null,
    /// This open file, which is closed on this side once the child has it.
    Descriptor(OwnedFd),
}

macro_rules! descriptors {
    ($($file:ty),*) => {$(
        impl From<$file> for ChildStdio {
            fn from(file: $file) -> ChildStdio {
                ChildStdio::Descriptor(file.into())
            }
        }
    )*};
}

descriptors!(OwnedFd, File, UnixStream, TcpStream, ChildStdin, ChildStdout, ChildStderr);

impl ChildStdio {
    /// The same once more, for standard error; `standard` is that of this process.
    fn duplicate(&self, standard: impl AsFd) -> io::Result<ChildStdio> {
        Ok(match self {
            ChildStdio::Pipe => ChildStdio::Pipe,
            ChildStdio::Null => ChildStdio::Null,
            ChildStdio::Inherit => standard.as_fd().try_clone_to_owned()?.into(),
            ChildStdio::Descriptor(file) => file.try_clone()?.into(),
        })
    }

    fn into_std(self) -> Stdio {
        match self {
            ChildStdio::Pipe => Stdio::piped(),
            ChildStdio::Inherit => Stdio::inherit(),
            ChildStdio::Null => Stdio::null(),
            ChildStdio::Descriptor(file) => file.into(),
        }
    }
}

/// What [`EventLoop::subprocess_exec`] starts: a [`Command`], which converts into it, and the
/// child's standard streams.
///
/// The streams are those that are given here, pipes by default, whatever the command says of them.
///
/// ```
/// use oxloop::{ChildStdio, SubprocessOptions};
/// use std::process::Command;
///
/// let mut command = Command::new("sort");
/// command.arg("--reverse").env("LC_ALL", "C");
/// let sort = SubprocessOptions::new(command).stderr(ChildStdio::Inherit);
/// let count = SubprocessOptions::shell("grep -c x | cat").stderr_to_stdout();
/// ```
#[derive(Debug)]
pub struct SubprocessOptions {
    command: Command,
    stdin: ChildStdio,
    stdout: ChildStdio,
    /// `None`: where standard output goes.
    stderr: Option<ChildStdio>,
}

impl SubprocessOptions {
    /// The command, with pipes for all three streams.
    pub fn new(command: Command) -> SubprocessOptions {
        SubprocessOptions {
            command,
            stdin: ChildStdio::Pipe,
            stdout: ChildStdio::Pipe,
            stderr: Some(ChildStdio::Pipe),
        }
    }

    /// `/bin/sh -c` with a command line. Quoting is the caller's: where a part of the line comes
    /// from elsewhere, run a program and not the shell.
    pub fn shell(line: impl AsRef<OsStr>) -> SubprocessOptions {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(line);
        SubprocessOptions::new(command)
    }

    /// What the child reads.
    ///
    /// Source: *stdin*.
    #[must_use]
    pub fn stdin(self, stdin: impl Into<ChildStdio>) -> SubprocessOptions {
        SubprocessOptions { stdin: stdin.into(), ..self }
    }

    /// Where the child writes to.
    ///
    /// Source: *stdout*.
    #[must_use]
    pub fn stdout(self, stdout: impl Into<ChildStdio>) -> SubprocessOptions {
        SubprocessOptions { stdout: stdout.into(), ..self }
    }

    /// Where the child writes errors to.
    ///
    /// Source: *stderr*.
    #[must_use]
    pub fn stderr(self, stderr: impl Into<ChildStdio>) -> SubprocessOptions {
        SubprocessOptions { stderr: Some(stderr.into()), ..self }
    }

    /// The child writes errors to where its output goes: one pipe for both, where that is one.
    ///
    /// Source: *stderr=STDOUT*.
    #[must_use]
    pub fn stderr_to_stdout(self) -> SubprocessOptions {
        SubprocessOptions { stderr: None, ..self }
    }

    /// Starts the child. With it come our ends of its pipes.
    fn spawn(self) -> io::Result<(Child, [Option<OwnedFd>; 3])> {
        let SubprocessOptions { mut command, stdin, mut stdout, stderr } = self;
        let mut shared = None;
        let stderr = match (stderr, &stdout) {
            (Some(stderr), _) => stderr,
            (None, ChildStdio::Pipe) => {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                shared = Some(reader);
                stdout = writer.try_clone()?.into();
                writer.into()
            }
            (None, other) => other.duplicate(io::stdout())?,
        };
        command.stdin(stdin.into_std()).stdout(stdout.into_std()).stderr(stderr.into_std());
        let mut child = command.spawn()?;
        // Our copies of what the child has: pipes end when all are closed.
        drop(command);
        let stdin = child.stdin.take().map(OwnedFd::from);
        let stdout = child.stdout.take().map(OwnedFd::from).or(shared);
        let stderr = child.stderr.take().map(OwnedFd::from);
        Ok((Child::new(&child), [stdin, stdout, stderr]))
    }
}

impl From<Command> for SubprocessOptions {
    fn from(command: Command) -> SubprocessOptions {
        SubprocessOptions::new(command)
    }
}

impl EventLoop {
    /// Starts a program as a child process, with a protocol for it by `factory`, and gives both
    /// sides. The command says what runs: arguments, environment, directory, user...; the options,
    /// what its standard streams are.
    ///
    /// Its exit is seen by a pidfd, which needs no SIGCHLD handler and no thread; where there is
    /// none to be had, a thread waits. The loop reaps the child: nobody else should wait for it.
    ///
    /// The protocol's `connection_made` has been called when the future is done. Dropping the
    /// future before that kills the child.
    ///
    /// Source: *loop.subprocess_exec*.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): what `Command::spawn` says, ENOENT or EACCES for a program
    /// that cannot be run, EMFILE where there is no descriptor for a pipe; EAGAIN where the system
    /// lets no more processes or threads start. [`Misuse::LoopClosed`]. No child is left then.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// use oxloop::{Error, EventLoop, Promise, SubprocessProtocol, SubprocessTransport};
    /// use std::process::Command;
    ///
    /// struct Shout {
    ///     answer: Vec<u8>,
    ///     finished: Promise<Vec<u8>>,
    /// }
    ///
    /// impl SubprocessProtocol for Shout {
    ///     fn pipe_data_received(&mut self, _: &SubprocessTransport, _: i32, data: &[u8]) {
    ///         self.answer.extend_from_slice(data);
    ///     }
    ///
    ///     fn connection_lost(&mut self, _: &SubprocessTransport, _: Option<Error>) {
    ///         self.finished.set_result(std::mem::take(&mut self.answer));
    ///     }
    /// }
    ///
    /// let event_loop = EventLoop::new()?;
    /// let answer = event_loop.run_until_complete(async {
    ///     let mut upper = Command::new("tr");
    ///     upper.args(["a-z", "A-Z"]);
    ///     let (finished, answer) = event_loop.create_future();
    ///     let factory = || Shout { answer: Vec::new(), finished };
    ///     let (transport, _) = event_loop.subprocess_exec(factory, upper).await?;
    ///     if let Some(stdin) = transport.pipe_transport(0) {
    ///         stdin.write("hello");
    ///         stdin.close();
    ///     }
    ///     answer.await
    /// })??;
    /// assert_eq!(answer, b"HELLO");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subprocess_exec<P, F>(
        &self,
        factory: F,
        options: impl Into<SubprocessOptions>,
    ) -> Result<(SubprocessTransport, ProtocolHandle<P>)>
    where
        P: SubprocessProtocol + 'static,
        F: FnOnce() -> P,
    {
        let options = options.into();
        self.core().check()?;
        let protocol = ProtocolHandle::of_subprocess(self.core().home, factory());
        reap_forsaken();
        let (child, streams) = options.spawn()?;
        let erased = protocol.erased_subprocess();
        let transport = SubprocessTransport::new(self.core(), child, erased);
        let (promise, waiter) = promise();
        self.core().act(move |cx| {
            transport.connect(cx, streams, move |connected| {
                let connected = connected.map(|it| Unclaimed::new(it, SubprocessTransport::close));
                promise.set_result(connected);
            });
        });
        let transport = waiter.await.map_err(|_| Misuse::LoopClosed)??.claim()?;
        Ok((transport, protocol))
    }

    /// Runs a command line with the shell, all three streams pipes:
    /// [`subprocess_exec`](Self::subprocess_exec) with [`SubprocessOptions::shell`], for which
    /// other streams can be given.
    ///
    /// Source: *loop.subprocess_shell*.
    ///
    /// # Errors
    /// Those of [`subprocess_exec`](Self::subprocess_exec). What the shell cannot run is told by
    /// its exit status, 126 or 127.
    pub async fn subprocess_shell<P, F>(
        &self,
        factory: F,
        cmd: impl AsRef<OsStr>,
    ) -> Result<(SubprocessTransport, ProtocolHandle<P>)>
    where
        P: SubprocessProtocol + 'static,
        F: FnOnce() -> P,
    {
        self.subprocess_exec(factory, SubprocessOptions::shell(cmd)).await
    }
}

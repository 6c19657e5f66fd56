//! One child process: its transport, and how its exit and its pipes reach the protocol.

use super::Transport;
use super::stream::Connection;
use crate::children::{forsake, watch_exit};
use crate::engine::{PipeEnd, PipeKind};
use crate::error::Error;
use crate::event_loop::core::Core;
use crate::event_loop::face::Cx;
use crate::event_loop::{EventLoop, ExceptionContext, Handle};
use crate::protocol::cell::{AnySubprocessProtocol, Flow};
use crate::protocol::slot::{Caller, ProtocolSlot};
use crate::protocol::{Protocol, ProtocolHandle, SubprocessProtocol};
use crate::sys::{Child, ChildStatus};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

/// A child process: its pipes, its exit, and the signals that are sent to it.
///
/// A clone is the same child, and may be used from any thread. The loop keeps the transport until
/// the child has exited and its pipes are closed. Where the loop is closed before that and no
/// transport is left, the child is killed; it is reaped when this process starts its next one,
/// as asyncio has it.
///
/// Source: asyncio, *Transports* (SubprocessTransport, BaseTransport).
#[derive(Clone)]
pub struct SubprocessTransport(Arc<Process>);

struct Process {
    core: Arc<Core>,
    child: Child,
    protocol: ProtocolSlot<dyn AnySubprocessProtocol>,
    held: Mutex<Held>,
}

struct Held {
    phase: Phase,
    /// `close()` was called.
    closing: bool,
    /// Once the child is reaped: its pid may be another process's by then.
    returncode: Option<i32>,
    /// By the child's number of them.
    pipes: [Pipe; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// `connection_lost` is queued.
    Finishing,
    Lost,
}

enum Pipe {
    /// The stream is no pipe of ours.
    None,
    Connecting,
    Open(Transport),
    Lost(Transport),
}

impl Pipe {
    fn transport(&self) -> Option<&Transport> {
        match self {
            Pipe::Open(transport) | Pipe::Lost(transport) => Some(transport),
            Pipe::None | Pipe::Connecting => None,
        }
    }
}

impl SubprocessTransport {
    /// The child's process id.
    ///
    /// Source: *SubprocessTransport.get_pid*.
    pub fn pid(&self) -> i32 {
        self.0.child.pid()
    }

    /// The transport of standard input (0), to write to, of standard output (1) or error (2), to
    /// pause and resume; `None` for a stream that is no pipe, and for other numbers.
    ///
    /// Source: *SubprocessTransport.get_pipe_transport*.
    pub fn pipe_transport(&self, fd: RawFd) -> Option<Transport> {
        let index = usize::try_from(fd).ok()?;
        self.0.held.lock().pipes.get(index)?.transport().cloned()
    }

    /// How the child has ended: its exit status, or minus the number of the signal that ended it;
    /// `None` as long as it runs. 255 where the status was lost, because the program ignores
    /// SIGCHLD or waits for children itself.
    ///
    /// Source: *SubprocessTransport.get_returncode*.
    pub fn returncode(&self) -> Option<i32> {
        self.0.held.lock().returncode
    }

    /// Sends a signal to the child, by its number; nothing happens to one that has exited.
    ///
    /// Source: *SubprocessTransport.send_signal*.
    ///
    /// # Errors
    /// ESRCH (asyncio: ProcessLookupError) after
    /// [`connection_lost`](SubprocessProtocol::connection_lost); EINVAL for what is no signal;
    /// EPERM for a child that runs as somebody else.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        // The lock keeps the child from being reaped in between.
        let held = self.0.held.lock();
        match (held.phase, held.returncode) {
            (Phase::Lost, _) => Err(Errno::SRCH.into()),
            (_, Some(_)) => Ok(()),
            (_, None) => self.0.child.send_signal(signal),
        }
    }

    /// Asks the child to end: SIGTERM.
    ///
    /// Source: *SubprocessTransport.terminate*.
    ///
    /// # Errors
    /// Those of [`send_signal`](Self::send_signal).
    pub fn terminate(&self) -> io::Result<()> {
        self.send_signal(libc::SIGTERM)
    }

    /// Ends the child: SIGKILL.
    ///
    /// Source: *SubprocessTransport.kill*.
    ///
    /// # Errors
    /// Those of [`send_signal`](Self::send_signal).
    pub fn kill(&self) -> io::Result<()> {
        self.send_signal(libc::SIGKILL)
    }

    /// Closes the pipes, and kills the child if it still runs. The protocol hears of both, then
    /// of [`connection_lost`](SubprocessProtocol::connection_lost).
    ///
    /// Source: *SubprocessTransport.close*.
    pub fn close(&self) {
        let mut held = self.0.held.lock();
        if std::mem::replace(&mut held.closing, true) {
            return;
        }
        let pipes: Vec<Transport> =
            held.pipes.iter().filter_map(Pipe::transport).cloned().collect();
        let runs = held.returncode.is_none() && self.0.child.is_running();
        if runs {
            // EPERM: it runs as somebody else, and goes on.
            let _ = self.0.child.send_signal(libc::SIGKILL);
        }
        drop(held);
        if runs {
            log::debug!(target: "oxloop", "Close running child process: kill {self:?}");
        }
        pipes.iter().for_each(Transport::close);
    }

    /// Whether [`close`](Self::close) was called.
    ///
    /// Source: *BaseTransport.is_closing*.
    pub fn is_closing(&self) -> bool {
        self.0.held.lock().closing
    }

    /// Hands the child over to another protocol, which hears of all that comes from now on.
    /// A callback of the old one that is running completes.
    ///
    /// Source: *BaseTransport.set_protocol*.
    pub fn set_protocol<P: SubprocessProtocol + 'static>(&self, protocol: P) -> ProtocolHandle<P> {
        let handle = ProtocolHandle::of_subprocess(self.0.core.home, protocol);
        let (transport, erased) = (self.clone(), handle.erased_subprocess());
        self.0.core.act(move |_| transport.0.protocol.replace(erased));
        handle
    }

    /// The child's protocol, if it is a `P`; `None` as well once the connection is lost.
    ///
    /// Source: *BaseTransport.get_protocol*.
    pub fn protocol<P: SubprocessProtocol + 'static>(&self) -> Option<ProtocolHandle<P>> {
        self.current_protocol().and_then(ProtocolHandle::from_erased)
    }

    /// The loop of this child; `None` once its last handle is gone.
    pub fn event_loop(&self) -> Option<EventLoop> {
        self.0.core.event_loop()
    }

    /// Takes a child in charge: from here on it is reaped.
    pub(crate) fn new(
        core: &Arc<Core>,
        child: Child,
        protocol: Arc<dyn AnySubprocessProtocol>,
    ) -> SubprocessTransport {
        let held = Held {
            phase: Phase::Open,
            closing: false,
            returncode: None,
            pipes: [Pipe::None, Pipe::None, Pipe::None],
        };
        let protocol = ProtocolSlot::new(Some(protocol));
        let process = Process { core: core.clone(), child, protocol, held: Mutex::new(held) };
        SubprocessTransport(Arc::new(process))
    }

    /// The child, which must not be signalled nor reaped by it.
    pub(crate) fn child(&self) -> Child {
        self.0.child
    }

    /// Connects the pipes, watches for the exit, and queues `connection_made` and `then`. What is
    /// seen of pipes and exit comes in later turns. For the loop's thread.
    pub(crate) fn connect(
        self,
        cx: Cx<'_>,
        streams: [Option<OwnedFd>; 3],
        then: impl FnOnce(io::Result<SubprocessTransport>) + Send + 'static,
    ) {
        let watched = Arc::new(Watched(self));
        let piped = watched.connect_pipes(cx, streams);
        let made = watched.clone();
        let home = cx.core.home;
        cx.core.call_soon(Handle::once(home, move || {
            made.0.call("connection_made", |protocol| protocol.connection_made(&made.0));
        }));
        // Even where the pipes failed: the child has to be reaped.
        let connected = piped.and(watch_exit(watched.clone()));
        let transport = watched.0.clone();
        match connected {
            Ok(()) => _ = cx.core.call_soon(Handle::once(home, move || then(Ok(transport)))),
            Err(error) => {
                transport.let_go();
                transport.close();
                then(Err(error));
            }
        }
    }

    fn flow(&self, flow: Flow) {
        self.current_protocol().inspect(|protocol| protocol.flow(self, flow));
    }

    fn pipe_connected(&self, index: usize, transport: &Transport) {
        let mut held = self.0.held.lock();
        held.pipes[index] = Pipe::Open(transport.clone());
        let closing = held.closing;
        drop(held);
        if closing {
            transport.close();
        }
    }

    fn lose(&self) {
        self.0.held.lock().phase = Phase::Lost;
        self.call("connection_lost", |protocol| protocol.connection_lost(self, None));
        self.let_go();
    }

    /// Lets go of the protocol: nobody is told any more.
    fn let_go(&self) {
        drop(self.0.protocol.take());
    }
}

impl Caller for SubprocessTransport {
    type Protocol = dyn AnySubprocessProtocol;

    fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    fn current_protocol(&self) -> Option<Arc<dyn AnySubprocessProtocol>> {
        self.0.protocol.get()
    }

    fn describe(&self, context: ExceptionContext) -> ExceptionContext {
        context.subprocess(self)
    }
}

/// A child as the loop refers to it: by its pipes, by the watch for its exit, and by what is queued
/// for it. All these end with the loop, and then its protocol is let go.
pub(crate) struct Watched(pub(crate) SubprocessTransport);

impl Watched {
    fn connect_pipes(
        self: &Arc<Watched>,
        cx: Cx<'_>,
        streams: [Option<OwnedFd>; 3],
    ) -> io::Result<()> {
        for (index, (fd, stream)) in (0..).zip(streams).enumerate() {
            let Some(stream) = stream else { continue };
            self.0.0.held.lock().pipes[index] = Pipe::Connecting;
            let end = if fd == 0 { PipeEnd::Write } else { PipeEnd::Read };
            let protocol =
                ProtocolHandle::new(cx.core.home, PipeProtocol { child: self.clone(), fd, index });
            Connection::open_pipe(cx, stream, (PipeKind::Fifo, end), protocol.erased(), |_| {})?;
        }
        Ok(())
    }

    fn pipe_lost(self: &Arc<Watched>, (fd, index): (RawFd, usize), error: Option<Error>) {
        let transport = &self.0;
        let mut held = transport.0.held.lock();
        let pipe = held.pipes[index].transport().cloned();
        held.pipes[index] = pipe.map_or(Pipe::None, Pipe::Lost);
        drop(held);
        transport.call("pipe_connection_lost", |protocol| {
            protocol.pipe_connection_lost(transport, fd, error)
        });
        self.try_finish();
    }

    /// The child has exited: reaps it, and tells the protocol. On the loop's thread.
    pub(crate) fn exited(self: &Arc<Watched>) {
        let transport = &self.0;
        let mut held = transport.0.held.lock();
        let status = transport.0.child.wait();
        held.returncode = match status {
            ChildStatus::Exited(returncode) => Some(returncode),
            ChildStatus::Running | ChildStatus::Unknown => Some(255),
        };
        drop(held);
        if status == ChildStatus::Unknown {
            let pid = transport.pid();
            log::warn!(
                target: "oxloop",
                "child process pid {pid} exit status already read:  will report returncode 255"
            );
        }
        transport.call("process_exited", |protocol| protocol.process_exited(transport));
        self.try_finish();
    }

    /// `connection_lost` comes when the child has exited and all pipes are closed.
    fn try_finish(self: &Arc<Watched>) {
        let Process { core, held, .. } = &*self.0.0;
        let mut held = held.lock();
        let all_lost = held.pipes.iter().all(|pipe| matches!(pipe, Pipe::None | Pipe::Lost(_)));
        if held.phase == Phase::Open && held.returncode.is_some() && all_lost {
            held.phase = Phase::Finishing;
            drop(held);
            let child = self.clone();
            core.call_soon(Handle::once(core.home, move || child.0.lose()));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.held.get_mut().returncode.is_none() {
            forsake(self.child);
        }
    }
}

/// Two transports are equal when they are the same child's.
impl PartialEq for SubprocessTransport {
    fn eq(&self, other: &SubprocessTransport) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SubprocessTransport {}

impl fmt::Debug for SubprocessTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = if self.is_closing() { " closed" } else { "" };
        write!(f, "<SubprocessTransport{closed} pid={}", self.pid())?;
        match self.returncode() {
            Some(returncode) => write!(f, " returncode={returncode}")?,
            None => f.write_str(" running")?,
        }
        for (fd, name) in [(0, "stdin"), (1, "stdout"), (2, "stderr")] {
            if let Some(pipe) = self.pipe_transport(fd) {
                write!(f, " {name}={pipe:?}")?;
            }
        }
        f.write_str(">")
    }
}

/// One pipe of a child, as its stream's protocol.
struct PipeProtocol {
    child: Arc<Watched>,
    fd: RawFd,
    index: usize,
}

impl Protocol for PipeProtocol {
    fn connection_made(&mut self, transport: &Transport) {
        self.child.0.pipe_connected(self.index, transport);
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let transport = &self.child.0;
        transport.call("pipe_data_received", |protocol| {
            protocol.pipe_data_received(transport, self.fd, data)
        });
    }

    fn pause_writing(&mut self, _: &Transport) {
        self.child.0.flow(Flow::Pause);
    }

    fn resume_writing(&mut self, _: &Transport) {
        self.child.0.flow(Flow::Resume);
    }

    fn connection_lost(&mut self, _: &Transport, error: Option<Error>) {
        self.child.pipe_lost((self.fd, self.index), error);
    }
}

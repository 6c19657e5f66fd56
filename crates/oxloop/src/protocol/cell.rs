//! How the engine's `&self` meets a protocol's `&mut self`.
//!
//! A protocol lives in a cell with a re-entrant lock: another thread waits for the callback that
//! runs, and the thread that runs it notices. What the running callback brings about for its own
//! protocol (a pause, by writing) waits in the cell until the callback has returned; a pause and
//! a resume that wait together cancel out.

use super::slot::Caller;
use super::{DatagramProtocol, Protocol, SubprocessProtocol};
use crate::address::Address;
use crate::engine::Received;
use crate::error::Misuse;
use crate::event_loop::core::{Core, Panicked, catch};
use crate::event_loop::owned::{Home, Owned};
use crate::transport::{DatagramTransport, SubprocessTransport, Transport};
use parking_lot::{Mutex, ReentrantMutex};
use std::any::{Any, type_name};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;

thread_local! {
    /// How many protocols the present thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Whether the caller is inside of a protocol: then no loop may be run, as that protocol could
/// not be told of anything.
pub(crate) fn inside_of_protocol() -> bool {
    DEPTH.get() > 0
}

struct Inside(());

impl Inside {
    fn new() -> Inside {
        DEPTH.set(DEPTH.get() + 1);
        Inside(())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// A flow control callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Pause,
    Resume,
}

/// One recv(2) into the memory it is handed.
pub(crate) type Recv<'a> = &'a mut dyn FnMut(&mut [u8]) -> io::Result<usize>;

/// Why a protocol could not be read into.
pub(crate) enum NotReceived {
    /// `get_buffer` panicked.
    GetBuffer(Panicked),
    /// It gave no memory.
    EmptyBuffer,
    /// `buffer_updated` panicked.
    BufferUpdated(Panicked),
}

struct ProtocolCell<P> {
    buffered: bool,
    /// Calls `pause_writing` or `resume_writing`.
    tell: Tell<P>,
    /// What the protocol is to be told of; it may be busy.
    deferred: Mutex<Option<(Flow, Concerned)>>,
    protocol: ReentrantMutex<RefCell<Owned<P>>>,
}

type Tell<P> = fn(&mut P, &Concerned, Flow);

/// Whose flow control it is: who reports that the protocol panicked.
pub(crate) enum Concerned {
    Stream(Transport),
    Datagrams(DatagramTransport),
    Subprocess(SubprocessTransport),
}

impl Concerned {
    fn core(&self) -> &Arc<Core> {
        match self {
            Concerned::Stream(transport) => transport.core(),
            Concerned::Datagrams(transport) => transport.core(),
            Concerned::Subprocess(transport) => transport.core(),
        }
    }

    fn report(&self, message: String, panic: Panicked) {
        match self {
            Concerned::Stream(transport) => transport.report(message, panic),
            Concerned::Datagrams(transport) => transport.report(message, panic),
            Concerned::Subprocess(transport) => transport.report(message, panic),
        }
    }
}

/// What protocols of all kinds and types have in common.
pub(crate) trait Erased: Any + Send + Sync {
    /// The name of the program's type.
    fn type_name(&self) -> &'static str;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<P: Send + 'static> Erased for ProtocolCell<P> {
    fn type_name(&self) -> &'static str {
        type_name::<P>()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// A protocol of any type, as a connection holds it.
pub(crate) trait AnyProtocol: Erased {
    fn connection_made(&self, transport: &Transport) -> Result<(), Panicked>;
    fn data_received(&self, transport: &Transport, data: &[u8]) -> Result<(), Panicked>;
    /// Whether it is read into: `receive` in the place of `data_received`.
    fn is_buffered(&self) -> bool;
    fn receive(
        &self,
        transport: &Transport,
        sizehint: Option<usize>,
        recv: Recv<'_>,
    ) -> Result<Received, NotReceived>;
    fn eof_received(&self, transport: &Transport) -> Result<bool, Panicked>;
    fn connection_lost(
        &self,
        transport: &Transport,
        error: Option<crate::Error>,
    ) -> Result<(), Panicked>;
    /// Pauses or resumes: now, or when the protocol's running callback has returned.
    fn flow(&self, transport: &Transport, flow: Flow);
    /// The loop was closed: nobody is told, and what is held for the connection is let go.
    fn abandoned(&self) {}
}

impl<P: 'static> ProtocolCell<P> {
    fn new(protocol: Owned<P>, buffered: bool, tell: Tell<P>) -> ProtocolCell<P> {
        let protocol = ReentrantMutex::new(RefCell::new(protocol));
        ProtocolCell { buffered, tell, deferred: Mutex::new(None), protocol }
    }

    /// Calls the protocol, then tells it what it has brought about.
    fn enter<R>(&self, f: impl FnOnce(&mut P) -> R) -> Result<thread::Result<R>, Misuse> {
        let result = {
            let cell = self.protocol.lock();
            let mut owned = cell.try_borrow_mut();
            let Some(protocol) = owned.as_mut().ok().and_then(|owned| owned.get_mut()) else {
                return Err(Misuse::ProtocolBusy);
            };
            let _inside = Inside::new();
            catch_unwind(AssertUnwindSafe(|| f(protocol)))
        };
        self.tell_deferred(false);
        Ok(result)
    }

    fn call<R>(&self, f: impl FnOnce(&mut P) -> R) -> Result<R, Panicked> {
        // Busy is out of the question here: nobody runs a loop from inside of a protocol.
        match self.enter(f) {
            Ok(result) => result.map_err(Panicked::new),
            Err(busy) => Err(Panicked(busy.to_string())),
        }
    }

    /// Pauses or resumes: now, or when the protocol's running callback has returned. The loop's
    /// thread waits for a protocol that is busy in another thread. Where nobody runs the loop,
    /// two threads could wait for each other so, each inside of the protocol that the other one
    /// has to tell: there the thread that is inside does it.
    fn flow_of(&self, concerned: Concerned, flow: Flow) {
        let wait = concerned.core().runs_here();
        {
            let mut deferred = self.deferred.lock();
            let both = deferred.take_if(|(waiting, _)| *waiting != flow);
            if both.is_none() {
                *deferred = Some((flow, concerned));
            }
        }
        self.tell_deferred(wait);
    }

    /// Tells the protocol what waits for it, unless it is busy: who is inside calls this when it
    /// has left.
    fn tell_deferred(&self, wait: bool) {
        while self.deferred.lock().is_some() {
            let cell = if wait { Some(self.protocol.lock()) } else { self.protocol.try_lock() };
            let Some(cell) = cell else { return };
            let Ok(mut owned) = cell.try_borrow_mut() else { return };
            let deferred = self.deferred.lock().take();
            let (Some(protocol), Some((flow, concerned))) = (owned.get_mut(), deferred) else {
                return;
            };
            let inside = Inside::new();
            let result = catch(|| (self.tell)(protocol, &concerned, flow));
            drop((inside, owned));
            if let Err(panic) = result {
                let name = match flow {
                    Flow::Pause => "pause_writing",
                    Flow::Resume => "resume_writing",
                };
                concerned.report(format!("protocol.{name}() failed"), panic);
            }
        }
    }
}

impl<P: Protocol + 'static> AnyProtocol for ProtocolCell<P> {
    fn connection_made(&self, transport: &Transport) -> Result<(), Panicked> {
        self.call(|protocol| protocol.connection_made(transport))
    }

    fn data_received(&self, transport: &Transport, data: &[u8]) -> Result<(), Panicked> {
        self.call(|protocol| protocol.data_received(transport, data))
    }

    fn is_buffered(&self) -> bool {
        self.buffered
    }

    fn receive(
        &self,
        transport: &Transport,
        sizehint: Option<usize>,
        recv: Recv<'_>,
    ) -> Result<Received, NotReceived> {
        let mut failed: fn(Panicked) -> NotReceived = NotReceived::GetBuffer;
        let received = self.call(|protocol| {
            let protocol = protocol.as_buffered()?;
            let buffer = protocol.get_buffer(sizehint);
            if buffer.is_empty() {
                return None;
            }
            Some(match recv(buffer) {
                Ok(0) => Received::Eof,
                Ok(nbytes) => {
                    failed = NotReceived::BufferUpdated;
                    protocol.buffer_updated(transport, nbytes);
                    Received::Data(nbytes)
                }
                Err(error) => Received::Failed(error),
            })
        });
        received.map_err(failed)?.ok_or(NotReceived::EmptyBuffer)
    }

    fn eof_received(&self, transport: &Transport) -> Result<bool, Panicked> {
        self.call(|protocol| protocol.eof_received(transport))
    }

    fn connection_lost(
        &self,
        transport: &Transport,
        error: Option<crate::Error>,
    ) -> Result<(), Panicked> {
        self.call(|protocol| protocol.connection_lost(transport, error))
    }

    fn flow(&self, transport: &Transport, flow: Flow) {
        self.flow_of(Concerned::Stream(transport.clone()), flow);
    }
}

/// A kind of protocol whose callbacks give no answer: what holds one of any type, how a handle is
/// made of it, and the boxed ones.
macro_rules! protocols {
    (
        $(#[$doc:meta])*
        $any:ident, $protocol:ident, $concerned:ident($transport:ty), $new:ident, $erased:ident {
            $(fn $name:ident($($argument:ident: $type:ty),*);)*
        }
    ) => {
        $(#[$doc])*
        pub(crate) trait $any: Erased {
            $(fn $name(&self, $($argument: $type),*) -> Result<(), Panicked>;)*
            /// Pauses or resumes: now, or when the protocol's running callback has returned.
            fn flow(&self, transport: &$transport, flow: Flow);
        }

        impl<P: $protocol + 'static> $any for ProtocolCell<P> {
            $(fn $name(&self, $($argument: $type),*) -> Result<(), Panicked> {
                self.call(|protocol| protocol.$name($($argument),*))
            })*

            fn flow(&self, transport: &$transport, flow: Flow) {
                self.flow_of(Concerned::$concerned(transport.clone()), flow);
            }
        }

        impl<P: $protocol + 'static> ProtocolHandle<P> {
            pub(crate) fn $new(home: Home, protocol: P) -> ProtocolHandle<P> {
                let protocol = Owned::new(home, protocol);
                let cell = ProtocolCell::new(protocol, false, |protocol, concerned, flow| {
                    let Concerned::$concerned(transport) = concerned else { return };
                    match flow {
                        Flow::Pause => protocol.pause_writing(transport),
                        Flow::Resume => protocol.resume_writing(transport),
                    }
                });
                ProtocolHandle(Arc::new(cell))
            }

            pub(crate) fn $erased(&self) -> Arc<dyn $any> {
                self.0.clone()
            }
        }

        /// So that one factory can choose between protocols.
        impl<P: $protocol + ?Sized> $protocol for Box<P> {
            $(fn $name(&mut self, $($argument: $type),*) {
                (**self).$name($($argument),*);
            })*

            fn pause_writing(&mut self, transport: &$transport) {
                (**self).pause_writing(transport);
            }

            fn resume_writing(&mut self, transport: &$transport) {
                (**self).resume_writing(transport);
            }
        }
    };
}

protocols! {
    /// A datagram protocol of any type, as an endpoint holds it.
    AnyDatagramProtocol, DatagramProtocol, Datagrams(DatagramTransport),
    of_datagrams, erased_datagrams {
        fn connection_made(transport: &DatagramTransport);
        fn datagram_received(transport: &DatagramTransport, data: &[u8], addr: &Address);
        fn error_received(transport: &DatagramTransport, error: io::Error);
        fn connection_lost(transport: &DatagramTransport, error: Option<crate::Error>);
    }
}

protocols! {
    /// A child process's protocol of any type, as its transport holds it.
    AnySubprocessProtocol, SubprocessProtocol, Subprocess(SubprocessTransport),
    of_subprocess, erased_subprocess {
        fn connection_made(transport: &SubprocessTransport);
        fn pipe_data_received(transport: &SubprocessTransport, fd: RawFd, data: &[u8]);
        fn pipe_connection_lost(
            transport: &SubprocessTransport, fd: RawFd, error: Option<crate::Error>
        );
        fn process_exited(transport: &SubprocessTransport);
        fn connection_lost(transport: &SubprocessTransport, error: Option<crate::Error>);
    }
}

/// A protocol that a connection uses, seen from outside of its callbacks; a clone is the same
/// protocol. It outlives the connection, for a look at what became of it.
///
/// ```
/// # fn main() -> oxloop::Result<()> {
/// use oxloop::{EventLoop, Protocol, Transport};
///
/// #[derive(Default)]
/// struct Counter(usize);
///
/// impl Protocol for Counter {
///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
///         self.0 += data.len();
///     }
/// }
///
/// let event_loop = EventLoop::new()?;
/// let (ours, _theirs) = std::os::unix::net::UnixStream::pair()?;
/// let connecting = event_loop.create_connection(Counter::default, ours);
/// let (_transport, counter) = event_loop.run_until_complete(connecting)??;
/// assert_eq!(counter.with(|counter| counter.0)?, 0);
/// # Ok(())
/// # }
/// ```
pub struct ProtocolHandle<P>(Arc<ProtocolCell<P>>);

impl<P: Protocol + 'static> ProtocolHandle<P> {
    pub(crate) fn new(home: Home, mut protocol: P) -> ProtocolHandle<P> {
        let buffered = protocol.as_buffered().is_some();
        let protocol = Owned::new(home, protocol);
        let cell = ProtocolCell::new(protocol, buffered, |protocol, concerned, flow| {
            let Concerned::Stream(transport) = concerned else { return };
            match flow {
                Flow::Pause => protocol.pause_writing(transport),
                Flow::Resume => protocol.resume_writing(transport),
            }
        });
        ProtocolHandle(Arc::new(cell))
    }

    pub(crate) fn erased(&self) -> Arc<dyn AnyProtocol> {
        self.0.clone()
    }
}

impl<P: Send + 'static> ProtocolHandle<P> {
    /// The handle of a protocol, if it is a `P`.
    pub(crate) fn from_erased(protocol: Arc<impl Erased + ?Sized>) -> Option<ProtocolHandle<P>> {
        protocol.into_any().downcast().ok().map(ProtocolHandle)
    }
}

impl<P: 'static> ProtocolHandle<P> {
    /// Calls `f` with the protocol; another thread waits for the callback that runs. No callback
    /// of the protocol runs meanwhile, so be brief, and wait for nothing that the loop or
    /// another protocol has to do.
    ///
    /// # Errors
    /// [`Misuse::ProtocolBusy`] from inside of the protocol's own callback.
    ///
    /// # Panics
    /// Where `f` does.
    pub fn with<R>(&self, f: impl FnOnce(&mut P) -> R) -> Result<R, Misuse> {
        self.0.enter(f)?.map_or_else(|panic| resume_unwind(panic), Ok)
    }
}

impl<P> Clone for ProtocolHandle<P> {
    fn clone(&self) -> ProtocolHandle<P> {
        ProtocolHandle(self.0.clone())
    }
}

impl<P> fmt::Debug for ProtocolHandle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<ProtocolHandle of {}>", type_name::<P>())
    }
}

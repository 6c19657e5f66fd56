//! What a face supplies: the Rust API and the Python package are the two there are.

use super::SentOther;
use crate::sys::{Accepted, Room};
use crate::transport::gather::Data;
use rustix::net::SocketAddrAny;
use std::io;

/// A face of the engine: the types it queues, and how user code is called.
///
/// The engine never holds its lock while it calls any of these (invariant 8), except
/// [`Callback::is_cancelled`], [`Callback::unschedule`], `clone` and [`Data::keep`], which
/// therefore must not run user code, allocate for a collector, or drop.
pub trait Face: Sized + 'static {
    /// The lock around the engine's state.
    type Lock: lock_api::RawMutex;
    /// How a face finds itself again in a call: what every call is handed.
    type Context<'a>: Copy;
    /// A scheduled call (asyncio's Handle and TimerHandle).
    type Callback: Callback;
    /// A piece of a write queue that is kept without a copy. Dropping it runs no user code.
    type Bytes: AsRef<[u8]>;
    /// Who hears of a stream.
    type Stream: StreamHandler<Self>;
    /// Who hears of a datagram endpoint.
    type Datagrams: DatagramHandler<Self>;
    /// An address that the face alone can send to. Dropping it may run user code.
    type Address;
    /// Who hears of a listening socket.
    type Listener: ListenerHandler<Self>;
    /// Why the loop has to be left at once (KeyboardInterrupt, SystemExit).
    type Leave;
    /// What a queued datagram counts for beside its own bytes.
    const DATAGRAM_HEADER: usize;
    /// How many callbacks that other threads queue a turn takes at most; `usize::MAX` is no bound,
    /// which is asyncio's rule. Without one a flood of them keeps timers and I/O waiting: each turn
    /// runs what came during the one before, and so takes longer than that.
    const POSTS_PER_TURN: usize;

    /// Runs a callback, unless it was cancelled. Ordinary exceptions are the face's to report.
    fn run(cx: Self::Context<'_>, callback: Self::Callback) -> Result<(), Self::Leave>;

    /// Calls `wait`, which may block: whatever others need to go on is released meanwhile.
    fn blocking<R: Send>(cx: Self::Context<'_>, wait: impl FnOnce() -> R + Send) -> R;

    /// Called after each wait: signals that arrived are handled here.
    fn after_wait(cx: Self::Context<'_>) -> Result<(), Self::Leave>;

    /// The time that timers follow, in seconds, where it is not that of the engine's clock.
    fn clock(cx: Self::Context<'_>) -> Result<Option<f64>, Self::Leave>;

    /// The one that goes on of two that leave at once. The other is the face's to tell.
    fn foremost(cx: Self::Context<'_>, first: Self::Leave, later: Self::Leave) -> Self::Leave;

    /// The result of two calls, each of which was made whatever came of the other.
    fn both(
        cx: Self::Context<'_>,
        first: Result<(), Self::Leave>,
        later: Result<(), Self::Leave>,
    ) -> Result<(), Self::Leave> {
        match (first, later) {
            (Err(first), Err(later)) => Err(Self::foremost(cx, first, later)),
            (first, later) => first.and(later),
        }
    }

    /// The selector failed: reported, and the loop goes on.
    fn wait_failed(cx: Self::Context<'_>, error: io::Error) -> Result<(), Self::Leave>;
}

/// A scheduled call. A clone is the same call.
pub trait Callback: Clone {
    /// Whether it was cancelled.
    fn is_cancelled(&self) -> bool;
    /// Its time has come: it left the timers for the ready queue.
    fn unschedule(&self);
}

/// An object that hears of a source. A clone is the same object.
///
/// The engine calls these methods under its lock: they run no user code and allocate nothing for a
/// collector.
pub trait Handler: Clone {
    /// A reference that does not keep the object alive.
    type Unowned;

    /// Such a reference; `None` if the engine has to keep the object alive for as long as the
    /// source is open.
    fn unowned(&self) -> Option<Self::Unowned>;

    /// The handler again, unless its object is gone.
    fn upgrade(unowned: &Self::Unowned) -> Option<Self>;
}

/// What went wrong on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Asking the selector for it, when reading was to start (EPERM for /dev/null).
    Watch,
    /// Reading from the descriptor.
    Read,
    /// Writing to it, in a call of `write`.
    Write,
    /// Sending what was gathered, behind the callback that wrote it.
    Flush,
    /// Writing what was queued, once the descriptor was writable.
    Drain,
}

/// One recv(2) into the memory that it is handed: what has arrived, in that memory.
pub type Recv<'a> = &'a mut dyn for<'m> FnMut(Room<'m>) -> io::Result<&'m mut [u8]>;

/// How a read into a handler's own memory went.
#[derive(Debug)]
pub enum Received {
    /// So many bytes came, and the protocol has them.
    Data(usize),
    /// The end of the stream.
    Eof,
    /// recv(2) failed.
    Failed(io::Error),
    /// There was no buffer; the handler has dealt with it.
    NoBuffer,
}

/// A stream's handler: the buffered-shaped trait into which every protocol is lifted.
///
/// `Err` leaves the loop at once; events not yet dispatched are kept for the next run. All other
/// errors of user code are handled inside, as asyncio does (`_fatal_error`).
pub trait StreamHandler<F: Face>: Handler {
    /// Data arrived in the loop's own buffer.
    fn received(&self, cx: F::Context<'_>, data: &[u8]) -> Result<(), F::Leave>;

    /// Reads into the handler's own memory: it calls `recv` once with its buffer and passes on
    /// what arrived. `hint` is a good size, where the choice is the handler's; 0 says that the
    /// stream is buffered (`set_buffered`), and the protocol supplies the memory.
    fn receive_into(
        &self,
        cx: F::Context<'_>,
        hint: usize,
        recv: Recv<'_>,
    ) -> Result<Received, F::Leave>;

    /// The peer sent the end of stream. True keeps the connection open for writing, false asks
    /// to close it, `None` says that the handler has dealt with it.
    fn eof_received(&self, cx: F::Context<'_>) -> Result<Option<bool>, F::Leave>;

    /// A write pipe's reader has gone; `unsent` where something waits for it still. Force the pipe
    /// closed.
    fn hung_up(&self, cx: F::Context<'_>, unsent: bool) -> Result<(), F::Leave>;

    /// The write buffer is strictly over its high-water mark.
    fn pause_writing(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// The write buffer is at or under its low-water mark.
    fn resume_writing(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// All that was queued before [`hold_writing`](super::Engine::hold_writing) is sent.
    fn drained(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// Writing continues when the descriptor is writable: in the context of this call, or, where
    /// it is a [`Failure::Flush`] that did not send all, in one of the handler's choice.
    fn writing_deferred(&self, cx: F::Context<'_>, noticed: Failure);

    /// A system call failed: report it and force the connection closed.
    fn failed(
        &self,
        cx: F::Context<'_>,
        failure: Failure,
        error: io::Error,
    ) -> Result<(), F::Leave>;

    /// Call [`connection_lost`](Self::connection_lost) in a later turn.
    fn schedule_connection_lost(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// The connection is gone for good: tell the protocol, then release the stream.
    fn connection_lost(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;
}

/// A datagram endpoint's handler.
///
/// `Err` leaves the loop at once; errors of user code are handled inside, and the endpoint goes on.
pub trait DatagramHandler<F: Face>: Handler {
    /// A datagram arrived, from whom the system says; it may be empty.
    fn datagram_received(
        &self,
        cx: F::Context<'_>,
        data: &[u8],
        from: Option<&SocketAddrAny>,
    ) -> Result<(), F::Leave>;

    /// Receives one datagram itself, where the address is of a family that only the face knows.
    /// False where there is none.
    fn receive_other(&self, cx: F::Context<'_>) -> Result<bool, F::Leave>;

    /// Sends a queued datagram itself, to an address that only the face knows.
    fn send_other(
        &self,
        cx: F::Context<'_>,
        data: &[u8],
        to: &F::Address,
    ) -> Result<SentOther, F::Leave>;

    /// A system call failed: [`Failure::Watch`], [`Failure::Read`] or [`Failure::Drain`].
    fn error_received(
        &self,
        cx: F::Context<'_>,
        failure: Failure,
        error: io::Error,
    ) -> Result<(), F::Leave>;

    /// The queue is strictly over the high-water mark.
    fn pause_writing(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// The queue is at or under the low-water mark.
    fn resume_writing(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// Sending continues when the descriptor is writable: in the context of this call.
    fn writing_deferred(&self, cx: F::Context<'_>);

    /// Call [`connection_lost`](Self::connection_lost) in a later turn.
    fn schedule_connection_lost(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;

    /// The endpoint is gone for good: tell the protocol, then release the endpoint.
    fn connection_lost(&self, cx: F::Context<'_>) -> Result<(), F::Leave>;
}

/// A listening socket's handler.
pub trait ListenerHandler<F: Face>: Clone {
    /// A connection was taken, one turn ago: make the transport.
    fn connected(&self, cx: F::Context<'_>, accepted: Accepted) -> Result<(), F::Leave>;

    /// No descriptor or memory is left (EMFILE, ENFILE, ENOBUFS, ENOMEM); accepting stops for a
    /// second.
    fn out_of_resources(&self, cx: F::Context<'_>, error: io::Error) -> Result<(), F::Leave>;

    /// accept(2) failed otherwise; the server goes on.
    fn accept_failed(&self, cx: F::Context<'_>, error: io::Error) -> Result<(), F::Leave>;
}

/// Plain bytes are written by copying them.
impl<B> Data<B> for [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
    fn keep(&self) -> Option<B> {
        None
    }
}

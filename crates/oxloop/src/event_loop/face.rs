//! The engine's Rust face: what its callbacks are, and how they are called.

use super::core::Core;
use super::errors::ExceptionContext;
use super::handle::Handle;
use super::owned::Owned;
use super::running::MainFuture;
use crate::engine;
use crate::server::Acceptor;
use crate::transport::datagram::DatagramCell;
use crate::transport::stream::StreamCell;
use bytes::Bytes;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

/// Rust closures, futures and protocol objects on the engine.
pub(crate) struct RustFace;

/// What each call of the engine is handed: the loop, and the future that this run is for. The
/// future stays on the stack of `run_until_complete`; hence it needs to be neither Send nor
/// 'static.
#[derive(Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(super) main: Option<&'a dyn MainFuture>,
}

/// An entry of the ready queue.
#[derive(Clone)]
pub(crate) enum Callback {
    /// A user's callback or one of ours.
    Call(Handle),
    /// Poll the future of the run that has this number.
    Main(u64),
    /// The future of the run that has this number is done.
    Done(u64),
    /// `stop()` from another thread.
    Stop,
    /// Look again: something changed while nobody ran the loop.
    Nudge,
    /// Tell the exception handler of drops that have panicked.
    Dropped,
}

impl Callback {
    /// Nobody waits for it any more: lets go of a user's callback.
    pub(super) fn cancel(&self) {
        if let Callback::Call(handle) = self {
            handle.cancel();
        }
    }
}

impl engine::Callback for Callback {
    fn is_cancelled(&self) -> bool {
        match self {
            Callback::Call(handle) => handle.cancelled(),
            _ => false,
        }
    }

    fn unschedule(&self) {
        if let Callback::Call(handle) = self {
            handle.unschedule();
        }
    }
}

impl engine::Face for RustFace {
    type Lock = parking_lot::RawMutex;
    type Context<'a> = Cx<'a>;
    type Callback = Callback;
    type Bytes = Owned<Bytes>;
    type Stream = StreamCell;
    type Datagrams = DatagramCell;
    /// All families that this face knows are the system's.
    type Address = Infallible;
    type Listener = Acceptor;
    /// Panics are caught: nothing leaves the loop but `stop()`.
    type Leave = Infallible;
    /// asyncio's, from Python 3.13 on.
    const DATAGRAM_HEADER: usize = 8;
    /// With callbacks of a microsecond a flood costs a turn a quarter of a millisecond.
    const POSTS_PER_TURN: usize = 256;

    fn run(cx: Cx<'_>, callback: Callback) -> Result<(), Infallible> {
        cx.core.do_urgent();
        match callback {
            Callback::Call(handle) => handle.run(cx.core),
            Callback::Main(run) => cx.main.into_iter().for_each(|main| main.poll(cx.core, run)),
            Callback::Done(run) => {
                if cx.main.is_some_and(|main| main.run() == run) {
                    let Ok(()) = cx.core.engine.stop(cx);
                }
            }
            Callback::Stop => {
                let Ok(()) = cx.core.engine.stop(cx);
            }
            Callback::Nudge => {}
            Callback::Dropped => cx.core.report_dropped(),
        }
        Ok(())
    }

    fn blocking<R: Send>(_: Cx<'_>, wait: impl FnOnce() -> R + Send) -> R {
        wait()
    }

    fn after_wait(_: Cx<'_>) -> Result<(), Infallible> {
        Ok(())
    }

    fn clock(_: Cx<'_>) -> Result<Option<f64>, Infallible> {
        Ok(None)
    }

    fn foremost(_: Cx<'_>, first: Infallible, _: Infallible) -> Infallible {
        first
    }

    fn wait_failed(cx: Cx<'_>, error: io::Error) -> Result<(), Infallible> {
        cx.core.report(ExceptionContext::new("Waiting for events failed").error(error));
        Ok(())
    }
}

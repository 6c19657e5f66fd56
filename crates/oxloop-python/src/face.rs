//! The Python face of the engine: what it queues, and how it calls Python.

use crate::event_loop::BaseLoop;
use crate::ffi::bytes::KeptBytes;
use crate::ffi::calls::check_signals;
use crate::ffi::lock::StateLock;
use crate::handle::PyHandle;
use crate::server::ListenerRef;
use crate::transport::TransportRef;
use crate::transport::datagram::DatagramRef;
use oxloop::engine::Face;
use pyo3::prelude::*;
use std::io;

/// How Python uses the engine. Every call carries the loop, and with it the proof that the
/// thread is attached to the interpreter.
pub(crate) struct PyFace;

impl Face for PyFace {
    type Lock = StateLock;
    type Context<'a> = &'a Bound<'a, BaseLoop>;
    type Callback = PyHandle;
    type Bytes = KeptBytes;
    type Stream = TransportRef;
    type Datagrams = DatagramRef;
    /// What `socket.sendto` takes, or `None` for `socket.send`.
    type Address = Option<Py<PyAny>>;
    type Listener = ListenerRef;
    type Leave = PyErr;
    const DATAGRAM_HEADER: usize = if cfg!(Py_3_13) { 8 } else { 0 };
    const POSTS_PER_TURN: usize = usize::MAX;

    #[inline]
    fn run(event_loop: &Bound<'_, BaseLoop>, callback: PyHandle) -> PyResult<()> {
        callback.run(event_loop)
    }

    /// The only place where the interpreter is released.
    fn blocking<R: Send>(event_loop: &Bound<'_, BaseLoop>, wait: impl FnOnce() -> R + Send) -> R {
        event_loop.py().detach(wait)
    }

    #[inline]
    fn after_wait(event_loop: &Bound<'_, BaseLoop>) -> PyResult<()> {
        check_signals(event_loop.py())
    }

    #[inline]
    fn clock(event_loop: &Bound<'_, BaseLoop>) -> PyResult<Option<f64>> {
        BaseLoop::own_clock(event_loop)
    }

    fn foremost(event_loop: &Bound<'_, BaseLoop>, first: PyErr, later: PyErr) -> PyErr {
        crate::error::foremost(event_loop.py(), first, later)
    }

    /// asyncio's run_forever lets the selector's OSError out.
    fn wait_failed(event_loop: &Bound<'_, BaseLoop>, error: io::Error) -> PyResult<()> {
        Err(crate::error::os_error(event_loop.py(), &error))
    }
}

//! `BaseLoop`: the native base of `oxloop.Loop`. What runs for each callback or packet is here;
//! what runs for each connection or loop is Python (`python/oxloop/`).

mod connections;
pub(crate) mod scheduling;
mod servers;
pub(crate) mod sockets;
mod watchers;

use crate::face::PyFace;
use crate::ffi::calls;
use crate::ffi::handle::RawHandle;
use crate::ffi::handle_types;
use crate::ffi::objects::{Float, Int, Message, interned};
use crate::guard::Guard;
use crate::server::ListenerRef;
use crate::tls::{self, SslProtocol, make_ssl_protocol};
use crate::transport::datagram::DatagramRef;
use crate::transport::pipe::{self, PipeRef};
use crate::transport::stream::StreamRef;
use oxloop::engine::{Engine, PipeEnd, Referent};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Debug mode is on.
const DEBUG: u8 = 1;
/// `_run` is not going on.
const IDLE: u8 = 2;
/// `_close` was called.
const CLOSED: u8 = 4;
/// A handle runs that the program sees: debug mode, or somebody has replaced `Handle._run`.
const SHOWN: u8 = 128;

/// A native method that the loop itself calls, and that a subclass or the program may replace: its
/// flag says that it has.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum OwnMethod {
    Time = 8,
    CallAt = 16,
    CallSoon = 32,
    CreateFuture = 64,
}

/// An event loop's native part: scheduling, transports, servers, descriptors.
#[pyclass(subclass, frozen, module = "oxloop._oxloop")]
pub(crate) struct BaseLoop {
    pub(crate) engine: Engine<PyFace>,
    /// All that scheduling has to look at, in one byte: 0 is the usual state, nothing to check.
    flags: AtomicU8,
    /// The thread that runs the loop; 0 while it does not run.
    thread: AtomicU64,
    /// Which thread-safe handle runs.
    pub(crate) guard: Guard,
}

impl BaseLoop {
    #[inline]
    pub(crate) fn is_debug(&self) -> bool {
        self.is(DEBUG)
    }

    /// Whether the program sees the handle that runs.
    #[inline]
    pub(crate) fn is_shown(&self) -> bool {
        self.is(SHOWN)
    }

    pub(crate) fn set_shown(&self, on: bool) {
        self.set(SHOWN, on);
    }

    /// Whether the loop runs, open and not in debug mode.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0
    }

    #[inline]
    fn is(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Whether the program has a method of its own in the place of the native one.
    #[inline]
    pub(crate) fn has_own(&self, method: OwnMethod) -> bool {
        self.is(method as u8)
    }

    /// What a `time()` that replaces the native one says, seconds.
    #[inline]
    pub(crate) fn own_clock(slf: &Bound<'_, BaseLoop>) -> PyResult<Option<f64>> {
        if !slf.get().has_own(OwnMethod::Time) {
            return Ok(None);
        }
        let py = slf.py();
        calls::method(slf.as_any(), interned!(py, "time")?, [])?.extract().map(Some)
    }

    fn set(&self, flag: u8, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed);
        }
    }

    /// Shows a new handle to the collector, unless the loop runs, and so keeps it alive.
    #[inline]
    pub(crate) fn track_if_idle(&self, handle: &RawHandle) {
        if self.is(IDLE) {
            handle.track();
        }
    }

    /// RuntimeError in a child of the process that made the loop.
    fn check_process(&self) -> PyResult<()> {
        if self.engine.is_forked() {
            let message = "the event loop was made by the parent process: \
                           after fork, make a new one";
            return Err(PyRuntimeError::new_err(Message(message)));
        }
        Ok(())
    }

    /// The thread that runs the loop.
    pub(crate) fn thread_id(&self) -> Option<u64> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread != 0)
    }

    /// RuntimeError once the loop is closed.
    #[inline]
    pub(crate) fn check_closed(&self) -> PyResult<()> {
        if self.is(CLOSED) {
            return Err(PyRuntimeError::new_err(Message("Event loop is closed")));
        }
        Ok(())
    }
}

/// `_run` is going on; ends however that ends.
struct Running<'a>(&'a BaseLoop);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(IDLE, true);
        // From here on the loop may become garbage: the collector has to see what is queued.
        self.0.engine.each_queued(|handle| handle.0.track());
    }
}

/// The table of contents; the bodies are in a file for each section.
#[pymethods]
impl BaseLoop {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<BaseLoop> {
        let engine = Engine::new().map_err(|error| crate::error::os_error(py, &error))?;
        Ok(BaseLoop {
            engine,
            flags: AtomicU8::new(IDLE),
            thread: AtomicU64::new(0),
            guard: Guard::default(),
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.engine.visit(|referent| match referent {
            Referent::Callback(handle) => visit.call(handle.0.as_py()),
            Referent::Stream(transport) => transport.traverse(&visit),
            Referent::Endpoint(DatagramRef(transport)) => visit.call(transport),
            Referent::Address(address) => visit.call(address),
            Referent::Listener(ListenerRef(listener)) => visit.call(listener),
        })
    }

    fn __clear__(&self) {
        self._close();
    }

    // Running and stopping

    /// Runs turns until `stop()`; the core of run_forever.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let base = slf.get();
        base.check_closed()?;
        base.check_process()?;
        base.set(IDLE, false);
        let running = Running(base);
        let result = base.engine.run(slf);
        drop(running);
        result.and_then(|()| base.check_process())
    }

    /// Stops the loop once the present turn is complete.
    fn stop(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().engine.stop(slf)
    }

    /// Whether `close()` was called.
    fn is_closed(&self) -> bool {
        self.engine.is_closed()
    }

    /// Whether the present turn is the run's last.
    #[getter]
    fn _stopping(&self) -> bool {
        self.engine.is_stopping()
    }

    /// Servers assign to it, Sanic for one, to run the loop once more after a stop.
    #[setter(_stopping)]
    fn set_stopping(slf: &Bound<'_, Self>, stopping: &Bound<'_, PyAny>) -> PyResult<()> {
        if stopping.is_truthy()? {
            return Self::stop(slf);
        }
        slf.get().engine.cancel_stop();
        Ok(())
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.is_closed()
    }

    fn _check_closed(&self) -> PyResult<()> {
        self.check_closed()
    }

    /// Lets go of all that is queued, scheduled, watched and listening.
    fn _close(&self) {
        self.set(CLOSED, true);
        self.engine.close(drop);
    }

    #[getter]
    fn _thread_id(&self) -> Option<Int<u64>> {
        self.thread_id().map(Int)
    }

    #[setter(_thread_id)]
    fn set_thread_id(&self, thread: Option<u64>) {
        self.thread.store(thread.unwrap_or(0), Ordering::Relaxed);
    }

    /// Makes `thread` the one that runs the loop; false if the loop runs already.
    fn _enter_run(&self, thread: u64) -> bool {
        let (before, now) = (Ordering::Acquire, Ordering::Relaxed);
        self.thread.compare_exchange(0, thread, before, now).is_ok()
    }

    /// No thread runs the loop any more. Needs no memory, as an assignment to `_thread_id` may.
    fn _leave_run(&self) {
        self.thread.store(0, Ordering::Release);
    }

    /// Whether debug mode is on.
    fn get_debug(&self) -> bool {
        self.is_debug()
    }

    #[getter]
    fn _debug(&self) -> bool {
        self.is_debug()
    }

    #[setter(_debug)]
    fn set_debug(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(DEBUG, enabled.is_truthy()?);
        Ok(())
    }

    // Scheduling callbacks

    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon(
        slf: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        scheduling::call_soon(slf, callback, args, context)
    }

    #[pyo3(signature = (callback, *args, context = None))]
    fn call_soon_threadsafe(
        slf: &Bound<'_, Self>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        scheduling::call_soon_threadsafe(slf, callback, args, context)
    }

    #[pyo3(signature = (delay, callback, *args, context = None))]
    fn call_later(
        slf: &Bound<'_, Self>,
        delay: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        scheduling::call_later(slf, delay, callback, args, context)
    }

    #[pyo3(signature = (when, callback, *args, context = None))]
    fn call_at(
        slf: &Bound<'_, Self>,
        when: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        scheduling::call_at(slf, when, callback, args, context)
    }

    /// The loop's clock: seconds, monotonic.
    fn time(&self) -> Float {
        Float(self.engine.time())
    }

    /// Says which of these methods the program has replaced: the loop calls those.
    fn _set_own_methods(&self, time: bool, call_at: bool, call_soon: bool, create_future: bool) {
        for (method, own) in [
            (OwnMethod::Time, time),
            (OwnMethod::CallAt, call_at),
            (OwnMethod::CallSoon, call_soon),
            (OwnMethod::CreateFuture, create_future),
        ] {
            self.set(method as u8, own);
        }
    }

    /// Counts a scheduled timer as cancelled (asyncio's TimerHandle calls it).
    fn _timer_handle_cancelled(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        if handle_types::is_cancelled_timer(handle)? {
            self.engine.timer_cancelled();
        }
        Ok(())
    }

    /// A new future of this loop.
    fn create_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        scheduling::create_future(slf)
    }

    // Watching file descriptors

    #[pyo3(signature = (fd, callback, *args))]
    fn _add_reader(
        slf: &Bound<'_, Self>,
        fd: i32,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        watchers::add(slf, fd, oxloop::engine::Side::Read, callback, args)
    }

    #[pyo3(signature = (fd, callback, *args))]
    fn _add_writer(
        slf: &Bound<'_, Self>,
        fd: i32,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        watchers::add(slf, fd, oxloop::engine::Side::Write, callback, args)
    }

    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watchers::remove(slf, fd, oxloop::engine::Side::Read)
    }

    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watchers::remove(slf, fd, oxloop::engine::Side::Write)
    }

    fn _transport_of(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        Ok(watchers::number(fd)?.and_then(|fd| watchers::transport_of(slf, fd)))
    }

    // Working with socket objects directly

    #[staticmethod]
    fn _recv_now<'py>(
        sock: &Bound<'py, PyAny>,
        n: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        sockets::recv_now(sock, n)
    }

    fn _wait_readable<'py>(slf: &Bound<'py, Self>, fd: i32) -> PyResult<Bound<'py, PyAny>> {
        sockets::wait_ready(slf, fd, oxloop::engine::Side::Read)
    }

    fn _wait_writable<'py>(slf: &Bound<'py, Self>, fd: i32) -> PyResult<Bound<'py, PyAny>> {
        sockets::wait_ready(slf, fd, oxloop::engine::Side::Write)
    }

    fn _readable_ended(slf: &Bound<'_, Self>, fd: i32, future: &Bound<'_, PyAny>) -> PyResult<()> {
        sockets::wait_ended(slf, fd, oxloop::engine::Side::Read, future)
    }

    fn _writable_ended(slf: &Bound<'_, Self>, fd: i32, future: &Bound<'_, PyAny>) -> PyResult<()> {
        sockets::wait_ended(slf, fd, oxloop::engine::Side::Write, future)
    }

    #[staticmethod]
    fn _send_now(sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<Int<usize>> {
        sockets::send_now(sock, data).map(Int)
    }

    // Connections and servers

    #[pyo3(signature = (sock, protocol, waiter = None, *, extra = None, server = None))]
    fn _make_socket_transport(
        slf: &Bound<'_, Self>,
        sock: Bound<'_, PyAny>,
        protocol: Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyAny>>,
        server: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<StreamRef> {
        connections::make_socket_transport(slf, sock, protocol, waiter, extra, server)
    }

    #[pyo3(signature = (
        app_protocol, sslcontext, session, waiter, timeouts, call_connection_made = true
    ))]
    fn _make_native_ssl_protocol<'py>(
        slf: &Bound<'py, Self>,
        app_protocol: &Bound<'py, PyAny>,
        sslcontext: Bound<'py, PyAny>,
        session: (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>),
        waiter: Option<Bound<'py, PyAny>>,
        timeouts: (Bound<'py, PyAny>, Bound<'py, PyAny>),
        call_connection_made: bool,
    ) -> PyResult<Bound<'py, SslProtocol>> {
        let (sslobj, incoming, outgoing) = session;
        let session = tls::Session { sslcontext, sslobj, incoming, outgoing };
        make_ssl_protocol(slf, app_protocol, session, waiter, timeouts, call_connection_made)
    }

    #[pyo3(signature = (pipe, protocol, waiter = None, extra = None))]
    fn _make_read_pipe_transport(
        slf: &Bound<'_, Self>,
        pipe: Bound<'_, PyAny>,
        protocol: Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PipeRef> {
        pipe::open(slf, PipeEnd::Read, pipe, protocol, waiter, extra)
    }

    #[pyo3(signature = (pipe, protocol, waiter = None, extra = None))]
    fn _make_write_pipe_transport(
        slf: &Bound<'_, Self>,
        pipe: Bound<'_, PyAny>,
        protocol: Bound<'_, PyAny>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<PipeRef> {
        pipe::open(slf, PipeEnd::Write, pipe, protocol, waiter, extra)
    }

    fn _let_pipe_grow(&self, fd: i32) {
        self.engine.let_pipe_grow(fd);
    }

    #[pyo3(signature = (sock, protocol, address = None, waiter = None, extra = None))]
    fn _make_datagram_transport(
        slf: &Bound<'_, Self>,
        sock: Bound<'_, PyAny>,
        protocol: Bound<'_, PyAny>,
        address: Option<Bound<'_, PyAny>>,
        waiter: Option<&Bound<'_, PyAny>>,
        extra: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<DatagramRef> {
        connections::make_datagram_transport(slf, sock, protocol, address, waiter, extra)
    }

    #[pyo3(signature = (protocol_factory, sock, server, backlog, secure = None))]
    fn _start_serving(
        slf: &Bound<'_, Self>,
        protocol_factory: Bound<'_, PyAny>,
        sock: Bound<'_, PyAny>,
        server: Option<Bound<'_, PyAny>>,
        backlog: i32,
        secure: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        servers::start_serving(slf, protocol_factory, sock, server, backlog, secure)
    }

    fn _transports_of<'py>(
        slf: &Bound<'py, Self>,
        server: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        servers::transports_of(slf, server)
    }

    fn _stop_serving(slf: &Bound<'_, Self>, sock: &Bound<'_, PyAny>) -> PyResult<()> {
        servers::stop_serving(slf, sock)
    }
}

//! `StreamTransport`: asyncio.Transport over a stream socket.

use super::callbacks::WRITE_FAILED;
use super::common::{
    LateWrites, SEND_RAISED, SOURCE_TRACEBACK, debug, described, limits, reading_resumed,
    start_reading_soon, wake_soon,
};
use super::handler::TransportRef;
use super::{extra_info, sendfile};
use crate::address::Address;
use crate::error::{finally, memory_error, os_error, unraisable};
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::{present_stack, queue};
use crate::face::PyFace;
use crate::ffi::base_types::{self, TransportBase};
use crate::ffi::bytes::{BytesData, bytes_of, check_dimensions, is_bytes_like};
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Int, Message, Pair, Text, interned};
use crate::ffi::references::{at_dealloc, clone_attached};
use crate::ffi::unowned::Unowned;
use crate::ffi::{calls, context};
use crate::imports::imports;
use crate::tls::SslProtocol;
use lock_api::Mutex;
use oxloop::engine::{DEFAULT_HIGH, Descriptor, Engine, Handler, StreamInfo, Token, Written};
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

/// A TCP connection. Made by the loop; see asyncio's *Transports*.
#[pyclass(frozen, dict, weakref, extends = TransportBase, module = "oxloop._oxloop")]
pub(crate) struct StreamTransport {
    event_loop: Py<BaseLoop>,
    pub(crate) token: Token,
    /// The descriptor's number, for the repr, which asyncio's keeps after the close.
    number: i32,
    pub(super) peer: Option<Address>,
    late_writes: LateWrites,
    pub(super) parts: Mutex<StateLock, Parts>,
}

/// Since Python 3.15 a connection of a socket has one context for all callbacks, that in which its
/// transport was made; before, each has a copy of that in which it was asked for.
pub(super) const ONE_CONTEXT: bool = cfg!(Py_3_15);

/// The Python objects of a transport: this object owns and visits them.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) protocol: Option<Py<PyAny>>,
    /// Where `data_received` runs: a copy made when reading was started or resumed, or the one.
    pub(super) read_context: Option<Py<PyAny>>,
    /// Where `resume_writing` runs: a copy made when writing was deferred, or the one.
    pub(super) write_context: Option<Py<PyAny>>,
    pub(super) server: Option<Py<PyAny>>,
    /// The TransportSocket, once there is one; its socket closes the descriptor. Of a pipe: the
    /// object that was handed in, which closes it.
    pub(super) socket: Option<Py<PyAny>>,
    /// The socket's own name, kept when the descriptor is closed.
    pub(super) sockname: Option<Box<Address>>,
    /// Whom `loop.sendfile` waits for: the end of what was written before, then the socket.
    pub(super) waiter: Option<Py<PyAny>>,
}

/// Shows the parts to the collector; nothing while in use, which keeps everything alive.
pub(super) fn traverse(
    parts: &Mutex<StateLock, Parts>,
    visit: PyVisit<'_>,
) -> Result<(), PyTraverseError> {
    let Some(parts) = parts.try_lock() else { return Ok(()) };
    visit.call(&parts.protocol)?;
    visit.call(&parts.read_context)?;
    visit.call(&parts.write_context)?;
    visit.call(&parts.server)?;
    visit.call(&parts.socket)?;
    visit.call(&parts.waiter)
}

/// Where a transport comes from.
pub(crate) struct Origin<'py> {
    pub(crate) descriptor: Descriptor,
    /// The socket.socket that owns a lent descriptor.
    pub(crate) socket: Option<Bound<'py, PyAny>>,
    pub(crate) peer: Option<Address>,
    pub(crate) server: Option<Bound<'py, PyAny>>,
    /// The context of the connection's callbacks.
    pub(crate) context: Py<PyAny>,
}

/// Makes the transport of a connected socket, and schedules `connection_made`, then the start of
/// reading, then the waiter's wake-up: asyncio's order.
pub(crate) fn open(
    event_loop: &Bound<'_, BaseLoop>,
    protocol: Bound<'_, PyAny>,
    origin: Origin<'_>,
    waiter: Option<&Bound<'_, PyAny>>,
) -> PyResult<StreamRef> {
    let py = event_loop.py();
    let engine = &event_loop.get().engine;
    let mut socket = None;
    if let Some(sock) = &origin.socket {
        calls::function(imports(py)?.set_nodelay.bind(py), [sock])?;
        socket = Some(extra_info::transport_socket(sock)?.unbind());
    }
    let peer = origin.peer.or_else(|| {
        let address = rustix::net::getpeername(origin.descriptor.borrow()?).ok()?;
        Address::new(&address?)
    });
    let names = match &origin.socket {
        Some(sock) if peer.is_none() => Some(extra_info::names_of(sock)?),
        _ => None,
    };
    let connection_made = protocol.getattr(interned!(py, "connection_made")?)?;
    let buffered = reads_itself(&protocol)?;
    let (first_context, write_context) = if ONE_CONTEXT {
        (origin.context.clone_ref(py), Some(origin.context.clone_ref(py)))
    } else {
        (context::copy(origin.context.bind(py))?, None)
    };
    let number = origin.descriptor.raw();
    let token = engine.add_stream(origin.descriptor).map_err(memory_error)?;
    let parts = Parts {
        protocol: Some(protocol.unbind()),
        read_context: Some(origin.context),
        write_context,
        socket,
        ..Parts::default()
    };
    let transport = StreamTransport {
        event_loop: event_loop.clone().unbind(),
        token,
        number,
        peer,
        late_writes: LateWrites::new(1),
        parts: Mutex::new(parts),
    };
    let transport = base_types::new(py, PyClassInitializer::from(transport))?;
    if let Some(sock) = &origin.socket {
        extra_info::hold(sock)?;
    }
    if let Some(server) = origin.server {
        if let Err(error) = extra_info::attach(&server, &transport) {
            // The server was closed meanwhile: the connection is, too.
            return finally(py, Err(error), || transport.get().discard(py));
        }
        // It counts as the server's only from now on: its end is told to the server.
        transport.get().parts.lock().server = Some(server.unbind());
    }
    if let Some(names) = names {
        transport.setattr(Text("_extra"), names)?;
    }
    engine.set_handler(token, TransportRef::Stream(StreamRef(transport.clone().unbind())));
    engine.set_buffered(token, buffered);
    let begin = || {
        if event_loop.get().is_debug() {
            transport.setattr(SOURCE_TRACEBACK, present_stack(py)?)?;
        }
        engine.reserve_soon(3).map_err(memory_error)?;
        let args = objects::tuple(py, [&transport])?;
        queue(event_loop, &connection_made, args, first_context)?;
        start_reading_soon(event_loop, token)?;
        wake_soon(event_loop, waiter)
    };
    match begin() {
        Ok(()) => Ok(StreamRef(transport.unbind())),
        Err(error) => finally(py, Err(error), || transport.get().discard(py)),
    }
}

/// Whether data is read into the protocol's memory: a BufferedProtocol's, or TLS's own.
fn reads_itself(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    match protocol.cast_exact::<SslProtocol>() {
        Ok(tls) => Ok(tls.get().wire().is_some()),
        Err(_) => is_buffered(protocol),
    }
}

/// Whether a protocol is read into by its own buffer.
pub(crate) fn is_buffered(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = protocol.py();
    let class = CLASS.get_or_try_init(py, || {
        PyResult::Ok(py.import(Text("asyncio"))?.getattr(Text("BufferedProtocol"))?.unbind())
    })?;
    protocol.is_instance(class.bind(py))
}

impl StreamTransport {
    pub(super) fn engine(&self) -> &Engine<PyFace> {
        &self.event_loop.get().engine
    }

    /// Whether it is a connection of that loop.
    pub(crate) fn is_of(&self, event_loop: &Py<BaseLoop>) -> bool {
        self.event_loop.is(event_loop)
    }

    /// Whether it is a client's connection of that server.
    pub(crate) fn came_through(&self, server: &Bound<'_, PyAny>) -> bool {
        self.parts.lock().server.as_ref().is_some_and(|own| own.is(server))
    }

    pub(super) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLoop> {
        self.event_loop.bind(py)
    }

    pub(super) fn info(&self) -> StreamInfo {
        self.engine().stream_info(self.token).unwrap_or(StreamInfo::LOST)
    }

    pub(super) fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.engine().flush_stream(self.event_loop(py), self.token)
    }

    /// A write that came too late is dropped; many of them are told.
    pub(super) fn note_late_write(&self, py: Python<'_>) -> PyResult<()> {
        self.late_writes.note(py, SEND_RAISED)
    }

    pub(crate) fn written(&self, py: Python<'_>, written: Written, method: &str) -> PyResult<()> {
        match written {
            Written::Taken => Ok(()),
            Written::Lost => self.note_late_write(py),
            Written::Closed => self.event_loop(py).get().check_closed(),
            Written::NoMemory => Err(PyMemoryError::new_err(())),
            Written::Held => {
                let message = format!("unable to {method}; sendfile is in progress");
                Err(PyRuntimeError::new_err(Message(message)))
            }
            Written::AfterEof => {
                let message = format!("Cannot call {method}() after write_eof()");
                Err(PyRuntimeError::new_err(Message(message)))
            }
        }
    }
}

#[pymethods]
impl StreamTransport {
    #[classattr]
    #[pyo3(name = "_start_tls_compatible")]
    const START_TLS_COMPATIBLE: bool = true;

    /// Bytes that asyncio receives at a time.
    #[classattr]
    #[pyo3(name = "max_size")]
    const MAX_SIZE: usize = 256 * 1024;

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        traverse(&self.parts, visit)
    }

    fn __clear__(&self) {
        let parts = std::mem::take(&mut *self.parts.lock());
        drop(parts);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<Text<String>> {
        let this = slf.get();
        this.flush(slf.py())?;
        Ok(Text(this.describe(slf.get_type().name()?.to_str()?)))
    }

    /// Writes bytes, bytearray or memoryview; never blocks.
    pub(super) fn write(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let (engine, cx) = (this.engine(), this.event_loop(py));
        let written = if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            engine.write(cx, this.token, &BytesData(bytes))?
        } else {
            match copied(data)? {
                Ok(bytes) => engine.write(cx, this.token, &BytesData(&bytes))?,
                Err(error) => return this.refuse(slf, error),
            }
        };
        match written {
            Written::Taken => Ok(()),
            written => this.written(py, written, "write"),
        }
    }

    /// Writes each item of an iterable, in one send where possible.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        extra_info::writelines(slf, list_of_data)
    }

    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let shut = this.engine().write_eof(this.event_loop(slf.py()), this.token)?;
        shut.map_err(|error| os_error(slf.py(), &error))
    }

    fn can_write_eof(&self) -> bool {
        true
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let event_loop = this.event_loop(slf.py());
        let was_open = !this.info().closing;
        this.engine().close_stream(event_loop, this.token)?;
        // On a closed loop nobody will call connection_lost.
        if was_open { event_loop.get().check_closed() } else { Ok(()) }
    }

    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().flush(slf.py())?;
        Self::force_close(slf, None)
    }

    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        self.engine().flush_if_broken(self.event_loop(py), self.token)?;
        Ok(self.info().closing)
    }

    fn is_reading(&self) -> bool {
        self.info().reading
    }

    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.engine().pause_reading(this.token) {
            debug(this.event_loop(slf.py()), slf, "%r pauses reading")?;
        }
        Ok(())
    }

    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if this.engine().resume_reading(this.token) {
            reading_resumed(this.event_loop(py), slf, |context| {
                let mut parts = this.parts.lock();
                if ONE_CONTEXT { None } else { parts.read_context.replace(context) }
            })?;
        }
        Ok(())
    }

    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<Int<usize>> {
        self.flush(py)?;
        Ok(Int(self.engine().write_buffer_size(self.token)))
    }

    /// `(low, high)`, bytes.
    fn get_write_buffer_limits(&self) -> Pair<Int<usize>, Int<usize>> {
        let limits = self.engine().write_buffer_limits(self.token);
        Pair(Int(limits.low()), Int(limits.high()))
    }

    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let this = slf.get();
        let limits = limits(slf.py(), high, low, DEFAULT_HIGH)?;
        let cx = this.event_loop(slf.py());
        this.engine().set_write_buffer_limits(cx, this.token, limits)
    }

    /// Changes the protocol; `connection_made` is not called.
    fn set_protocol(slf: &Bound<'_, Self>, protocol: Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        this.flush(slf.py())?;
        let buffered = reads_itself(&protocol)?;
        let old = this.parts.lock().protocol.replace(protocol.unbind());
        this.engine().set_buffered(this.token, buffered);
        drop(old);
        Ok(())
    }

    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts.lock().protocol.as_ref().map(|protocol| protocol.clone_ref(py))
    }

    #[pyo3(signature = (name, default = None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.get().flush(slf.py())?;
        extra_info::get(slf, name, default)
    }

    /// Drops what is queued; `connection_lost(exc)` follows in a later turn.
    #[pyo3(signature = (exc = None))]
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        slf.get().flush(slf.py())?;
        Self::force_close(slf, exc)
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().lose(slf, &exc)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<BaseLoop>> {
        (!self.info().closed).then(|| self.event_loop.clone_ref(py))
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_protocol(py)
    }

    #[getter]
    fn _closing(&self) -> bool {
        self.info().closing
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.info().reading_paused
    }

    /// The socket object, made where nobody has asked for it; `None` once it is closed.
    #[getter]
    fn _sock<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if slf.get().info().closed {
            return Ok(None);
        }
        let py = slf.py();
        let socket = Self::get_extra_info(slf, interned!(py, "socket")?, None)?;
        socket.getattr(interned!(py, "_sock")?).map(Some)
    }

    #[getter]
    fn _sock_fd(&self) -> i32 {
        self.number
    }

    #[getter]
    fn _eof(&self) -> bool {
        self.info().write_ended
    }

    /// Whether the peer's end of stream was received.
    #[getter]
    fn _read_ended(&self) -> bool {
        self.info().read_ended
    }

    #[getter]
    fn _server(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts.lock().server.as_ref().map(|server| server.clone_ref(py))
    }

    #[getter]
    fn _high_water(&self) -> usize {
        self.engine().write_buffer_limits(self.token).high()
    }

    #[getter]
    fn _low_water(&self) -> usize {
        self.engine().write_buffer_limits(self.token).low()
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> PyResult<bool> {
        self.flush(py)?;
        Ok(self.info().writing_paused)
    }

    fn _make_empty_waiter<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        sendfile::make_empty_waiter(slf)
    }

    fn _set_empty_waiter(slf: &Bound<'_, Self>, future: Bound<'_, PyAny>) {
        sendfile::set_waiter(slf, Some(future));
    }

    fn _reset_empty_waiter(slf: &Bound<'_, Self>) {
        sendfile::reset_empty_waiter(slf);
    }

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import(Text("asyncio.constants"))?
            .getattr(Text("_SendfileMode"))?
            .getattr(Text("TRY_NATIVE"))
    }
}

impl StreamTransport {
    /// asyncio's repr, with the state of the selector.
    fn describe(&self, class: &str) -> String {
        let (info, engine) = (self.info(), self.engine());
        let polled = !info.closed && !engine.is_closed();
        let size = polled.then(|| engine.write_buffer_size(self.token));
        described(class, self.number, info, size)
    }

    /// Closes a transport that nobody has heard of.
    fn discard(&self, py: Python<'_>) -> PyResult<()> {
        self.engine().lose(self.token);
        self.engine().release(self.token);
        let parts = std::mem::take(&mut *self.parts.lock());
        let closed = match &parts.socket {
            Some(socket) => extra_info::close_socket(socket.bind(py)),
            None => Ok(()),
        };
        finally(py, closed, || extra_info::detach(parts.server.as_ref(), py, None))
    }

    /// Memory that cannot be sent: what `socket.send` raises ends the connection.
    fn refuse(&self, slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if !error.is_instance_of::<PyBufferError>(py) {
            return Err(error);
        }
        match self.engine().write(self.event_loop(py), self.token, [].as_slice())? {
            refused @ (Written::AfterEof | Written::Held) => self.written(py, refused, "write"),
            _ if self.info().closed => self.note_late_write(py),
            _ => self.unsendable(slf, error),
        }
    }

    /// Only memory that is in pieces gets as far as `socket.send`.
    pub(super) fn unsendable(&self, slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if !error.is_instance_of::<PyBufferError>(py) {
            return Err(error);
        }
        let transport = StreamRef(slf.clone().unbind());
        transport.fatal_error(self.event_loop(py), error, WRITE_FAILED)
    }

    /// The transport goes away: an open one is told (ResourceWarning) and closed. `slf` is there
    /// where the collector found it, and not where the last reference went.
    pub(super) fn abandon(&self, slf: Option<&Bound<'_, Self>>) {
        self.engine().remove_handler(self.token);
        if self.info().closed {
            return;
        }
        let text = self.describe("StreamTransport");
        self.engine().lose(self.token);
        let parts = std::mem::take(&mut *self.parts.lock());
        at_dealloc(|py| {
            unraisable(py, [extra_info::abandon(py, &parts, slf, &text)]);
            self.engine().release(self.token);
            drop(parts);
        });
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        self.abandon(None);
        self.engine().remove_stream(self.token);
    }
}

/// A copy of a mutable or unusual bytes-like object: asyncio would keep a reference, and send
/// what it holds later. The inner error tells of memory that is not contiguous.
fn copied<'py>(data: &Bound<'py, PyAny>) -> PyResult<PyResult<Bound<'py, PyBytes>>> {
    if !is_bytes_like(data) {
        let kind = if cfg!(Py_3_14) {
            "a bytes, bytearray, or memoryview object"
        } else {
            "a bytes-like object"
        };
        let name = data.get_type().name()?.repr()?;
        let message = format!("data argument must be {kind}, not {name}");
        return Err(PyTypeError::new_err(Message(message)));
    }
    check_dimensions(data)?;
    Ok(bytes_of(data))
}

/// The engine's reference to a transport.
pub(crate) struct StreamRef(pub(crate) Py<StreamTransport>);

impl Clone for StreamRef {
    #[inline]
    fn clone(&self) -> StreamRef {
        StreamRef(clone_attached(&self.0))
    }
}

impl Handler for StreamRef {
    type Unowned = Unowned<StreamTransport>;

    #[inline]
    fn unowned(&self) -> Option<Unowned<StreamTransport>> {
        Unowned::new(&self.0)
    }

    fn upgrade(unowned: &Unowned<StreamTransport>) -> Option<StreamRef> {
        unowned.upgrade().map(StreamRef)
    }
}

impl<'py> IntoPyObject<'py> for StreamRef {
    type Target = StreamTransport;
    type Output = Bound<'py, StreamTransport>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(self.0.into_bound(py))
    }
}

//! `DatagramTransport`: asyncio.DatagramTransport over a socket for datagrams.

use super::common::{
    LateWrites, SEND_RAISED, SOURCE_TRACEBACK, debug, described, limits, reading_resumed,
    schedule_lost, start_reading_soon, tell_lost, wake_soon,
};
use super::extra_info::{self, transport_socket};
use super::peers::{self, Peers};
use crate::error::{finally, leaves_loop, memory_error, os_error, unraisable, warn_unclosed};
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::{present_stack, queue};
use crate::event_loop::sockets::plain;
use crate::face::PyFace;
use crate::ffi::base_types::{self, DatagramBase};
use crate::ffi::bytes::{BytesData, bytes_of, is_bytes_like};
use crate::ffi::handled::handling;
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Int, Message, Pair, Text, interned};
use crate::ffi::references::{at_dealloc, clone_attached};
use crate::ffi::unowned::Unowned;
use crate::ffi::{calls, context};
use lock_api::Mutex;
use oxloop::engine::{
    DEFAULT_HIGH, Data, Descriptor, Destination, EndpointKind, Engine, Handler, Sending, Sent,
    StreamInfo, Token,
};
use pyo3::exceptions::{
    PyBlockingIOError, PyBufferError, PyInterruptedError, PyMemoryError, PyOSError, PyTypeError,
    PyValueError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustix::net::{AddressFamily, SocketAddrAny};

pub(super) const WRITE_FAILED: &str = "Fatal write error on datagram transport";

/// A datagram endpoint. Made by the loop; see asyncio's *Transports*.
#[pyclass(frozen, dict, weakref, extends = DatagramBase, module = "oxloop._oxloop")]
pub(crate) struct DatagramTransport {
    event_loop: Py<BaseLoop>,
    pub(super) token: Token,
    /// The descriptor's number, for the repr, which asyncio's keeps after the close.
    number: i32,
    family: Family,
    /// The socket has a peer: addresses are not looked at.
    connected: bool,
    late_sends: LateWrites,
    pub(super) parts: Mutex<StateLock, Parts>,
    peers: Mutex<StateLock, Peers>,
}

/// Who makes the system calls, and what addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Inet,
    Inet6,
    /// Addresses to send to are left to the socket object, which knows all forms of a path.
    Unix,
    /// The socket object does everything: addresses of a family that is not known here, or an
    /// object with methods of its own.
    Other,
}

/// The Python objects of a transport: this object owns and visits them.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) protocol: Option<Py<PyAny>>,
    /// Where `datagram_received` runs: a copy made when reading was started or resumed.
    pub(super) read_context: Option<Py<PyAny>>,
    /// Where `resume_writing` runs: a copy made when sending was deferred.
    pub(super) write_context: Option<Py<PyAny>>,
    /// The socket, which closes the descriptor.
    sock: Option<Py<PyAny>>,
    /// The remote address that was asked for.
    address: Option<Py<PyAny>>,
}

/// Where a transport comes from.
pub(crate) struct Origin<'py> {
    pub(crate) descriptor: i32,
    pub(crate) sock: Bound<'py, PyAny>,
    pub(crate) address: Option<Bound<'py, PyAny>>,
}

/// Makes the transport of a socket, and schedules `connection_made`, then the start of reading,
/// then the waiter's wake-up: asyncio's order.
pub(crate) fn open(
    event_loop: &Bound<'_, BaseLoop>,
    protocol: Bound<'_, PyAny>,
    origin: Origin<'_>,
    waiter: Option<&Bound<'_, PyAny>>,
    extra: Option<&Bound<'_, PyAny>>,
) -> PyResult<DatagramRef> {
    let py = event_loop.py();
    let engine = &event_loop.get().engine;
    let Origin { descriptor, sock, address } = origin;
    let known = extra_of(&sock, extra)?;
    let peer = known.get_item(Text("peername"))?;
    let connected = peer.map_or(Ok(false), |name| name.is_truthy())?;
    let remote = match &address {
        Some(address) => address.is_truthy()?,
        None => false,
    };
    let family = family_of(&sock)?;
    let connection_made = protocol.getattr(interned!(py, "connection_made")?)?;
    let context = context::copy_current(py)?;
    let kind = EndpointKind { remote, other: family == Family::Other };
    let token = engine.add_endpoint(Descriptor::Lent(descriptor), kind).map_err(memory_error)?;
    let parts = Parts {
        protocol: Some(protocol.unbind()),
        read_context: Some(context::copy(context.bind(py))?),
        write_context: None,
        sock: Some(sock.clone().unbind()),
        address: address.map(Bound::unbind),
    };
    let transport = DatagramTransport {
        event_loop: event_loop.clone().unbind(),
        token,
        number: descriptor,
        family,
        connected,
        late_sends: LateWrites::new(1),
        parts: Mutex::new(parts),
        peers: Mutex::new(Peers::default()),
    };
    let transport = base_types::new(py, PyClassInitializer::from(transport))?;
    extra_info::hold(&sock)?;
    transport.setattr(interned!(py, "_extra")?, known)?;
    engine.set_endpoint_handler(token, DatagramRef(transport.clone().unbind()));
    let begin = || {
        if event_loop.get().is_debug() {
            transport.setattr(SOURCE_TRACEBACK, present_stack(py)?)?;
        }
        engine.reserve_soon(3).map_err(memory_error)?;
        queue(event_loop, &connection_made, objects::tuple(py, [&transport])?, context)?;
        start_reading_soon(event_loop, token)?;
        wake_soon(event_loop, waiter)
    };
    if let Err(error) = begin() {
        // Nobody has heard of it.
        engine.lose_endpoint(token);
        return transport.get().release(py).and(Err(error));
    }
    Ok(DatagramRef(transport.unbind()))
}

/// The extra information: what is given, and what the socket says.
fn extra_of<'py>(
    sock: &Bound<'py, PyAny>,
    given: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let py = sock.py();
    let extra = objects::dict(py)?;
    if let Some(given) = given {
        extra.update(given.cast()?)?;
    }
    extra.set_item(Text("socket"), transport_socket(sock)?)?;
    extra.set_item(Text("sockname"), extra_info::name_of(sock, "getsockname")?)?;
    if !extra.contains(Text("peername"))? {
        extra.set_item(Text("peername"), extra_info::name_of(sock, "getpeername")?)?;
    }
    Ok(extra)
}

fn family_of(sock: &Bound<'_, PyAny>) -> PyResult<Family> {
    if plain(sock)?.is_none() {
        return Ok(Family::Other);
    }
    let number: u16 = sock.getattr(Text("family"))?.extract()?;
    Ok(match AddressFamily::from_raw(number) {
        AddressFamily::INET => Family::Inet,
        AddressFamily::INET6 => Family::Inet6,
        AddressFamily::UNIX => Family::Unix,
        _ => Family::Other,
    })
}

impl DatagramTransport {
    pub(super) fn engine(&self) -> &Engine<PyFace> {
        &self.event_loop.get().engine
    }

    pub(super) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLoop> {
        self.event_loop.bind(py)
    }

    fn info(&self) -> StreamInfo {
        self.engine().endpoint_info(self.token).unwrap_or(StreamInfo::LOST)
    }

    pub(super) fn sock<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.parts.lock().sock.as_ref().map(|sock| sock.bind(py).clone())
    }

    fn remote<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let address = self.parts.lock().address.as_ref().map(|address| address.bind(py).clone());
        match address {
            Some(address) if address.is_truthy()? => Ok(Some(address)),
            _ => Ok(None),
        }
    }

    /// The sender of a datagram as Python sees it: one object for each peer.
    pub(super) fn sender<'py>(
        &self,
        py: Python<'py>,
        from: Option<&SocketAddrAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let inet = from.and_then(|from| from.clone().try_into().ok());
        let Some(address) = inet else { return peers::to_python(py, from) };
        if let Some(object) = self.peers.lock().object(&address) {
            return Ok(object.bind(py).clone());
        }
        let object = peers::to_python(py, from)?;
        let kept = object.clone().unbind();
        let old = self.peers.lock().remember(address, kept);
        drop(old);
        Ok(object)
    }

    /// The system's form of an address, where it needs no look-up.
    fn native(&self, address: &Bound<'_, PyAny>) -> Option<SocketAddrAny> {
        let six = match self.family {
            Family::Inet => false,
            Family::Inet6 => true,
            Family::Unix | Family::Other => return None,
        };
        let known = self.peers.lock().address(address);
        known.or_else(|| peers::parse(address, six)).map(SocketAddrAny::from)
    }

    /// Sends by the system's call, or by the socket object where the address is its to read.
    fn send(
        slf: &Bound<'_, Self>,
        object: &Bound<'_, PyAny>,
        data: &(impl Data<crate::ffi::bytes::KeptBytes> + ?Sized),
        address: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let (engine, cx) = (this.engine(), this.event_loop(py));
        let native = match &address {
            _ if this.family == Family::Other => None,
            _ if this.connected => Some(None),
            Some(address) => this.native(address).map(Some),
            None => None,
        };
        let sent = if let Some(to) = native {
            engine.send_datagram(cx, this.token, data, to.as_ref())?
        } else {
            let to = match address {
                _ if this.connected => None,
                Some(address) => Some(address),
                None => Some(py.None().into_bound(py)),
            };
            match engine.sending(this.token) {
                Sending::Drop => Sent::Lost,
                Sending::Now => match this.send_other(py, object, to.as_ref()) {
                    Ok(()) => Sent::Taken,
                    Err(error) if is_blocked(py, &error) => {
                        let to = Destination::Other(to.map(Bound::unbind));
                        engine.queue_datagram(cx, this.token, data, to)?
                    }
                    Err(error) => return Self::refused(slf, error),
                },
                Sending::Queue => {
                    let to = Destination::Other(to.map(Bound::unbind));
                    engine.queue_datagram(cx, this.token, data, to)?
                }
            }
        };
        match sent {
            Sent::Taken => Ok(()),
            Sent::Lost => this.late_sends.note(py, SEND_RAISED),
            Sent::Failed(error) => Self::refused(slf, os_error(py, &error)),
            Sent::NoMemory => Err(PyMemoryError::new_err(())),
        }
    }

    /// `socket.sendto(data, to)`, or `socket.send(data)`.
    pub(super) fn send_other(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        to: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let Some(sock) = self.sock(py) else { return Ok(()) };
        match to {
            Some(to) => calls::method(&sock, interned!(py, "sendto")?, [data, to]),
            None => calls::method(&sock, interned!(py, "send")?, [data]),
        }
        .map(drop)
    }

    /// An OSError is the protocol's to hear of; anything else ends the endpoint.
    pub(super) fn refused(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if leaves_loop(py, &error) {
            return Err(error);
        }
        if !error.is_instance_of::<PyOSError>(py) {
            return DatagramRef(slf.clone().unbind()).fatal_error(
                this.event_loop(py),
                error,
                WRITE_FAILED,
            );
        }
        let Some(protocol) = this.get_protocol_object(py) else { return Ok(()) };
        let raised = crate::error::exception(py, &error);
        let name = interned!(py, "error_received")?;
        handling(&raised, || calls::method(&protocol, name, [raised.as_any()])).map(drop)
    }

    pub(super) fn get_protocol_object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.parts.lock().protocol.as_ref().map(|protocol| protocol.bind(py).clone())
    }

    pub(super) fn force_close(
        slf: &Bound<'_, Self>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let this = slf.get();
        if this.engine().force_close_endpoint(this.token) {
            this.schedule_lost(slf, exception)?;
        }
        Ok(())
    }

    /// Queues `_call_connection_lost(exc)`, in a copy of the present context.
    pub(super) fn schedule_lost(
        &self,
        slf: &Bound<'_, Self>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        schedule_lost(self.event_loop(py), self.token, slf, exception, || context::copy_current(py))
    }

    /// `connection_lost(exc)`, once; then the socket is closed and everything let go.
    pub(super) fn lose(&self, slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if !self.engine().lose_endpoint(self.token) {
            return Ok(());
        }
        let called = tell_lost(self.get_protocol_object(py), exception);
        finally(py, called, || self.release(py))
    }

    /// Closes the socket and lets go of everything but the remote address.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.engine().release_endpoint(self.token);
        let parts = {
            let mut parts = self.parts.lock();
            let address = parts.address.take();
            std::mem::replace(&mut *parts, Parts { address, ..Parts::default() })
        };
        let peers = std::mem::take(&mut *self.peers.lock());
        drop(peers);
        match &parts.sock {
            Some(sock) => extra_info::close(sock.bind(py)),
            None => Ok(()),
        }
    }

    /// asyncio's repr, with the state of the selector.
    fn describe(&self, class: &str) -> String {
        let (info, engine) = (self.info(), self.engine());
        let polled = !info.closed && !engine.is_closed();
        let size = polled.then(|| engine.endpoint_buffer_size(self.token));
        described(class, self.number, info, size)
    }

    /// The transport goes away: an open one is told (ResourceWarning) and closed. `slf` is there
    /// where the collector found it, and not where the last reference went.
    fn abandon(&self, slf: Option<&Bound<'_, Self>>) {
        self.engine().remove_endpoint_handler(self.token);
        if self.info().closed {
            return;
        }
        let text = self.describe("DatagramTransport");
        self.engine().lose_endpoint(self.token);
        at_dealloc(|py| {
            let warned = warn_unclosed(py, &text, slf.map(Bound::as_any));
            unraisable(py, [warned, self.release(py)]);
        });
    }
}

#[pymethods]
impl DatagramTransport {
    /// The most that is received at once, bytes.
    #[classattr]
    #[pyo3(name = "max_size")]
    const MAX_SIZE: usize = super::datagram_callbacks::MAX_SIZE;

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        // Shows nothing while in use, which keeps everything alive.
        let Some(parts) = self.parts.try_lock() else { return Ok(()) };
        visit.call(&parts.protocol)?;
        visit.call(&parts.read_context)?;
        visit.call(&parts.write_context)?;
        visit.call(&parts.sock)?;
        visit.call(&parts.address)
    }

    fn __clear__(&self) {
        let parts = std::mem::take(&mut *self.parts.lock());
        drop(parts);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<Text<String>> {
        Ok(Text(slf.get().describe(slf.get_type().name()?.to_str()?)))
    }

    /// Sends bytes, bytearray or memoryview as one datagram; never blocks.
    #[pyo3(signature = (data, addr = None))]
    fn sendto(
        slf: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        addr: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        check_data(data)?;
        if !cfg!(Py_3_13) && !data.is_truthy()? {
            return Ok(());
        }
        let remote = this.remote(py)?;
        if let (Some(remote), Some(addr)) = (&remote, &addr) {
            if !addr.is(remote) && !addr.eq(remote)? {
                let message = format!("Invalid address: must be None or {}", remote.str()?);
                return Err(PyValueError::new_err(Message(message)));
            }
        }
        let address = remote.or(addr);
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Self::send(slf, data, &BytesData(bytes), address);
        }
        match bytes_of(data) {
            // A mutable buffer may change: what is queued is a copy.
            Ok(bytes) => Self::send(slf, data, &BytesData(&bytes), address),
            // Memory that is in pieces cannot be sent, but it can be queued.
            Err(error) if !error.is_instance_of::<PyBufferError>(py) => Err(error),
            Err(error) => match this.engine().sending(this.token) {
                Sending::Now => Self::refused(slf, error),
                Sending::Drop => this.late_sends.note(py, SEND_RAISED),
                Sending::Queue => {
                    let joined = py.get_type::<PyBytes>().call1((data,))?.cast_into::<PyBytes>()?;
                    Self::send(slf, joined.as_any(), &BytesData(&joined), address)
                }
            },
        }
    }

    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let event_loop = this.event_loop(slf.py());
        let was_open = !this.info().closing;
        this.engine().close_endpoint(event_loop, this.token)?;
        // On a closed loop nobody will call connection_lost.
        if was_open { event_loop.get().check_closed() } else { Ok(()) }
    }

    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::force_close(slf, None)
    }

    fn is_closing(&self) -> bool {
        self.info().closing
    }

    fn is_reading(&self) -> bool {
        self.info().reading
    }

    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.engine().pause_receiving(this.token) {
            debug(this.event_loop(slf.py()), slf, "%r pauses reading")?;
        }
        Ok(())
    }

    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        if this.engine().resume_receiving(this.token) {
            reading_resumed(this.event_loop(py), slf, |context| {
                this.parts.lock().read_context.replace(context)
            })?;
        }
        Ok(())
    }

    fn get_write_buffer_size(&self) -> Int<usize> {
        Int(self.engine().endpoint_buffer_size(self.token))
    }

    /// `(low, high)`, bytes.
    fn get_write_buffer_limits(&self) -> Pair<Int<usize>, Int<usize>> {
        let limits = self.engine().endpoint_buffer_limits(self.token);
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
        this.engine().set_endpoint_buffer_limits(cx, this.token, limits)
    }

    /// Changes the protocol; `connection_made` is not called.
    fn set_protocol(&self, protocol: Py<PyAny>) {
        let old = self.parts.lock().protocol.replace(protocol);
        drop(old);
    }

    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_protocol_object(py).map(Bound::unbind)
    }

    /// Drops what is queued; `connection_lost(exc)` follows in a later turn.
    #[pyo3(signature = (exc = None))]
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        Self::force_close(slf, exc)
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().lose(slf, &exc)
    }

    #[getter]
    fn _address(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts.lock().address.as_ref().map(|address| address.clone_ref(py))
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

    #[getter]
    fn _sock_fd(&self) -> i32 {
        self.number
    }

    #[getter]
    fn _protocol_paused(&self) -> bool {
        self.info().writing_paused
    }

    #[getter]
    fn _high_water(&self) -> usize {
        self.engine().endpoint_buffer_limits(self.token).high()
    }

    #[getter]
    fn _low_water(&self) -> usize {
        self.engine().endpoint_buffer_limits(self.token).low()
    }

    #[getter]
    fn _sock(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.sock(py).map(Bound::unbind)
    }
}

/// TypeError for what is no bytes-like object of the three kinds that asyncio takes.
fn check_data(data: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_bytes_like(data) {
        return Ok(());
    }
    let name = data.get_type().name()?.repr()?;
    let message = format!("data argument must be a bytes-like object, not {name}");
    Err(PyTypeError::new_err(Message(message)))
}

/// Whether a call of a socket's says "not now".
pub(super) fn is_blocked(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py)
}

/// asyncio's `__del__`, for a transport in a cycle that the collector takes apart.
pub(crate) fn finalize(object: &Bound<'_, PyAny>) {
    if let Ok(transport) = object.cast::<DatagramTransport>() {
        transport.get().abandon(Some(transport));
    }
}

impl Drop for DatagramTransport {
    fn drop(&mut self) {
        self.abandon(None);
        self.engine().remove_endpoint(self.token);
    }
}

/// The engine's reference to a transport.
pub(crate) struct DatagramRef(pub(crate) Py<DatagramTransport>);

impl Clone for DatagramRef {
    #[inline]
    fn clone(&self) -> DatagramRef {
        DatagramRef(clone_attached(&self.0))
    }
}

impl Handler for DatagramRef {
    type Unowned = Unowned<DatagramTransport>;

    fn unowned(&self) -> Option<Unowned<DatagramTransport>> {
        Unowned::new(&self.0)
    }

    fn upgrade(unowned: &Unowned<DatagramTransport>) -> Option<DatagramRef> {
        unowned.upgrade().map(DatagramRef)
    }
}

impl<'py> IntoPyObject<'py> for DatagramRef {
    type Target = DatagramTransport;
    type Output = Bound<'py, DatagramTransport>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(self.0.into_bound(py))
    }
}

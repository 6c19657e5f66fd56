//! `SSLProtocolTransport`: asyncio's transport of a TLS connection, what the application writes to.

use super::layer::Layer;
use super::protocol::SslProtocol;
use crate::error::{unraisable, warn_unclosed};
use crate::event_loop::BaseLoop;
use crate::ffi::base_types::TransportBase;
use crate::ffi::bytes::is_bytes_like;
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Message, Text, interned};
use crate::ffi::references::at_dealloc;
use crate::transport::common::limits;
use lock_api::Mutex;
use oxloop::tls::{Direction, TlsLayer, TlsState};
use pyo3::exceptions::{PyNotImplementedError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::atomic::{AtomicU8, Ordering};

/// One side of a TLS connection. Made by the loop; see asyncio's *Transports*.
#[pyclass(
    frozen,
    dict,
    weakref,
    extends = TransportBase,
    name = "SSLProtocolTransport",
    module = "oxloop._oxloop"
)]
pub(crate) struct TlsTransport {
    /// `None` once the connection is over and the program has closed the transport itself: then
    /// nothing of it is kept alive by a protocol that keeps its transport.
    protocol: Mutex<StateLock, Option<Py<SslProtocol>>>,
    closing: AtomicU8,
}

/// `close()` was not called yet, by nobody.
const OPEN: u8 = 0;
/// It was, or the connection has ended.
const CLOSED: u8 = 1;
/// After that it was called by the program.
const CLOSED_AGAIN: u8 = 2;

impl TlsTransport {
    pub(super) fn new(protocol: &Bound<'_, SslProtocol>) -> TlsTransport {
        let protocol = Mutex::new(Some(protocol.clone().unbind()));
        TlsTransport { protocol, closing: AtomicU8::new(OPEN) }
    }

    /// What is written from now on is dropped; false where that was so before.
    pub(super) fn mark_closed(&self) -> bool {
        let first =
            self.closing.compare_exchange(OPEN, CLOSED, Ordering::Relaxed, Ordering::Relaxed);
        first.is_ok()
    }

    fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Relaxed) != OPEN
    }

    /// The connection is lost: lets go of what the program has closed.
    pub(super) fn let_go(&self) {
        if self.closing.load(Ordering::Relaxed) == CLOSED_AGAIN {
            let protocol = self.protocol.lock().take();
            drop(protocol);
        }
    }

    #[inline]
    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, SslProtocol>> {
        self.protocol.lock().as_ref().map(|protocol| protocol.bind(py).clone())
    }

    /// Calls `f` with the connection's rules and its loop, if there is a connection.
    #[inline]
    fn with<R: Default>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(Layer<'_, '_>, &Bound<'_, BaseLoop>) -> PyResult<R>,
    ) -> PyResult<R> {
        match self.protocol(py) {
            Some(protocol) => f(Layer(&protocol), protocol.get().event_loop(py)),
            None => Ok(R::default()),
        }
    }

    /// What the state says, if there is a connection.
    fn state<R>(&self, py: Python<'_>, f: impl FnOnce(&mut TlsState) -> R) -> Option<R> {
        self.protocol(py).map(|protocol| f(&mut protocol.get().state.lock()))
    }

    /// asyncio's `__del__`: an open transport that goes away is told.
    pub(crate) fn abandon(&self, slf: Option<&Bound<'_, Self>>) {
        if !self.mark_closed() {
            return;
        }
        at_dealloc(|py| {
            let text = "<oxloop.SSLProtocolTransport object>";
            unraisable(py, [warn_unclosed(py, text, slf.map(Bound::as_any))]);
        });
    }

    fn set_limits(
        slf: &Bound<'_, Self>,
        direction: Direction,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        slf.get().with(slf.py(), |layer, cx| {
            let limits = limits(slf.py(), high, low, direction.default_high())?;
            layer.state().lock().set_limits(direction, limits);
            match direction {
                Direction::Incoming => layer.control_reading(cx),
                Direction::Outgoing => layer.control_writing(cx),
            }
        })
    }

    fn limits(&self, py: Python<'_>, direction: Direction) -> (usize, usize) {
        let limits = self.state(py, |state| state.limits(direction));
        limits.map_or((0, 0), |limits| (limits.low(), limits.high()))
    }
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        self.abandon(None);
    }
}

#[pymethods]
impl TlsTransport {
    #[classattr]
    #[pyo3(name = "_start_tls_compatible")]
    const START_TLS_COMPATIBLE: bool = true;

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // In use it is alive.
        let Some(protocol) = self.protocol.try_lock() else { return Ok(()) };
        visit.call(&*protocol)
    }

    fn __clear__(&self) {
        let protocol = self.protocol.lock().take();
        drop(protocol);
    }

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import(Text("asyncio.constants"))?
            .getattr(Text("_SendfileMode"))?
            .getattr(Text("FALLBACK"))
    }

    #[getter]
    fn _ssl_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, SslProtocol>> {
        self.protocol(py)
    }

    #[getter]
    fn _sslcontext<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.protocol(py) {
            Some(protocol) => protocol.get().extra.bind(py).get_item(Text("sslcontext")),
            None => Ok(None),
        }
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, BaseLoop>> {
        self.protocol(py).map(|protocol| protocol.get().event_loop(py).clone())
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.is_closed()
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.state(py, |state| state.is_writing_paused()).unwrap_or(false)
    }

    #[pyo3(signature = (name, default = None))]
    fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.protocol(name.py()) {
            Some(protocol) => protocol.get().get_extra_info(name, default),
            None => Ok(default.unwrap_or_else(|| name.py().None().into_bound(name.py()))),
        }
    }

    /// Changes the protocol; `connection_made` is not called.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.protocol(protocol.py()) {
            Some(ssl_protocol) => ssl_protocol.get().set_application(protocol),
            None => Ok(()),
        }
    }

    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py)?.get()._app_protocol(py)
    }

    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if self.is_closed() {
            return Ok(true);
        }
        self.with(py, |layer, _| match layer.below(py) {
            Some(below) => below.object(py).call_method0(interned!(py, "is_closing")?)?.is_truthy(),
            None => Ok(false),
        })
    }

    /// Sends what was written, then the closing alert; `connection_lost` follows.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.mark_closed() {
            return self.with(py, |layer, cx| layer.start_shutdown(cx));
        }
        self.closing.store(CLOSED_AGAIN, Ordering::Relaxed);
        if self.protocol(py).is_some_and(|protocol| protocol.get().is_lost()) {
            self.let_go();
        }
        Ok(())
    }

    /// Drops what is queued; `connection_lost(None)` follows.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self._force_close(py, None)
    }

    #[pyo3(signature = (exc = None))]
    fn _force_close(&self, py: Python<'_>, exc: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let _ = self.mark_closed();
        let exc = exc.filter(|exc| !exc.is_none()).map(PyErr::from_value);
        self.with(py, |layer, cx| TlsLayer::abort(&layer, cx, exc))
    }

    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state(py, |state| state.is_reading()).unwrap_or(false)
    }

    fn pause_reading(&self, py: Python<'_>) {
        let _ = self.state(py, TlsState::pause_reading);
    }

    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |layer, cx| layer.resume_reading(cx))
    }

    /// Encrypts and sends bytes, bytearray or memoryview; never blocks.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if !data.is_exact_instance_of::<PyBytes>() && !is_bytes_like(data) {
            let name = data.get_type().name()?;
            let message = format!("data: expecting a bytes-like instance, got {name}");
            return Err(PyTypeError::new_err(Message(message)));
        }
        if data.len()? == 0 {
            return Ok(());
        }
        self.with(data.py(), |layer, cx| layer.write(cx, data))
    }

    /// Writes each item of an iterable.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = list_of_data.py();
        let joined = objects::bytes(py, b"")?.call_method1(Text("join"), (list_of_data,))?;
        self.write(&joined)
    }

    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    fn can_write_eof(&self) -> bool {
        false
    }

    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::set_limits(slf, Direction::Outgoing, high, low)
    }

    /// `(low, high)`, bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.limits(py, Direction::Outgoing)
    }

    /// Bytes that wait for the transport below.
    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |layer, cx| layer.outgoing(cx))
    }

    /// When to pause the transport below for what is not decrypted yet.
    #[pyo3(signature = (high = None, low = None))]
    fn set_read_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::set_limits(slf, Direction::Incoming, high, low)
    }

    /// `(low, high)`, bytes.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.limits(py, Direction::Incoming)
    }

    /// Received bytes that are not decrypted yet.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |layer, cx| layer.incoming(cx))
    }
}

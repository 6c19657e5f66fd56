//! `SSLProtocolTransport`: asyncio's transport of a TLS connection, what the application writes to.

use super::layer::Layer;
use super::protocol::SslProtocol;
use crate::ffi::base_types::TransportBase;
use crate::ffi::references::at_dealloc;
use crate::imports::imports;
use crate::transport::stream::limits;
use oxloop::tls::{Direction, TlsLayer};
use pyo3::exceptions::{PyNotImplementedError, PyResourceWarning, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyMemoryView};
use std::sync::atomic::{AtomicBool, Ordering};

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
    protocol: Py<SslProtocol>,
    closed: AtomicBool,
}

impl TlsTransport {
    pub(super) fn new(protocol: &Bound<'_, SslProtocol>) -> TlsTransport {
        TlsTransport { protocol: protocol.clone().unbind(), closed: AtomicBool::new(false) }
    }

    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Calls `f` with the connection's rules and its loop.
    #[inline]
    fn with<R>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(Layer<'_, '_>, &Bound<'_, crate::event_loop::BaseLoop>) -> PyResult<R>,
    ) -> PyResult<R> {
        let protocol = self.protocol.bind(py);
        f(Layer(protocol), protocol.get().event_loop(py))
    }

    /// asyncio's `__del__`: an open transport that goes away is told.
    pub(crate) fn abandon(&self, slf: Option<&Bound<'_, Self>>) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        at_dealloc(|py| {
            let pending = PyErr::take(py);
            let warned = imports(py).and_then(|functions| {
                let keywords = PyDict::new(py);
                keywords.set_item("source", slf)?;
                let text = "unclosed transport <oxloop.SSLProtocolTransport object>";
                let arguments = (text, py.get_type::<PyResourceWarning>());
                functions.warn.call(py, arguments, Some(&keywords)).map(drop)
            });
            if let Err(error) = warned {
                error.write_unraisable(py, None);
            }
            if let Some(pending) = pending {
                pending.restore(py);
            }
        });
    }

    fn set_limits(
        slf: &Bound<'_, Self>,
        direction: Direction,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        slf.get().with(slf.py(), |layer, cx| {
            let limits = limits(high, low, direction.default_high())?;
            layer.state().lock().set_limits(direction, limits);
            match direction {
                Direction::Incoming => layer.control_reading(cx),
                Direction::Outgoing => layer.control_writing(cx),
            }
        })
    }

    fn limits(&self, direction: Direction) -> (usize, usize) {
        let limits = self.protocol.get().state.lock().limits(direction);
        (limits.low(), limits.high())
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
        visit.call(&self.protocol)
    }

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("asyncio.constants")?.getattr("_SendfileMode")?.getattr("FALLBACK")
    }

    #[getter]
    fn _ssl_protocol(&self, py: Python<'_>) -> Py<SslProtocol> {
        self.protocol.clone_ref(py)
    }

    #[getter]
    fn _sslcontext<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.protocol.get().extra.bind(py).get_item("sslcontext")
    }

    #[getter]
    fn _loop<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.protocol.get().event_loop(py).clone().into_any()
    }

    #[getter]
    fn _protocol_paused(&self) -> bool {
        self.protocol.get().state.lock().is_writing_paused()
    }

    #[pyo3(signature = (name, default = None))]
    fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.protocol.get().get_extra_info(name, default)
    }

    /// Changes the protocol; `connection_made` is not called.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.protocol.get().set_application(protocol)
    }

    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol.get()._app_protocol(py)
    }

    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(true);
        }
        self.with(py, |layer, _| match layer.below(py) {
            Some(below) => below.object(py).call_method0("is_closing")?.is_truthy(),
            None => Ok(false),
        })
    }

    /// Sends what was written, then the closing alert; `connection_lost` follows.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.with(py, |layer, cx| layer.start_shutdown(cx))
    }

    /// Drops what is queued; `connection_lost(None)` follows.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self._force_close(py, None)
    }

    #[pyo3(signature = (exc = None))]
    fn _force_close(&self, py: Python<'_>, exc: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        self.mark_closed();
        let exc = exc.filter(|exc| !exc.is_none()).map(PyErr::from_value);
        self.with(py, |layer, cx| TlsLayer::abort(&layer, cx, exc))
    }

    fn is_reading(&self) -> bool {
        self.protocol.get().state.lock().is_reading()
    }

    fn pause_reading(&self) {
        self.protocol.get().state.lock().pause_reading();
    }

    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |layer, cx| layer.resume_reading(cx))
    }

    /// Encrypts and sends bytes, bytearray or memoryview; never blocks.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if !data.is_exact_instance_of::<PyBytes>() && !is_bytes_like(data) {
            let name = data.get_type().name()?;
            let message = format!("data: expecting a bytes-like instance, got {name}");
            return Err(PyTypeError::new_err(message));
        }
        if data.len()? == 0 {
            return Ok(());
        }
        self.with(data.py(), |layer, cx| layer.write(cx, data))
    }

    /// Writes each item of an iterable.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = list_of_data.py();
        let joined = PyBytes::new(py, b"").call_method1("join", (list_of_data,))?;
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
    fn get_write_buffer_limits(&self) -> (usize, usize) {
        self.limits(Direction::Outgoing)
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
    fn get_read_buffer_limits(&self) -> (usize, usize) {
        self.limits(Direction::Incoming)
    }

    /// Received bytes that are not decrypted yet.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |layer, cx| layer.incoming(cx))
    }
}

fn is_bytes_like(data: &Bound<'_, PyAny>) -> bool {
    data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
}

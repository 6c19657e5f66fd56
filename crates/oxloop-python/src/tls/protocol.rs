//! `SSLProtocol`: the protocol of the transport below, as asyncio has it in `sslproto.py`.
//!
//! A stream transport of the same loop hands over its data natively; any other one, TLS on TLS for
//! example, by the methods of a Protocol.

use super::engine::SslEngine;
use super::layer::Layer;
use super::transport::TlsTransport;
use crate::error::finally;
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::queue;
use crate::ffi::bytes::{BytesData, KeptBytes};
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Text, interned};
use crate::ffi::openssl::Wire;
use crate::ffi::{base_types, calls, context};
use crate::transport::stream::{StreamTransport, is_buffered};
use lock_api::Mutex;
use oxloop::engine::Written;
use oxloop::tls::{Timer, TlsLayer, TlsState};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::collections::{TryReserveError, VecDeque};

/// TLS between the transport below and the application above.
#[pyclass(frozen, weakref, name = "SSLProtocol", module = "oxloop._oxloop")]
pub(crate) struct SslProtocol {
    event_loop: Py<BaseLoop>,
    pub(super) engine: SslEngine,
    pub(super) state: Mutex<StateLock, TlsState>,
    pub(super) parts: Mutex<StateLock, Parts>,
    /// What `get_extra_info` has beside the transport's.
    pub(super) extra: Py<PyDict>,
    handshake_timeout: Py<PyAny>,
    shutdown_timeout: Py<PyAny>,
}

/// The Python objects of a connection: the protocol owns and visits them.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) application: Option<Py<PyAny>>,
    /// Whether the application has a buffer of its own (BufferedProtocol).
    pub(super) buffered: bool,
    app_transport: Option<Py<TlsTransport>>,
    pub(super) below: Option<Below>,
    /// Who waits for the handshake.
    pub(super) waiter: Option<Py<PyAny>>,
    handshake_timer: Option<Py<PyAny>>,
    shutdown_timer: Option<Py<PyAny>>,
    /// In debug mode: when the handshake began, on the loop's clock.
    pub(super) handshake_start: Option<f64>,
    pub(super) backlog: Backlog,
}

impl Parts {
    pub(super) fn timer(&mut self, timer: Timer) -> &mut Option<Py<PyAny>> {
        match timer {
            Timer::Handshake => &mut self.handshake_timer,
            Timer::Shutdown => &mut self.shutdown_timer,
        }
    }
}

/// What was written and is not encrypted yet.
#[derive(Default)]
pub(super) struct Backlog {
    pieces: VecDeque<KeptBytes>,
    len: usize,
}

impl Backlog {
    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn push(&mut self, piece: KeptBytes) -> Result<(), TryReserveError> {
        // One more than that: what is taken can be put back.
        self.pieces.try_reserve(2)?;
        self.len += piece.as_ref().len();
        self.pieces.push_back(piece);
        Ok(())
    }

    pub(super) fn take(&mut self) -> Option<KeptBytes> {
        let piece = self.pieces.pop_front()?;
        self.len -= piece.as_ref().len();
        Some(piece)
    }

    pub(super) fn put_back(&mut self, piece: KeptBytes) {
        self.len += piece.as_ref().len();
        self.pieces.push_front(piece);
    }
}

/// The transport below.
pub(super) enum Below {
    /// One of this loop's, used natively.
    Stream(Py<StreamTransport>),
    /// Any other that `start_tls` takes.
    Other(Py<PyAny>),
}

impl Below {
    fn new(event_loop: &Py<BaseLoop>, transport: &Bound<'_, PyAny>) -> Below {
        match transport.cast_exact::<StreamTransport>() {
            Ok(stream) if stream.get().is_of(event_loop) => Below::Stream(stream.clone().unbind()),
            _ => Below::Other(transport.clone().unbind()),
        }
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Below {
        match self {
            Below::Stream(transport) => Below::Stream(transport.clone_ref(py)),
            Below::Other(transport) => Below::Other(transport.clone_ref(py)),
        }
    }

    pub(super) fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Below::Stream(transport) => transport.bind(py).as_any(),
            Below::Other(transport) => transport.bind(py),
        }
    }

    /// `write(data)`, which keeps no reference to the data.
    #[inline]
    pub(super) fn write(&self, cx: &Bound<'_, BaseLoop>, data: &[u8]) -> PyResult<()> {
        match self {
            Below::Stream(transport) => {
                let transport = transport.get();
                match cx.get().engine.write(cx, transport.token, data)? {
                    Written::Taken => Ok(()),
                    written => transport.written(cx.py(), written, "write"),
                }
            }
            Below::Other(_) => self.write_bytes(cx, &objects::bytes(cx.py(), data)?),
        }
    }

    /// `write(data)`, likewise, of a `bytes` object.
    #[inline]
    pub(super) fn write_bytes(
        &self,
        cx: &Bound<'_, BaseLoop>,
        data: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let py = cx.py();
        match self {
            Below::Stream(transport) => {
                let transport = transport.get();
                match cx.get().engine.write(cx, transport.token, &BytesData(data))? {
                    Written::Taken => Ok(()),
                    written => transport.written(py, written, "write"),
                }
            }
            Below::Other(transport) => {
                calls::method(transport.bind(py), interned!(py, "write")?, [data.as_any()])
                    .map(drop)
            }
        }
    }

    pub(super) fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.object(py).call_method0(interned!(py, "close")?).map(drop)
    }

    pub(super) fn force_close(
        &self,
        py: Python<'_>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let object = self.object(py);
        match object.getattr_opt(interned!(py, "_force_close")?)? {
            Some(force_close) => force_close.call1((exception,)),
            None => object.call_method0(interned!(py, "abort")?),
        }
        .map(drop)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Below::Stream(transport) => visit.call(transport),
            Below::Other(transport) => visit.call(transport),
        }
    }
}

/// The arguments of `_make_ssl_protocol`; `sslobj` was made with the two BIOs.
pub(crate) struct Session<'py> {
    pub(crate) sslcontext: Bound<'py, PyAny>,
    pub(crate) sslobj: Bound<'py, PyAny>,
    pub(crate) incoming: Bound<'py, PyAny>,
    pub(crate) outgoing: Bound<'py, PyAny>,
}

/// Makes the protocol for the transport below, and the application's transport.
pub(crate) fn make_ssl_protocol<'py>(
    event_loop: &Bound<'py, BaseLoop>,
    application: &Bound<'py, PyAny>,
    session: Session<'py>,
    waiter: Option<Bound<'py, PyAny>>,
    (handshake_timeout, shutdown_timeout): (Bound<'py, PyAny>, Bound<'py, PyAny>),
    call_connection_made: bool,
) -> PyResult<Bound<'py, SslProtocol>> {
    let py = event_loop.py();
    let Session { sslcontext, sslobj, incoming, outgoing } = session;
    let engine = SslEngine::new(&sslcontext, sslobj, incoming, outgoing)?;
    let extra = objects::dict(py)?;
    extra.set_item(Text("sslcontext"), sslcontext)?;
    let parts = Parts {
        buffered: is_buffered(application)?,
        application: Some(application.clone().unbind()),
        waiter: waiter.filter(|waiter| !waiter.is_none()).map(Bound::unbind),
        ..Parts::default()
    };
    let protocol = SslProtocol {
        event_loop: event_loop.clone().unbind(),
        engine,
        state: Mutex::new(TlsState::new(!call_connection_made)),
        parts: Mutex::new(parts),
        extra: extra.unbind(),
        handshake_timeout: handshake_timeout.unbind(),
        shutdown_timeout: shutdown_timeout.unbind(),
    };
    let protocol = Bound::new(py, protocol)?;
    let transport = TlsTransport::new(&protocol);
    let transport = base_types::new(py, PyClassInitializer::from(transport))?;
    protocol.get().parts.lock().app_transport = Some(transport.unbind());
    Ok(protocol)
}

impl SslProtocol {
    /// The engine's memory for ciphertext, where it can be read into by the transport below.
    #[inline]
    pub(crate) fn wire(&self) -> Option<&Wire> {
        self.engine.wire()
    }

    pub(super) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLoop> {
        self.event_loop.bind(py)
    }

    pub(super) fn timeout(&self, timer: Timer) -> &Py<PyAny> {
        match timer {
            Timer::Handshake => &self.handshake_timeout,
            Timer::Shutdown => &self.shutdown_timeout,
        }
    }

    /// The application's transport, until the connection is lost.
    pub(super) fn app_transport(&self, py: Python<'_>) -> Option<Py<TlsTransport>> {
        self.parts.lock().app_transport.as_ref().map(|transport| transport.clone_ref(py))
    }

    pub(super) fn mark_closed(&self) {
        if let Some(transport) = &self.parts.lock().app_transport {
            let _ = transport.get().mark_closed();
        }
    }

    /// Whether the transport below is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.parts.lock().app_transport.is_none()
    }

    pub(super) fn set_application(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let buffered = is_buffered(protocol)?;
        let mut parts = self.parts.lock();
        parts.buffered = buffered;
        let old = parts.application.replace(protocol.clone().unbind());
        drop(parts);
        drop(old);
        Ok(())
    }

    pub(super) fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = name.py();
        if let Some(value) = self.extra.bind(py).get_item(name)? {
            return Ok(value);
        }
        let default = default.unwrap_or_else(|| py.None().into_bound(py));
        let below = self.parts.lock().below.as_ref().map(|below| below.clone_ref(py));
        match below {
            Some(below) => below.object(py).call_method1(Text("get_extra_info"), (name, default)),
            None => Ok(default),
        }
    }
}

#[pymethods]
impl SslProtocol {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.engine.traverse(&visit)?;
        visit.call(&self.extra)?;
        visit.call(&self.handshake_timeout)?;
        visit.call(&self.shutdown_timeout)?;
        let Some(parts) = self.parts.try_lock() else { return Ok(()) };
        visit.call(&parts.application)?;
        visit.call(&parts.app_transport)?;
        if let Some(below) = &parts.below {
            below.traverse(&visit)?;
        }
        visit.call(&parts.waiter)?;
        visit.call(&parts.handshake_timer)?;
        visit.call(&parts.shutdown_timer)
    }

    fn __clear__(&self) {
        let parts = std::mem::take(&mut *self.parts.lock());
        drop(parts);
    }

    // What the transport below calls

    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        if this.is_lost() {
            return Ok(()); // `start_tls` on a transport that was closing
        }
        this.parts.lock().below = Some(Below::new(&this.event_loop, transport));
        Layer(slf).begin(this.event_loop(slf.py()))
    }

    fn data_received(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        Layer(slf).received(slf.get().event_loop(slf.py()), data)
    }

    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Layer(slf).ended(slf.get().event_loop(slf.py()))
    }

    fn pause_writing(slf: &Bound<'_, Self>) {
        Layer(slf).transport_paused();
    }

    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        Layer(slf).transport_resumed(slf.get().event_loop(slf.py()))
    }

    fn connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let (layer, cx) = (Layer(slf), this.event_loop(py));
        let tell = layer.transport_lost();
        let told = match layer.application(py) {
            Some(protocol) if tell => interned!(py, "connection_lost")
                .and_then(|name| protocol.getattr(name))
                .and_then(|lost| Ok((lost, objects::tuple(py, [exc])?, context::copy_current(py)?)))
                .and_then(|(lost, args, context)| queue(cx, &lost, args, context)),
            _ => Ok(()),
        };
        let lost = {
            let mut parts = this.parts.lock();
            let backlog = std::mem::take(&mut parts.backlog);
            (parts.application.take(), parts.app_transport.take(), parts.below.take(), backlog)
        };
        if let Some(transport) = &lost.1 {
            transport.get().let_go();
        }
        drop(lost);
        let discarded = finally(py, told, || this.engine.discard(py));
        let error = (!exc.is_none()).then(|| PyErr::from_value(exc.clone()));
        let woken = finally(py, discarded, || layer.wake_waiter(cx, error.as_ref()));
        let cancelled = finally(py, woken, || layer.cancel_timer(cx, Timer::Shutdown));
        finally(py, cancelled, || layer.cancel_timer(cx, Timer::Handshake))
    }

    // What is scheduled

    fn _check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Layer(slf).expired(slf.get().event_loop(slf.py()), Timer::Handshake)
    }

    fn _check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        Layer(slf).expired(slf.get().event_loop(slf.py()), Timer::Shutdown)
    }

    fn _do_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        Layer(slf).do_read(slf.get().event_loop(slf.py()))
    }

    fn _resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        Layer(slf).resumed(slf.get().event_loop(slf.py()))
    }

    // What `start_tls` needs, and what libraries read

    /// Ciphertext that somebody else has read.
    fn _feed(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.engine.feed(data)
    }

    #[getter]
    fn _app_transport(&self, py: Python<'_>) -> Option<Py<TlsTransport>> {
        self.app_transport(py)
    }

    #[getter]
    pub(super) fn _app_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.parts.lock().application.as_ref().map(|protocol| protocol.clone_ref(py))
    }

    #[getter]
    fn _transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.parts.lock().below.as_ref().map(|below| below.object(py).clone())
    }

    /// Whether ciphertext passes by MemoryBIOs: see `OXLOOP_TLS_BIO`.
    #[getter]
    fn _has_memory_bios(&self) -> bool {
        self.wire().is_none()
    }

    #[getter]
    fn _sslcontext<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.extra.bind(py).get_item(Text("sslcontext"))
    }
}

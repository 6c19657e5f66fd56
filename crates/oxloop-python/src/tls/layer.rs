//! How the rules of a TLS connection reach Python: its protocol, its transport, its exceptions.

use super::engine::is_certificate_error;
use super::protocol::{Below, SslProtocol};
use crate::error::{Concerned, exception, finally, leaves_loop, log_error, memory_error, report};
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::queue;
use crate::ffi::bytes::{KeptBytes, bytes_of};
use crate::ffi::handled::handling;
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{Float, Message, Text, interned};
use crate::ffi::openssl::Wire;
use crate::ffi::{calls, context};
use crate::imports::logger;
use lock_api::Mutex;
use oxloop::engine::{Received, Recv};
use oxloop::tls::{Failed, Progress, Pulled, Session, Timer, TlsLayer, TlsState};
use pyo3::exceptions::{PyConnectionAbortedError, PyConnectionResetError, PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// The connection of an `SSLProtocol`.
pub(crate) struct Layer<'a, 'py>(pub(crate) &'a Bound<'py, SslProtocol>);

impl<'py> Layer<'_, 'py> {
    /// The application's protocol, until the connection is lost.
    pub(super) fn application(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.0.get().parts.lock().application.as_ref().map(|protocol| protocol.bind(py).clone())
    }

    /// The transport below, until it is lost.
    pub(super) fn below(&self, py: Python<'py>) -> Option<Below> {
        self.0.get().parts.lock().below.as_ref().map(|below| below.clone_ref(py))
    }

    /// Ciphertext has come in.
    #[inline]
    pub(crate) fn received(
        &self,
        cx: &Bound<'_, BaseLoop>,
        ciphertext: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.0.get().engine.feed(ciphertext)?;
        self.fed(cx)
    }

    /// The transport below is readable: one call of `recv` reads into the engine's memory. How it
    /// went, and what became of the data.
    #[inline]
    pub(crate) fn receive(
        &self,
        cx: &Bound<'_, BaseLoop>,
        wire: &Wire,
        recv: Recv<'_>,
    ) -> (Received, PyResult<()>) {
        match wire.receive(|memory| recv(memory.into()).map(|data| data.len())) {
            Ok(0) => {
                wire.settle();
                (Received::Eof, Ok(()))
            }
            Ok(count) => {
                let fed = self.fed(cx);
                wire.settle();
                (Received::Data(count), fed)
            }
            Err(error) => (Received::Failed(error), Ok(())),
        }
    }

    /// `write(data)`, `data` being a bytes-like object that is not empty.
    #[inline]
    pub(super) fn write(&self, cx: &Bound<'_, BaseLoop>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = self.0.get();
        let session = this.state.lock().session();
        match session {
            Session::Wrapped if !self.has_backlog() => match self.encrypt(cx, data) {
                Ok(()) => Ok(()),
                Err(error) => self.fatal_error(cx, error, "Fatal error on SSL protocol"),
            },
            Session::Wrapped | Session::DoHandshake => {
                let kept = copy(data)?;
                this.parts.lock().backlog.push(kept).map_err(memory_error)?;
                self.written(cx)
            }
            _ => {
                let warn = this.state.lock().note_lost_write();
                if warn {
                    logger(cx.py())?
                        .call_method1(Text("warning"), (Text("SSL connection is closed"),))?;
                }
                Ok(())
            }
        }
    }

    #[inline]
    fn encrypt(&self, cx: &Bound<'_, BaseLoop>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = self.0.get();
        let len = data.len()?;
        let count = this.engine.write(data)?.unwrap_or(0);
        if count < len {
            let mut rest = copy(data)?;
            if count > 0 {
                rest = rest.tail(cx.py(), count)?;
            }
            this.parts.lock().backlog.push(rest).map_err(memory_error)?;
        }
        self.process_outgoing(cx)
    }

    /// Reports an error to the exception handler, but an OSError, and closes the connection.
    fn fatal(&self, cx: &Bound<'_, BaseLoop>, error: &PyErr, message: &str) -> PyResult<()> {
        let py = cx.py();
        let below = self.below(py);
        let raised = exception(py, error);
        if let Some(below) = &below {
            handling(&raised, || below.force_close(py, Some(raised.clone().into_any())))?;
        }
        if error.is_instance_of::<PyOSError>(py) {
            return log_error(cx, self.0.as_any(), message, &raised);
        }
        if error.is_instance_of::<pyo3::exceptions::asyncio::CancelledError>(py) {
            return Ok(());
        }
        let transport = below.as_ref().map(|below| below.object(py));
        report(cx, message, error, Concerned { transport, protocol: Some(self.0.as_any()) })
    }

    fn debug(&self, cx: &Bound<'_, BaseLoop>, text: &str) -> PyResult<()> {
        if cx.get().is_debug() {
            logger(cx.py())?.call_method1(Text("debug"), (Text(text), self.0))?;
        }
        Ok(())
    }

    /// The transport below has ended: `eof_received()`.
    pub(super) fn ended(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<bool> {
        let ended = self.debug(cx, "%r received EOF").and_then(|()| self.transport_ended(cx));
        let Err(error) = ended else { return ended };
        if error.is_instance_of::<PyException>(cx.py()) {
            if let Some(below) = self.below(cx.py()) {
                return finally(cx.py(), Err(error), || below.close(cx.py()));
            }
        }
        Err(error)
    }

    /// The transport below is there: `connection_made(transport)`.
    pub(super) fn begin(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        if cx.get().is_debug() {
            self.debug(cx, "%r starts SSL handshake")?;
            let now = cx.get().engine.now(cx)?;
            self.0.get().parts.lock().handshake_start = Some(now);
        }
        self.start_handshake(cx)
    }
}

/// A copy that nobody changes while it waits.
fn copy(data: &Bound<'_, PyAny>) -> PyResult<KeptBytes> {
    Ok(match data.cast_exact::<PyBytes>() {
        Ok(bytes) => KeptBytes::new(bytes),
        Err(_) => KeptBytes::new(&bytes_of(data)?),
    })
}

impl TlsLayer for Layer<'_, '_> {
    type Lock = StateLock;
    type Context<'a> = &'a Bound<'a, BaseLoop>;
    type Error = PyErr;

    #[inline]
    fn state(&self) -> &Mutex<StateLock, TlsState> {
        &self.0.get().state
    }

    fn handshake(&self, cx: &Bound<'_, BaseLoop>) -> Result<Progress, Failed<PyErr>> {
        self.0.get().engine.handshake(cx.py())
    }

    fn unwrap(&self, cx: &Bound<'_, BaseLoop>) -> Result<Progress, Failed<PyErr>> {
        self.0.get().engine.unwrap(cx.py())
    }

    #[inline]
    fn pull(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Pulled> {
        let buffered = self.0.get().parts.lock().buffered;
        if buffered { self.read_into_buffers(cx) } else { self.read_all(cx) }
    }

    fn push(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let (this, py) = (self.0.get(), cx.py());
        loop {
            let Some(data) = this.parts.lock().backlog.take() else { return Ok(()) };
            let Some(count) = this.engine.write(data.object(py))? else {
                this.parts.lock().backlog.put_back(data);
                return Ok(());
            };
            if count < data.as_ref().len() {
                let rest = data.tail(py, count)?;
                this.parts.lock().backlog.put_back(rest);
            }
        }
    }

    #[inline]
    fn has_backlog(&self) -> bool {
        !self.0.get().parts.lock().backlog.is_empty()
    }

    #[inline]
    fn incoming(&self, _: &Bound<'_, BaseLoop>) -> PyResult<usize> {
        Ok(self.0.get().engine.pending())
    }

    #[inline]
    fn outgoing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<usize> {
        let this = self.0.get();
        let backlog = this.parts.lock().backlog.len();
        let sends = this.state.lock().may_send();
        // A transport that takes data has all of it: see `send`.
        if sends { Ok(backlog) } else { Ok(backlog + this.engine.outgoing(cx.py())?) }
    }

    #[inline]
    fn send(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        match self.below(cx.py()) {
            Some(below) => self.0.get().engine.send(cx, &below),
            None => Ok(()),
        }
    }

    fn established(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let (this, py) = (self.0.get(), cx.py());
        let object = this.engine.object.bind(py);
        let extra = this.extra.bind(py);
        extra.set_item(Text("peercert"), object.call_method0(Text("getpeercert"))?)?;
        if cx.get().is_debug() {
            let start = this.parts.lock().handshake_start.take();
            let now = cx.get().engine.now(cx)?;
            let seconds = start.map_or(0.0, |start| now - start);
            let text = "%r: SSL handshake took %.1f ms";
            logger(py)?.call_method1(Text("debug"), (Text(text), self.0, Float(seconds * 1e3)))?;
        }
        extra.set_item(Text("cipher"), object.call_method0(Text("cipher"))?)?;
        extra.set_item(Text("compression"), object.call_method0(Text("compression"))?)?;
        extra.set_item(Text("ssl_object"), object)
    }

    fn pause_transport(&self, cx: &Bound<'_, BaseLoop>, pause: bool) -> PyResult<()> {
        let py = cx.py();
        let Some(below) = self.below(py) else { return Ok(()) };
        let name = if pause { "pause_reading" } else { "resume_reading" };
        below.object(py).call_method0(Text(name)).map(drop)
    }

    fn close_transport_soon(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        let Some(below) = self.below(py) else { return Ok(()) };
        let close = below.object(py).getattr(interned!(py, "close")?)?;
        queue(cx, &close, PyTuple::empty(py), context::copy_current(py)?)
    }

    fn force_close(&self, cx: &Bound<'_, BaseLoop>, error: Option<PyErr>) -> PyResult<()> {
        let py = cx.py();
        let Some(below) = self.below(py) else { return Ok(()) };
        below.force_close(py, error.map(|error| exception(py, &error).into_any()))
    }

    fn connection_made(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        let Some(protocol) = self.application(py) else { return Ok(()) };
        let Some(transport) = self.0.get().app_transport(py) else { return Ok(()) };
        let transport = transport.bind(py).as_any();
        calls::method(&protocol, interned!(py, "connection_made")?, [transport]).map(drop)
    }

    fn eof_received(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        let Some(protocol) = self.application(py) else { return Ok(()) };
        let called = calls::method(&protocol, interned!(py, "eof_received")?, []);
        match called.and_then(|keep_open| keep_open.is_truthy()) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text = "returning true from eof_received() has no effect when using ssl";
                logger(py)?.call_method1(Text("warning"), (Text(text),)).map(drop)
            }
            Err(error) if leaves_loop(py, &error) => Err(error),
            Err(error) => self.fatal(cx, &error, "Error calling eof_received()"),
        }
    }

    fn pause_writing(&self, cx: &Bound<'_, BaseLoop>, pause: bool) -> PyResult<()> {
        let py = cx.py();
        let Some(protocol) = self.application(py) else { return Ok(()) };
        let name = if pause { "pause_writing" } else { "resume_writing" };
        let Err(error) = protocol.call_method0(Text(name)) else { return Ok(()) };
        if leaves_loop(py, &error) {
            return Err(error);
        }
        let transport = self.0.get().app_transport(py);
        let transport = transport.as_ref().map(|transport| transport.bind(py).as_any());
        let concerned = Concerned { transport, protocol: Some(self.0.as_any()) };
        report(cx, &format!("protocol.{name}() failed"), &error, concerned)
    }

    fn wake_waiter(&self, cx: &Bound<'_, BaseLoop>, error: Option<&PyErr>) -> PyResult<()> {
        let py = cx.py();
        let Some(waiter) = self.0.get().parts.lock().waiter.take() else { return Ok(()) };
        let waiter = waiter.bind(py);
        if waiter.call_method0(interned!(py, "done")?)?.is_truthy()? {
            return Ok(());
        }
        match error {
            Some(error) => waiter.call_method1(Text("set_exception"), (exception(py, error),)),
            None => waiter.call_method1(Text("set_result"), (py.None(),)),
        }
        .map(drop)
    }

    fn mark_closed(&self) {
        self.0.get().mark_closed();
    }

    fn fatal_error(
        &self,
        cx: &Bound<'_, BaseLoop>,
        error: PyErr,
        message: &'static str,
    ) -> PyResult<()> {
        if !error.is_instance_of::<PyException>(cx.py()) {
            return Err(error);
        }
        self.fatal(cx, &error, message)
    }

    fn handshake_failed(&self, cx: &Bound<'_, BaseLoop>, error: PyErr) -> PyResult<()> {
        let py = cx.py();
        if !error.is_instance_of::<PyException>(py) {
            return Err(error);
        }
        let message = if is_certificate_error(py, &error)? {
            "SSL handshake failed on verifying the certificate"
        } else {
            "SSL handshake failed"
        };
        self.fatal(cx, &error, message)?;
        self.wake_waiter(cx, Some(&error))
    }

    fn reset_error(&self, _: &Bound<'_, BaseLoop>) -> PyErr {
        PyConnectionResetError::new_err(())
    }

    fn timeout_error(&self, cx: &Bound<'_, BaseLoop>, timer: Timer) -> PyErr {
        match timer {
            Timer::Handshake => match self.0.get().timeout(timer).bind(cx.py()).str() {
                Ok(seconds) => PyConnectionAbortedError::new_err(Message(format!(
                    "SSL handshake is taking longer than {seconds} seconds: \
                     aborting the connection"
                ))),
                Err(error) => error,
            },
            // Python 3.10 has a TimeoutError of asyncio's own.
            Timer::Shutdown => {
                pyo3::exceptions::asyncio::TimeoutError::new_err(Message("SSL shutdown timed out"))
            }
        }
    }

    fn start_timer(&self, cx: &Bound<'_, BaseLoop>, timer: Timer) -> PyResult<()> {
        let (this, py) = (self.0.get(), cx.py());
        let callback = match timer {
            Timer::Handshake => self.0.getattr(interned!(py, "_check_handshake_timeout")?)?,
            Timer::Shutdown => self.0.getattr(interned!(py, "_check_shutdown_timeout")?)?,
        };
        let arguments = [this.timeout(timer).bind(py), &callback];
        let handle = calls::method(cx.as_any(), interned!(py, "call_later")?, arguments)?;
        let old = this.parts.lock().timer(timer).replace(handle.unbind());
        drop(old);
        Ok(())
    }

    fn cancel_timer(&self, cx: &Bound<'_, BaseLoop>, timer: Timer) -> PyResult<()> {
        let py = cx.py();
        let handle = self.0.get().parts.lock().timer(timer).take();
        let Some(handle) = handle else { return Ok(()) };
        calls::method(handle.bind(py), interned!(py, "cancel")?, []).map(drop)
    }

    fn resume_soon(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        let resume = self.0.getattr(interned!(py, "_resume")?)?;
        queue(cx, &resume, PyTuple::empty(py), context::copy_current(py)?)
    }
}

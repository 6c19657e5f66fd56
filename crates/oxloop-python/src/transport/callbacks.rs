//! How the engine's events become a Python protocol's callbacks, and what happens when they
//! raise.

use super::common::{SOURCE_TRACEBACK, debug, schedule_lost, tell_lost};
use super::stream::{ONE_CONTEXT, Parts, StreamRef, StreamTransport};
use super::{extra_info, sendfile};
use crate::error::{
    Concerned, attempt, call_exception_handler, fatal_error, finally, leaves_loop, os_error, report,
};
use crate::event_loop::BaseLoop;
use crate::face::PyFace;
use crate::ffi::bytes::{fill_object, filled};
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Int, Message, Text, interned};
use crate::ffi::{calls, context};
use crate::shown::{self, Face};
use crate::tls::{Layer, SslProtocol};
use lock_api::Mutex;
use oxloop::engine::{Failure, Received, Recv, StreamHandler};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::io;

/// Reading starts in a callback, in asyncio as well.
const WATCH_FAILED: &str = "Exception in callback StreamTransport._add_reader()";
const READ_FAILED: &str = "Fatal read error on socket transport";
const BUFFER_UPDATED_FAILED: &str = "Fatal error: protocol.buffer_updated() call failed.";
pub(super) const WRITE_FAILED: &str = "Fatal write error on socket transport";

/// What a transport calls its protocol for; says in which of its two contexts.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Read,
    Eof,
    Write,
    Lost,
}

impl Kind {
    /// The protocol's callback of that kind, for debug mode. One that cannot be had is told when
    /// it is called.
    fn callback<'py>(self, protocol: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let find = |name: &str| attempt(protocol.py(), protocol.getattr(Text(name)));
        match self {
            Kind::Read => match find("data_received")? {
                None => find("buffer_updated"),
                found => Ok(found),
            },
            Kind::Eof => find("eof_received"),
            Kind::Write => find("resume_writing"),
            Kind::Lost => find("connection_lost"),
        }
    }
}

/// What sockets' transports and pipes' share: how their protocols are called and reported on.
pub(super) trait Caller {
    fn parts(&self) -> &Mutex<StateLock, Parts>;

    /// The transport as Python sees it.
    fn object<'py>(&'py self, py: Python<'py>) -> &'py Bound<'py, PyAny>;

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.parts().lock().protocol.as_ref().map(|protocol| protocol.bind(py).clone())
    }

    /// pause_writing(), in the caller's context: it is called from inside write().
    fn call_pause_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        self.flow_callback(cx, "pause_writing", |protocol| {
            calls::method(protocol, interned!(protocol.py(), "pause_writing")?, []).map(drop)
        })
    }

    /// resume_writing(), in the writer's context.
    fn call_resume_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let resumed = self.inside(cx, Kind::Write, |_| {
            self.flow_callback(cx, "resume_writing", |protocol| {
                calls::method(protocol, interned!(protocol.py(), "resume_writing")?, []).map(drop)
            })
        });
        resumed.map(drop)
    }

    /// Writing goes on later: in the context of now.
    fn note_writer(&self, cx: &Bound<'_, BaseLoop>, noticed: Failure) {
        let context = match noticed {
            Failure::Flush => self.copy_own(cx.py()),
            _ => context::copy_current(cx.py()).map(Some),
        };
        // No Python code runs here: only memory may be missing. Without a context of their own the
        // callbacks run in the loop's.
        let context = context.unwrap_or_default();
        let old = std::mem::replace(&mut self.parts().lock().write_context, context);
        drop(old);
    }

    /// Once the writer's context is left the connection's own is the next best. A copy, as a
    /// callback may be running in it.
    fn copy_own(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let known = self.parts().lock().read_context.as_ref().map(|c| c.clone_ref(py));
        known.map(|known| context::copy(known.bind(py))).transpose()
    }

    /// Calls `f` in the context in which asyncio notices such a failure.
    fn where_noticed(
        &self,
        cx: &Bound<'_, BaseLoop>,
        failure: Failure,
        f: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<()> {
        let kind = match failure {
            Failure::Write => return f(),
            Failure::Flush => {
                let py = cx.py();
                let Some(copy) = self.copy_own(py)? else { return f() };
                return context::run(copy.bind(py), f);
            }
            Failure::Watch | Failure::Read => Kind::Read,
            Failure::Drain => Kind::Write,
        };
        self.inside(cx, kind, |_| f()).map(drop)
    }

    /// Tells of an error that ends the connection, which `force_close` does.
    fn end_by<'py>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        error: PyErr,
        message: &str,
        force_close: impl FnOnce(Option<Bound<'py, PyAny>>) -> PyResult<()>,
    ) -> PyResult<()> {
        let protocol = self.protocol(cx.py());
        let transport = self.object(cx.py());
        fatal_error(cx, transport, protocol.as_ref(), message, error, force_close)
    }

    /// Calls `f` with the protocol, in the context of its reading or writing; `None` where the
    /// connection is lost.
    #[inline]
    fn inside<'py, R>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        kind: Kind,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> PyResult<Option<R>> {
        let Some((protocol, context)) = self.called(cx.py(), kind) else { return Ok(None) };
        if shown::sees_events(cx) {
            return self.seen(cx, kind, &protocol, context.as_ref(), f)?.transpose();
        }
        shown::inside(context.as_ref(), || f(&protocol).map(Some))
    }

    /// The same, with the errors of `f` apart from what leaves the loop in any case.
    fn inside_apart<'py, R>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        kind: Kind,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> PyResult<Option<PyResult<R>>> {
        let Some((protocol, context)) = self.called(cx.py(), kind) else { return Ok(None) };
        if shown::sees_events(cx) {
            return self.seen(cx, kind, &protocol, context.as_ref(), f);
        }
        Ok(Some(shown::inside(context.as_ref(), || f(&protocol))))
    }

    /// The protocol, and the context of its reading or writing; `None` once the connection is lost.
    #[inline]
    fn called<'py>(
        &self,
        py: Python<'py>,
        kind: Kind,
    ) -> Option<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
        let parts = self.parts().lock();
        let context = match kind {
            Kind::Read | Kind::Eof => &parts.read_context,
            Kind::Write | Kind::Lost => &parts.write_context,
        };
        let clone =
            |object: &Option<Py<PyAny>>| object.as_ref().map(|object| object.bind(py).clone());
        Some((clone(&parts.protocol)?, clone(context)))
    }

    /// Calls for an event that the program sees.
    #[cold]
    fn seen<'py, R>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        kind: Kind,
        protocol: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> PyResult<Option<PyResult<R>>> {
        let face = match kind.callback(protocol)? {
            Some(callback) => {
                let source = self.object(cx.py()).getattr_opt(SOURCE_TRACEBACK);
                source.map(|source| Some(Face { callback, source }))
            }
            // It fails when it is called.
            None => Ok(None),
        };
        shown::event(cx, context, face, || f(protocol))
    }

    /// A flow control callback: what it raises is told, and the connection goes on.
    fn flow_callback<'py>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        name: &str,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        let py = cx.py();
        let Some(protocol) = self.protocol(py) else { return Ok(()) };
        let Err(error) = f(&protocol) else { return Ok(()) };
        if leaves_loop(py, &error) {
            return Err(error);
        }
        self.report(cx, error, &format!("protocol.{name}() failed"))
    }

    fn report(&self, cx: &Bound<'_, BaseLoop>, error: PyErr, message: &str) -> PyResult<()> {
        let py = cx.py();
        let protocol = self.protocol(py);
        let (transport, protocol) = (Some(self.object(py)), protocol.as_ref());
        report(cx, message, &error, Concerned { transport, protocol })
    }
}

impl Caller for StreamRef {
    #[inline]
    fn parts(&self) -> &Mutex<StateLock, Parts> {
        &self.0.get().parts
    }

    #[inline]
    fn object<'py>(&'py self, py: Python<'py>) -> &'py Bound<'py, PyAny> {
        self.0.bind(py).as_any()
    }
}

impl StreamHandler<PyFace> for StreamRef {
    #[inline]
    fn received(&self, cx: &Bound<'_, BaseLoop>, data: &[u8]) -> PyResult<()> {
        self.deliver(cx, objects::bytes(cx.py(), data)?)
    }

    fn receive_into(
        &self,
        cx: &Bound<'_, BaseLoop>,
        hint: usize,
        recv: Recv<'_>,
    ) -> PyResult<Received> {
        if hint == 0 {
            return self.receive_buffered(cx, recv);
        }
        match filled(cx.py(), hint, |memory| recv(memory.into()))? {
            Ok(data) if data.as_bytes().is_empty() => Ok(Received::Eof),
            Ok(data) => {
                let count = data.as_bytes().len();
                self.deliver(cx, data)?;
                Ok(Received::Data(count))
            }
            Err(error) => Ok(Received::Failed(error)),
        }
    }

    fn eof_received(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Option<bool>> {
        let transport = self.0.bind(cx.py());
        debug(cx, transport, "%r received EOF")?;
        let kept = self.inside(cx, Kind::Eof, |protocol| {
            let called = calls::method(protocol, interned!(protocol.py(), "eof_received")?, []);
            match called.and_then(|keep_open| keep_open.is_truthy()) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if leaves_loop(protocol.py(), &error) => {
                    // The end of the stream is told once: nothing else would close it.
                    self.close(cx)?;
                    return Err(error);
                }
                Err(error) => {
                    let message = "Fatal error: protocol.eof_received() call failed.";
                    self.callback_failed(cx, error, message)?;
                }
            }
            self.close(cx)
        });
        // Closing, where it is asked for, was done here: in the reader's context.
        kept.map(|_| None)
    }

    fn pause_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        self.call_pause_writing(cx)
    }

    fn resume_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        self.call_resume_writing(cx)
    }

    fn writing_deferred(&self, cx: &Bound<'_, BaseLoop>, noticed: Failure) {
        if !ONE_CONTEXT {
            self.note_writer(cx, noticed);
        }
    }

    fn drained(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        sendfile::settle(self.0.bind(cx.py()), None)
    }

    /// Sockets hear of it by reading and writing.
    fn hung_up(&self, _: &Bound<'_, BaseLoop>, _: bool) -> PyResult<()> {
        Ok(())
    }

    fn failed(&self, cx: &Bound<'_, BaseLoop>, failure: Failure, error: io::Error) -> PyResult<()> {
        let error = os_error(cx.py(), &error);
        let message = match failure {
            // A number that is no descriptor's: nothing will be read.
            Failure::Watch => return self.report(cx, error, WATCH_FAILED),
            Failure::Read => READ_FAILED,
            Failure::Write | Failure::Flush | Failure::Drain => WRITE_FAILED,
        };
        self.where_noticed(cx, failure, || self.fatal_error(cx, error, message))
    }

    fn schedule_connection_lost(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        if cx.get().engine.is_closed() {
            return Ok(());
        }
        let transport = self.0.bind(cx.py());
        transport.get().schedule_lost(transport, None)
    }

    fn connection_lost(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        let transport = self.0.bind(py);
        let none = py.None().into_bound(py);
        let lost = self.inside_apart(cx, Kind::Lost, |_| transport.get().lose(transport, &none))?;
        match lost.unwrap_or(Ok(())) {
            Err(error) if !leaves_loop(py, &error) => {
                let message = "Exception in callback protocol.connection_lost()";
                let details = [("transport", Some(transport.as_any()))];
                call_exception_handler(cx, message, &error, details)
            }
            result => result,
        }
    }
}

impl StreamRef {
    /// `data_received(data)`.
    #[inline]
    fn deliver(&self, cx: &Bound<'_, BaseLoop>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        let called = self.inside(cx, Kind::Read, |protocol| {
            if let Ok(protocol) = protocol.cast_exact::<SslProtocol>() {
                return match Layer(protocol).received(cx, data.as_any()) {
                    Ok(()) => Ok(()),
                    Err(error) => self.callback_failed(cx, error, BUFFER_UPDATED_FAILED),
                };
            }
            let name = interned!(protocol.py(), "data_received")?;
            match calls::method(protocol, name, [data.as_any()]) {
                Ok(_) => Ok(()),
                Err(error) => {
                    let message = "Fatal error: protocol.data_received() call failed.";
                    self.callback_failed(cx, error, message)
                }
            }
        });
        called.map(drop)
    }

    /// `get_buffer(-1)`, recv into it, `buffer_updated(count)`.
    fn receive_buffered(&self, cx: &Bound<'_, BaseLoop>, recv: Recv<'_>) -> PyResult<Received> {
        let received = self.inside(cx, Kind::Read, |protocol| {
            let py = protocol.py();
            let tls = protocol.cast_exact::<SslProtocol>().ok();
            if let Some((tls, wire)) = tls.and_then(|tls| Some((tls, tls.get().wire()?))) {
                let (received, fed) = Layer(tls).receive(cx, wire, recv);
                return match fed {
                    Ok(()) => Ok(received),
                    Err(error) => {
                        self.callback_failed(cx, error, BUFFER_UPDATED_FAILED).map(|()| received)
                    }
                };
            }
            let buffer = match get_buffer(protocol) {
                Ok(buffer) => buffer,
                Err(error) => {
                    let message = "Fatal error: protocol.get_buffer() call failed.";
                    self.callback_failed(cx, error, message)?;
                    return Ok(Received::NoBuffer);
                }
            };
            let filled = fill_object(&buffer, |memory| recv(memory.into()).map(|data| data.len()));
            let count = match filled {
                Ok(Ok(0)) => return Ok(Received::Eof),
                Ok(Ok(count)) => count,
                Ok(Err(error)) => return Ok(Received::Failed(error)),
                Err(error) => {
                    self.fatal_error(cx, error, READ_FAILED)?;
                    return Ok(Received::NoBuffer);
                }
            };
            // get_buffer() may have changed the protocol: asyncio tells the new one.
            if let Some(protocol) = self.protocol(py) {
                let nbytes = Int(count).into_pyobject(py)?;
                let name = interned!(py, "buffer_updated")?;
                if let Err(error) = calls::method(&protocol, name, [nbytes.as_any()]) {
                    self.callback_failed(cx, error, BUFFER_UPDATED_FAILED)?;
                }
            }
            Ok(Received::Data(count))
        });
        received.map(|received| received.unwrap_or(Received::NoBuffer))
    }

    /// `close()` from inside.
    fn close(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let this = self.0.get();
        this.engine().close_stream(cx, this.token)
    }

    /// The fatal error of a callback: what it has written before leaves first.
    #[cold]
    fn callback_failed(
        &self,
        cx: &Bound<'_, BaseLoop>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        self.0.get().flush(cx.py())?;
        self.fatal_error(cx, error, message)
    }

    /// asyncio's `_fatal_error`: an OSError is the network's and only logged in debug mode, the
    /// rest goes to the exception handler; the connection is forced closed.
    pub(super) fn fatal_error(
        &self,
        cx: &Bound<'_, BaseLoop>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let transport = self.0.bind(cx.py());
        self.end_by(cx, error, message, |raised| StreamTransport::force_close(transport, raised))
    }
}

/// `get_buffer(-1)`: any size will do.
#[inline]
fn get_buffer<'py>(protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = protocol.py();
    let hint = Int(-1i32).into_pyobject(py)?;
    let buffer = calls::method(protocol, interned!(py, "get_buffer")?, [hint.as_any()])?;
    if buffer.len()? == 0 {
        return Err(PyRuntimeError::new_err(Message("get_buffer() returned an empty buffer")));
    }
    Ok(buffer)
}

impl StreamTransport {
    pub(super) fn force_close(
        slf: &Bound<'_, Self>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let this = slf.get();
        if this.engine().force_close(this.token) {
            this.schedule_lost(slf, exception)?;
        }
        Ok(())
    }

    /// Queues `_call_connection_lost(exc)`, in a copy of the present context or the one of all.
    pub(super) fn schedule_lost(
        &self,
        slf: &Bound<'_, Self>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let own = || self.parts.lock().write_context.as_ref().map(|own| own.clone_ref(py));
        let context = || match ONE_CONTEXT.then(own).flatten() {
            Some(own) => Ok(own),
            None => context::copy_current(py),
        };
        schedule_lost(self.event_loop(py), self.token, slf, exception, context)
    }

    /// `connection_lost(exc)`, once; then the descriptor is closed and everything let go.
    pub(super) fn lose(&self, slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if !self.engine().lose(self.token) {
            return Ok(());
        }
        let called = tell_lost(StreamRef(slf.clone().unbind()).protocol(py), exception);
        // Whoever sends a file by it hears of it, too.
        let settled = finally(py, called, || sendfile::settle(slf, Some(exception)));
        finally(py, settled, || extra_info::finish(slf))
    }
}

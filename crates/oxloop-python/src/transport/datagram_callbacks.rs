//! How the engine's events become a Python datagram protocol's callbacks, and what happens when
//! they raise: it is reported, and the endpoint goes on.

use super::common::SOURCE_TRACEBACK;
use super::datagram::{DatagramRef, DatagramTransport, WRITE_FAILED, is_blocked};
use crate::error::{Concerned, attempt, exception, fatal_error, leaves_loop, os_error, report};
use crate::event_loop::BaseLoop;
use crate::face::PyFace;
use crate::ffi::handled::handling;
use crate::ffi::objects::{self, Int, interned};
use crate::ffi::{calls, context};
use crate::shown::{self, Face, report_event};
use oxloop::engine::{DatagramHandler, Failure, SentOther};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use rustix::net::SocketAddrAny;
use std::io;

/// The most that a socket object receives at once, bytes.
pub(super) const MAX_SIZE: usize = 256 * 1024;
/// Receiving starts in a callback, in asyncio as well.
const WATCH_FAILED: &str = "Exception in callback DatagramTransport._add_reader()";
const READ_FAILED: &str = "Fatal read error on datagram transport";

/// In which of its two contexts a transport calls its protocol.
#[derive(Clone, Copy)]
enum Side {
    Read,
    Write,
}

impl DatagramHandler<PyFace> for DatagramRef {
    fn datagram_received(
        &self,
        cx: &Bound<'_, BaseLoop>,
        data: &[u8],
        from: Option<&SocketAddrAny>,
    ) -> PyResult<()> {
        let py = cx.py();
        let data = objects::bytes(py, data)?;
        let addr = self.0.get().sender(py, from)?;
        self.deliver(cx, data.as_any(), &addr)
    }

    fn receive_other(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<bool> {
        let py = cx.py();
        let Some(sock) = self.0.get().sock(py) else { return Ok(false) };
        let received = sock
            .call_method1(interned!(py, "recvfrom")?, (Int(MAX_SIZE),))
            .and_then(|received| Ok(received.cast_into::<PyTuple>()?))
            .and_then(|received| Ok((received.get_item(0)?, received.get_item(1)?)));
        match received {
            Ok((data, addr)) => {
                self.deliver(cx, &data, &addr)?;
                return Ok(true);
            }
            Err(error) if is_blocked(py, &error) => {}
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                self.tell_error(cx, Side::Read, error)?;
            }
            Err(error) => {
                self.inside(
                    cx,
                    self.context(py, Side::Read).as_ref(),
                    interned!(py, "datagram_received")?,
                    |_| self.fatal_error(cx, error, READ_FAILED),
                )?;
            }
        }
        Ok(false)
    }

    fn send_other(
        &self,
        cx: &Bound<'_, BaseLoop>,
        data: &[u8],
        to: &Option<Py<PyAny>>,
    ) -> PyResult<SentOther> {
        let py = cx.py();
        let data = objects::bytes(py, data)?;
        let to = to.as_ref().map(|to| to.bind(py));
        match self.0.get().send_other(py, data.as_any(), to) {
            Ok(()) => return Ok(SentOther::Sent),
            Err(error) if is_blocked(py, &error) => return Ok(SentOther::Blocked),
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                self.tell_error(cx, Side::Write, error)?;
            }
            Err(error) => {
                self.inside(
                    cx,
                    self.context(py, Side::Write).as_ref(),
                    interned!(py, "error_received")?,
                    |_| self.fatal_error(cx, error, WRITE_FAILED),
                )?;
            }
        }
        Ok(SentOther::Failed)
    }

    fn error_received(
        &self,
        cx: &Bound<'_, BaseLoop>,
        failure: Failure,
        error: io::Error,
    ) -> PyResult<()> {
        let error = os_error(cx.py(), &error);
        match failure {
            // A number that is no descriptor's: nothing will be received.
            Failure::Watch => self.report(cx, error, WATCH_FAILED),
            Failure::Read => self.tell_error(cx, Side::Read, error),
            _ => self.tell_error(cx, Side::Write, error),
        }
    }

    fn pause_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        // Called from inside sendto(): in the caller's context.
        let py = cx.py();
        let Some(protocol) = self.0.get().get_protocol_object(py) else { return Ok(()) };
        self.flow(cx, &protocol, interned!(py, "pause_writing")?)
    }

    fn resume_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let name = interned!(cx.py(), "resume_writing")?;
        let context = self.context(cx.py(), Side::Write);
        self.inside(cx, context.as_ref(), name, |protocol| self.flow(cx, protocol, name))
    }

    fn writing_deferred(&self, cx: &Bound<'_, BaseLoop>) {
        // No Python code runs here: only memory may be missing. Without a context of their own the
        // callbacks run in the loop's.
        let context = context::copy_current(cx.py()).ok();
        let old = std::mem::replace(&mut self.0.get().parts.lock().write_context, context);
        drop(old);
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
        self.call(cx, Side::Write, interned!(py, "connection_lost")?, |_| {
            transport.get().lose(transport, &none)
        })
    }
}

impl DatagramRef {
    /// `datagram_received(data, addr)`.
    #[inline]
    fn deliver(
        &self,
        cx: &Bound<'_, BaseLoop>,
        data: &Bound<'_, PyAny>,
        addr: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let name = interned!(cx.py(), "datagram_received")?;
        self.call(cx, Side::Read, name, |protocol| {
            calls::method(protocol, name, [data, addr]).map(drop)
        })
    }

    /// `error_received(exc)`.
    fn tell_error(&self, cx: &Bound<'_, BaseLoop>, side: Side, error: PyErr) -> PyResult<()> {
        let name = interned!(cx.py(), "error_received")?;
        let raised = exception(cx.py(), &error);
        self.call(cx, side, name, |protocol| {
            handling(&raised, || calls::method(protocol, name, [raised.as_any()])).map(drop)
        })
    }

    /// Calls `f`, which calls the protocol's method `name`, in the context of its reading or
    /// writing. What it raises is reported from outside of that context, as of any callback.
    #[inline]
    fn call<'py>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        side: Side,
        name: &Bound<'py, PyString>,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        let py = cx.py();
        // Reading it may let go of the protocol: the report needs it.
        let protocol = self.0.get().get_protocol_object(py);
        let context = self.context(py, side);
        let Some(called) = self.protocol(py) else { return Ok(()) };
        let result = if shown::sees_events(cx) {
            self.seen(cx, &called, context.as_ref(), name, f)?.unwrap_or(Ok(()))
        } else {
            shown::inside(context.as_ref(), || f(&called))
        };
        match result {
            Err(error) if !leaves_loop(py, &error) => {
                let transport = self.0.bind(py);
                let callback = match protocol {
                    Some(protocol) => attempt(py, protocol.getattr(name))?,
                    None => None,
                };
                let callback = callback.unwrap_or_else(|| transport.clone().into_any());
                let source = transport.getattr_opt(SOURCE_TRACEBACK)?;
                report_event(cx, context.as_ref(), Face { callback, source }, error)
            }
            result => result,
        }
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.0.get().parts.lock().protocol.as_ref().map(|object| object.bind(py).clone())
    }

    #[inline]
    fn context<'py>(&self, py: Python<'py>, side: Side) -> Option<Bound<'py, PyAny>> {
        let parts = self.0.get().parts.lock();
        let context = match side {
            Side::Read => &parts.read_context,
            Side::Write => &parts.write_context,
        };
        context.as_ref().map(|context| context.bind(py).clone())
    }

    #[inline]
    fn inside<'py>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        context: Option<&Bound<'py, PyAny>>,
        name: &Bound<'py, PyString>,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        let Some(protocol) = self.protocol(cx.py()) else { return Ok(()) };
        if shown::sees_events(cx) {
            return self.seen(cx, &protocol, context, name, f)?.unwrap_or(Ok(()));
        }
        shown::inside(context, || f(&protocol))
    }

    /// Calls for an event that the program sees; the errors of `f` are apart from what leaves the
    /// loop in any case.
    #[cold]
    fn seen<'py>(
        &self,
        cx: &Bound<'py, BaseLoop>,
        protocol: &Bound<'py, PyAny>,
        context: Option<&Bound<'py, PyAny>>,
        name: &Bound<'py, PyString>,
        f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<()>,
    ) -> PyResult<Option<PyResult<()>>> {
        let face = match attempt(cx.py(), protocol.getattr(name))? {
            Some(callback) => {
                let source = self.0.bind(cx.py()).getattr_opt(SOURCE_TRACEBACK);
                source.map(|source| Some(Face { callback, source }))
            }
            // It fails when it is called.
            None => Ok(None),
        };
        shown::event(cx, context, face, || f(protocol))
    }

    /// A flow control callback: what it raises is told, and the endpoint goes on.
    fn flow(
        &self,
        cx: &Bound<'_, BaseLoop>,
        protocol: &Bound<'_, PyAny>,
        name: &Bound<'_, PyString>,
    ) -> PyResult<()> {
        match calls::method(protocol, name, []) {
            Ok(_) => Ok(()),
            Err(error) if leaves_loop(cx.py(), &error) => Err(error),
            Err(error) => self.report(cx, error, &format!("protocol.{name}() failed")),
        }
    }

    /// asyncio's `_fatal_error`: the endpoint is forced closed.
    pub(super) fn fatal_error(
        &self,
        cx: &Bound<'_, BaseLoop>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let transport = self.0.bind(cx.py());
        let protocol = transport.get().get_protocol_object(cx.py());
        fatal_error(cx, transport, protocol.as_ref(), message, error, |raised| {
            DatagramTransport::force_close(transport, raised)
        })
    }

    fn report(&self, cx: &Bound<'_, BaseLoop>, error: PyErr, message: &str) -> PyResult<()> {
        let py = cx.py();
        let transport = self.0.bind(py);
        let protocol = transport.get().get_protocol_object(py);
        let (transport, protocol) = (Some(transport.as_any()), protocol.as_ref());
        report(cx, message, &error, Concerned { transport, protocol })
    }
}

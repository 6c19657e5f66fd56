//! How the engine's events become the callbacks of a pipe's protocol: those of asyncio's
//! `_UnixReadPipeTransport` and `_UnixWritePipeTransport`.

use super::callbacks::{Caller, Kind};
use super::common::{schedule_lost, tell_lost};
use super::pipe::{Pipe, PipeRef, close_object};
use super::stream::Parts;
use crate::error::{exception, finally, leaves_loop, log_error, os_error};
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::queue;
use crate::face::PyFace;
use crate::ffi::bytes::filled;
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{self, Text, interned};
use crate::ffi::{calls, context};
use crate::imports::logger;
use lock_api::Mutex;
use oxloop::engine::{Failure, Received, Recv, StreamHandler};
use pyo3::exceptions::PyBrokenPipeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use std::io;

const READ_FAILED: &str = "Fatal read error on pipe transport";
const WRITE_FAILED: &str = "Fatal write error on pipe transport";
/// Room for a read of unknown size, bytes.
const READ_SIZE: usize = 64 * 1024;

impl Caller for PipeRef {
    fn parts(&self) -> &Mutex<StateLock, Parts> {
        &self.pipe().parts
    }

    fn object<'py>(&'py self, py: Python<'py>) -> &'py Bound<'py, PyAny> {
        match self {
            PipeRef::Read(transport) => transport.bind(py).as_any(),
            PipeRef::Write(transport) => transport.bind(py).as_any(),
        }
    }
}

impl StreamHandler<PyFace> for PipeRef {
    fn received(&self, cx: &Bound<'_, BaseLoop>, data: &[u8]) -> PyResult<()> {
        self.deliver(cx, objects::bytes(cx.py(), data)?)
    }

    fn receive_into(
        &self,
        cx: &Bound<'_, BaseLoop>,
        hint: usize,
        recv: Recv<'_>,
    ) -> PyResult<Received> {
        let room = if hint == 0 { READ_SIZE } else { hint };
        match filled(cx.py(), room, |memory| recv(memory.into()))? {
            Ok(data) if data.as_bytes().is_empty() => Ok(Received::Eof),
            Ok(data) => {
                let count = data.as_bytes().len();
                self.deliver(cx, data)?;
                Ok(Received::Data(count))
            }
            Err(error) => Ok(Received::Failed(error)),
        }
    }

    /// Queues `eof_received()` and then `connection_lost(None)`; the answer to the first does not
    /// matter.
    fn eof_received(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Option<bool>> {
        let ended = self.inside_apart(cx, Kind::Eof, |protocol| {
            self.log_closed(cx)?;
            let py = protocol.py();
            let queued =
                protocol.getattr(interned!(py, "eof_received")?).and_then(|eof_received| {
                    queue(cx, &eof_received, PyTuple::empty(py), context::copy_current(py)?)
                });
            finally(py, queued, || self.pipe().engine().close_stream(cx, self.pipe().token))
        })?;
        self.contained(cx, "eof_received", ended).map(|()| None)
    }

    fn hung_up(&self, cx: &Bound<'_, BaseLoop>, unsent: bool) -> PyResult<()> {
        let closed = self.inside(cx, Kind::Read, |_| {
            self.log_closed(cx)?;
            let error = unsent.then(|| PyBrokenPipeError::new_err(()));
            let error = error.map(|error| exception(cx.py(), &error).into_any());
            self.force_close(cx, error)
        });
        closed.map(drop)
    }

    fn pause_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        self.call_pause_writing(cx)
    }

    fn resume_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        self.call_resume_writing(cx)
    }

    fn writing_deferred(&self, cx: &Bound<'_, BaseLoop>, noticed: Failure) {
        self.note_writer(cx, noticed);
    }

    /// Nobody sends files by a pipe.
    fn drained(&self, _: &Bound<'_, BaseLoop>) -> PyResult<()> {
        Ok(())
    }

    fn failed(&self, cx: &Bound<'_, BaseLoop>, failure: Failure, error: io::Error) -> PyResult<()> {
        // A terminal whose other end is gone.
        let hang_up = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        let error = os_error(cx.py(), &error);
        self.where_noticed(cx, failure, || match failure {
            // A device that is always ready cannot be waited for: nothing will be read.
            Failure::Watch => self.report(cx, error, "Cannot watch pipe transport"),
            Failure::Read => self.read_failed(cx, error, hang_up),
            Failure::Write | Failure::Flush | Failure::Drain => {
                self.pipe().late_writes.count();
                self.write_failed(cx, error)
            }
        })
    }

    fn schedule_connection_lost(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        if cx.get().engine.is_closed() { Ok(()) } else { self.schedule_lost(cx, None) }
    }

    fn connection_lost(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        let lost =
            self.inside_apart(cx, Kind::Lost, |_| self.lose(py, &py.None().into_bound(py)))?;
        self.contained(cx, "connection_lost", lost)
    }
}

impl PipeRef {
    pub(super) fn pipe(&self) -> &Pipe {
        match self {
            PipeRef::Read(transport) => &transport.get().pipe,
            PipeRef::Write(transport) => &transport.get().pipe,
        }
    }

    /// `data_received(data)`. What it raises is told, and reading goes on.
    fn deliver(&self, cx: &Bound<'_, BaseLoop>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        let called = self.inside_apart(cx, Kind::Read, |protocol| {
            let name = interned!(protocol.py(), "data_received")?;
            calls::method(protocol, name, [data.as_any()]).map(drop)
        })?;
        self.contained(cx, "data_received", called)
    }

    /// An exception of a callback goes to the exception handler, unless it leaves the loop.
    fn contained(
        &self,
        cx: &Bound<'_, BaseLoop>,
        callback: &str,
        result: Option<PyResult<()>>,
    ) -> PyResult<()> {
        match result.unwrap_or(Ok(())) {
            Err(error) if !leaves_loop(cx.py(), &error) => {
                self.report(cx, error, &format!("Exception in callback protocol.{callback}()"))
            }
            result => result,
        }
    }

    fn log_closed(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        let py = cx.py();
        if cx.get().is_debug() {
            logger(py)?
                .call_method1(Text("info"), (Text("%r was closed by peer"), self.object(py)))?;
        }
        Ok(())
    }

    fn read_failed(&self, cx: &Bound<'_, BaseLoop>, error: PyErr, hang_up: bool) -> PyResult<()> {
        let raised = exception(cx.py(), &error);
        let told = if hang_up {
            log_error(cx, self.object(cx.py()), READ_FAILED, &raised)
        } else {
            self.report(cx, error, READ_FAILED)
        };
        finally(cx.py(), told, || self.force_close(cx, Some(raised.into_any())))
    }

    pub(super) fn write_failed(&self, cx: &Bound<'_, BaseLoop>, error: PyErr) -> PyResult<()> {
        self.end_by(cx, error, WRITE_FAILED, |raised| self.force_close(cx, raised))
    }

    /// Drops what is queued; `connection_lost(exception)` follows in a later turn.
    pub(super) fn force_close(
        &self,
        cx: &Bound<'_, BaseLoop>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if self.pipe().engine().force_close(self.pipe().token) {
            self.schedule_lost(cx, exception)?;
        }
        Ok(())
    }

    /// Queues `_call_connection_lost(exc)`, in a copy of the present context.
    fn schedule_lost(
        &self,
        cx: &Bound<'_, BaseLoop>,
        exception: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = cx.py();
        let token = self.pipe().token;
        schedule_lost(cx, token, self.object(py), exception, || context::copy_current(py))
    }

    /// `connection_lost(exc)`, once; then the pipe is closed and everything let go.
    pub(super) fn lose(&self, py: Python<'_>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let pipe = self.pipe();
        if !pipe.engine().lose(pipe.token) {
            return Ok(());
        }
        let called = tell_lost(self.protocol(py), exception);
        pipe.engine().release(pipe.token);
        let parts = std::mem::take(&mut *pipe.parts.lock());
        finally(py, called, || {
            parts.socket.as_ref().map_or(Ok(()), |pipe| close_object(pipe.bind(py)))
        })
    }
}

//! The engine's reference to a transport: one type for the engine, a class for each kind.

use super::pipe::{PipeRef, ReadPipeTransport, UnownedPipe, WritePipeTransport};
use super::stream::{StreamRef, StreamTransport};
use crate::event_loop::BaseLoop;
use crate::face::PyFace;
use crate::ffi::unowned::Unowned;
use crate::tls::TlsTransport;
use oxloop::engine::{Failure, Handler, Received, Recv, StreamHandler};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use std::io;

/// A transport that the engine has.
#[derive(Clone)]
pub(crate) enum TransportRef {
    Stream(StreamRef),
    Pipe(PipeRef),
}

impl TransportRef {
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            TransportRef::Stream(StreamRef(transport)) => visit.call(transport),
            TransportRef::Pipe(PipeRef::Read(transport)) => visit.call(transport),
            TransportRef::Pipe(PipeRef::Write(transport)) => visit.call(transport),
        }
    }
}

impl<'py> IntoPyObject<'py> for TransportRef {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = std::convert::Infallible;

    fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Self::Error> {
        Ok(match self {
            TransportRef::Stream(StreamRef(transport)) => transport.into_bound(py).into_any(),
            TransportRef::Pipe(pipe) => pipe.into_pyobject(py)?,
        })
    }
}

/// asyncio's `__del__`, for a transport in a cycle that the collector takes apart.
pub(crate) fn finalize(object: &Bound<'_, PyAny>) {
    if let Ok(transport) = object.cast::<StreamTransport>() {
        transport.get().abandon(Some(transport));
    } else if let Ok(transport) = object.cast::<ReadPipeTransport>() {
        transport.get().pipe.abandon(Some(object));
    } else if let Ok(transport) = object.cast::<WritePipeTransport>() {
        transport.get().pipe.abandon(Some(object));
    } else if let Ok(transport) = object.cast::<TlsTransport>() {
        transport.get().abandon(Some(transport));
    } else {
        super::datagram::finalize(object);
    }
}

/// Passes a call on to whichever it is.
macro_rules! either {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            TransportRef::Stream($transport) => $call,
            TransportRef::Pipe($transport) => $call,
        }
    };
}

/// A transport that the engine does not keep alive.
pub(crate) enum UnownedTransport {
    Stream(Unowned<StreamTransport>),
    Pipe(UnownedPipe),
}

impl Handler for TransportRef {
    type Unowned = UnownedTransport;

    fn unowned(&self) -> Option<UnownedTransport> {
        Some(match self {
            TransportRef::Stream(transport) => UnownedTransport::Stream(transport.unowned()?),
            TransportRef::Pipe(pipe) => UnownedTransport::Pipe(pipe.unowned()?),
        })
    }

    fn upgrade(unowned: &UnownedTransport) -> Option<TransportRef> {
        Some(match unowned {
            UnownedTransport::Stream(transport) => {
                TransportRef::Stream(StreamRef::upgrade(transport)?)
            }
            UnownedTransport::Pipe(pipe) => TransportRef::Pipe(PipeRef::upgrade(pipe)?),
        })
    }
}

impl StreamHandler<PyFace> for TransportRef {
    #[inline]
    fn received(&self, cx: &Bound<'_, BaseLoop>, data: &[u8]) -> PyResult<()> {
        either!(self, transport => transport.received(cx, data))
    }

    #[inline]
    fn receive_into(
        &self,
        cx: &Bound<'_, BaseLoop>,
        hint: usize,
        recv: Recv<'_>,
    ) -> PyResult<Received> {
        either!(self, transport => transport.receive_into(cx, hint, recv))
    }

    fn eof_received(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Option<bool>> {
        either!(self, transport => transport.eof_received(cx))
    }

    fn hung_up(&self, cx: &Bound<'_, BaseLoop>, unsent: bool) -> PyResult<()> {
        either!(self, transport => transport.hung_up(cx, unsent))
    }

    fn pause_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        either!(self, transport => transport.pause_writing(cx))
    }

    fn resume_writing(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        either!(self, transport => transport.resume_writing(cx))
    }

    fn writing_deferred(&self, cx: &Bound<'_, BaseLoop>, noticed: Failure) {
        either!(self, transport => transport.writing_deferred(cx, noticed))
    }

    fn drained(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        either!(self, transport => transport.drained(cx))
    }

    fn failed(&self, cx: &Bound<'_, BaseLoop>, failure: Failure, error: io::Error) -> PyResult<()> {
        either!(self, transport => transport.failed(cx, failure, error))
    }

    fn schedule_connection_lost(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        either!(self, transport => transport.schedule_connection_lost(cx))
    }

    fn connection_lost(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<()> {
        either!(self, transport => transport.connection_lost(cx))
    }
}

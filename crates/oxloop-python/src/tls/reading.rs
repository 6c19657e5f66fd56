//! Decrypted data on its way to the application: as one `bytes` object for a Protocol, into a
//! BufferedProtocol's own buffer.

use super::engine::Read;
use super::layer::Layer;
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::queue;
use crate::ffi::objects::{self, Int, interned};
use crate::ffi::{calls, context};
use oxloop::tls::{Pulled, Session, TlsLayer};
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyTuple};

impl Layer<'_, '_> {
    /// Reads all that is there, and calls the protocol once.
    #[inline]
    pub(super) fn read_all(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Pulled> {
        let py = cx.py();
        let (data, ended) = self.0.get().engine.read_all(py)?;
        if let (Some(data), Some(protocol)) = (data, self.application(py)) {
            calls::method(&protocol, interned!(py, "data_received")?, [data.as_any()])?;
        }
        ended
    }

    /// Reads into the protocol's buffer as much as it takes; the rest in a later turn, or at once
    /// where there will be none (asyncio loses it).
    pub(super) fn read_into_buffers(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Pulled> {
        loop {
            match self.read_into_buffer(cx)? {
                Filled::Partly(pulled) => return Ok(pulled),
                // Asked again: the protocol may have paused.
                Filled::Wholly if self.is_last_chance() => {}
                Filled::Wholly => return Ok(Pulled::Again),
            }
        }
    }

    /// Whether the session ends behind this read, which the protocol has not paused.
    fn is_last_chance(&self) -> bool {
        let state = self.state().lock();
        state.session() == Session::Flushing && state.is_reading()
    }

    /// `get_buffer`, as many records as it holds, `buffer_updated`; the next read is queued where
    /// the buffer was too small, unless it is the last chance.
    fn read_into_buffer(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Filled> {
        let py = cx.py();
        let engine = &self.0.get().engine;
        let Some(protocol) = self.application(py) else {
            return Ok(Filled::Partly(Pulled::Again));
        };
        let hint = Int(engine.pending()).into_pyobject(py)?;
        let buffer = calls::method(&protocol, interned!(py, "get_buffer")?, [hint.as_any()])?;
        let size = buffer.len()?;
        let mut count = 0;
        let filled = loop {
            let read = if count == 0 {
                engine.read_into(&buffer, size)?
            } else if count < size {
                engine.read_into(&rest(&buffer, count)?, size - count)?
            } else {
                break Filled::Wholly;
            };
            match read {
                Read::Data(more) => count += more,
                Read::Again => break Filled::Partly(Pulled::Again),
                Read::CloseNotify => break Filled::Partly(Pulled::CloseNotify),
            }
        };
        // Before what the protocol queues, and though it may raise.
        if matches!(filled, Filled::Wholly) && !self.is_last_chance() {
            let again = self.0.getattr(interned!(py, "_do_read")?)?;
            queue(cx, &again, PyTuple::empty(py), context::copy_current(py)?)?;
        }
        if count > 0 {
            let nbytes = Int(count).into_pyobject(py)?;
            calls::method(&protocol, interned!(py, "buffer_updated")?, [nbytes.as_any()])?;
        }
        Ok(filled)
    }
}

/// What became of a protocol's buffer.
enum Filled {
    /// It is full, and there may be more.
    Wholly,
    Partly(Pulled),
}

/// A buffer from `offset` on, without a copy.
fn rest<'py>(buffer: &Bound<'py, PyAny>, offset: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = buffer.py();
    let view = PyMemoryView::from(buffer)?;
    view.get_item(objects::slice_from(py, offset)?)
}

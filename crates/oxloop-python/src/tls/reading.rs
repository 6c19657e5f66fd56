//! Decrypted data on its way to the application: as one `bytes` object for a Protocol, into a
//! BufferedProtocol's own buffer.

use super::engine::Read;
use super::layer::Layer;
use crate::event_loop::BaseLoop;
use crate::event_loop::scheduling::queue;
use crate::ffi::{calls, context};
use oxloop::tls::Pulled;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PySlice, PyTuple};

impl Layer<'_, '_> {
    /// Reads all that is there, and calls the protocol once.
    #[inline]
    pub(super) fn read_all(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Pulled> {
        let py = cx.py();
        let (data, ended) = self.0.get().engine.read_all(py)?;
        if let (Some(data), Some(protocol)) = (data, self.application(py)) {
            calls::method(&protocol, intern!(py, "data_received"), [data.as_any()])?;
        }
        ended
    }

    /// Reads into the protocol's buffer as much as it takes; the rest in a later turn.
    pub(super) fn read_into_buffer(&self, cx: &Bound<'_, BaseLoop>) -> PyResult<Pulled> {
        let py = cx.py();
        let engine = &self.0.get().engine;
        let Some(protocol) = self.application(py) else { return Ok(Pulled::Again) };
        let hint = engine.pending().into_pyobject(py)?;
        let buffer = calls::method(&protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
        let size = buffer.len()?;
        let mut filled = 0;
        let ended = loop {
            let read = if filled == 0 {
                engine.read_into(&buffer, size)?
            } else if filled < size {
                engine.read_into(&rest(&buffer, filled)?, size - filled)?
            } else {
                let again = self.0.getattr(intern!(py, "_do_read"))?;
                queue(cx, &again, PyTuple::empty(py), context::copy_current(py)?)?;
                break Pulled::Again;
            };
            match read {
                Read::Data(count) => filled += count,
                Read::Again => break Pulled::Again,
                Read::CloseNotify => break Pulled::CloseNotify,
            }
        };
        if filled > 0 {
            let nbytes = filled.into_pyobject(py)?;
            calls::method(&protocol, intern!(py, "buffer_updated"), [nbytes.as_any()])?;
        }
        Ok(ended)
    }
}

/// A buffer from `offset` on, without a copy.
fn rest<'py>(buffer: &Bound<'py, PyAny>, offset: usize) -> PyResult<Bound<'py, PyAny>> {
    let py = buffer.py();
    let view = PyMemoryView::from(buffer)?;
    let start = isize::try_from(offset)?;
    view.get_item(PySlice::new(py, start, isize::MAX, 1))
}

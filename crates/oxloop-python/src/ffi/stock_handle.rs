//! asyncio's own handles, made by their classes and run by their `_run`: for an asyncio whose
//! classes are not laid out as known (`handle_layout.rs`), or on request.
//!
//! The engine asks for a timer's state under its lock, where no Python code may run. So a [`Stock`]
//! stands for the handle in its queues and has that state.

use super::handle_layout::Classes;
use super::handle_types::Kind;
use super::lock::StateLock;
use super::objects::{Message, interned};
use lock_api::{Mutex, RawMutex};
use pyo3::exceptions::{PyMemoryError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Not in the timers.
const IDLE: u8 = 0;
/// In the timers.
const SCHEDULED: u8 = 1;
/// Found cancelled.
const CANCELLED: u8 = 2;

/// A handle of asyncio's in the engine's queues.
#[pyclass(frozen, module = "oxloop._oxloop")]
pub(super) struct Stock {
    handle: Py<PyAny>,
    is_timer: bool,
    state: Arc<AtomicU8>,
}

#[pymethods]
impl Stock {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}

/// The states of timers by their handles' addresses: cancelling a handle leads to its Stock.
type Timers = HashMap<usize, Arc<AtomicU8>, BuildHasherDefault<DefaultHasher>>;

static TIMERS: Mutex<StateLock, Timers> =
    Mutex::from_raw(StateLock::INIT, HashMap::with_hasher(BuildHasherDefault::new()));

/// asyncio's classes by kind.
static CLASSES: PyOnceLock<[Py<PyType>; 3]> = PyOnceLock::new();

/// Keeps the classes; the module calls it when it is imported.
pub(super) fn prepare(classes: Classes<'_>) -> PyResult<()> {
    let py = classes.handle.py();
    let Classes { handle, timer, thread_safe } = classes;
    let thread_safe = thread_safe.unwrap_or_else(|| handle.clone());
    // Set already if the module is made a second time.
    let classes = [handle, timer, thread_safe].map(Bound::unbind);
    CLASSES.get_or_init(py, || classes);
    Ok(())
}

/// asyncio's class for handles of a kind.
pub(super) fn class(py: Python<'_>, kind: Kind) -> PyResult<&Bound<'_, PyType>> {
    let classes = CLASSES.get(py);
    let classes =
        classes.ok_or_else(|| PyRuntimeError::new_err(Message("oxloop is not initialised")))?;
    Ok(classes[kind as usize].bind(py))
}

impl Stock {
    /// A handle that calls `callback(*args)` in `context`; `when` is a timer's time.
    pub(super) fn new<'py>(
        event_loop: &Bound<'py, PyAny>,
        kind: Kind,
        when: Option<&Bound<'py, PyAny>>,
        callback: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Py<PyAny>,
    ) -> PyResult<Py<Stock>> {
        let py = event_loop.py();
        let class = class(py, kind)?;
        let is_timer = when.is_some();
        let handle = match when {
            Some(when) => class.call1((when, callback, args, event_loop, context))?,
            None => class.call1((callback, args, event_loop, context))?,
        };
        let state = Arc::new(AtomicU8::new(if is_timer { SCHEDULED } else { IDLE }));
        if is_timer {
            handle.setattr(interned!(py, "_scheduled")?, true)?;
        }
        let stock = Stock { handle: handle.unbind(), is_timer, state: state.clone() };
        let address = stock.address();
        let stock = Py::new(py, stock)?;
        if is_timer {
            let mut timers = TIMERS.lock();
            if timers.try_reserve(1).is_err() {
                drop(timers);
                return Err(PyMemoryError::new_err(()));
            }
            timers.insert(address, state);
        }
        Ok(stock)
    }

    fn address(&self) -> usize {
        self.handle.as_ptr().addr()
    }

    /// asyncio's handle.
    pub(super) fn object(&self) -> &Py<PyAny> {
        &self.handle
    }

    /// Whether it is known to be cancelled. Runs no Python code.
    pub(super) fn is_cancelled(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CANCELLED
    }

    /// The timer's time has come. Runs no Python code.
    pub(super) fn unschedule(&self) {
        let (from, to) = (SCHEDULED, IDLE);
        // Otherwise it was cancelled.
        #[expect(clippy::let_underscore_must_use, reason = "another thread was faster")]
        let _ = self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it is to be run: not if it was cancelled.
    pub(super) fn begin(&self, py: Python<'_>) -> PyResult<bool> {
        let handle = self.handle.bind(py);
        if self.is_timer {
            handle.setattr(interned!(py, "_scheduled")?, false)?;
        }
        let cancelled = handle.getattr(interned!(py, "_cancelled")?)?.is_truthy()?;
        if cancelled {
            // A watcher's: the engine asks before the next time.
            self.state.store(CANCELLED, Ordering::Relaxed);
        }
        Ok(!cancelled)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        if self.is_timer {
            let state = TIMERS.lock().remove(&self.address());
            drop(state);
        }
    }
}

/// Marks a timer's handle, which is being cancelled; whether it lies in a loop's timers.
pub(super) fn cancel_timer(handle: &Bound<'_, PyAny>) -> bool {
    let timers = TIMERS.lock();
    let Some(state) = timers.get(&handle.as_ptr().addr()) else { return false };
    let (from, to) = (SCHEDULED, CANCELLED);
    state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

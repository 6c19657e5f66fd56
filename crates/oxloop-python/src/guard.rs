//! Thread-safe handles (Python 3.14): cancelling one in another thread waits while it runs.
//!
//! asyncio gives each such handle a re-entrant lock, held by the loop while it runs the callback.
//! Here the loop says which handle it runs, and only who has to wait makes a lock.

use crate::error::memory_error;
use crate::event_loop::BaseLoop;
use crate::ffi::calls;
use crate::ffi::handle::{self, RawHandle};
use crate::ffi::lock::StateLock;
use crate::ffi::objects::{Text, interned};
use lock_api::Mutex;
use pyo3::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Which thread-safe handle a loop runs, and who waits for its end.
#[derive(Default)]
pub(crate) struct Guard {
    /// The handle's address; 0 is none. A handle that runs is alive.
    running: AtomicUsize,
    /// A locked `threading.Lock` for each waiting thread.
    waiters: Mutex<StateLock, Vec<Py<PyAny>>>,
}

impl Guard {
    /// Runs `call` of a handle while whoever cancels it has to wait.
    #[inline]
    pub(crate) fn hold(
        &self,
        py: Python<'_>,
        handle: &RawHandle,
        call: impl FnOnce() -> PyResult<()>,
    ) -> PyResult<()> {
        self.running.store(handle.address(), Ordering::SeqCst);
        let _held = Held { guard: self, py };
        call()
    }
}

/// A handle is running. When it has returned or panicked, the waiting threads go on.
struct Held<'a, 'py> {
    guard: &'a Guard,
    py: Python<'py>,
}

impl Drop for Held<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        self.guard.running.store(0, Ordering::SeqCst);
        let waiters = std::mem::take(&mut *self.guard.waiters.lock());
        for lock in waiters {
            // A lock's method: it runs no Python code, and so no signal handler.
            if let Err(error) = lock.call_method0(self.py, "release") {
                error.write_unraisable(self.py, Some(lock.bind(self.py)));
            }
        }
    }
}

/// Waits until the loop does not run `handle`, unless the caller is the loop's thread.
pub(crate) fn wait(handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = handle.py();
    let Some(event_loop) = handle::event_loop(handle)? else { return Ok(()) };
    let Ok(event_loop) = event_loop.cast::<BaseLoop>() else { return Ok(()) };
    let guard = &event_loop.get().guard;
    let runs = || guard.running.load(Ordering::SeqCst) == handle.as_ptr().addr();
    while runs() {
        let threading = py.import(Text("threading"))?;
        let here: u64 = threading.call_method0(Text("get_ident"))?.extract()?;
        if event_loop.get().thread_id() == Some(here) {
            return Ok(());
        }
        let lock = threading.call_method0(Text("Lock"))?;
        lock.call_method0(Text("acquire"))?;
        {
            let mut waiters = guard.waiters.lock();
            waiters.try_reserve(1).map_err(memory_error)?;
            waiters.push(lock.clone().unbind());
        }
        if runs() {
            // Interrupted by a signal's exception as any lock's.
            calls::method(&lock, interned!(py, "acquire")?, [])?;
        }
    }
    Ok(())
}

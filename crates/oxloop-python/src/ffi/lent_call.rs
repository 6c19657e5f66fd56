//! A Rust closure as an object that Python code may call, for as long as it is lent.

use super::calls;
use super::objects::Message;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread::{self, ThreadId};

/// The closure, behind a thin pointer.
struct Slot<'a>(&'a mut dyn FnMut() -> PyResult<()>);

/// Performs an event of the loop, once: the first call while it is lent does, any other does
/// nothing. Looks like the method that it stands for.
#[pyclass(frozen, module = "oxloop._oxloop")]
struct LentCall {
    shown: Py<PyAny>,
    /// The thread that lends, the only one that may call.
    thread: ThreadId,
    /// NULL once it was called or the loan is over.
    slot: AtomicPtr<Slot<'static>>,
}

#[pymethods]
impl LentCall {
    fn __call__(&self) -> PyResult<()> {
        if thread::current().id() != self.thread {
            return Err(PyRuntimeError::new_err(Message(
                "an event is handled in the loop's own thread",
            )));
        }
        let slot = self.slot.swap(null_mut(), Ordering::Relaxed);
        // SAFETY: the lending thread has the slot on its stack until `Loan` is dropped, which sets
        // NULL; this is that thread, so it is further down the same stack. The swap makes this
        // the only use of the exclusive reference.
        match unsafe { slot.as_mut() } {
            Some(Slot(call)) => call(),
            None => Ok(()),
        }
    }

    fn __getattr__<'py>(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.shown.bind(name.py()).getattr(name)
    }

    /// What `inspect.unwrap` finds.
    #[getter]
    fn __wrapped__(&self, py: Python<'_>) -> Py<PyAny> {
        self.shown.clone_ref(py)
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        calls::repr(self.shown.bind(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.shown)
    }
}

/// Ends the loan, also when a panic does.
struct Loan<'py>(Bound<'py, LentCall>);

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.0.get().slot.store(null_mut(), Ordering::Relaxed);
    }
}

/// Lends `call` to `f` as an object that looks like the method `shown`.
pub(crate) fn lend<'py, R>(
    shown: &Bound<'py, PyAny>,
    call: impl FnOnce() -> PyResult<()>,
    f: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
) -> PyResult<R> {
    let mut call = Some(call);
    let mut once = || call.take().map_or(Ok(()), |call| call());
    let mut slot = Slot(&mut once);
    let object = LentCall {
        shown: shown.clone().unbind(),
        thread: thread::current().id(),
        slot: AtomicPtr::new((&raw mut slot).cast()),
    };
    let loan = Loan(Bound::new(shown.py(), object)?);
    f(loan.0.as_any())
}

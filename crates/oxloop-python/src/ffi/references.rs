//! Counted references outside of PyO3's lifetimes.

use pyo3::ffi;
use pyo3::prelude::*;
use std::ptr::null_mut;

/// Another reference to the same object, for code that holds no `Python` token but runs attached
/// all the same: the engine's clones of handlers and callbacks.
#[inline]
pub(crate) fn clone_attached<T>(object: &Py<T>) -> Py<T> {
    // SAFETY: the engine clones handlers and callbacks only in methods that are entered with a
    // `Python` token, or under `traverse`, which never clones; it is detached only around the
    // selector's wait. So the thread is attached.
    let py = unsafe { Python::assume_attached() };
    object.clone_ref(py)
}

/// Calls `f` from the end of a Python object, which may come while an exception is on its way.
/// `tp_dealloc`, and with it `Drop` of what PyO3 keeps in objects, is always entered attached, also
/// while the interpreter shuts down.
///
/// PyO3 is told, as it does not see who calls: else it would put off dropping references until the
/// next call of ours, and the collector would take what they refer to for alive.
pub(crate) fn at_dealloc(f: impl FnOnce(Python<'_>)) {
    let mut f = Some(|py: Python<'_>| {
        let _pending = Pending::take(py);
        f(py);
    });
    let _ = Python::try_attach(|py| {
        if let Some(f) = f.take() {
            f(py);
        }
    });
    // The interpreter shuts down.
    if let Some(f) = f {
        // SAFETY: as said; a value that never came into its object is dropped where it was made.
        f(unsafe { Python::assume_attached() });
    }
}

/// An exception on its way, which is put back when this is dropped. Not a `PyErr`: taking that of
/// a panic goes on with the panic, and nothing may unwind through the end of an object.
struct Pending<'py> {
    exception: [*mut ffi::PyObject; 3],
    _attached: Python<'py>,
}

#[allow(deprecated, reason = "what replaces these two is new in 3.12")]
impl<'py> Pending<'py> {
    fn take(py: Python<'py>) -> Pending<'py> {
        let [mut class, mut value, mut traceback] = [null_mut(); 3];
        // SAFETY: attached; three references or NULLs are handed over.
        unsafe { ffi::PyErr_Fetch(&mut class, &mut value, &mut traceback) };
        Pending { exception: [class, value, traceback], _attached: py }
    }
}

#[allow(deprecated, reason = "as above")]
impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let [class, value, traceback] = self.exception;
        // SAFETY: attached; the three references of `take` are handed back.
        unsafe { ffi::PyErr_Restore(class, value, traceback) }
    }
}

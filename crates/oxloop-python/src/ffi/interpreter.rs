//! Which of the process's interpreters runs.

use super::objects::Message;
use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// ImportError in any interpreter but the main one. What native code keeps (classes, interned
/// strings, imports) belongs to one interpreter, so this comes before anything is kept.
pub(crate) fn check_main(_attached: Python<'_>) -> PyResult<()> {
    // SAFETY: attached; compares the addresses of two interpreters.
    let is_main = unsafe { ffi::PyInterpreterState_Get() == ffi::PyInterpreterState_Main() };
    if is_main {
        return Ok(());
    }
    Err(PyImportError::new_err(Message(
        "oxloop does not support subinterpreters: use asyncio's own loop",
    )))
}

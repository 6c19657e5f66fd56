//! Panics at the border to C: none may cross it, and none is dropped.

use super::objects::Message;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `f`; a panic becomes the exception that PyO3 makes of one in its functions.
#[inline]
pub(crate) fn contained<R>(f: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(payload) => Err(exception_of(&*payload)),
    }
}

#[cold]
fn exception_of(payload: &(dyn Any + Send)) -> PyErr {
    let text = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "panic from Rust code".to_owned(),
    };
    PyErr::new::<PanicException, _>(Message(text))
}

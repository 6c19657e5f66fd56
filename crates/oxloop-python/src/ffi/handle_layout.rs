//! How instances of asyncio's Handle classes are laid out: found at import, and checked as a whole.
//! A class with a slot that is not known here is left to Python (`stock_handle.rs`), as no native
//! code would visit, clear or initialise that.

use super::objects::Text;
use super::slots::{are_all, offset};
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The name of the environment variable that asks for asyncio's own handles ("python").
const SWITCH: &str = "OXLOOP_HANDLES";

const HANDLE: [&str; 7] =
    ["_callback", "_args", "_cancelled", "_loop", "_source_traceback", "_repr", "_context"];
const TIMER: [&str; 2] = ["_scheduled", "_when"];
const THREAD_SAFE: [&str; 1] = ["_lock"];

/// Where the slots of asyncio's classes lie in an instance, bytes from its start.
pub(super) struct Layout {
    pub(super) callback: isize,
    pub(super) args: isize,
    pub(super) context: isize,
    pub(super) event_loop: isize,
    pub(super) cancelled: isize,
    pub(super) repr: isize,
    pub(super) source_traceback: isize,
    pub(super) when: isize,
    pub(super) scheduled: isize,
    /// Where the list of weak references starts; before the object from 3.12 on.
    pub(super) weak: isize,
}

/// asyncio's classes, to be subclassed or called.
pub(super) struct Classes<'py> {
    pub(super) handle: Bound<'py, PyType>,
    pub(super) timer: Bound<'py, PyType>,
    /// What call_soon_threadsafe returns; a plain handle before 3.14.
    pub(super) thread_safe: Option<Bound<'py, PyType>>,
}

impl<'py> Classes<'py> {
    pub(super) fn import(py: Python<'py>) -> PyResult<Classes<'py>> {
        let events = py.import(Text("asyncio.events"))?;
        let thread_safe = events.getattr_opt(Text("_ThreadSafeHandle"))?;
        Ok(Classes {
            handle: events.getattr(Text("Handle"))?.cast_into()?,
            timer: events.getattr(Text("TimerHandle"))?.cast_into()?,
            thread_safe: thread_safe.map(Bound::cast_into).transpose()?,
        })
    }
}

/// The layout of the classes; `None` if one of them is not as known, or native handles are not
/// wanted.
pub(super) fn find(classes: &Classes<'_>) -> PyResult<Option<Layout>> {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "python") {
        return Ok(None);
    }
    let py = classes.handle.py();
    match check(classes) {
        // A class that does not even have what is asked for.
        Err(error)
            if error.is_instance_of::<PyAttributeError>(py)
                || error.is_instance_of::<PyTypeError>(py) =>
        {
            Ok(None)
        }
        result => result,
    }
}

fn check(classes: &Classes<'_>) -> PyResult<Option<Layout>> {
    let Classes { handle, timer, thread_safe } = classes;
    let known = are_all(handle, &HANDLE)?
        && are_all(timer, &[&HANDLE[..], &TIMER].concat())?
        && match thread_safe {
            Some(class) => are_all(class, &[&HANDLE[..], &THREAD_SAFE].concat())?,
            None => true,
        };
    let weak = handle.getattr(Text("__weakrefoffset__"))?.extract()?;
    if !known || weak == 0 {
        return Ok(None);
    }
    let at = |name: &str| offset(&timer.getattr(Text(name))?);
    Ok(Some(Layout {
        callback: at("_callback")?,
        args: at("_args")?,
        context: at("_context")?,
        event_loop: at("_loop")?,
        cancelled: at("_cancelled")?,
        repr: at("_repr")?,
        source_traceback: at("_source_traceback")?,
        when: at("_when")?,
        scheduled: at("_scheduled")?,
        weak,
    }))
}

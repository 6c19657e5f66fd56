//! Python's functions and classes that native code uses at any time. They are looked up when the
//! module is imported: nothing can be imported any more while the interpreter shuts down, when
//! `__del__` methods still use loops and transports.

use crate::ffi::objects::Text;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Each under its name.
pub(crate) struct Imports {
    /// `asyncio.events.__dict__`, the globals of its functions.
    pub(crate) events: Py<PyAny>,
    /// `sys._getframe`
    pub(crate) getframe: Py<PyAny>,
    /// `os.strerror`
    pub(crate) strerror: Py<PyAny>,
    /// `socket.socket`; programs and their tests put something else in its place.
    pub(crate) socket: Py<PyAny>,
    /// `_socket.socket.__init__`
    pub(crate) socket_init: Py<PyAny>,
    /// `warnings.warn`
    pub(crate) warn: Py<PyAny>,
    /// `asyncio.log.logger`
    pub(crate) logger: Py<PyAny>,
    /// `asyncio.base_events._format_handle`
    pub(crate) format_handle: Py<PyAny>,
    /// `asyncio.base_events._set_nodelay`: small writes leave at once
    pub(crate) set_nodelay: Py<PyAny>,
    /// `asyncio.format_helpers._format_callback_source`
    pub(crate) format_callback_source: Py<PyAny>,
    /// `asyncio.format_helpers.extract_stack`
    pub(crate) extract_stack: Py<PyAny>,
}

static IMPORTS: PyOnceLock<Imports> = PyOnceLock::new();

/// The functions; the module asks first when it is imported.
pub(crate) fn imports(py: Python<'_>) -> PyResult<&Imports> {
    IMPORTS.get_or_try_init(py, || {
        let get = |module, name: &str| {
            PyResult::Ok(py.import(Text(module))?.getattr(Text(name))?.unbind())
        };
        let helpers = "asyncio.format_helpers";
        PyResult::Ok(Imports {
            events: get("asyncio.events", "__dict__")?,
            getframe: get("sys", "_getframe")?,
            strerror: get("os", "strerror")?,
            socket: get("socket", "socket")?,
            socket_init: py
                .import(Text("_socket"))?
                .getattr(Text("socket"))?
                .getattr(Text("__init__"))?
                .unbind(),
            warn: get("warnings", "warn")?,
            logger: get("asyncio.log", "logger")?,
            format_handle: get("asyncio.base_events", "_format_handle")?,
            set_nodelay: get("asyncio.base_events", "_set_nodelay")?,
            format_callback_source: get(helpers, "_format_callback_source")?,
            extract_stack: get(helpers, "extract_stack")?,
        })
    })
}

/// asyncio's logger.
pub(crate) fn logger(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    Ok(imports(py)?.logger.bind(py))
}

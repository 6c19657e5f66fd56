//! `oxloop._oxloop`: the native part of the oxloop Python package. This file only lists what it
//! exports; `event_loop/` has a file for each section of asyncio's event-loop page.
#![deny(unsafe_code)]
// What Python code raises is dropped nowhere.
#![deny(clippy::let_underscore_must_use, clippy::unused_result_ok, clippy::map_err_ignore)]
#![allow(missing_docs, reason = "an extension module: its users read the Python stubs")]

mod address;
mod error;
mod event_loop;
mod face;
#[allow(unsafe_code, reason = "the one place for the raw C API; each block says why")]
mod ffi;
mod guard;
mod handle;
mod imports;
mod server;
mod shown;
mod tls;
mod transport;

use event_loop::BaseLoop;
use pyo3::prelude::*;

#[pymodule]
mod _oxloop {
    use super::*;

    /// Everything is added here and nothing is exported by attributes: those come before any check.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        ffi::interpreter::check_main(module.py())?;
        ffi::slots::check_builtins(module.py())?;
        ffi::run_method::prepare(module.py())?;
        ffi::base_types::prepare(module.py())?;
        ffi::template::prepare(module.py())?;
        imports::imports(module.py())?;
        module.add_class::<BaseLoop>()?;
        ffi::creation::hide(&module.py().get_type::<BaseLoop>())?;
        ffi::methods::install(&module.py().get_type::<BaseLoop>())?;
        module.add_class::<transport::stream::StreamTransport>()?;
        module.add_class::<transport::pipe::ReadPipeTransport>()?;
        module.add_class::<transport::pipe::WritePipeTransport>()?;
        module.add_class::<tls::TlsTransport>()?;
        module.add_class::<tls::SslProtocol>()?;
        module.add_class::<transport::datagram::DatagramTransport>()?;
        let [handle, timer] = ffi::handle_types::prepare(module.py())?;
        module.add("Handle", handle)?;
        module.add("TimerHandle", timer)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

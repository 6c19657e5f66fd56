//! Passes on which Python this is built for, as `cfg(Py_3_12)` and the like, and refuses those that
//! are not CPython.

use pyo3_build_config::PythonImplementation;

fn main() {
    let implementation = pyo3_build_config::get().implementation();
    if implementation == PythonImplementation::CPython {
        pyo3_build_config::use_pyo3_cfgs();
    } else {
        println!(
            "cargo::error=oxloop is for CPython, whose objects it knows by their layout, \
             and not for {implementation}"
        );
    }
}

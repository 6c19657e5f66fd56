//! Hides instances of a native class from the collector until they are complete.
//!
//! PyO3 fills in an instance after `object.__new__` has made it, and the collector knows it by then.
//! On 3.11 that makes the dictionary of a Python subclass's instance, which may set off a collection:
//! it would visit a value that is not there yet. So there is none until the instance is complete.
//! (Instances of classes that only native code makes are hidden by their base, `base_types.rs`.)
//!
//! From 3.12 on collections wait until Python code runs, and no Python code runs in between.

/// Hides new instances of a class, and of those that will be derived from it.
#[cfg(Py_3_12)]
pub(crate) fn hide(_: &pyo3::Bound<'_, pyo3::types::PyType>) -> pyo3::PyResult<()> {
    Ok(())
}

#[cfg(not(Py_3_12))]
pub(crate) use uncollected::hide;

#[cfg(not(Py_3_12))]
mod uncollected {
    use crate::ffi::objects::Message;
    use pyo3::exceptions::PySystemError;
    use pyo3::ffi;
    use pyo3::prelude::*;
    use pyo3::types::PyType;
    use std::sync::OnceLock;

    /// PyO3's `tp_new` of the class.
    static NEW: OnceLock<ffi::newfunc> = OnceLock::new();

    pub(crate) fn hide(class: &Bound<'_, PyType>) -> PyResult<()> {
        // SAFETY: attached; the class is new, no class is derived from it yet, and nobody uses it.
        // Its `__new__` calls what stands in `tp_new`.
        unsafe {
            let new = &mut (*class.as_type_ptr()).tp_new;
            let made = new.filter(|made| !std::ptr::fn_addr_eq(*made, uncollected as ffi::newfunc));
            if let Some(made) = made {
                if NEW.set(made).is_err() {
                    return Err(PySystemError::new_err(Message(
                        "instances of one class can be hidden",
                    )));
                }
                *new = Some(uncollected);
            }
        }
        Ok(())
    }

    unsafe extern "C" fn uncollected(
        class: *mut ffi::PyTypeObject,
        args: *mut ffi::PyObject,
        keywords: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: called attached, as `tp_new` is, and passes on what it is given. In these versions
        // one thread is attached at a time, and no code runs in between that would detach this one:
        // nobody sees that the collector is off.
        unsafe {
            let Some(new) = NEW.get() else { return std::ptr::null_mut() };
            let enabled = ffi::PyGC_Disable() != 0;
            let object = new(class, args, keywords);
            if enabled {
                ffi::PyGC_Enable();
            }
            object
        }
    }
}

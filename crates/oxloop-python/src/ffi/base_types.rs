//! Native types under asyncio's Python classes.
//!
//! asyncio.Transport is a Python class with a `__slots__` entry; PyO3 can extend only types whose
//! layout it knows. So for each asyncio base a raw heap type is made at run time which does
//! nothing but name that layout, and the `#[pyclass]` extends the raw type. PyO3's dealloc frees
//! the object through it and drops the type's reference itself, so the raw dealloc must not.
//!
//! An instance is shown to the collector only when it is complete ([`new`]): CPython would show it
//! as soon as it has memory, and before PyO3 has filled that in it makes an instance dictionary
//! (3.11, 3.12), which may set off a collection.

use super::panics::contained;
use super::slots::are_all;
use crate::ffi::objects::{self, Message, Text};
use pyo3::PyClass;
use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::impl_::pycell::PyClassObjectBase;
use pyo3::impl_::pyclass::{PyClassBaseType, PyClassImpl};
use pyo3::impl_::pyclass_init::PyNativeTypeInitializer;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::type_object::{PyLayout, PySizedLayout, PyTypeInfo};
use pyo3::types::PyType;
use std::ffi::{CStr, c_int, c_void};

/// An instance of one of asyncio's transport classes: the object head, and the one slot of their
/// `__slots__`.
#[repr(C)]
pub(crate) struct TransportLayout {
    head: ffi::PyObject,
    extra: *mut ffi::PyObject,
}

/// A class of asyncio's as a base that PyO3 can extend.
macro_rules! base {
    ($base:ident, $made:ident, $name:literal) => {
        #[doc = concat!("`asyncio.", $name, "`.")]
        pub(crate) struct $base;

        static $made: PyOnceLock<Py<PyType>> = PyOnceLock::new();

        // SAFETY: the layout begins with the object head and has the size of the type that
        // `make` makes.
        unsafe impl PyLayout<$base> for TransportLayout {}
        impl PySizedLayout<$base> for TransportLayout {}

        impl PyClassBaseType for $base {
            type LayoutAsBase = PyClassObjectBase<TransportLayout>;
            type BaseNativeType = $base;
            type Initializer = PyNativeTypeInitializer<$base>;
            type PyClassMutability = <PyAny as PyClassBaseType>::PyClassMutability;
            type Layout<T: PyClassImpl> = pyo3::impl_::pycell::PyStaticClassObject<T>;
        }

        // SAFETY: the type object is made once, lives for ever, and is the one that instances
        // inherit.
        unsafe impl PyTypeInfo for $base {
            fn type_object_raw(py: Python<'_>) -> *mut ffi::PyTypeObject {
                match $made.get(py) {
                    Some(base) => base.as_ptr().cast(),
                    // `prepare` runs when the module is imported, before any class is made.
                    None => &raw mut ffi::PyBaseObject_Type,
                }
            }
        }
    };
}

base!(TransportBase, TRANSPORT_BASE, "Transport");
base!(ReadTransportBase, READ_TRANSPORT_BASE, "ReadTransport");
base!(DatagramBase, DATAGRAM_BASE, "DatagramTransport");

/// Makes the raw types; the module calls it before it adds a class.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    let asyncio = py.import(Text("asyncio"))?;
    let class = |name| asyncio.getattr(name);
    TRANSPORT_BASE
        .get_or_try_init(py, || make(&[class("Transport")?], c"oxloop._oxloop.TransportBase"))?;
    READ_TRANSPORT_BASE.get_or_try_init(py, || {
        make(&[class("ReadTransport")?], c"oxloop._oxloop.ReadTransportBase")
    })?;
    DATAGRAM_BASE.get_or_try_init(py, || {
        // Programs ask whether it is an asyncio.Transport, which asyncio's own is.
        let bases = [class("Transport")?, class("DatagramTransport")?];
        make(&bases, c"oxloop._oxloop.DatagramBase")
    })?;
    Ok(())
}

/// Makes an instance of a class over one of the bases.
pub(crate) fn new<'py, T>(
    py: Python<'py>,
    value: impl Into<PyClassInitializer<T>>,
) -> PyResult<Bound<'py, T>>
where
    T: PyClass,
{
    let object = Bound::new(py, value)?;
    // SAFETY: attached; a complete instance of a collected type, which `allocate` left untracked.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
    Ok(object)
}

/// Memory for an instance, which the collector does not know yet.
unsafe extern "C" fn allocate(
    class: *mut ffi::PyTypeObject,
    items: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: called attached, by `object.__new__`, with a class over one of ours, which is
    // collected; the result is a zeroed instance or NULL.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, items);
        if !object.is_null() {
            ffi::PyObject_GC_UnTrack(object.cast());
        }
        object
    }
}

/// A heap type of the same size over `bases`, Python classes whose only slot is `_extra`, of the
/// class that they have in common.
fn make<const N: usize>(
    bases: &[Bound<'_, PyAny>; N],
    name: &'static CStr,
) -> PyResult<Py<PyType>> {
    const { assert!(N > 0) };
    let base = &bases[0];
    let py = base.py();
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_alloc, pfunc: allocate as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: dealloc as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_traverse, pfunc: traverse as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_clear, pfunc: clear as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_finalize, pfunc: finalize as *mut c_void },
        ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size_of::<TransportLayout>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC)
            as u32,
        slots: slots.as_mut_ptr(),
    };
    for base in bases {
        // Its subclasses' other parts lie where PyO3 has put them: there is no other way than this
        // layout.
        let known = are_all(base.cast()?, &["_extra"])?;
        if !known || base.getattr(Text("__weakrefoffset__"))?.ne(0)? {
            let message = format!("oxloop does not know how this Python lays out {base}");
            return Err(PyImportError::new_err(Message(message)));
        }
    }
    // SAFETY: attached; spec and slots live until the call returns, and CPython copies them.
    unsafe {
        let bases = objects::tuple(py, bases.each_ref())?;
        let object = ffi::PyType_FromSpecWithBases(&mut spec, bases.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into::<PyType>()?.unbind())
    }
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called once, by PyO3's dealloc, with an instance that nobody refers to any more and
    // that is untracked; the type's reference is dropped by PyO3 afterwards.
    unsafe {
        clear(object);
        if let Some(free) = (*ffi::Py_TYPE(object)).tp_free {
            free(object.cast());
        }
    }
}

/// The collector calls this for each transport of a cycle before it clears any object of it.
unsafe extern "C" fn finalize(object: *mut ffi::PyObject) {
    // SAFETY: finalizers are called attached, with a live object.
    let object = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object) };
    let finalized = contained(|| {
        crate::transport::finalize(&object);
        Ok(())
    });
    if let Err(panic) = finalized {
        // A transport that cannot be closed is left to its dealloc.
        panic.write_unraisable(object.py(), Some(&object));
    }
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector hands in an instance of ours; the slot is a reference or NULL.
    unsafe {
        let extra = (*object.cast::<TransportLayout>()).extra;
        if extra.is_null() { 0 } else { visit(extra, arg) }
    }
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: an instance of ours; the slot is emptied before its reference is dropped.
    unsafe {
        let slot = &raw mut (*object.cast::<TransportLayout>()).extra;
        let extra = std::ptr::replace(slot, std::ptr::null_mut());
        ffi::Py_XDECREF(extra);
    }
    0
}

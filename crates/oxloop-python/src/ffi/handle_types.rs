//! The types Handle and TimerHandle: asyncio's own classes, filled and cancelled natively.
//!
//! If asyncio's classes are laid out as known (`handle_layout.rs`), else they are asyncio's own
//! (`stock_handle.rs`).
//!
//! Each is a heap type over `asyncio.Handle` (or TimerHandle): the slots that asyncio's Python
//! code reads (`_callback`, `_args`...) are found by the offsets of their member descriptors and
//! written directly. So a handle is an instance of asyncio's class, `repr`, `cancelled`,
//! `get_context`, `when` and the comparisons are asyncio's, and making one costs no Python call.
//! Freed handles are kept for reuse where the build has an interpreter lock.
//!
//! One field is added behind asyncio's: a template for the context (`template.rs`). The slot
//! `_context` is empty meanwhile, and filled when somebody looks.

use super::free_list;
use super::handle_layout::{self, Classes, Layout};
use super::nesting::in_turn;
use super::panics::contained;
use super::run_method;
use super::slots::slot;
use super::stock_handle;
use super::template;
use crate::ffi::objects::{self, Message, Text};
use pyo3::exceptions::{PyAttributeError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyBool, PyType};
use std::ffi::{CStr, c_int, c_void};

/// The types and their layout.
pub(super) struct Types {
    pub(super) handle: Py<PyType>,
    pub(super) timer: Py<PyType>,
    /// What call_soon_threadsafe returns; a plain handle before 3.14.
    pub(super) thread_safe: Option<Py<PyType>>,
    pub(super) layout: Layout,
}

pub(super) static TYPES: PyOnceLock<Types> = PyOnceLock::new();

/// Which of the types.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Timer,
    ThreadSafe,
}

impl Types {
    #[inline]
    pub(super) fn class(&self, kind: Kind) -> &Py<PyType> {
        match kind {
            Kind::Plain => &self.handle,
            Kind::Timer => &self.timer,
            Kind::ThreadSafe => self.thread_safe.as_ref().unwrap_or(&self.handle),
        }
    }

    #[inline]
    pub(super) fn kind(&self, object: *mut ffi::PyObject) -> Kind {
        // SAFETY: the objects that come here are live, and a live object's type may be read.
        let class = unsafe { ffi::Py_TYPE(object) }.cast();
        if class == self.handle.as_ptr() {
            Kind::Plain
        } else if class == self.timer.as_ptr() {
            Kind::Timer
        } else {
            Kind::ThreadSafe
        }
    }
}

/// Makes the types and returns Handle and TimerHandle: asyncio's own if these are not laid out as
/// known. The module calls it when it is imported.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<[Bound<'_, PyType>; 2]> {
    if let Some(types) = TYPES.get(py) {
        return Ok([types.handle.bind(py).clone(), types.timer.bind(py).clone()]);
    }
    let classes = Classes::import(py)?;
    let Some(layout) = handle_layout::find(&classes)? else {
        let exported = [classes.handle.clone(), classes.timer.clone()];
        stock_handle::prepare(classes)?;
        return Ok(exported);
    };
    let types = TYPES.get_or_try_init(py, || {
        let Classes { handle, timer, thread_safe } = &classes;
        PyResult::Ok(Types {
            layout,
            handle: make(handle, c"oxloop._oxloop.Handle", &METHODS)?,
            timer: make(timer, c"oxloop._oxloop.TimerHandle", &METHODS)?,
            thread_safe: thread_safe.as_ref().map(make_thread_safe).transpose()?,
        })
    })?;
    Ok([types.handle.bind(py).clone(), types.timer.bind(py).clone()])
}

/// Whether handles are run by their method `_run`, as somebody has replaced it: what the selector
/// found is then shown to the program as handles.
#[inline]
pub(crate) fn are_run_by_method(py: Python<'_>) -> bool {
    match TYPES.get(py) {
        Some(types) => run_method::is_replaced(types.handle.bind(py), Kind::Plain),
        None => stock_handle::class(py, Kind::Plain)
            .map_or(true, |class| run_method::is_replaced(class, Kind::Plain)),
    }
}

/// Whether cancelling a timer's handle leaves it in the loop's timers; asyncio's own handle asks.
pub(crate) fn is_cancelled_timer(handle: &Bound<'_, PyAny>) -> PyResult<bool> {
    match TYPES.get(handle.py()) {
        Some(_) => handle.getattr(Text("_scheduled"))?.is_truthy(),
        None => Ok(stock_handle::cancel_timer(handle)),
    }
}

/// Whether handles are of our types.
#[inline]
pub(crate) fn are_native(py: Python<'_>) -> bool {
    TYPES.get(py).is_some()
}

unsafe extern "C" {
    pub(super) fn _PyObject_GC_New(class: *mut ffi::PyTypeObject) -> *mut ffi::PyObject;
}

struct Methods<const N: usize>([ffi::PyMethodDef; N]);
// SAFETY: the table is constant: function pointers and static strings.
unsafe impl<const N: usize> Sync for Methods<N> {}

const fn method(name: &CStr, function: ffi::PyCFunction, doc: &CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: doc.as_ptr(),
    }
}

static METHODS: Methods<2> = Methods([
    method(
        c"cancel",
        cancel,
        c"cancel($self)\n--\n\n\
          Cancels the call: it will not run. Cancelling twice is cancelling once.",
    ),
    ffi::PyMethodDef::zeroed(),
]);

static THREAD_SAFE_METHODS: Methods<3> = Methods([
    method(
        c"cancel",
        cancel,
        c"cancel($self)\n--\n\nCancels the call; in another thread, waits while it runs.",
    ),
    method(
        c"cancelled",
        cancelled,
        c"cancelled($self)\n--\n\nWhether it was cancelled; waits likewise.",
    ),
    ffi::PyMethodDef::zeroed(),
]);

struct Attributes([ffi::PyGetSetDef; 2]);
// SAFETY: as above.
unsafe impl Sync for Attributes {}

static ATTRIBUTES: Attributes = Attributes([
    ffi::PyGetSetDef {
        name: c"_context".as_ptr(),
        get: Some(context),
        set: Some(set_context),
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    },
    ffi::PyGetSetDef {
        name: std::ptr::null(),
        get: None,
        set: None,
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    },
]);

/// A subclass of `base` with room for one more reference, the template.
fn make<const N: usize>(
    base: &Bound<'_, PyType>,
    name: &'static CStr,
    methods: &'static Methods<N>,
) -> PyResult<Py<PyType>> {
    let py = base.py();
    let size: c_int = base.getattr(Text("__basicsize__"))?.extract()?;
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: dealloc as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_traverse, pfunc: traverse as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_clear, pfunc: clear as *mut c_void },
        ffi::PyType_Slot {
            slot: ffi::Py_tp_methods,
            pfunc: methods.0.as_ptr().cast_mut().cast::<c_void>(),
        },
        ffi::PyType_Slot {
            slot: ffi::Py_tp_getset,
            pfunc: ATTRIBUTES.0.as_ptr().cast_mut().cast::<c_void>(),
        },
        ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size + size_of::<*mut ffi::PyObject>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC) as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: attached; spec and slots live until the call returns, the method table for ever.
    unsafe {
        let bases = objects::tuple(py, [base])?;
        let object = ffi::PyType_FromSpecWithBases(&mut spec, bases.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into::<PyType>()?.unbind())
    }
}

/// asyncio's has a lock for each handle, which its `_run` takes. Here the loop knows what it runs
/// (`guard.rs`): the slot stays empty and hidden behind a lock that locks nothing.
fn make_thread_safe(base: &Bound<'_, PyType>) -> PyResult<Py<PyType>> {
    let py = base.py();
    // `repr` shows the name, so it is asyncio's.
    let class = make(base, c"oxloop._oxloop._ThreadSafeHandle", &THREAD_SAFE_METHODS)?;
    class.setattr(
        py,
        "_lock",
        py.import(Text("contextlib"))?.getattr(Text("nullcontext"))?.call0()?,
    )?;
    Ok(class)
}

/// Gives a handle with a template a context of its own.
///
/// # Safety
/// Attached; `object` is an instance of ours.
pub(super) unsafe fn own_context(object: *mut ffi::PyObject, layout: &Layout) -> PyResult<()> {
    // SAFETY: as the caller says.
    unsafe {
        let shared = *template_of(object);
        if shared.is_null() {
            return Ok(());
        }
        let context = ffi::PyContext_Copy(shared);
        if context.is_null() {
            return Err(PyErr::fetch(Python::assume_attached()));
        }
        *template_of(object) = std::ptr::null_mut();
        *slot(object, layout.context) = context;
        template::release(shared);
    }
    Ok(())
}

/// `Handle._context`.
unsafe extern "C" fn context(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: the descriptor calls attached, with an instance of our types. Its slots are replaced
    // in its critical section alone.
    unsafe {
        entry(object, |handle| {
            let py = handle.py();
            let found = with_critical_section(handle, || {
                let types = types(py)?;
                own_context(object, &types.layout)?;
                let value = *slot(object, types.layout.context);
                let value = Bound::from_borrowed_ptr_or_opt(py, value);
                value.ok_or_else(|| PyAttributeError::new_err(Message("_context")))
            });
            found.map(Bound::unbind)
        })
    }
}

/// `Handle._context = value`, `del Handle._context`.
unsafe extern "C" fn set_context(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    _: *mut c_void,
) -> c_int {
    // SAFETY: as above; both slots are written before an old reference is dropped.
    unsafe {
        let py = Python::assume_attached();
        let Some(types) = TYPES.get(py) else { return 0 };
        let layout = &types.layout;
        ffi::Py_XINCREF(value);
        let handle = Bound::<PyAny>::from_borrowed_ptr(py, object);
        let (shared, old) = with_critical_section(&handle, || {
            let shared = std::ptr::replace(template_of(object), std::ptr::null_mut());
            (shared, std::ptr::replace(slot(object, layout.context), value))
        });
        ffi::Py_XDECREF(old);
        if !shared.is_null() {
            template::release(shared);
        }
    }
    0
}

#[inline]
pub(super) fn types(py: Python<'_>) -> PyResult<&Types> {
    TYPES.get(py).ok_or_else(|| PyRuntimeError::new_err(Message("oxloop is not initialised")))
}

/// Where a handle's template stands: in the last word.
///
/// # Safety
/// `object` is an instance of ours.
#[inline]
pub(super) unsafe fn template_of(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
    // SAFETY: `make` gave the types that word.
    unsafe {
        let size = (*ffi::Py_TYPE(object)).tp_basicsize;
        slot(object, size - size_of::<*mut ffi::PyObject>() as isize)
    }
}

/// Whether a handle is one that `call_soon_threadsafe` made, where these are a type of their own.
#[inline]
pub(crate) fn is_thread_safe(handle: &Bound<'_, PyAny>) -> bool {
    let types = TYPES.get(handle.py());
    types.is_some_and(|types| types.kind(handle.as_ptr()) == Kind::ThreadSafe)
}

#[inline]
pub(super) fn is_timer(types: &Types, object: *mut ffi::PyObject) -> bool {
    types.kind(object) == Kind::Timer
}

unsafe extern "C" fn cancel(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods attached, on a live instance of one of our types.
    unsafe {
        entry(object, |handle| {
            crate::handle::cancel(handle)?;
            Ok(handle.py().None())
        })
    }
}

unsafe extern "C" fn cancelled(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        entry(object, |handle| {
            let cancelled = crate::handle::cancelled(handle)?;
            Ok(PyBool::new(handle.py(), cancelled).to_owned().into_any().unbind())
        })
    }
}

/// A method of a handle without arguments.
///
/// # Safety
/// Attached; `object` is a live instance of one of our types.
unsafe fn entry(
    object: *mut ffi::PyObject,
    body: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<Py<PyAny>>,
) -> *mut ffi::PyObject {
    // A panic must not cross into C.
    let result = contained(|| {
        // SAFETY: as the caller says.
        body(&unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object) })
    });
    let error = match result {
        Ok(object) => return object.into_ptr(),
        Err(error) => error,
    };
    // SAFETY: as the caller says.
    error.restore(unsafe { Python::assume_attached() });
    std::ptr::null_mut()
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector calls with a live instance; slots are references or NULL; a heap
    // type's instance owns a reference to its type. No lock is taken, no count is changed.
    unsafe {
        let Some(types) = TYPES.get(Python::assume_attached()) else { return 0 };
        let own = [ffi::Py_TYPE(object).cast(), *template_of(object)];
        let slots = slots_of(types, object).map(|at| *slot(object, at));
        for value in slots.chain(own) {
            if !value.is_null() {
                let result = visit(value, arg);
                if result != 0 {
                    return result;
                }
            }
        }
    }
    0
}

unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: called attached, on a live instance; each slot is emptied before its reference is
    // dropped.
    unsafe {
        let Some(types) = TYPES.get(Python::assume_attached()) else { return 0 };
        empty(types, object);
        set_constants(&types.layout, object);
    }
    0
}

/// What a new handle's other slots hold: not cancelled, no kept repr, no source traceback.
///
/// # Safety
/// Attached; `object` is an instance of ours whose slots hold references or NULL.
#[inline]
pub(super) unsafe fn set_constants(layout: &Layout, object: *mut ffi::PyObject) {
    // SAFETY: as the caller says. Handles are made by the million with these three as they are:
    // comparing is cheaper than counting references.
    unsafe {
        let set = |at, constant: *mut ffi::PyObject| {
            if *slot(object, at) != constant {
                let old = std::ptr::replace(slot(object, at), ffi::Py_NewRef(constant));
                ffi::Py_XDECREF(old);
            }
        };
        set(layout.cancelled, ffi::Py_False());
        set(layout.repr, ffi::Py_None());
        set(layout.source_traceback, ffi::Py_None());
    }
}

/// Empties the slots of a handle that is freed, but for its constants.
///
/// # Safety
/// Attached; `object` is an instance of ours.
#[inline]
unsafe fn empty(types: &Types, object: *mut ffi::PyObject) {
    // Written out: this is half the cost of freeing a handle.
    let layout = &types.layout;
    // SAFETY: as the caller says; each slot is emptied before its reference is dropped.
    let drop_slot = |at| unsafe {
        ffi::Py_XDECREF(std::ptr::replace(slot(object, at), std::ptr::null_mut()));
    };
    drop_slot(layout.callback);
    drop_slot(layout.args);
    drop_slot(layout.context);
    drop_slot(layout.event_loop);
    // SAFETY: as above.
    unsafe {
        let shared = std::ptr::replace(template_of(object), std::ptr::null_mut());
        if !shared.is_null() {
            template::release(shared);
        }
    }
    if is_timer(types, object) {
        drop_slot(layout.when);
        drop_slot(layout.scheduled);
    }
}

fn slots_of(types: &Types, object: *mut ffi::PyObject) -> impl Iterator<Item = isize> {
    let layout = &types.layout;
    let common = [
        layout.callback,
        layout.args,
        layout.context,
        layout.event_loop,
        layout.cancelled,
        layout.repr,
        layout.source_traceback,
    ];
    let timer = is_timer(types, object).then_some([layout.when, layout.scheduled]);
    common.into_iter().chain(timer.into_iter().flatten())
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called once for an instance that nobody refers to, which is untracked before its
    // slots are emptied.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        in_turn(object, free);
    }
}

/// # Safety
/// Attached; an instance of ours that nobody refers to, untracked.
#[inline(always)]
unsafe fn free(object: *mut ffi::PyObject) {
    // SAFETY: as the caller says. Weak references are told before the slots are emptied. The memory
    // then goes to the free list or back to its allocator, and the instance's reference to its
    // type is dropped.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        let mut kept = false;
        if let Some(types) = TYPES.get(Python::assume_attached()) {
            if !(*slot(object, types.layout.weak)).is_null() {
                ffi::PyObject_ClearWeakRefs(object);
            }
            empty(types, object);
            set_constants(&types.layout, object);
            kept = free_list::keep(types.kind(object), object);
            if !kept {
                for at in slots_of(types, object) {
                    ffi::Py_XDECREF(std::ptr::replace(slot(object, at), std::ptr::null_mut()));
                }
            }
        }
        if let (false, Some(free)) = (kept, (*kind).tp_free) {
            free(object.cast());
        }
        ffi::Py_DECREF(kind.cast());
    }
}

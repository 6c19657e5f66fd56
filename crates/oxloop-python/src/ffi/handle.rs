//! Handle and TimerHandle: asyncio's own classes, filled and cancelled natively.
//!
//! Each is a heap type over `asyncio.Handle` (or TimerHandle) which adds no field: the slots that
//! asyncio's Python code reads (`_callback`, `_args`, `_context`...) are found by the offsets of
//! their member descriptors and written directly. So a handle is an instance of asyncio's class,
//! `repr`, `cancelled`, `get_context`, `when` and the comparisons are asyncio's, and making one
//! costs no Python call. Freed handles are kept for reuse where the build has an interpreter lock.
//!
//! A handle of a running loop is not tracked by the collector at first: most are run and freed
//! with nobody else knowing them, and tracked they would be walked through by every collection.
//! While the loop runs, everything that its queues refer to is alive anyway. A handle that
//! somebody else refers to is tracked when it is run or cancelled, and all that are queued when
//! the run ends, before the loop could become garbage.

use pyo3::exceptions::{PyRuntimeError, PySystemError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyTuple, PyType};
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// Where the slots of asyncio's classes lie in an instance, bytes from its start.
struct Layout {
    callback: isize,
    args: isize,
    context: isize,
    event_loop: isize,
    cancelled: isize,
    repr: isize,
    source_traceback: isize,
    when: isize,
    scheduled: isize,
}

/// The types and their layout.
struct Types {
    handle: Py<PyType>,
    timer: Py<PyType>,
    /// What call_soon_threadsafe returns; a plain handle before 3.14.
    thread_safe: Option<Py<PyType>>,
    layout: Layout,
}

static TYPES: PyOnceLock<Types> = PyOnceLock::new();

/// Which of the types.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Timer,
    ThreadSafe,
}

impl Types {
    #[inline]
    fn class(&self, kind: Kind) -> &Py<PyType> {
        match kind {
            Kind::Plain => &self.handle,
            Kind::Timer => &self.timer,
            Kind::ThreadSafe => self.thread_safe.as_ref().unwrap_or(&self.handle),
        }
    }

    #[inline]
    fn kind(&self, object: *mut ffi::PyObject) -> Kind {
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

/// Makes the types; the module calls it when it is imported.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<(&Py<PyType>, &Py<PyType>)> {
    let types = TYPES.get_or_try_init(py, || {
        let events = py.import("asyncio.events")?;
        let (handle, timer) = (events.getattr("Handle")?, events.getattr("TimerHandle")?);
        let at = |class: &Bound<'_, PyAny>, name| offset(&class.getattr(name)?);
        PyResult::Ok(Types {
            layout: Layout {
                callback: at(&handle, "_callback")?,
                args: at(&handle, "_args")?,
                context: at(&handle, "_context")?,
                event_loop: at(&handle, "_loop")?,
                cancelled: at(&handle, "_cancelled")?,
                repr: at(&handle, "_repr")?,
                source_traceback: at(&handle, "_source_traceback")?,
                when: at(&timer, "_when")?,
                scheduled: at(&timer, "_scheduled")?,
            },
            handle: make(&handle, c"oxloop._oxloop.Handle", &METHODS)?,
            timer: make(&timer, c"oxloop._oxloop.TimerHandle", &METHODS)?,
            thread_safe: events
                .getattr_opt("_ThreadSafeHandle")?
                .map(|base| make_thread_safe(&base, &handle))
                .transpose()?,
        })
    })?;
    Ok((&types.handle, &types.timer))
}

/// The offset of a `__slots__` member.
fn offset(descriptor: &Bound<'_, PyAny>) -> PyResult<isize> {
    // SAFETY: attached; the exact type is checked, so the object is a PyMemberDescrObject, whose
    // member definition lives as long as its class.
    unsafe {
        if ffi::Py_TYPE(descriptor.as_ptr()) != &raw mut ffi::PyMemberDescr_Type {
            return Err(PyTypeError::new_err("asyncio.Handle has no slots"));
        }
        let member = (*descriptor.as_ptr().cast::<ffi::PyMemberDescrObject>()).d_member;
        Ok((*member).offset)
    }
}

unsafe extern "C" {
    fn _PyObject_GC_New(class: *mut ffi::PyTypeObject) -> *mut ffi::PyObject;
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
        c"Cancels the call: it will not run. Cancelling twice is cancelling once.",
    ),
    ffi::PyMethodDef::zeroed(),
]);

static THREAD_SAFE_METHODS: Methods<3> = Methods([
    method(c"cancel", cancel, c"Cancels the call; in another thread, waits while it runs."),
    method(c"cancelled", cancelled, c"Whether it was cancelled; waits likewise."),
    ffi::PyMethodDef::zeroed(),
]);

fn make<const N: usize>(
    base: &Bound<'_, PyAny>,
    name: &'static CStr,
    methods: &'static Methods<N>,
) -> PyResult<Py<PyType>> {
    let py = base.py();
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: dealloc as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_traverse, pfunc: traverse as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_clear, pfunc: clear as *mut c_void },
        ffi::PyType_Slot {
            slot: ffi::Py_tp_methods,
            pfunc: methods.0.as_ptr().cast_mut().cast::<c_void>(),
        },
        ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: 0, // the base's
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC) as u32,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: attached; spec and slots live until the call returns, the method table for ever.
    unsafe {
        let bases = PyTuple::new(py, [base])?;
        let object = ffi::PyType_FromSpecWithBases(&mut spec, bases.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into::<PyType>()?.unbind())
    }
}

/// asyncio's has a lock for each handle, which its `_run` takes. Here the loop knows what it runs
/// (`guard.rs`): the slot stays empty and hidden, and who calls `_run` gets a plain handle's.
fn make_thread_safe(base: &Bound<'_, PyAny>, plain: &Bound<'_, PyAny>) -> PyResult<Py<PyType>> {
    // `repr` shows the name, so it is asyncio's.
    let class = make(base, c"oxloop._oxloop._ThreadSafeHandle", &THREAD_SAFE_METHODS)?;
    class.setattr(base.py(), "_run", plain.getattr("_run")?)?;
    class.setattr(base.py(), "_lock", base.py().None())?;
    Ok(class)
}

/// A counted reference to a Handle or TimerHandle of ours. Leaner than `Py`, which asks on each
/// drop whether its thread is attached.
pub(crate) struct RawHandle(NonNull<ffi::PyObject>);

// SAFETY: a counted reference may be moved to and used from any thread that is attached; the
// engine, which holds these, is used attached only.
unsafe impl Send for RawHandle {}
// SAFETY: as above; what `&self` reads is the object's own slots.
unsafe impl Sync for RawHandle {}

impl Drop for RawHandle {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and the engine drops callbacks only while attached: in
        // a turn, in methods of Python objects, and when the loop object is freed.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) }
    }
}

impl RawHandle {
    /// A handle that calls `callback(*args)` in `context`.
    #[inline]
    pub(crate) fn new(
        event_loop: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Py<PyAny>,
    ) -> PyResult<RawHandle> {
        let py = callback.py();
        let types = types(py)?;
        RawHandle::filled(py, types, Kind::Plain, event_loop, callback, args, context)
    }

    /// A handle as `call_soon_threadsafe` returns it.
    #[inline]
    pub(crate) fn thread_safe(
        event_loop: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Py<PyAny>,
    ) -> PyResult<RawHandle> {
        let py = callback.py();
        let types = types(py)?;
        let kind = if types.thread_safe.is_some() { Kind::ThreadSafe } else { Kind::Plain };
        RawHandle::filled(py, types, kind, event_loop, callback, args, context)
    }

    /// A handle for the time `when`, seconds on the loop's clock; scheduled already.
    #[inline]
    pub(crate) fn timer(
        event_loop: &Bound<'_, PyAny>,
        when: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Py<PyAny>,
    ) -> PyResult<RawHandle> {
        let py = callback.py();
        let types = types(py)?;
        let handle =
            RawHandle::filled(py, types, Kind::Timer, event_loop, callback, args, context)?;
        // SAFETY: `filled` made an instance of the timer type.
        unsafe {
            handle.set(types.layout.when, ffi::Py_NewRef(when.as_ptr()));
            handle.set(types.layout.scheduled, ffi::Py_NewRef(ffi::Py_True()));
        }
        Ok(handle)
    }

    #[inline]
    fn filled(
        py: Python<'_>,
        types: &Types,
        kind: Kind,
        event_loop: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Py<PyAny>,
    ) -> PyResult<RawHandle> {
        let class = types.class(kind).as_ptr().cast::<ffi::PyTypeObject>();
        let layout = &types.layout;
        // SAFETY: attached; `class` is one of our types, whose instances have no variable part. A
        // new instance is zeroed behind its head and given its constants, which one from the free
        // list has still; all its other slots are NULL and are given references here. Neither is
        // tracked.
        unsafe {
            let object = match free_list::take(kind) {
                Some(object) => ffi::PyObject_Init(object, class),
                None => {
                    let object = _PyObject_GC_New(class);
                    if !object.is_null() {
                        let head = size_of::<ffi::PyObject>();
                        let size = (*class).tp_basicsize as usize - head;
                        object.byte_add(head).cast::<u8>().write_bytes(0, size);
                        set_constants(layout, object);
                    }
                    object
                }
            };
            let Some(reference) = NonNull::new(object) else { return Err(PyErr::fetch(py)) };
            let handle = RawHandle(reference);
            *slot(object, layout.callback) = ffi::Py_NewRef(callback.as_ptr());
            *slot(object, layout.args) = args.into_ptr();
            *slot(object, layout.context) = context.into_ptr();
            *slot(object, layout.event_loop) = ffi::Py_NewRef(event_loop.as_ptr());
            Ok(handle)
        }
    }

    /// Shows the handle to the collector, unless it is shown already.
    pub(crate) fn track(&self) {
        let object = self.0.as_ptr();
        // SAFETY: a complete instance of a collected type; engine and methods are attached.
        unsafe {
            if ffi::PyObject_GC_IsTracked(object) == 0 {
                ffi::PyObject_GC_Track(object.cast());
            }
        }
    }

    /// Shows the handle to the collector if anybody else refers to it.
    #[inline]
    pub(crate) fn track_if_shared(&self) {
        // SAFETY: a live object. Without a global lock the count is a hint: a reference that
        // appears later was copied from one that is counted here already.
        if unsafe { ffi::Py_REFCNT(self.0.as_ptr()) } > 1 {
            self.track();
        }
    }

    /// Whether cancelling it has to wait while it runs.
    #[inline]
    pub(crate) fn is_thread_safe(&self, py: Python<'_>) -> bool {
        TYPES.get(py).is_some_and(|types| types.kind(self.0.as_ptr()) == Kind::ThreadSafe)
    }

    /// Which object it is.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// The Python object.
    #[inline]
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        // SAFETY: attached, a live object.
        unsafe { Bound::from_borrowed_ptr(py, self.0.as_ptr()) }
    }

    /// The object as the collector's visitor takes it.
    pub(crate) fn as_py(&self) -> &Py<PyAny> {
        // SAFETY: `Py` is a transparent wrapper of the same non-null, counted pointer, and the
        // borrow of `self` keeps the reference alive.
        unsafe { &*(&raw const self.0).cast::<Py<PyAny>>() }
    }

    /// Names the stack that made the handle (debug mode).
    pub(crate) fn set_source_traceback(&self, traceback: Bound<'_, PyAny>) -> PyResult<()> {
        let types = types(traceback.py())?;
        // SAFETY: attached, and the object is one of ours.
        unsafe { self.set(types.layout.source_traceback, traceback.into_ptr()) };
        Ok(())
    }

    /// Whether it was cancelled.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        // SAFETY: the engine asks in methods that were entered attached; the slot is read only.
        unsafe {
            let Some(types) = TYPES.get(Python::assume_attached()) else { return false };
            *slot(self.0.as_ptr(), types.layout.cancelled) == ffi::Py_True()
        }
    }

    /// The timer's time has come: it is not in the heap any more.
    #[inline]
    pub(crate) fn unschedule(&self) {
        // SAFETY: attached as above; only timers are in the heap, and `False` is never freed.
        unsafe {
            let py = Python::assume_attached();
            if let Some(types) = TYPES.get(py) {
                if is_timer(types, self.0.as_ptr()) {
                    self.set(types.layout.scheduled, ffi::Py_NewRef(ffi::Py_False()));
                }
            }
        }
    }

    /// What to call, with what, and in which context; `None` once it is cancelled.
    #[inline]
    pub(crate) fn call<'py>(&self, py: Python<'py>) -> Option<Call<'py>> {
        let layout = &TYPES.get(py)?.layout;
        let object = self.0.as_ptr();
        // SAFETY: attached; the slots of a handle that is not cancelled hold the callback, its
        // arguments and its context. `_args` may have been replaced from Python: it is checked.
        unsafe {
            if *slot(object, layout.cancelled) == ffi::Py_True() {
                return None;
            }
            let get = |at| Bound::from_borrowed_ptr_or_opt(py, *slot(object, at));
            Some(Call {
                callback: get(layout.callback)?,
                args: as_tuple(get(layout.args)?)?,
                context: get(layout.context)?,
            })
        }
    }

    /// Replaces a slot's reference.
    ///
    /// # Safety
    /// Attached; `at` is an offset of the object's type; `value` is an owned reference.
    #[inline]
    unsafe fn set(&self, at: isize, value: *mut ffi::PyObject) {
        // SAFETY: as the caller says. The slot is written before the old reference is dropped.
        unsafe {
            let old = std::ptr::replace(slot(self.0.as_ptr(), at), value);
            ffi::Py_XDECREF(old);
        }
    }
}

impl Clone for RawHandle {
    #[inline]
    fn clone(&self) -> RawHandle {
        // SAFETY: the engine clones callbacks in methods that are entered attached.
        unsafe { ffi::Py_INCREF(self.0.as_ptr()) };
        RawHandle(self.0)
    }
}

/// A handle's call.
pub(crate) struct Call<'py> {
    pub(crate) callback: Bound<'py, PyAny>,
    pub(crate) args: Bound<'py, PyTuple>,
    pub(crate) context: Bound<'py, PyAny>,
}

/// `_args` may have been replaced from Python, by any iterable.
#[inline]
fn as_tuple(args: Bound<'_, PyAny>) -> Option<Bound<'_, PyTuple>> {
    match args.cast_into() {
        Ok(args) => Some(args),
        Err(other) => {
            let other = other.into_inner();
            let items: Vec<Bound<'_, PyAny>> = other.extract().ok()?;
            PyTuple::new(other.py(), items).ok()
        }
    }
}

#[inline]
fn types(py: Python<'_>) -> PyResult<&Types> {
    TYPES.get(py).ok_or_else(|| PyRuntimeError::new_err("oxloop is not initialised"))
}

/// # Safety
/// `at` is the offset of a slot in `object`.
#[inline]
unsafe fn slot(object: *mut ffi::PyObject, at: isize) -> *mut *mut ffi::PyObject {
    // SAFETY: as the caller says.
    unsafe { object.byte_offset(at).cast() }
}

#[inline]
fn is_timer(types: &Types, object: *mut ffi::PyObject) -> bool {
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
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as the caller says.
        body(&unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object) })
    }));
    let error = match result {
        Ok(Ok(object)) => return object.into_ptr(),
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("panic in a method of a handle"),
    };
    // SAFETY: as the caller says.
    error.restore(unsafe { Python::assume_attached() });
    std::ptr::null_mut()
}

/// What cancelling found.
pub(crate) enum Cancelled {
    /// It was cancelled before.
    Before,
    /// Now; it was no timer, or its time had come already.
    Now,
    /// Now, and it still lies in the timer heap.
    Scheduled,
}

/// Marks a handle as cancelled, without letting its callback go yet.
pub(crate) fn mark_cancelled(handle: &Bound<'_, PyAny>) -> PyResult<Cancelled> {
    let types = types(handle.py())?;
    let object = handle.as_ptr();
    // SAFETY: attached; the object is one of ours: only `cancel` of our types comes here. True
    // and False are never freed.
    unsafe {
        if *slot(object, types.layout.cancelled) == ffi::Py_True() {
            return Ok(Cancelled::Before);
        }
        if ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
        let old =
            std::ptr::replace(slot(object, types.layout.cancelled), ffi::Py_NewRef(ffi::Py_True()));
        ffi::Py_XDECREF(old);
        if is_timer(types, object) && *slot(object, types.layout.scheduled) == ffi::Py_True() {
            return Ok(Cancelled::Scheduled);
        }
    }
    Ok(Cancelled::Now)
}

/// The loop of a handle.
pub(crate) fn event_loop<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = handle.py();
    let types = types(py)?;
    // SAFETY: attached, an instance of ours; the slot is a reference or NULL.
    unsafe {
        let object = *slot(handle.as_ptr(), types.layout.event_loop);
        Ok(Bound::from_borrowed_ptr_or_opt(py, object))
    }
}

/// Lets go of a cancelled handle's callback and arguments; keeps `repr` where there is one.
pub(crate) fn drop_call(handle: &Bound<'_, PyAny>, repr: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let layout = &types(handle.py())?.layout;
    let object = handle.as_ptr();
    // SAFETY: attached, an instance of ours. All slots are written before any old reference is
    // dropped, as that may run any code.
    unsafe {
        let none = || ffi::Py_NewRef(ffi::Py_None());
        let callback = std::ptr::replace(slot(object, layout.callback), none());
        let args = std::ptr::replace(slot(object, layout.args), none());
        if let Some(repr) = repr {
            ffi::Py_XDECREF(std::ptr::replace(slot(object, layout.repr), repr.into_ptr()));
        }
        ffi::Py_XDECREF(callback);
        ffi::Py_XDECREF(args);
    }
    Ok(())
}

unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector calls with a live instance; slots are references or NULL; a heap
    // type's instance owns a reference to its type. No lock is taken, no count is changed.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        let result = visit(kind.cast(), arg);
        if result != 0 {
            return result;
        }
        let Some(types) = TYPES.get(Python::assume_attached()) else { return 0 };
        for at in slots_of(types, object) {
            let value = *slot(object, at);
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
unsafe fn set_constants(layout: &Layout, object: *mut ffi::PyObject) {
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
    // SAFETY: called once for an instance that nobody refers to. It is untracked before its
    // slots are emptied; weak references are told first. The memory then goes to the free list
    // or back to its allocator, and the instance's reference to its type is dropped.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let kind = ffi::Py_TYPE(object);
        // Behind the object's head or, from 3.12 on, in front of it (a negative offset).
        let weak = (*kind).tp_weaklistoffset as isize;
        if weak != 0 && !(*slot(object, weak)).is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        let mut kept = false;
        if let Some(types) = TYPES.get(Python::assume_attached()) {
            empty(types, object);
            set_constants(&types.layout, object);
            kept = free_list::keep(types, object);
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

#[cfg(not(Py_GIL_DISABLED))]
mod free_list {
    //! Freed handles by type, for reuse: saves the allocation, and a count towards the next
    //! garbage collection.

    use super::*;
    use std::cell::UnsafeCell;

    /// So many of each type are kept (2 MiB at most): a burst of callbacks then costs neither
    /// allocations nor the collections that so many of them set off.
    const ROOM: usize = 16 * 1024;

    struct Lists(UnsafeCell<[Vec<*mut ffi::PyObject>; 3]>);

    // SAFETY: exists only in builds with a global interpreter lock, and is touched only while
    // attached, in sections that run no Python code: by one thread at a time.
    unsafe impl Sync for Lists {}

    static LISTS: Lists = Lists(UnsafeCell::new([const { Vec::new() }; 3]));

    /// # Safety
    /// Attached.
    #[inline]
    pub(super) unsafe fn take(kind: Kind) -> Option<*mut ffi::PyObject> {
        // SAFETY: as the type says; no reference to the lists leaves this function.
        unsafe { (&mut *LISTS.0.get())[kind as usize].pop() }
    }

    /// # Safety
    /// Attached; `object` is an emptied, untracked instance that nobody refers to.
    #[inline]
    pub(super) unsafe fn keep(types: &Types, object: *mut ffi::PyObject) -> bool {
        // SAFETY: as above.
        unsafe {
            let list = &mut (&mut *LISTS.0.get())[types.kind(object) as usize];
            let room = list.len() < ROOM;
            if room {
                list.push(object);
            }
            room
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod free_list {
    //! Without an interpreter lock the allocator's own thread caches do better.

    use super::*;

    /// # Safety
    /// None.
    pub(super) unsafe fn take(_: Kind) -> Option<*mut ffi::PyObject> {
        None
    }

    /// # Safety
    /// None.
    pub(super) unsafe fn keep(_: &Types, _: *mut ffi::PyObject) -> bool {
        false
    }
}

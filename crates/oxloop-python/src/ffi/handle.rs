//! Counted references to handles (`handle_types.rs`): how one is made, run and cancelled.
//!
//! The call of a handle that nobody else can reach is moved out of it to be run.
//!
//! A handle of a running loop is not tracked by the collector at first: most are run and freed
//! with nobody else knowing them, and tracked they would be walked through by every collection.
//! While the loop runs, everything that its queues refer to is alive anyway. A handle that
//! somebody else refers to is tracked when it is run or cancelled, and all that are queued when
//! the run ends, before the loop could become garbage.

use super::free_list;
use super::handle_layout::Layout;
use super::handle_types::{
    _PyObject_GC_New, Kind, TYPES, Types, is_timer, own_context, set_constants, template_of, types,
};
use super::objects::interned;
use super::run_method;
use super::slots::slot;
use super::stock_handle::Stock;
use super::template::{self, Captured, Lent};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::PyTuple;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

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
        context: Captured,
    ) -> PyResult<RawHandle> {
        let Some(types) = TYPES.get(callback.py()) else {
            return RawHandle::stock(event_loop, Kind::Plain, None, callback, args, context);
        };
        RawHandle::filled(types, Kind::Plain, event_loop, callback, args, context)
    }

    /// A handle as `call_soon_threadsafe` returns it.
    #[inline]
    pub(crate) fn thread_safe(
        event_loop: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Captured,
    ) -> PyResult<RawHandle> {
        let Some(types) = TYPES.get(callback.py()) else {
            return RawHandle::stock(event_loop, Kind::ThreadSafe, None, callback, args, context);
        };
        let kind = if types.thread_safe.is_some() { Kind::ThreadSafe } else { Kind::Plain };
        RawHandle::filled(types, kind, event_loop, callback, args, context)
    }

    /// A handle for the time `when`, seconds on the loop's clock; scheduled already.
    #[inline]
    pub(crate) fn timer(
        event_loop: &Bound<'_, PyAny>,
        when: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Captured,
    ) -> PyResult<RawHandle> {
        let Some(types) = TYPES.get(callback.py()) else {
            return RawHandle::stock(event_loop, Kind::Timer, Some(when), callback, args, context);
        };
        let handle = RawHandle::filled(types, Kind::Timer, event_loop, callback, args, context)?;
        // SAFETY: `filled` made an instance of the timer type.
        unsafe {
            handle.set(types.layout.when, ffi::Py_NewRef(when.as_ptr()));
            handle.set(types.layout.scheduled, ffi::Py_NewRef(ffi::Py_True()));
        }
        Ok(handle)
    }

    /// A handle of asyncio's own class.
    #[cold]
    fn stock<'py>(
        event_loop: &Bound<'py, PyAny>,
        kind: Kind,
        when: Option<&Bound<'py, PyAny>>,
        callback: &Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Captured,
    ) -> PyResult<RawHandle> {
        let context = context.into_own(event_loop.py())?;
        let stock = Stock::new(event_loop, kind, when, callback, args, context)?;
        // SAFETY: a reference is never NULL; it is handed on.
        Ok(RawHandle(unsafe { NonNull::new_unchecked(stock.into_ptr()) }))
    }

    /// What stands for a handle of asyncio's own class.
    #[cold]
    fn as_stock(&self) -> &Stock {
        // SAFETY: without types of ours only `stock` makes these references. `Py` is a transparent
        // wrapper of the same non-null, counted pointer, and `self` keeps the object alive.
        unsafe { &*(&raw const self.0).cast::<Py<Stock>>() }.get()
    }

    #[inline]
    fn filled(
        types: &Types,
        kind: Kind,
        event_loop: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Captured,
    ) -> PyResult<RawHandle> {
        let py = callback.py();
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
            match context {
                Captured::Own(context) => *slot(object, layout.context) = context.into_ptr(),
                Captured::Template(shared) => *template_of(object) = shared.as_ptr(),
            }
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

    /// Whether it is run by its method `_run`: an object of asyncio's own class, or somebody has
    /// replaced the method.
    #[inline]
    pub(crate) fn is_run_by_method(&self, py: Python<'_>) -> bool {
        !run_method::is_known(self.as_py().bind(py)) && self.look_at_method(py)
    }

    #[cold]
    fn look_at_method(&self, py: Python<'_>) -> bool {
        let Some(types) = TYPES.get(py) else { return true };
        let kind = types.kind(self.0.as_ptr());
        run_method::is_replaced(types.class(kind).bind(py), kind)
    }

    /// Before it is run by its method: whether it is to be run, or was cancelled.
    pub(crate) fn begin(&self, py: Python<'_>) -> PyResult<bool> {
        if TYPES.get(py).is_none() {
            return self.as_stock().begin(py);
        }
        self.track();
        Ok(!self.is_cancelled())
    }

    /// The Python object.
    #[inline]
    pub(crate) fn object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        if TYPES.get(py).is_none() {
            return self.as_stock().object().bind(py).clone();
        }
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
        let py = traceback.py();
        let Some(types) = TYPES.get(py) else {
            return self.object(py).setattr(interned!(py, "_source_traceback")?, traceback);
        };
        // SAFETY: attached, and the object is one of ours.
        unsafe { self.set(types.layout.source_traceback, traceback.into_ptr()) };
        Ok(())
    }

    /// Whether it was cancelled.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        // SAFETY: the engine asks in methods that were entered attached; the slot is read only.
        unsafe {
            let Some(types) = TYPES.get(Python::assume_attached()) else {
                return self.as_stock().is_cancelled();
            };
            is_true(self.0.as_ptr(), types.layout.cancelled)
        }
    }

    /// The timer's time has come: it is not in the heap any more.
    #[inline]
    pub(crate) fn unschedule(&self) {
        // SAFETY: attached as above; only timers are in the heap, and `False` is never freed.
        unsafe {
            let Some(types) = TYPES.get(Python::assume_attached()) else {
                return self.as_stock().unschedule();
            };
            if is_timer(types, self.0.as_ptr()) {
                self.set(types.layout.scheduled, ffi::Py_NewRef(ffi::Py_False()));
            }
        }
    }

    /// What to call, with what, and in which context; `None` once it is cancelled.
    ///
    /// Moves it out of a handle that nobody else refers to: what is run is dropped, or given back
    /// by [`restore`](Self::restore).
    #[inline]
    pub(crate) fn take_call<'py>(&self, py: Python<'py>) -> PyResult<Option<Call<'py>>> {
        let layout = &types(py)?.layout;
        let object = self.0.as_ptr();
        // SAFETY: attached; a handle of ours. If ours is the only reference and there is no weak
        // one, nobody sees the slots while they are empty.
        unsafe {
            if is_true(object, layout.cancelled) {
                return Ok(None);
            }
            // Without a global lock another thread may get at it at any time. Arguments that were
            // put in as another iterable run Python code: that is done where it can fail.
            if cfg!(Py_GIL_DISABLED)
                || ffi::Py_REFCNT(object) != 1
                || !(*slot(object, layout.weak)).is_null()
                || !has_tuple(object, layout)
            {
                return self.shared_call(py, layout);
            }
            let take = |at| std::ptr::replace(slot(object, at), std::ptr::null_mut());
            let shared = std::ptr::replace(template_of(object), std::ptr::null_mut());
            let context = match NonNull::new(shared) {
                Some(shared) => RunIn::Lent(template::lend(py, shared)?),
                None => match Bound::from_owned_ptr_or_opt(py, take(layout.context)) {
                    Some(context) => RunIn::Own(context),
                    None => return Ok(None),
                },
            };
            let callback = Bound::from_owned_ptr_or_opt(py, take(layout.callback));
            let args = Bound::from_owned_ptr_or_opt(py, take(layout.args));
            let args = args.map(|args| args.cast_into_unchecked::<PyTuple>());
            let (Some(callback), Some(args)) = (callback, args) else { return Ok(None) };
            Ok(Some(Call { callback, args, context, shared: false }))
        }
    }

    /// The call of a handle that others refer to, copied: they may cancel it while it runs. From
    /// now on the collector has to know it.
    #[inline(never)]
    fn shared_call<'py>(&self, py: Python<'py>, layout: &Layout) -> PyResult<Option<Call<'py>>> {
        self.track();
        let object = self.0.as_ptr();
        // SAFETY: attached; the slots hold references or NULL, and who replaces one does it in
        // the object's critical section.
        with_critical_section(&self.object(py), || unsafe {
            own_context(object, layout)?;
            let get = |at| Bound::from_borrowed_ptr_or_opt(py, *slot(object, at));
            let (callback, args) = (get(layout.callback), get(layout.args));
            let args = args.map(as_tuple).transpose()?;
            let parts = callback.zip(args).zip(get(layout.context));
            Ok(parts.map(|((callback, args), context)| Call {
                callback,
                args,
                context: RunIn::Own(context),
                shared: true,
            }))
        })
    }

    /// Puts a call back into the handle that it was moved out of.
    pub(crate) fn restore(&self, py: Python<'_>, call: Call<'_>) -> PyResult<()> {
        let layout = &types(py)?.layout;
        let object = self.0.as_ptr();
        // SAFETY: attached; the call was this handle's. A slot that holds something was not
        // emptied, or was filled since.
        unsafe {
            let put = |at, value: Bound<'_, PyAny>| {
                if (*slot(object, at)).is_null() {
                    *slot(object, at) = value.into_ptr();
                }
            };
            put(layout.callback, call.callback);
            put(layout.args, call.args.into_any());
            put(layout.context, call.context.into_bound(py));
        }
        Ok(())
    }

    /// Replaces a slot's reference.
    ///
    /// # Safety
    /// Attached; `at` is an offset of the object's type, of a slot that only the loop's thread
    /// writes to; `value` is an owned reference.
    #[inline]
    unsafe fn set(&self, at: isize, value: *mut ffi::PyObject) {
        // SAFETY: as the caller says. The slot is written before the old reference is dropped.
        // Another thread that cancels the handle may read it meanwhile.
        unsafe {
            let slot = AtomicPtr::from_ptr(slot(self.0.as_ptr(), at));
            let old = slot.load(Ordering::Relaxed);
            slot.store(value, Ordering::Relaxed);
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
    pub(crate) context: RunIn<'py>,
    /// Whether others refer to the handle.
    pub(crate) shared: bool,
}

/// Where a call is run.
pub(crate) enum RunIn<'py> {
    /// In the handle's own context.
    Own(Bound<'py, PyAny>),
    /// In a copy of its template.
    Lent(Lent),
}

impl<'py> RunIn<'py> {
    fn into_bound(self, py: Python<'py>) -> Bound<'py, PyAny> {
        match self {
            RunIn::Own(context) => context,
            RunIn::Lent(lent) => lent.keep(py),
        }
    }
}

/// Whether `_args` is what the loop has put there, or empty.
///
/// # Safety
/// Attached; a handle of ours.
#[inline]
unsafe fn has_tuple(object: *mut ffi::PyObject, layout: &Layout) -> bool {
    // SAFETY: as the caller says; the slot is a reference or NULL.
    unsafe {
        let args = *slot(object, layout.args);
        args.is_null() || ffi::PyTuple_Check(args) != 0
    }
}

/// `_args` may have been replaced from Python, by any iterable.
#[inline]
fn as_tuple(args: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyTuple>> {
    match args.cast_into() {
        Ok(args) => Ok(args),
        Err(other) => {
            let other = other.into_inner();
            // SAFETY: attached, a live object; a new tuple, or NULL with an exception.
            unsafe {
                let tuple = ffi::PySequence_Tuple(other.as_ptr());
                Ok(Bound::from_owned_ptr_or_err(other.py(), tuple)?.cast_into_unchecked())
            }
        }
    }
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
    // SAFETY: attached; the object is one of ours: only `cancel` of our types comes here. One
    // thread at a time is in the object's critical section. True and False are never freed.
    with_critical_section(handle, || unsafe {
        if is_true(object, types.layout.cancelled) {
            return Ok(Cancelled::Before);
        }
        if ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
        let cancelled = AtomicPtr::from_ptr(slot(object, types.layout.cancelled));
        let old = cancelled.load(Ordering::Relaxed);
        cancelled.store(ffi::Py_NewRef(ffi::Py_True()), Ordering::Relaxed);
        ffi::Py_XDECREF(old);
        if is_timer(types, object) && is_true(object, types.layout.scheduled) {
            return Ok(Cancelled::Scheduled);
        }
        Ok(Cancelled::Now)
    })
}

/// Whether a slot holds `True`. The loop asks while another thread may cancel.
///
/// # Safety
/// Attached; `at` is the offset of a slot in `object`.
#[inline]
unsafe fn is_true(object: *mut ffi::PyObject, at: isize) -> bool {
    // SAFETY: as the caller says; an aligned pointer, which is compared and not followed.
    unsafe { AtomicPtr::from_ptr(slot(object, at)).load(Ordering::Relaxed) == ffi::Py_True() }
}

/// The loop of a handle.
pub(crate) fn event_loop<'py>(handle: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = handle.py();
    let types = types(py)?;
    // SAFETY: attached, an instance of ours; the slot is a reference or NULL, and is not replaced
    // meanwhile.
    with_critical_section(handle, || unsafe {
        let object = *slot(handle.as_ptr(), types.layout.event_loop);
        Ok(Bound::from_borrowed_ptr_or_opt(py, object))
    })
}

/// Lets go of a cancelled handle's callback and arguments; keeps `repr` where there is one.
pub(crate) fn drop_call(handle: &Bound<'_, PyAny>, repr: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let layout = &types(handle.py())?.layout;
    let object = handle.as_ptr();
    // SAFETY: attached, an instance of ours, in its critical section. All slots are written before
    // any old reference is dropped, as that may run any code.
    with_critical_section(handle, || unsafe {
        let none = || ffi::Py_NewRef(ffi::Py_None());
        let callback = std::ptr::replace(slot(object, layout.callback), none());
        let args = std::ptr::replace(slot(object, layout.args), none());
        if let Some(repr) = repr {
            ffi::Py_XDECREF(std::ptr::replace(slot(object, layout.repr), repr.into_ptr()));
        }
        ffi::Py_XDECREF(callback);
        ffi::Py_XDECREF(args);
    });
    Ok(())
}

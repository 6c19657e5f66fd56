//! Copies of the current context that are made only where somebody runs in them.
//!
//! asyncio copies the current context for each call that is scheduled without one. Many calls in
//! a row copy the same variables, and few callbacks set any; so handles share one copy, the
//! *template*, in which nobody runs. A callback runs in a copy of it that is lent from call to
//! call for as long as it holds what the template holds. Who looks at a handle's context gets
//! one that is that handle's alone (`handle.rs`), so none of this can be seen from Python.
//!
//! Whether a template still equals the current context takes two looks into CPython's
//! structures: at the thread's current context, and at a context's variables, which are one
//! immutable map. Where these pointers stand is found out by experiment when the module is
//! imported; where the experiment fails, and where there is no global interpreter lock, each
//! handle gets a copy of its own.
//!
//! A template is let go with the last handle that has it, so that the values of variables live
//! no longer than under asyncio; only the one without variables stays.

use super::context;
use crate::ffi::objects::Text;
use pyo3::ffi;
use pyo3::prelude::*;
use std::cell::UnsafeCell;
use std::ptr::{NonNull, null_mut};

/// The name of the environment variable that asks for a copy for each handle ("copy").
const SWITCH: &str = "OXLOOP_CONTEXTS";

/// The context of a new handle.
pub(crate) enum Captured {
    /// The handle's alone.
    Own(Py<PyAny>),
    /// Shared with others: a counted reference, which goes to [`release`].
    Template(NonNull<ffi::PyObject>),
}

impl Captured {
    /// The context of one handle alone.
    pub(super) fn into_own(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Captured::Own(context) => Ok(context),
            // SAFETY: attached; the reference is ours.
            Captured::Template(template) => unsafe {
                let context = ffi::PyContext_Copy(template.as_ptr());
                release(template.as_ptr());
                Bound::from_owned_ptr_or_err(py, context).map(Bound::unbind)
            },
        }
    }
}

/// A context to run in, and the template it is a copy of.
pub(crate) struct Lent {
    context: NonNull<ffi::PyObject>,
    template: *mut ffi::PyObject,
}

/// Where CPython keeps what we compare, in words from the start of the structure.
#[derive(Clone, Copy)]
struct Places {
    /// The current context in a PyThreadState.
    current: usize,
    /// The map of variables in a Context.
    variables: usize,
}

struct Cache {
    places: Option<Places>,
    /// The template of the last call that was scheduled; a counted reference or NULL.
    template: *mut ffi::PyObject,
    /// A copy of it to run in; a counted reference or NULL.
    spare: *mut ffi::PyObject,
    /// The template has no variables, and so keeps nothing alive.
    empty: bool,
}

struct Global(UnsafeCell<Cache>);

// SAFETY: touched only in builds with a global interpreter lock (without one `prepare` and
// `capture` return first, and there are no templates), only while attached, and never while Python
// code runs: each function below copies what it needs and has left the cache in order before it
// drops a reference. So by one thread at a time.
unsafe impl Sync for Global {}

static CACHE: Global = Global(UnsafeCell::new(Cache {
    places: None,
    template: null_mut(),
    spare: null_mut(),
    empty: false,
}));

/// # Safety
/// Attached; the reference is gone before any other call of this module or of Python.
#[inline]
unsafe fn cache<'a>() -> &'a mut Cache {
    // SAFETY: as the caller says, and as `Global` says.
    unsafe { &mut *CACHE.0.get() }
}

/// Word number `index` of a structure.
///
/// # Safety
/// The structure is that long.
#[inline]
unsafe fn word(structure: *mut ffi::PyObject, index: usize) -> *mut ffi::PyObject {
    // SAFETY: as the caller says.
    unsafe { *structure.cast::<*mut ffi::PyObject>().add(index) }
}

/// Finds out where things stand; the module calls it when it is imported.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    if cfg!(Py_GIL_DISABLED) || std::env::var_os(SWITCH).is_some_and(|value| value == "copy") {
        return Ok(());
    }
    let places = find_places(py)?;
    // SAFETY: attached.
    unsafe { cache() }.places = places;
    Ok(())
}

/// Looks for the pointers among words that every supported CPython has there.
fn find_places(py: Python<'_>) -> PyResult<Option<Places>> {
    /// PyThreadState is longer than this in each of 3.10 - 3.15, and `context` stands before it.
    const THREAD_WORDS: usize = 31;
    // Neither structure has been looked at in a newer one.
    if py.version_info() >= (3, 16) {
        return Ok(None);
    }
    let class = py.import(Text("contextvars"))?.getattr(Text("Context"))?;
    let words = class.getattr(Text("__basicsize__"))?.extract::<usize>()? / size_of::<usize>();
    let (first, empty) = (class.call0()?, class.call0()?);
    let variable =
        py.import(Text("contextvars"))?.getattr(Text("ContextVar"))?.call1((Text("oxloop"),))?;
    first.call_method1(Text("run"), (variable.getattr(Text("set"))?, py.None()))?;
    let second = context::copy(&first)?.into_bound(py);
    let thread = || {
        // SAFETY: attached.
        unsafe { ffi::PyThreadState_Get() }.cast::<ffi::PyObject>()
    };
    let entered = |inside: &Bound<'_, PyAny>, index| {
        // SAFETY: the structure is that long, see above.
        context::run(inside, || Ok(unsafe { word(thread(), index) } == inside.as_ptr()))
    };
    for current in 0..THREAD_WORDS {
        if !(entered(&first, current)? && entered(&empty, current)?) {
            continue;
        }
        let head = size_of::<ffi::PyObject>() / size_of::<usize>();
        for variables in head..words {
            // SAFETY: an instance is as long as its class says.
            let of = |context: &Bound<'_, PyAny>| unsafe { word(context.as_ptr(), variables) };
            let shared = of(&first);
            if !shared.is_null() && shared == of(&second) && shared != of(&empty) {
                return Ok(Some(Places { current, variables }));
            }
        }
    }
    Ok(None)
}

/// What `contextvars.copy_context()` would give.
#[inline]
pub(crate) fn capture(py: Python<'_>) -> PyResult<Captured> {
    if cfg!(Py_GIL_DISABLED) {
        return Ok(Captured::Own(context::copy_current(py)?));
    }
    // SAFETY: attached; the words were found by `prepare`; the current context is alive for as
    // long as the thread is in it, and nothing below runs Python code but dropping, at the end.
    unsafe {
        let Some(places) = cache().places else {
            return Ok(Captured::Own(context::copy_current(py)?));
        };
        let current = word(ffi::PyThreadState_Get().cast(), places.current);
        let known = cache().template;
        if !known.is_null()
            && !current.is_null()
            && word(known, places.variables) == word(current, places.variables)
        {
            ffi::Py_INCREF(known);
            return Ok(Captured::Template(NonNull::new_unchecked(known)));
        }
        new_template(py)
    }
}

/// Makes the current context's copy the template.
#[cold]
fn new_template(py: Python<'_>) -> PyResult<Captured> {
    let template = context::copy_current(py)?;
    let empty = template.bind(py).len()? == 0;
    // SAFETY: attached; the old references are dropped when the cache is in order again.
    unsafe {
        let template = template.into_ptr();
        let old = (cache().template, cache().spare);
        cache().template = ffi::Py_NewRef(template);
        cache().spare = null_mut();
        cache().empty = empty;
        ffi::Py_XDECREF(old.0);
        ffi::Py_XDECREF(old.1);
        Ok(Captured::Template(NonNull::new_unchecked(template)))
    }
}

/// Whether nobody but one handle, and the cache where it does, refers to a template.
///
/// # Safety
/// Attached; a template.
#[inline]
unsafe fn is_last(template: *mut ffi::PyObject) -> bool {
    // SAFETY: as the caller says.
    unsafe {
        let cache = cache();
        let cached = cache.template == template;
        !(cached && cache.empty) && ffi::Py_REFCNT(template) == 1 + isize::from(cached)
    }
}

/// Forgets the template, its last handle goes.
#[cold]
fn forget() {
    // SAFETY: attached, as all callers are; dropped when the cache is in order.
    unsafe {
        let old = (cache().template, cache().spare);
        cache().template = null_mut();
        cache().spare = null_mut();
        ffi::Py_XDECREF(old.0);
        ffi::Py_XDECREF(old.1);
    }
}

/// Drops a handle's reference to its template.
///
/// # Safety
/// Attached; the reference is the caller's.
#[inline]
pub(super) unsafe fn release(template: *mut ffi::PyObject) {
    // SAFETY: as the caller says.
    unsafe {
        if cache().template == template && is_last(template) {
            forget();
        }
        ffi::Py_DECREF(template);
    }
}

/// A context to run in, for a handle's reference to its template.
///
/// # Safety
/// Attached; the reference is the caller's.
#[inline]
pub(super) unsafe fn lend(py: Python<'_>, template: NonNull<ffi::PyObject>) -> PyResult<Lent> {
    let template = template.as_ptr();
    // SAFETY: as the caller says. The last handle runs in the template itself.
    unsafe {
        if is_last(template) {
            if cache().template == template {
                forget();
            }
            return Ok(Lent { context: NonNull::new_unchecked(template), template: null_mut() });
        }
        let cache = cache();
        let mut context = null_mut();
        if cache.template == template {
            context = std::mem::replace(&mut cache.spare, null_mut());
        }
        if context.is_null() {
            context = ffi::PyContext_Copy(template);
        }
        match NonNull::new(context) {
            Some(context) => Ok(Lent { context, template }),
            None => {
                release(template);
                Err(PyErr::fetch(py))
            }
        }
    }
}

/// Takes the context back after the call.
impl Drop for Lent {
    #[inline]
    fn drop(&mut self) {
        let context = self.context.as_ptr();
        // SAFETY: attached, as a loan never leaves the call that runs in it; the context is not
        // entered any more. The template's reference came with the loan.
        unsafe {
            if self.template.is_null() {
                return ffi::Py_DECREF(context);
            }
            let cache = cache();
            let usable = cache.template == self.template
                && cache.spare.is_null()
                && ffi::Py_REFCNT(context) == 1
                && cache.places.is_some_and(|places| {
                    word(context, places.variables) == word(self.template, places.variables)
                });
            if usable {
                cache.spare = context;
            } else {
                ffi::Py_DECREF(context);
            }
            release(self.template);
        }
    }
}

impl Lent {
    /// The context, as long as the loan lasts.
    #[inline]
    pub(crate) fn context<'a, 'py>(&'a self, _: Python<'py>) -> &'a Bound<'py, PyAny> {
        // SAFETY: attached; Bound is a transparent wrapper of the same non-null pointer, and the
        // loan keeps the reference.
        unsafe { &*(&raw const self.context).cast::<Bound<'py, PyAny>>() }
    }

    /// The context, for good.
    pub(super) fn keep(self, py: Python<'_>) -> Bound<'_, PyAny> {
        // SAFETY: attached. A second reference, so that the context is not lent again.
        unsafe { Bound::from_borrowed_ptr(py, self.context.as_ptr()) }
    }
}

//! Whether the method `_run` of handles is asyncio's own.
//!
//! Tools that time or trace callbacks put a wrapper in the place of `asyncio.Handle._run`, at any
//! time. CPython takes a class's version tag away when the class or one of its bases changes, and
//! a later lookup gives it a new one. So as long as the tag is that of the last look, `_run` is
//! what it was: a load and a comparison for each callback.

use super::handle_types::Kind;
use crate::ffi::objects::{self, Text, interned};
use crate::imports::imports;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFunction, PyType};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// No class has this tag: 0 means that it has none, and tags end before this one.
const NEVER: u32 = u32::MAX;

/// By kind, the tag of the class when its `_run` was found to be asyncio's own.
static SEEN: [AtomicU32; 3] = [const { AtomicU32::new(NEVER) }; 3];

/// Whether tags were found to do what is said above. If not, `_run` is looked at each time.
static TRUSTED: AtomicBool = AtomicBool::new(false);

/// Tries how tags behave; the module calls it when it is imported.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    let kind = py.get_type::<PyType>();
    let namespace = objects::dict(py)?;
    let base = kind.call1((Text("Base"), (), &namespace))?.cast_into::<PyType>()?;
    let class = kind.call1((Text("Class"), (&base,), &namespace))?.cast_into::<PyType>()?;
    let look = || {
        class.getattr_opt(interned!(py, "_run")?)?;
        PyResult::Ok(tag(&class))
    };
    let (first, again) = (look()?, look()?);
    base.setattr(interned!(py, "_run")?, py.None())?;
    let changed = tag(&class);
    let (second, later) = (look()?, look()?);
    let trusted = first != 0 && first == again && changed != first && second == later;
    TRUSTED.store(trusted && second != first && second != 0, Ordering::Relaxed);
    Ok(())
}

/// Whether somebody has replaced `_run` of a class of handles, or of one of its bases.
#[inline]
pub(super) fn is_replaced(class: &Bound<'_, PyType>, kind: Kind) -> bool {
    tag(class) != SEEN[kind as usize].load(Ordering::Relaxed) && look(class, kind)
}

/// Whether an object is a handle whose `_run` is known to be asyncio's own. No two classes have
/// the same tag, so this asks for no kind; the most frequent one comes first.
#[inline]
pub(super) fn is_known(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: attached; a live object's type.
    let tag = unsafe { tag_of(ffi::Py_TYPE(object.as_ptr())) };
    SEEN.iter().any(|seen| seen.load(Ordering::Relaxed) == tag)
}

#[inline]
fn tag(class: &Bound<'_, PyType>) -> u32 {
    // SAFETY: attached, a live class.
    unsafe { tag_of(class.as_type_ptr()) }
}

/// # Safety
/// Attached, a live class.
#[inline]
unsafe fn tag_of(class: *mut ffi::PyTypeObject) -> u32 {
    // SAFETY: an aligned word, which is read only. Another thread of a build without a global lock
    // may write it meanwhile, atomically as CPython does it there.
    unsafe { AtomicU32::from_ptr(&raw mut (*class).tp_version_tag).load(Ordering::Relaxed) }
}

#[cold]
fn look(class: &Bound<'_, PyType>, kind: Kind) -> bool {
    match is_own(class) {
        Ok(Some(tag)) => {
            if TRUSTED.load(Ordering::Relaxed) {
                SEEN[kind as usize].store(tag, Ordering::Relaxed);
            }
            false
        }
        Ok(None) => true,
        // Deleted, or no memory to look at it: calling it says which.
        Err(_) => true,
    }
}

/// The tag of a class, if each `_run` that it has or inherits is asyncio's own; [`NEVER`] if the
/// class has no tag or changed meanwhile.
fn is_own(class: &Bound<'_, PyType>) -> PyResult<Option<u32>> {
    let py = class.py();
    let name = interned!(py, "_run")?;
    let events = imports(py)?.events.bind(py);
    // The lookup gives the class a tag.
    class.getattr(name)?;
    let before = tag(class);
    for base in class.mro() {
        let dict = base.getattr(interned!(py, "__dict__")?)?;
        if !dict.contains(name)? {
            continue;
        }
        let method = dict.get_item(name)?;
        let Ok(function) = method.cast_exact::<PyFunction>() else { return Ok(None) };
        // A wrapper has the globals of its own module, whatever functools.wraps has copied.
        let code = function.getattr(interned!(py, "__code__")?)?;
        if !function.getattr(interned!(py, "__globals__")?)?.is(events)
            || !code.getattr(interned!(py, "co_name")?)?.eq(name)?
        {
            return Ok(None);
        }
    }
    Ok(Some(if before != 0 && before == tag(class) { before } else { NEVER }))
}

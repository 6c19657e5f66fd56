//! Handles that hold each other: a long chain of them is freed piece by piece, not by as many calls
//! inside of each other, which would be more than a thread's stack holds. CPython sees to it for
//! classes in Python, and from 3.14 on for all.

#[cfg(any(Py_3_14, Py_GIL_DISABLED))]
pub(super) use cpython::in_turn;
#[cfg(not(any(Py_3_14, Py_GIL_DISABLED)))]
pub(super) use ours::in_turn;

#[cfg(not(any(Py_3_14, Py_GIL_DISABLED)))]
mod ours {
    use pyo3::ffi;
    use std::cell::UnsafeCell;

    /// So many may be freed inside of each other.
    const DEEPEST: usize = 50;

    struct Nesting {
        depth: usize,
        /// Objects without references, untracked: the outermost call frees them.
        waiting: Vec<*mut ffi::PyObject>,
    }

    struct Global(UnsafeCell<Nesting>);

    // SAFETY: exists only in builds with a global interpreter lock, and is touched only while
    // attached, never while an object is being freed: by one thread at a time. A thread that is
    // switched to in the middle of a free counts that as its own: it may leave its objects to the
    // other one.
    unsafe impl Sync for Global {}

    static NESTING: Global = Global(UnsafeCell::new(Nesting { depth: 0, waiting: Vec::new() }));

    /// Calls `free` with an object that nobody refers to: now, or when those that are being freed
    /// are.
    ///
    /// # Safety
    /// Attached; the object is untracked, and `free` may be called with it.
    #[inline(always)]
    pub(in super::super) unsafe fn in_turn(
        object: *mut ffi::PyObject,
        free: unsafe fn(*mut ffi::PyObject),
    ) {
        let nesting = NESTING.0.get();
        // SAFETY: as the type says; no reference is held while `free` runs.
        unsafe {
            if (*nesting).depth == DEEPEST {
                return wait(object);
            }
            (*nesting).depth += 1;
            free(object);
            (*nesting).depth -= 1;
            if (*nesting).depth == 0 && !(*nesting).waiting.is_empty() {
                free_waiting(free);
            }
        }
    }

    /// # Safety
    /// As for [`in_turn`].
    #[cold]
    unsafe fn wait(object: *mut ffi::PyObject) {
        // SAFETY: as the type says.
        unsafe { (*NESTING.0.get()).waiting.push(object) }
    }

    /// # Safety
    /// As for [`in_turn`].
    #[cold]
    unsafe fn free_waiting(free: unsafe fn(*mut ffi::PyObject)) {
        let nesting = NESTING.0.get();
        // SAFETY: as the type says; no reference is held while `free` runs.
        unsafe {
            (*nesting).depth += 1;
            while let Some(object) = (*nesting).waiting.pop() {
                free(object);
            }
            (*nesting).depth -= 1;
        }
    }
}

#[cfg(any(Py_3_14, Py_GIL_DISABLED))]
mod cpython {
    use pyo3::ffi;

    /// # Safety
    /// `free` may be called with the object.
    #[inline]
    pub(in super::super) unsafe fn in_turn(
        object: *mut ffi::PyObject,
        free: unsafe fn(*mut ffi::PyObject),
    ) {
        // SAFETY: as the caller says.
        unsafe { free(object) }
    }
}

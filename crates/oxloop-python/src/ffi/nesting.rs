//! Handles that hold each other: a long chain of them is freed piece by piece, not by as many calls
//! inside of each other, which would be more than a thread's stack holds. CPython sees to it for
//! classes in Python, and from 3.14 on for all.

#[cfg(Py_3_14)]
pub(super) use cpython::in_turn;
#[cfg(not(Py_3_14))]
pub(super) use ours::in_turn;

#[cfg(not(Py_3_14))]
mod ours {
    use pyo3::ffi;
    use std::cell::Cell;
    use std::ptr::null_mut;

    /// So many may be freed inside of each other.
    const DEEPEST: usize = 50;

    struct Nesting {
        depth: Cell<usize>,
        /// The first of the objects that wait for the outermost call, which frees them: untracked
        /// and without references. Each has the next one in its [`link`], so that putting one here
        /// takes no memory.
        waiting: Cell<*mut ffi::PyObject>,
    }

    impl Nesting {
        const fn new() -> Nesting {
            Nesting { depth: Cell::new(0), waiting: Cell::new(null_mut()) }
        }
    }

    #[cfg(not(Py_GIL_DISABLED))]
    mod place {
        use super::Nesting;

        struct Global(Nesting);

        // SAFETY: exists only in builds with a global interpreter lock, and is touched only while
        // attached, never while an object is being freed: by one thread at a time. A thread that
        // is switched to in the middle of a free counts that as its own: it may leave its objects
        // to the other one.
        unsafe impl Sync for Global {}

        static NESTING: Global = Global(Nesting::new());

        #[inline(always)]
        pub(super) fn with(f: impl FnOnce(&Nesting)) {
            f(&NESTING.0);
        }
    }

    #[cfg(Py_GIL_DISABLED)]
    mod place {
        use super::Nesting;

        thread_local! {
            static NESTING: Nesting = const { Nesting::new() };
        }

        /// Has no destructor, so it is there until the thread is gone.
        pub(super) fn with(f: impl FnOnce(&Nesting)) {
            NESTING.with(f);
        }
    }

    /// The word of an object without references in which CPython counts them (or, without a global
    /// lock, names the owning thread: its own trashcan uses that one).
    ///
    /// # Safety
    /// An object that nobody refers to.
    unsafe fn link(object: *mut ffi::PyObject) -> *mut *mut ffi::PyObject {
        // SAFETY: as the caller says; the field has the size of a pointer.
        unsafe {
            #[cfg(not(Py_GIL_DISABLED))]
            let word = &raw mut (*object).ob_refcnt;
            #[cfg(Py_GIL_DISABLED)]
            let word = &raw mut (*object).ob_tid;
            word.cast()
        }
    }

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
        place::with(|nesting| {
            let depth = nesting.depth.get();
            // SAFETY: as the caller says. `free` is entered from C and never unwinds.
            unsafe {
                if depth == DEEPEST {
                    *link(object) = nesting.waiting.replace(object);
                    return;
                }
                nesting.depth.set(depth + 1);
                free(object);
                nesting.depth.set(nesting.depth.get() - 1);
                if nesting.depth.get() == 0 && !nesting.waiting.get().is_null() {
                    free_waiting(nesting, free);
                }
            }
        });
    }

    /// # Safety
    /// As for [`in_turn`].
    #[cold]
    unsafe fn free_waiting(nesting: &Nesting, free: unsafe fn(*mut ffi::PyObject)) {
        nesting.depth.set(nesting.depth.get() + 1);
        loop {
            let object = nesting.waiting.get();
            if object.is_null() {
                break;
            }
            // SAFETY: an object that `in_turn` was given; its count is zero again for `free`.
            unsafe {
                nesting.waiting.set(std::ptr::replace(link(object), null_mut()));
                free(object);
            }
        }
        nesting.depth.set(nesting.depth.get() - 1);
    }
}

#[cfg(Py_3_14)]
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

//! Freed handles by type, for reuse: saves the allocation, and a count towards the next garbage
//! collection. Without an interpreter lock the allocator's own thread caches do better.

#[cfg(not(Py_GIL_DISABLED))]
pub(super) use with_gil::{keep, take};
#[cfg(Py_GIL_DISABLED)]
pub(super) use without_gil::{keep, take};

#[cfg(not(Py_GIL_DISABLED))]
mod with_gil {
    use crate::ffi::handle_types::Kind;
    use pyo3::ffi;
    use std::cell::UnsafeCell;

    /// So many of each type are kept (2 MiB at most): a burst of callbacks then costs neither
    /// allocations nor the collections that so many of them set off.
    const ROOM: usize = 16 * 1024;

    /// By kind.
    struct Lists(UnsafeCell<[Vec<*mut ffi::PyObject>; 3]>);

    // SAFETY: exists only in builds with a global interpreter lock, and is touched only while
    // attached, in sections that run no Python code: by one thread at a time.
    unsafe impl Sync for Lists {}

    static LISTS: Lists = Lists(UnsafeCell::new([const { Vec::new() }; 3]));

    /// An emptied instance, as [`keep`] was given it.
    ///
    /// # Safety
    /// Attached.
    #[inline]
    pub(in super::super) unsafe fn take(kind: Kind) -> Option<*mut ffi::PyObject> {
        // SAFETY: as the type says; no reference to the lists leaves this function.
        unsafe { (&mut *LISTS.0.get())[kind as usize].pop() }
    }

    /// Keeps an instance, if there is room.
    ///
    /// # Safety
    /// Attached; `object` is an emptied, untracked instance that nobody refers to.
    #[inline]
    pub(in super::super) unsafe fn keep(kind: Kind, object: *mut ffi::PyObject) -> bool {
        // SAFETY: as above.
        unsafe {
            let list = &mut (&mut *LISTS.0.get())[kind as usize];
            let room = list.len() < ROOM && list.try_reserve(1).is_ok();
            if room {
                list.push(object);
            }
            room
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod without_gil {
    use crate::ffi::handle_types::Kind;
    use pyo3::ffi;

    /// # Safety
    /// None.
    pub(in super::super) unsafe fn take(_: Kind) -> Option<*mut ffi::PyObject> {
        None
    }

    /// # Safety
    /// None.
    pub(in super::super) unsafe fn keep(_: Kind, _: *mut ffi::PyObject) -> bool {
        false
    }
}

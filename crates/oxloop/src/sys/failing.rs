//! An allocator that has no memory when a test says so.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

thread_local! {
    /// How many allocations of this thread succeed still; `None` is any number.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Whether the allocation that is about to be made succeeds.
fn permitted() -> bool {
    // A thread that ends allocates without a look at the test.
    let permitted = LEFT.try_with(|left| match left.get() {
        Some(0) => false,
        Some(count) => {
            left.set(Some(count - 1));
            true
        }
        None => true,
    });
    permitted.unwrap_or(true)
}

// SAFETY: System's methods, or NULL, which is how an allocator says that there is no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        if permitted() { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        if permitted() { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if permitted() {
            // SAFETY: as the caller says.
            unsafe { System.realloc(memory, layout, size) }
        } else {
            std::ptr::null_mut()
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Runs `f` while the present thread has no memory.
pub(crate) fn without_memory<R>(f: impl FnOnce() -> R) -> R {
    with_allocations(0, f)
}

/// Runs `f`, in which the present thread can allocate `count` times. An allocation beyond them that
/// cannot fail aborts the test.
pub(crate) fn with_allocations<R>(count: usize, f: impl FnOnce() -> R) -> R {
    struct Enough;
    impl Drop for Enough {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }
    let _enough = Enough;
    allow(count);
    f()
}

/// From now on the present thread can allocate so many times.
pub(crate) fn allow(count: usize) {
    LEFT.set(Some(count));
}

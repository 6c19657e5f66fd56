//! The engine's lock: nothing but a check where Python has a global interpreter lock, a mutex
//! where it has none.

/// The lock of the engine's state and of the transports' parts.
#[cfg(Py_GIL_DISABLED)]
pub(crate) type StateLock = parking_lot::RawMutex;

#[cfg(not(Py_GIL_DISABLED))]
pub(crate) use with_gil::InterpreterLock as StateLock;

#[cfg(not(Py_GIL_DISABLED))]
mod with_gil {
    use lock_api::{GuardNoSend, RawMutex};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Held by the interpreter lock already. It refuses to be taken twice, which would be user
    /// code running under it.
    pub(crate) struct InterpreterLock {
        held: AtomicBool,
    }

    // SAFETY: this type exists only in builds with a global interpreter lock. All its users hold
    // that lock while they hold this one (they are methods of Python objects, and the engine
    // touches nothing but its selector and waker while detached), and no section under it runs
    // Python code, so the interpreter is never switched in the middle of one. Hence two threads
    // are never inside at a time; the flag catches a second entry of the same thread.
    unsafe impl RawMutex for InterpreterLock {
        #[allow(clippy::declare_interior_mutable_const, reason = "the trait asks for it")]
        const INIT: InterpreterLock = InterpreterLock { held: AtomicBool::new(false) };
        type GuardMarker = GuardNoSend;

        #[inline]
        fn lock(&self) {
            if self.held.load(Ordering::Relaxed) {
                entered_twice();
            }
            self.held.store(true, Ordering::Relaxed);
        }

        #[inline]
        fn try_lock(&self) -> bool {
            !self.held.load(Ordering::Relaxed) && {
                self.held.store(true, Ordering::Relaxed);
                true
            }
        }

        #[inline]
        unsafe fn unlock(&self) {
            self.held.store(false, Ordering::Relaxed);
        }
    }

    #[cold]
    #[allow(clippy::panic, reason = "a broken invariant: it becomes a Python exception")]
    fn entered_twice() -> ! {
        panic!("user code runs inside the engine's lock")
    }
}

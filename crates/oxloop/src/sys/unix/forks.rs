//! Notices that the process was forked, without a system call per look.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static REGISTER: Once = Once::new();

/// Which process this is, counted along its line of forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

/// The present process's generation: a child has another one than its parent.
pub(crate) fn generation() -> Generation {
    REGISTER.call_once(|| {
        extern "C" fn child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the handler only adds to an atomic, which is allowed in a forked child; no
        // lock is taken before fork. Without memory for the registration forks go unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
    Generation(GENERATION.load(Ordering::Relaxed))
}

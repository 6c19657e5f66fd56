//! Values of the program that the loop owns, and the one place where they are dropped.
//!
//! A drop is user code: it may panic. The panic ends here, whichever thread drops the value, under
//! whichever lock, in `close()` or in the last handle's drop; the exception handler hears of it in
//! a later turn, or before the loop is closed.
//!
//! One thing cannot be caught: a value that panics in its drop while another panic of the same
//! closure, future or protocol unwinds. Rust ends the process then.

use super::core::{Core, Panicked, catch};
use super::errors::ExceptionContext;
use super::face::Callback;
use parking_lot::Mutex;
use std::any::type_name;
use std::collections::BTreeMap;
use std::fmt;
use std::mem::needs_drop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The loop that hears of a value's drop, as a number: a reference in each value would have to be
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(u64);

/// All loops. Looked at only if a drop has panicked.
static HOMES: Mutex<BTreeMap<u64, Weak<Core>>> = Mutex::new(BTreeMap::new());

impl Home {
    /// That of a value which is the caller's still: its panics are the caller's.
    pub(crate) const NONE: Home = Home(0);

    pub(super) fn new() -> Home {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        Home(COUNT.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn open(self, core: Weak<Core>) {
        HOMES.lock().insert(self.0, core);
    }

    pub(super) fn close(self) {
        let core = HOMES.lock().remove(&self.0);
        drop(core);
    }

    /// The loop, unless it is gone.
    pub(super) fn core(self) -> Option<Arc<Core>> {
        HOMES.lock().get(&self.0).and_then(Weak::upgrade)
    }

    /// Drops a value.
    pub(crate) fn dispose<T>(self, value: T) {
        drop(Owned::new(self, value));
    }

    fn dropped(self, name: &'static str, panic: Panicked) {
        let dropped = Dropped(name, panic);
        match self.core() {
            Some(core) => core.note_dropped(dropped),
            None => dropped.context().log(),
        }
    }
}

/// A drop that panicked: of what, and how.
pub(super) struct Dropped(&'static str, Panicked);

impl Dropped {
    pub(super) fn context(self) -> ExceptionContext {
        let Dropped(name, panic) = self;
        ExceptionContext::new(format!("Exception in drop of {name}")).error(panic)
    }
}

/// A value of the program. It may be taken, once; else it is dropped with this.
pub(crate) struct Owned<T> {
    value: Option<T>,
    home: Home,
}

impl<T> Owned<T> {
    pub(crate) fn new(home: Home, value: T) -> Owned<T> {
        Owned { value: Some(value), home }
    }

    /// The value, unless it was taken.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Likewise.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.value.as_mut()
    }

    /// Gives the value to the caller, with its drop.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        self.value.take()
    }

    /// Takes the value out as what it is: for a drop without a lock.
    pub(crate) fn take_owned(&mut self) -> Owned<T> {
        Owned { value: self.value.take(), home: self.home }
    }

    /// Hands the value over to a loop.
    pub(crate) fn set_home(&mut self, home: Home) {
        self.home = home;
    }
}

impl<T> Drop for Owned<T> {
    #[inline]
    fn drop(&mut self) {
        if !needs_drop::<T>() || self.value.is_none() || self.home == Home::NONE {
            return;
        }
        let value = self.value.take();
        if let Err(panic) = catch(move || drop(value)) {
            self.home.dropped(type_name::<T>(), panic);
        }
    }
}

impl<T: Clone> Clone for Owned<T> {
    fn clone(&self) -> Owned<T> {
        Owned { value: self.value.clone(), home: self.home }
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Owned<T> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.value.as_ref().map_or(&[], T::as_ref)
    }
}

impl<T: fmt::Debug> fmt::Debug for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => value.fmt(f),
            None => f.write_str("<taken>"),
        }
    }
}

impl Core {
    /// A drop has panicked, on any thread, under any lock: nothing of the user's runs here.
    fn note_dropped(&self, dropped: Dropped) {
        let mut known = self.dropped.lock();
        match known.as_mut() {
            Some(known) => known.push(dropped),
            None => {
                drop(known);
                return dropped.context().log();
            }
        }
        drop(known);
        // Without memory for it the report comes when the run ends.
        let _ = self.engine.call_soon_threadsafe(Callback::Dropped);
    }

    /// Tells the exception handler of the drops that have panicked.
    pub(super) fn report_dropped(&self) {
        loop {
            let known = self.dropped.lock().as_mut().map(std::mem::take).unwrap_or_default();
            if known.is_empty() {
                return;
            }
            known.into_iter().for_each(|dropped| self.report(dropped.context()));
        }
    }

    /// The same for the last time: whatever comes later is logged.
    pub(super) fn report_last_dropped(&self) {
        self.report_dropped();
        let known = self.dropped.lock().take().unwrap_or_default();
        known.into_iter().for_each(|dropped| self.report(dropped.context()));
    }
}

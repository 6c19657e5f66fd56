//! Unix signals as callbacks of the loop (asyncio: *Unix signals*).
//!
//! The signal handler itself writes one byte to a socket pair, which the loop watches.

use crate::engine::{Engine, Side};
use crate::error::{Misuse, Result};
use crate::event_loop::face::{Callback, RustFace};
use crate::event_loop::{EventLoop, Handle};
use parking_lot::Mutex;
use signal_hook::SigId;
use signal_hook::consts::FORBIDDEN;
use signal_hook::low_level::{pipe, unregister};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The signals that one loop handles.
#[derive(Default)]
pub(crate) struct Signals(BTreeMap<i32, Handler>);

struct Handler {
    id: SigId,
    bytes: Arc<UnixStream>,
    callback: Handle,
    _action: DefaultAction,
}

impl EventLoop {
    /// Calls back on the loop whenever the process gets a signal, in place of the signal's
    /// default action and of the callback that this loop had for it. From any thread.
    ///
    /// Source: *loop.add_signal_handler*; the numbers are those of `libc` and `signal_hook`.
    ///
    /// # Errors
    /// [`Misuse::Signal`] for what is no signal or cannot be handled (SIGKILL, SIGSTOP, SIGSEGV,
    /// SIGFPE, SIGILL), [`Misuse::LoopClosed`], and EMFILE.
    ///
    /// ```
    /// # fn main() -> oxloop::Result<()> {
    /// const SIGUSR1: i32 = 10;
    /// let event_loop = oxloop::EventLoop::new()?;
    /// let stopper = event_loop.clone();
    /// event_loop.add_signal_handler(SIGUSR1, move || stopper.stop())?;
    /// event_loop.call_soon(|| signal_hook::low_level::raise(SIGUSR1).unwrap());
    /// event_loop.run_forever()?;
    /// assert!(event_loop.remove_signal_handler(SIGUSR1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_signal_handler(
        &self,
        signal: i32,
        callback: impl FnMut() + Send + 'static,
    ) -> Result<()> {
        self.core().check()?;
        if FORBIDDEN.contains(&signal) {
            return Err(Misuse::Signal(signal).into());
        }
        let (bytes, sink) = UnixStream::pair()?;
        bytes.set_nonblocking(true)?;
        let id = pipe::register(signal, sink).map_err(|_| Misuse::Signal(signal))?;
        let bytes = Arc::new(bytes);
        let callback = Handle::repeated(self.core().home, callback);
        let (core, source, call) = (self.core().clone(), bytes.clone(), callback.clone());
        let reader = Handle::repeated(self.core().home, move || {
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = (&*source).read(&mut buffer) {
                // As many calls as there were signals, in the next turn.
                (0..count).for_each(|_| _ = core.call_soon(call.clone()));
            }
        });
        let watched =
            self.core().engine.watch(bytes.as_raw_fd(), Side::Read, Callback::Call(reader));
        self.core().nudge();
        let handler = Handler { id, bytes, callback, _action: DefaultAction::suppress(signal) };
        if let Err(error) = watched {
            handler.remove(&self.core().engine);
            return Err(error.into());
        }
        let old = self.core().signals.lock().0.insert(signal, handler);
        if let Some(old) = old {
            old.remove(&self.core().engine);
        }
        if self.is_closed() {
            self.remove_signal_handler(signal);
        }
        Ok(())
    }

    /// Gives a signal its default action back; false where this loop did not handle it.
    ///
    /// Source: *loop.remove_signal_handler*.
    pub fn remove_signal_handler(&self, signal: i32) -> bool {
        let handler = self.core().signals.lock().0.remove(&signal);
        handler.is_some_and(|handler| {
            handler.remove(&self.core().engine);
            true
        })
    }
}

impl Handler {
    fn remove(self, engine: &Engine<RustFace>) {
        unregister(self.id);
        let reader = engine.unwatch(self.bytes.as_raw_fd(), Side::Read);
        drop(reader);
        self.callback.cancel();
    }
}

impl Signals {
    /// The loop is closed.
    pub(crate) fn close(self, engine: &Engine<RustFace>) {
        self.0.into_values().for_each(|handler| handler.remove(engine));
    }
}

/// While one lives, a signal's default action does not happen. A handler that was installed
/// once stays installed in the process; without this it would swallow the signal for good.
struct DefaultAction(i32);

/// How many handlers a signal has, and what tells its default action so.
static HANDLERS: Mutex<BTreeMap<i32, (usize, Arc<AtomicBool>)>> = Mutex::new(BTreeMap::new());

impl DefaultAction {
    fn suppress(signal: i32) -> DefaultAction {
        let mut handlers = HANDLERS.lock();
        let (count, unhandled) = handlers.entry(signal).or_insert_with(|| {
            let unhandled = Arc::new(AtomicBool::new(false));
            // A real-time signal's default action is not known, and stays suppressed.
            let _ = signal_hook::flag::register_conditional_default(signal, unhandled.clone());
            (0, unhandled)
        });
        *count += 1;
        unhandled.store(false, Ordering::SeqCst);
        DefaultAction(signal)
    }
}

impl Drop for DefaultAction {
    fn drop(&mut self) {
        if let Some((count, unhandled)) = HANDLERS.lock().get_mut(&self.0) {
            *count -= 1;
            unhandled.store(*count == 0, Ordering::SeqCst);
        }
    }
}

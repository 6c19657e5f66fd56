//! What the handles of one loop share: the engine, and who may act as the loop's thread.

use super::EventLoop;
use super::errors::{ExceptionContext, ExceptionHandler};
use super::face::{Callback, Cx, RustFace};
use super::handle::{Handle, TimerHandle};
use super::owned::{Dropped, Home};
use crate::engine::{Engine, Face, Released};
use crate::error::{Error, Misuse, Result};
use crate::executor::Executor;
use crate::signals::Signals;
use parking_lot::Mutex;
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread;

/// Other threads that have queued more than this are slowed down, softly: nobody ever waits.
const FLOOD: usize = 16 * RustFace::POSTS_PER_TURN;

/// Something that the loop does before its next callback.
type Urgent = Box<dyn FnOnce(Cx<'_>) + Send>;

/// What an [`EventLoop`] is a handle of. Everything else of a loop (transports, tasks, timers)
/// refers to the [`Core`] alone, so the last handle's drop releases what is still open.
pub(crate) struct Owner(pub(super) Arc<Core>);

impl Drop for Owner {
    fn drop(&mut self) {
        // Nobody can run it: a run holds a handle.
        let _ = self.0.close();
    }
}

/// The state of a loop.
pub(crate) struct Core {
    pub(crate) engine: Engine<RustFace>,
    /// The thread that runs the loop, or closes it; 0 is nobody.
    runner: AtomicUsize,
    closed: AtomicBool,
    /// What other threads asked for and was not done yet.
    posted: AtomicUsize,
    /// What cannot wait its turn in the queue, and whether there is anything.
    urgent: Mutex<Vec<Urgent>>,
    is_urgent: AtomicBool,
    owner: OnceLock<Weak<Owner>>,
    /// What the program's values that the loop owns are marked with.
    pub(crate) home: Home,
    /// Drops that have panicked, to be reported; `None` once nobody will report any more.
    pub(super) dropped: Mutex<Option<Vec<Dropped>>>,
    pub(super) exception_handler: Mutex<Option<Arc<ExceptionHandler>>>,
    pub(crate) executor: Executor,
    pub(crate) signals: Mutex<Signals>,
    /// Where large reads go; taken out while a protocol looks at it.
    pub(crate) read_buffer: Mutex<Vec<u8>>,
    /// Where TLS decrypts to, likewise.
    #[cfg(feature = "rustls")]
    pub(crate) plain_text: Mutex<Vec<u8>>,
}

/// Names the present thread: an address that no other living thread has. 0 is none's.
fn this_thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

thread_local! {
    /// The loop that this thread runs.
    static RUNNING: RefCell<Option<Weak<Owner>>> = const { RefCell::new(None) };
}

impl Core {
    pub(super) fn create() -> Result<Arc<Owner>> {
        let core = Arc::new(Core {
            engine: Engine::new()?,
            runner: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            posted: AtomicUsize::new(0),
            urgent: Mutex::new(Vec::new()),
            is_urgent: AtomicBool::new(false),
            owner: OnceLock::new(),
            home: Home::new(),
            dropped: Mutex::new(Some(Vec::new())),
            exception_handler: Mutex::new(None),
            executor: Executor::default(),
            signals: Mutex::new(Signals::default()),
            read_buffer: Mutex::new(Vec::new()),
            #[cfg(feature = "rustls")]
            plain_text: Mutex::new(Vec::new()),
        });
        core.home.open(Arc::downgrade(&core));
        let owner = Arc::new(Owner(core));
        let _ = owner.0.owner.set(Arc::downgrade(&owner));
        Ok(owner)
    }

    /// A handle, while there is one.
    pub(crate) fn event_loop(&self) -> Option<EventLoop> {
        self.owner.get()?.upgrade().map(EventLoop::from_owner)
    }

    /// Whether the loop takes something in: it is open, and this process made it.
    pub(crate) fn check(&self) -> Result<(), Misuse> {
        if self.is_closed() { Err(Misuse::LoopClosed) } else { self.check_process() }
    }

    /// A forked child shares the selector with its parent, has none of its threads, and is told so.
    pub(crate) fn check_process(&self) -> Result<(), Misuse> {
        if self.engine.is_forked() { Err(Misuse::Forked) } else { Ok(()) }
    }

    pub(crate) fn cx<'a>(self: &'a Arc<Core>) -> Cx<'a> {
        Cx { core: self, main: None }
    }

    /// Whether some thread runs the loop.
    pub(super) fn is_running(&self) -> bool {
        self.runner.load(Ordering::SeqCst) != 0
    }

    /// Whether the loop was closed: from then on nothing is taken in.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether the caller runs the loop.
    pub(crate) fn runs_here(&self) -> bool {
        self.runner.load(Ordering::SeqCst) == this_thread()
    }

    /// Whether the caller is the loop's thread: it runs the loop, or nobody does, and nothing
    /// that was asked for before still waits for a run.
    pub(crate) fn acts_here(&self) -> bool {
        let runner = self.runner.load(Ordering::SeqCst);
        runner == this_thread() || (runner == 0 && self.posted.load(Ordering::SeqCst) == 0)
    }

    /// Does it now where the caller is the loop's thread, else leaves it to that thread, in
    /// order. A closed loop drops it.
    pub(crate) fn act(self: &Arc<Core>, action: impl FnOnce(Cx<'_>) + Send + 'static) {
        if self.is_closed() {
            self.home.dispose(action);
        } else if self.acts_here() {
            action(self.cx());
            self.nudge();
        } else {
            self.posted.fetch_add(1, Ordering::SeqCst);
            let posted = Posted(self.clone());
            self.call_soon(Handle::once(self.home, move || {
                action(posted.0.cx());
                drop(posted);
            }));
        }
    }

    /// Has something done before the next callback, however many are queued. It is none of the
    /// program's; a closed loop drops it. There is a callback on its way: nobody is woken.
    pub(crate) fn before_next(&self, action: impl FnOnce(Cx<'_>) + Send + 'static) {
        self.urgent.lock().push(Box::new(action));
        self.is_urgent.store(true, Ordering::Release);
        if self.is_closed() {
            self.drop_urgent();
        }
    }

    #[inline]
    pub(super) fn do_urgent(self: &Arc<Core>) {
        if self.is_urgent.load(Ordering::Relaxed) && self.is_urgent.swap(false, Ordering::AcqRel) {
            let urgent = std::mem::take(&mut *self.urgent.lock());
            urgent.into_iter().for_each(|action| action(self.cx()));
        }
    }

    fn drop_urgent(&self) {
        let urgent = std::mem::take(&mut *self.urgent.lock());
        drop(urgent);
    }

    /// After acting on a loop that nobody ran: someone may run it since, and wait without a
    /// look at what was done.
    pub(crate) fn nudge(&self) {
        let runner = self.runner.load(Ordering::SeqCst);
        if runner != 0 && runner != this_thread() {
            // A queue that is full is looked at soon enough.
            let _ = self.engine.call_soon_threadsafe(Callback::Nudge);
        }
    }

    /// Queues a callback, from any thread. A closed loop drops it, and one without memory for the
    /// queue; false then.
    pub(crate) fn schedule(&self, callback: Callback) -> bool {
        if self.is_closed() {
            drop(callback);
            return false;
        }
        let queued = if self.runs_here() {
            self.engine.call_soon(callback)
        } else {
            self.engine.call_soon_threadsafe(callback)
        };
        if let Err(error) = &queued {
            log::error!(target: "oxloop", "A callback is dropped: {error}");
        }
        if self.is_closed() && !self.runs_here() {
            // Closed meanwhile: the queue has to be emptied again.
            self.close_engine(drop);
        }
        if self.engine.posted() > FLOOD && self.is_running() {
            // Ahead of the loop: its thread may need the processor.
            thread::yield_now();
        }
        queued.is_ok()
    }

    pub(crate) fn call_soon(&self, handle: Handle) -> bool {
        self.schedule(Callback::Call(handle))
    }

    /// Why a promise was dropped that the loop's thread was to keep.
    pub(crate) fn refused(&self) -> Error {
        if self.is_closed() {
            Misuse::LoopClosed.into()
        } else {
            io::Error::from(io::ErrorKind::OutOfMemory).into()
        }
    }

    /// Queues a callback for a time on the loop's clock, seconds. A closed loop drops it.
    pub(crate) fn call_at(
        self: &Arc<Core>,
        when: f64,
        callback: impl FnOnce() + Send + 'static,
    ) -> TimerHandle {
        let handle = Handle::once(self.home, callback);
        let timer = TimerHandle::new(handle.clone(), when, self.clone());
        if self.is_closed() {
            timer.cancel();
        } else {
            handle.schedule();
            if let Err(error) = self.engine.call_at(when, Callback::Call(handle)) {
                log::error!(target: "oxloop", "A callback is dropped: {error}");
                timer.unscheduled();
            }
            self.nudge();
            if self.is_closed() {
                timer.cancel();
            }
        }
        timer
    }

    /// Tells the exception handler, which must not fail itself (asyncio's
    /// `call_exception_handler`).
    pub(crate) fn report(&self, context: ExceptionContext) {
        let handler = self.exception_handler.lock().clone();
        match handler.zip(self.event_loop().or_else(|| self.last_handle())) {
            Some((handler, event_loop)) => {
                if let Err(Panicked(text)) = catch(|| handler(&event_loop, &context)) {
                    context.log();
                    log::error!(target: "oxloop", "Unhandled error in exception handler: {text}");
                }
            }
            None => context.log(),
        }
        // Its error may be one of the program's.
        self.home.dispose(context);
    }

    /// A handle for the exception handler where the program has dropped its last one: the loop is
    /// being closed.
    fn last_handle(&self) -> Option<EventLoop> {
        self.home.core().map(|core| EventLoop::from_owner(Arc::new(Owner(core))))
    }

    /// Makes the caller the loop's thread until the guard is dropped.
    pub(super) fn enter(self: &Arc<Core>, busy: Misuse) -> Result<Entered, Misuse> {
        let free =
            self.runner.compare_exchange(0, this_thread(), Ordering::SeqCst, Ordering::SeqCst);
        free.map_err(|_| busy)?;
        Ok(Entered(self.clone()))
    }

    /// Drops what is queued. Whoever waits may hold the handle of what would end the wait (a task
    /// that sleeps holds its timer): only without its callback both are free.
    fn close_engine(&self, released: impl FnMut(Released<RustFace>)) {
        let mut queued = Vec::new();
        self.engine.each_queued(|callback| {
            if queued.try_reserve(1).is_ok() {
                queued.push(callback.clone());
            }
        });
        self.engine.close(released);
        queued.iter().for_each(Callback::cancel);
    }

    /// Closes the loop: asyncio's `close()`, but what is open is released with it.
    pub(super) fn close(self: &Arc<Core>) -> Result<(), Misuse> {
        let entered = self.enter(Misuse::CloseRunning)?;
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let signals = std::mem::take(&mut *self.signals.lock());
        signals.close(&self.engine);
        self.close_engine(|released| match released {
            Released::Stream(stream) => stream.0.abandon(),
            Released::Endpoint(endpoint) => endpoint.0.abandon(),
            Released::Listener(listener) => listener.abandon(),
            Released::Watcher(callback) => callback.cancel(),
        });
        // A thread of the parent may have held the executor's lock when it forked.
        if !self.engine.is_forked() {
            self.executor.shutdown();
        }
        self.drop_urgent();
        // What other threads sent meanwhile.
        self.close_engine(drop);
        self.report_dropped();
        let handler = self.exception_handler.lock().take();
        drop(handler);
        self.report_last_dropped();
        drop(entered);
        // The same once more.
        self.close_engine(drop);
        Ok(())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.home.close();
    }
}

/// An action on its way to the loop's thread.
struct Posted(Arc<Core>);

impl Drop for Posted {
    fn drop(&mut self) {
        self.0.posted.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The caller is the loop's thread.
pub(super) struct Entered(Arc<Core>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.runner.store(0, Ordering::SeqCst);
    }
}

/// This thread runs a loop.
pub(super) struct Running(());

impl Running {
    pub(super) fn enter(owner: &Arc<Owner>) -> Result<Running, Misuse> {
        RUNNING.with_borrow_mut(|running| {
            if running.is_some() {
                return Err(Misuse::AnotherLoopRunning);
            }
            *running = Some(Arc::downgrade(owner));
            Ok(Running(()))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(|running| *running = None);
    }
}

/// The loop that the calling thread runs: what a callback, a protocol or a future finds its loop
/// by without keeping a handle.
///
/// A handle that is kept inside of something the loop owns (a protocol, a callback, a task) keeps
/// the loop alive, until that thing is done or the loop is closed.
///
/// Source: *asyncio.get_running_loop*.
///
/// # Errors
/// [`Misuse::NoRunningLoop`] where this thread runs none.
///
/// ```
/// # fn main() -> oxloop::Result<()> {
/// use oxloop::{EventLoop, get_running_loop};
///
/// assert!(get_running_loop().is_err());
/// EventLoop::new()?.run_until_complete(async { assert!(get_running_loop().is_ok()) })?;
/// # Ok(())
/// # }
/// ```
pub fn get_running_loop() -> Result<EventLoop, Misuse> {
    let owner = RUNNING.with_borrow(|running| running.as_ref().and_then(Weak::upgrade));
    owner.map(EventLoop::from_owner).ok_or(Misuse::NoRunningLoop)
}

/// The text of a panic that was caught.
#[derive(Clone, Debug)]
pub(crate) struct Panicked(pub(crate) String);

impl From<Panicked> for Error {
    fn from(panic: Panicked) -> Error {
        Error::Panic(panic.0)
    }
}

impl Panicked {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Panicked {
        let text = payload.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let Some(text) = text else {
            // The payload's own drop is user code as well.
            return match catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                Ok(()) => Panicked(UNKNOWN.to_owned()),
                Err(payload) => {
                    Panicked(format!("{UNKNOWN}, whose drop panicked: {}", last(payload)))
                }
            };
        };
        Panicked(text)
    }
}

/// The text of a panic whose payload is no text.
const UNKNOWN: &str = "Box<dyn Any>";

/// The text of a panic in the drop of another panic's payload. A payload that is no text is
/// leaked: it could go on so for ever.
fn last(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<&str>() {
        Ok(text) => return text.to_string(),
        Err(payload) => payload,
    };
    payload.downcast::<String>().map_or_else(
        |payload| {
            std::mem::forget(payload);
            UNKNOWN.to_owned()
        },
        |text| *text,
    )
}

/// Calls user code: a panic ends here.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(f)).map_err(Panicked::new)
}

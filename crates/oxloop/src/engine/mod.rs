//! The engine: one event loop under two faces.
//!
//! [`Engine`] holds the state of a loop and drives it; a [`Face`] says what a callback and a
//! protocol are. The Rust API of this crate is one face, the Python package the other. Programs
//! use a face; only who writes one needs this module.
//!
//! | file | what it does |
//! | --- | --- |
//! | `face.rs` | what a face supplies |
//! | `turn.rs` | one turn of the loop: prepare, wait, run |
//! | `handler_slot.rs` | how long a handler is kept alive |
//! | `streams.rs`, `writes.rs` | connections: read, flow control, close; write |
//! | `pipes.rs` | what is different where a stream is a pipe |
//! | `datagrams.rs` | datagram endpoints: receive, send, close |
//! | `losses.rs` | `connection_lost`, if there is no memory to schedule it |
//! | `listeners.rs` | listening sockets: accept, back-off |
//! | `watchers.rs` | `add_reader` and `add_writer` |
//! | `posts.rs` | what other threads queue |
//! | `timers.rs`, `registry.rs`, `wakeup.rs` | the parts |

mod datagrams;
mod face;
mod handler_slot;
mod listeners;
mod losses;
mod pipes;
mod posts;
mod registry;
mod streams;
mod timers;
mod turn;
mod wakeup;
mod watchers;
mod writes;

pub use crate::memory::{append, copied};
pub use crate::sys::{Accepted, Descriptor, PipeKind, Room};
pub use crate::transport::flow_control::{DEFAULT_HIGH, Limits};
pub use crate::transport::gather::Data;
pub use datagrams::{Destination, EndpointKind, Sending, Sent, SentOther};
pub use face::{
    Callback, DatagramHandler, Face, Failure, Handler, ListenerHandler, Received, Recv,
    StreamHandler,
};
pub use pipes::PipeEnd;
pub use registry::Token;
pub use streams::StreamInfo;
pub(crate) use streams::is_transient;
pub use watchers::Side;
pub use writes::Written;

use crate::memory::TryBox;
use crate::sys::{Interest, Selector, forks};
use crate::transport::gather::Gather;
use datagrams::Endpoint;
use listeners::Listener;
use lock_api::Mutex;
use posts::Posts;
use registry::Registry;
use rustc_hash::FxHashMap;
use rustix::net::SocketAddrAny;
use std::collections::{TryReserveError, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use streams::Stream;
use timers::{TimerEntry, Timers};
use turn::Workspace;
use wakeup::Wakeup;
use watchers::Watcher;

/// The waker's token; no source has it, as no tenancy is 0.
const WAKER: u64 = 0;

/// So many entries the ready queue has room for from the start: without memory the loop goes on.
const READY: usize = 64;

/// An event loop, seen from inside. All methods but those that say otherwise are for the loop's
/// own thread; while it does not run, whoever calls acts as that thread.
pub struct Engine<F: Face> {
    state: Mutex<F::Lock, State<F>>,
    /// Empty where the face does not bound what other threads queue.
    posts: Posts<F::Callback>,
    wakeup: Wakeup,
    /// `None` once the loop is closed. A run holds on to its own reference.
    selector: parking_lot::Mutex<Option<Arc<Selector>>>,
    closed: AtomicBool,
    /// Which process made it: a child of fork never touches its parent's selector.
    process: forks::Generation,
}

/// What the engine's lock protects.
struct State<F: Face> {
    ready: VecDeque<Ready<F>>,
    /// How many posts may still join the ready queue before the next turn. Between two runs there
    /// is no bound: a run begins with what was queued before it.
    post_room: usize,
    timers: Timers<Timer<F>>,
    sources: Registry<Source<F>>,
    /// Which source has a descriptor, by the descriptor's number: any number, as `fileno()` of a
    /// program's object gives it.
    by_descriptor: FxHashMap<RawFd, Token>,
    /// How many descriptors the selector watches, the waker apart.
    watched: usize,
    /// The turn's writes, by stream, in the order of each one's first; and empty ones for reuse.
    gathers: Vec<Gather<F::Bytes, Token>>,
    spare_gathers: Vec<Gather<F::Bytes, Token>>,
    /// Whether callbacks run: only then writes are gathered.
    dispatching: bool,
    stopping: bool,
    /// Whether a source is lost and its handler not told: see `Engine::lose_later`.
    untold: bool,
    /// What a run works with, kept between runs.
    workspace: Option<Workspace>,
}

/// An entry of the ready queue.
enum Ready<F: Face> {
    /// `call_soon`, or a timer whose time has come.
    Callback(F::Callback),
    /// The selector reported a source; what for stands with the source.
    Io(Token),
    /// `connection_made` was called: start reading.
    StartReading(Token),
    /// A loss that there was no memory to schedule.
    Lost(Token),
    /// A connection was taken in the last turn.
    Accepted(TryBox<(F::Listener, Accepted)>),
}

/// What waits for its time.
enum Timer<F: Face> {
    Callback(F::Callback),
    /// Accept again after a lack of resources.
    ResumeAccepting(Token),
}

impl<F: Face> TimerEntry for Timer<F> {
    fn is_cancelled(&self) -> bool {
        match self {
            Timer::Callback(callback) => callback.is_cancelled(),
            Timer::ResumeAccepting(_) => false,
        }
    }
}

/// Something with a descriptor.
enum Source<F: Face> {
    Stream(Stream<F>),
    Endpoint(Endpoint<F>),
    Listener(Listener<F>),
    Watcher(Watcher<F>),
}

impl<F: Face> Source<F> {
    /// What the selector found; told to the source until it is dispatched.
    fn pending(&mut self) -> &mut Interest {
        match self {
            Source::Stream(stream) => &mut stream.pending,
            Source::Endpoint(endpoint) => &mut endpoint.pending,
            Source::Listener(listener) => &mut listener.pending,
            Source::Watcher(watcher) => &mut watcher.pending,
        }
    }

    /// What the selector is asked for.
    fn registered(&self) -> Interest {
        match self {
            Source::Stream(stream) => stream.registered,
            Source::Endpoint(endpoint) => endpoint.registered,
            Source::Listener(listener) => listener.registered,
            Source::Watcher(watcher) => watcher.registered,
        }
    }
}

/// What the collector of a face has to know: everything the engine refers to.
pub enum Referent<'a, F: Face> {
    /// A queued, scheduled or watching callback.
    Callback(&'a F::Callback),
    /// The handler of a stream to which something can happen.
    Stream(&'a F::Stream),
    /// Likewise, of a datagram endpoint.
    Endpoint(&'a F::Datagrams),
    /// The destination of a queued datagram.
    Address(&'a F::Address),
    /// The handler of a listening socket.
    Listener(&'a F::Listener),
}

impl<F: Face> Engine<F> {
    /// A new loop.
    ///
    /// # Errors
    /// EMFILE and ENFILE where no descriptor is left for the selector and the waker; OutOfMemory.
    pub fn new() -> io::Result<Engine<F>> {
        let (selector, wakeup) = (Selector::new()?, Wakeup::new()?);
        wakeup.watch(|waker| selector.add_waker(waker, WAKER))?;
        let mut state = State { workspace: Some(Workspace::new()?), ..State::default() };
        state.ready.try_reserve(READY)?;
        Ok(Engine {
            state: Mutex::new(state),
            posts: Posts::default(),
            wakeup,
            selector: parking_lot::Mutex::new(Some(Arc::new(selector))),
            closed: AtomicBool::new(false),
            process: forks::generation(),
        })
    }

    /// The loop's clock: seconds, monotonic (`loop.time()`).
    pub fn time(&self) -> f64 {
        crate::sys::monotonic()
    }

    /// The time that timers follow, seconds: that of the clock, unless the face has another.
    pub fn now(&self, cx: F::Context<'_>) -> Result<f64, F::Leave> {
        Ok(F::clock(cx)?.unwrap_or_else(|| self.time()))
    }

    /// Queues a callback behind all that is queued already.
    ///
    /// # Errors
    /// There is no memory; the callback is dropped, under no lock.
    #[inline]
    pub fn call_soon(&self, callback: F::Callback) -> Result<(), TryReserveError> {
        let mut state = self.state.lock();
        self.take_posts(&mut state);
        state.ready.try_reserve(1)?;
        state.ready.push_back(Ready::Callback(callback));
        Ok(())
    }

    /// Makes sure that so many calls of [`call_soon`](Self::call_soon) and
    /// [`start_reading_soon`](Self::start_reading_soon) need no memory.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve_soon(&self, calls: usize) -> Result<(), TryReserveError> {
        self.state.lock().ready.try_reserve(calls)
    }

    /// Queues a callback from any thread, and wakes the loop. In a flood it waits for a later turn
    /// ([`Face::POSTS_PER_TURN`]).
    ///
    /// # Errors
    /// Those of [`call_soon`](Self::call_soon).
    pub fn call_soon_threadsafe(&self, callback: F::Callback) -> Result<(), TryReserveError> {
        self.post(callback)?;
        self.wake();
        Ok(())
    }

    /// Wakes the loop if it waits; never the parent's, whose waker a child of fork shares.
    #[inline]
    fn wake(&self) {
        if self.wakeup.is_asleep() && !self.is_forked() {
            self.wakeup.wake();
        }
    }

    /// Queues a callback for a time on the loop's clock, seconds.
    ///
    /// # Errors
    /// There is no memory; the callback is dropped, under no lock.
    pub fn call_at(&self, when: f64, callback: F::Callback) -> Result<(), TryReserveError> {
        let mut state = self.state.lock();
        state.timers.reserve()?;
        state.timers.push(when, Timer::Callback(callback));
        Ok(())
    }

    /// Counts a scheduled timer as cancelled, so that many of them do not pile up.
    pub fn timer_cancelled(&self) {
        self.state.lock().timers.note_cancelled();
    }

    /// Whether [`stop`](Self::stop) was called, and the turn is not over yet.
    pub fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Ends the run with the turn that is going on; from any thread, together with a wake-up.
    pub fn stop(&self, cx: F::Context<'_>) -> Result<(), F::Leave> {
        self.state.lock().stopping = true;
        self.wake();
        self.flush(cx)
    }

    /// Lets the run go on after all, if the turn that `stop` was called in is not over yet.
    pub fn cancel_stop(&self) {
        self.state.lock().stopping = false;
    }

    /// Whether [`close`](Self::close) was called; from any thread.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn selector(&self) -> Option<Arc<Selector>> {
        self.selector.lock().clone()
    }

    /// Whether this process is a child of the one that made the loop.
    pub fn is_forked(&self) -> bool {
        self.process != forks::generation()
    }

    /// Lets go of everything: nothing runs any more. Open transports are released, not closed:
    /// their owners do that. Each handler and watching callback is passed to `released`, under no
    /// lock.
    pub fn close(&self, mut released: impl FnMut(Released<F>)) {
        self.closed.store(true, Ordering::Release);
        let old = {
            let mut state = self.state.lock();
            let mut old = std::mem::take(&mut *state);
            // Streams and endpoints stay: their transports still own them. They only lose their
            // handlers.
            state.sources = std::mem::take(&mut old.sources);
            old
        };
        let posts = self.posts.clear();
        let selector = self.selector.lock().take();
        let mut last = None;
        // One at a time, as there may be no memory for a list of them.
        loop {
            let mut state = self.state.lock();
            let Some(token) = state.sources.next(last) else { break };
            last = Some(token);
            let Some(source) = state.sources.get_mut(token) else { continue };
            if source.registered() != Interest::NONE && !self.is_forked() {
                let fd = source.descriptor().borrow();
                let _ = fd.zip(selector.as_ref()).map(|(fd, selector)| selector.remove(fd));
            }
            let (taken, _owned): (_, Option<Released<F>>) = match source {
                Source::Stream(stream) => {
                    stream.registered = Interest::NONE;
                    let handler = stream.handler.get().map(Released::Stream);
                    (handler, stream.handler.take().map(Released::Stream))
                }
                Source::Endpoint(endpoint) => {
                    endpoint.registered = Interest::NONE;
                    let handler = endpoint.handler.get().map(Released::Endpoint);
                    (handler, endpoint.handler.take().map(Released::Endpoint))
                }
                Source::Listener(_) | Source::Watcher(_) => {
                    let source = state.sources.remove(token);
                    drop(state);
                    match source {
                        Some(Source::Listener(listener)) => {
                            released(Released::Listener(listener.handler));
                        }
                        Some(Source::Watcher(watcher)) => {
                            let callbacks = watcher.into_callbacks();
                            callbacks.for_each(|callback| released(Released::Watcher(callback)));
                        }
                        _ => {}
                    }
                    continue;
                }
            };
            drop(state);
            taken.into_iter().for_each(&mut released);
        }
        // User code may run here: no lock is held.
        drop(old);
        drop(posts);
        // A thread of the parent may have held the waker's lock when it forked.
        if !self.is_forked() {
            self.wakeup.close();
        }
    }

    /// Shows every reference to the face's objects, for its collector. Shows nothing while the
    /// state is in use, which keeps everything alive.
    pub fn visit<E>(&self, mut see: impl FnMut(Referent<'_, F>) -> Result<(), E>) -> Result<(), E> {
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        for ready in &state.ready {
            match ready {
                Ready::Callback(callback) => see(Referent::Callback(callback))?,
                Ready::Accepted(accepted) => see(Referent::Listener(&accepted.0))?,
                Ready::Io(_) | Ready::StartReading(_) | Ready::Lost(_) => {}
            }
        }
        let Some(posts) = self.posts.queue.try_lock() else { return Ok(()) };
        for callback in posts.iter() {
            see(Referent::Callback(callback))?;
        }
        for timer in state.timers.iter() {
            if let Timer::Callback(callback) = timer {
                see(Referent::Callback(callback))?;
            }
        }
        for (_, source) in state.sources.iter() {
            match source {
                Source::Stream(stream) => {
                    if let Some(handler) = stream.handler.owned() {
                        see(Referent::Stream(handler))?;
                    }
                }
                Source::Endpoint(endpoint) => {
                    if let Some(handler) = endpoint.handler.owned() {
                        see(Referent::Endpoint(handler))?;
                    }
                    for address in endpoint.addresses() {
                        see(Referent::Address(address))?;
                    }
                }
                Source::Listener(listener) => see(Referent::Listener(&listener.handler))?,
                Source::Watcher(watcher) => {
                    for callback in watcher.callbacks() {
                        see(Referent::Callback(callback))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls `f` with every queued and scheduled callback, under the lock: `f` runs no user code.
    pub fn each_queued(&self, mut f: impl FnMut(&F::Callback)) {
        let state = self.state.lock();
        self.posts.queue.lock().iter().for_each(&mut f);
        for ready in &state.ready {
            if let Ready::Callback(callback) = ready {
                f(callback);
            }
        }
        for timer in state.timers.iter() {
            if let Timer::Callback(callback) = timer {
                f(callback);
            }
        }
    }

    /// Whether a descriptor belongs to a stream, and to which.
    pub fn stream_of(&self, descriptor: RawFd) -> Option<F::Stream> {
        let state = self.state.lock();
        match state.sources.get(state.token_of(descriptor)?)? {
            Source::Stream(stream) => stream.handler.get(),
            _ => None,
        }
    }
}

/// What [`Engine::close`] lets go of.
pub enum Released<F: Face> {
    /// The handler of an open stream.
    Stream(F::Stream),
    /// The handler of an open datagram endpoint.
    Endpoint(F::Datagrams),
    /// The handler of a listening socket.
    Listener(F::Listener),
    /// The callback of a watched descriptor.
    Watcher(F::Callback),
}

impl<F: Face> Source<F> {
    fn descriptor(&self) -> &Descriptor {
        match self {
            Source::Stream(stream) => &stream.descriptor,
            Source::Endpoint(endpoint) => &endpoint.descriptor,
            Source::Listener(listener) => &listener.descriptor,
            Source::Watcher(watcher) => &watcher.descriptor,
        }
    }
}

impl<F: Face> State<F> {
    fn token_of(&self, descriptor: RawFd) -> Option<Token> {
        self.by_descriptor.get(&descriptor).copied()
    }

    /// Makes sure that the next source needs no memory for its places.
    fn reserve_source(&mut self) -> Result<(), TryReserveError> {
        self.sources.reserve()?;
        self.by_descriptor.try_reserve(1)
    }

    /// Says which source has a descriptor; [`reserve_source`](Self::reserve_source) first.
    fn set_token(&mut self, descriptor: RawFd, token: Token) {
        if descriptor >= 0 {
            self.by_descriptor.insert(descriptor, token);
        }
    }

    /// The source has its descriptor no more.
    fn clear_token(&mut self, descriptor: RawFd, token: Token) {
        if self.token_of(descriptor) == Some(token) {
            self.by_descriptor.remove(&descriptor);
        }
    }
}

impl<F: Face> Default for State<F> {
    fn default() -> State<F> {
        State {
            ready: VecDeque::new(),
            post_room: usize::MAX,
            timers: Timers::default(),
            sources: Registry::default(),
            by_descriptor: FxHashMap::default(),
            watched: 0,
            gathers: Vec::new(),
            spare_gathers: Vec::new(),
            dispatching: false,
            stopping: false,
            untold: false,
            workspace: None,
        }
    }
}

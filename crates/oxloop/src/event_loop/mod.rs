//! What runs it (asyncio: *Event Loop*).
//!
//! | file | section of asyncio's event loop page |
//! | --- | --- |
//! | `running.rs` | Running and stopping the loop |
//! | `scheduling.rs`, `handle.rs` | Scheduling callbacks, delayed callbacks; callback handles |
//! | `watchers.rs` | Watching file descriptors |
//! | `tasks.rs`, `promise.rs`, `sleep.rs` | Creating futures and tasks |
//! | `errors.rs` | Error handling API |
//! | `owned.rs` | values of the program, and how they are dropped |
//! | `core.rs` | the shared state, and which thread may act on it |
//! | `face.rs` | how the engine sees all this |

pub(crate) mod core;
mod errors;
pub(crate) mod face;
mod handle;
pub(crate) mod owned;
mod promise;
mod running;
mod scheduling;
mod sleep;
mod tasks;
mod watchers;

pub use self::core::get_running_loop;
pub use errors::ExceptionContext;
pub use handle::{Handle, TimerHandle};
pub use promise::{Promise, Waiter};
pub use sleep::Sleep;
pub use tasks::Task;
pub use watchers::WatchHandle;

pub(crate) use promise::promise;
pub(crate) use sleep::next_turn;

use self::core::{Core, Owner};
use crate::error::Result;
use std::fmt;
use std::sync::Arc;

/// An event loop: runs callbacks and futures on one thread, and tells protocols what happens on
/// their connections.
///
/// A clone is another handle of the same loop, for any thread. The thread that calls
/// [`run_forever`](Self::run_forever) or [`run_until_complete`](Self::run_until_complete) is the
/// loop's; all callbacks run there. What other threads ask for is done there too, in the order
/// in which they ask. While nobody runs the loop, whoever calls acts as its thread.
///
/// Dropping the last handle closes the loop with all its connections. A handle inside of
/// something that the loop owns (a callback, a task, a protocol) counts as one: use
/// [`get_running_loop`] there, or [`close`](Self::close) the loop at the end.
///
/// Source: asyncio, *Event Loop*.
///
/// ```
/// # fn main() -> oxloop::Result<()> {
/// let event_loop = oxloop::EventLoop::new()?;
/// let stopper = event_loop.clone();
/// event_loop.call_soon(move || stopper.stop());
/// event_loop.run_forever()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct EventLoop(Arc<Owner>);

impl EventLoop {
    /// A new loop, which nobody runs yet.
    ///
    /// # Errors
    /// EMFILE or ENFILE where no descriptor is left for the selector.
    pub fn new() -> Result<EventLoop> {
        Ok(EventLoop(Core::create()?))
    }

    pub(crate) fn from_owner(owner: Arc<Owner>) -> EventLoop {
        EventLoop(owner)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.0
    }

    fn owner(&self) -> &Arc<Owner> {
        &self.0
    }
}

/// Two handles are equal when they are handles of the same loop.
impl PartialEq for EventLoop {
    fn eq(&self, other: &EventLoop) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for EventLoop {}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<EventLoop running={} closed={}>", self.is_running(), self.is_closed())
    }
}

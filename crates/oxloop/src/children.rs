//! Waiting for child processes to exit.
//!
//! A child is watched through a descriptor of its own (pidfd_open(2)): no SIGCHLD handler, no
//! thread, nothing that other loops share. Where the kernel, a sandbox or the descriptor limit
//! gives none, a thread waits for this child.

use crate::engine::Side;
use crate::event_loop::Handle;
use crate::event_loop::face::Callback;
use crate::protocol::slot::Caller;
use crate::sys::{Child, ChildStatus};
use crate::transport::subprocess::Watched;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;

/// Children that were killed because nobody had a transport of them any more.
static FORSAKEN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Kills a child that nobody waits for.
pub(crate) fn forsake(child: Child) {
    // One that is unknown is none of ours: this process may be a fork of its parent.
    if child.poll() == ChildStatus::Running {
        let _ = child.send_signal(libc::SIGKILL);
        FORSAKEN.lock().push(child);
    }
}

/// Reaps those that have died since.
pub(crate) fn reap_forsaken() {
    FORSAKEN.lock().retain(|child| child.poll() == ChildStatus::Running);
}

/// Has [`Watched::exited`] called on the loop's thread when the child has exited, in a later turn.
///
/// # Errors
/// EAGAIN where there is neither a descriptor nor a thread to be had.
pub(crate) fn watch_exit(child: Arc<Watched>) -> io::Result<()> {
    let watched = child.0.child().open_pidfd().and_then(|pidfd| watch_pidfd(child.clone(), pidfd));
    match watched {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {
            // Reaped by somebody else already.
            let core = child.0.core().clone();
            core.call_soon(Handle::once(core.home, move || child.exited()));
            Ok(())
        }
        Err(_) => watch_by_thread(child),
        Ok(()) => Ok(()),
    }
}

fn watch_pidfd(child: Arc<Watched>, pidfd: OwnedFd) -> io::Result<()> {
    let (core, number) = (child.0.core().clone(), pidfd.as_raw_fd());
    let exited = Handle::once(core.home, move || {
        let callback = child.0.core().engine.unwatch(number, Side::Read);
        drop((callback, pidfd));
        child.exited();
    });
    core.engine.watch(number, Side::Read, Callback::Call(exited))?;
    if core.is_closed() {
        let callback = core.engine.unwatch(number, Side::Read);
        drop(callback);
    }
    Ok(())
}

fn watch_by_thread(child: Arc<Watched>) -> io::Result<()> {
    let name = format!("waitpid-{}", child.0.pid());
    thread::Builder::new().name(name).spawn(move || {
        child.0.child().wait_for_exit();
        let core = child.0.core().clone();
        core.call_soon(Handle::once(core.home, move || child.exited()));
    })?;
    Ok(())
}

//! Child processes: their exits, and signals to them.

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, WaitStatus, pidfd_open, waitid, waitpid,
};
use std::io;
use std::os::fd::OwnedFd;

/// A child that has not been reaped by us: so long its pid is nobody else's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child(Pid);

/// What there is to learn of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChildStatus {
    Running,
    /// Its exit status, or minus the signal that ended it. The pid is the system's again.
    Exited(i32),
    /// Somebody else has reaped it, or it is no child of this process.
    Unknown,
}

impl Child {
    /// The child that std has started, which std must not wait for any more.
    pub(crate) fn new(child: &std::process::Child) -> Child {
        Child(Pid::from_child(child))
    }

    pub(crate) fn pid(self) -> i32 {
        self.0.as_raw_pid()
    }

    /// A descriptor that is readable once the child has exited (pidfd_open(2), Linux 5.3).
    pub(crate) fn open_pidfd(self) -> io::Result<OwnedFd> {
        Ok(pidfd_open(self.0, PidfdFlags::empty())?)
    }

    /// Whether it is a child of this process and has not exited; one that has is not reaped.
    pub(crate) fn is_running(self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        matches!(retry_on_intr(|| waitid(WaitId::Pid(self.0), options)), Ok(None))
    }

    /// Reaps the child if it has exited.
    pub(crate) fn poll(self) -> ChildStatus {
        self.reap(WaitOptions::NOHANG)
    }

    /// Waits for the child's exit, and reaps it.
    pub(crate) fn wait(self) -> ChildStatus {
        self.reap(WaitOptions::empty())
    }

    /// Waits for the child's exit, and leaves it to be reaped.
    pub(crate) fn wait_for_exit(self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // ECHILD: reaped by somebody else.
        let _ = retry_on_intr(|| waitid(WaitId::Pid(self.0), options));
    }

    fn reap(self, options: WaitOptions) -> ChildStatus {
        match retry_on_intr(|| waitpid(Some(self.0), options)) {
            Ok(None) => ChildStatus::Running,
            Ok(Some((_, status))) => ChildStatus::Exited(returncode(status)),
            Err(_) => ChildStatus::Unknown,
        }
    }

    /// Sends a signal; one that comes too late is nobody's.
    ///
    /// # Errors
    /// EINVAL for what is no signal, EPERM for a child that runs as somebody else.
    pub(crate) fn send_signal(self, signal: i32) -> io::Result<()> {
        // SAFETY: kill(2) takes numbers and touches no memory; by libc and not by rustix, as
        // real-time signals have no names.
        if unsafe { libc::kill(self.pid(), signal) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let is_gone = Errno::from_io_error(&error) == Some(Errno::SRCH);
        if is_gone { Ok(()) } else { Err(error) }
    }
}

/// As Python's `os.waitstatus_to_exitcode`.
fn returncode(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, signal) => -signal.unwrap_or(0),
    }
}

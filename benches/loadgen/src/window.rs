//! The time in which requests count.

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// A warm-up, then a window in which requests and CPU time are counted.
pub struct Window {
    clock: ClockId,
    warm_end: Instant,
    length: Duration,
    /// When the window began, and the process's CPU time then.
    begin: Option<(Instant, Duration)>,
    ops: u64,
}

impl Window {
    /// A window of `length` after a warm-up that begins now; `pid` is the process whose CPU time
    /// (all threads, user and kernel) counts, 0 this one.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn new(warm: Duration, length: Duration, pid: i32) -> nix::Result<Window> {
        let clock = clock_getcpuclockid(Pid::from_raw(pid))?;
        Ok(Window { clock, warm_end: Instant::now() + warm, length, begin: None, ops: 0 })
    }

    /// Counts a completed request.
    pub fn count(&mut self) {
        self.ops += 1;
    }

    /// How long it still takes, the warm-up included; `None` once it is over.
    pub fn remaining(&mut self) -> nix::Result<Option<Duration>> {
        let now = Instant::now();
        let end = match self.begin {
            Some((begin, _)) => begin + self.length,
            None if now < self.warm_end => self.warm_end,
            None => {
                self.ops = 0;
                self.begin = Some((now, self.clock.now()?.into()));
                now + self.length
            }
        };
        Ok(Some(end.saturating_duration_since(now)).filter(|left| !left.is_zero()))
    }

    /// The result as a line of JSON.
    pub fn report(self) -> nix::Result<String> {
        let (begin, cpu_before) = self.begin.unwrap_or((Instant::now(), Duration::ZERO));
        let secs = begin.elapsed().as_secs_f64();
        let cpu = Duration::from(self.clock.now()?) - cpu_before;
        let (ops, cpu_ns) = (self.ops, cpu.as_nanos());
        Ok(format!(r#"{{"ops": {ops}, "secs": {secs:.6}, "cpu_ns": {cpu_ns}}}"#))
    }
}

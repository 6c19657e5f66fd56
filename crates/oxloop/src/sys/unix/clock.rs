//! The monotonic clock, which is also Python's `time.monotonic()`.

/// Seconds on CLOCK_MONOTONIC.
pub(crate) fn monotonic() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to `now`. CLOCK_MONOTONIC is always there, so it cannot fail; by
    // libc and not by rustix, whose own look-up of the vDSO crashes under valgrind.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

//! Write flow control: watermarks on the write buffer (pure).
//!
//! The contract of asyncio's *Flow Control Callbacks*: the protocol is paused when the buffer is
//! *strictly over* the high-water mark, and resumed when it is *at or under* the low-water mark.
//! `pause_writing` and `resume_writing` strictly alternate.

use crate::error::InvalidLimits;

/// The high-water mark of a new transport: 64 KiB. The low-water mark is a quarter of high.
pub const DEFAULT_HIGH: usize = 64 * 1024;

/// Low- and high-water mark of a write buffer, in bytes; `high >= low`.
///
/// `high` 0 makes `low` 0 and pauses whenever anything is buffered; `low` 0 resumes only once
/// the buffer is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    low: usize,
    high: usize,
}

impl Limits {
    /// Limits as `set_write_buffer_limits(high, low)` takes them: a missing high is four times
    /// low (or the default), a missing low a quarter of high.
    ///
    /// # Errors
    /// [`InvalidLimits`] unless `high >= low`.
    pub fn new(high: Option<usize>, low: Option<usize>) -> Result<Limits, InvalidLimits> {
        let high = match (high, low) {
            (Some(high), _) => high,
            (None, Some(low)) => low.saturating_mul(4),
            (None, None) => DEFAULT_HIGH,
        };
        let low = low.unwrap_or(high / 4);
        if high < low {
            return Err(InvalidLimits { high, low });
        }
        Ok(Limits { low, high })
    }

    /// The low-water mark, bytes.
    pub fn low(self) -> usize {
        self.low
    }

    /// The high-water mark, bytes.
    pub fn high(self) -> usize {
        self.high
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { low: DEFAULT_HIGH / 4, high: DEFAULT_HIGH }
    }
}

/// Whether the protocol may write, and when to tell it.
///
/// After each change of the buffer or the limits ask [`should_pause`](Self::should_pause) or
/// [`should_resume`](Self::should_resume); each answers `true` once per transition, and the
/// caller then tells the protocol.
#[derive(Clone, Debug, Default)]
pub struct FlowControl {
    /// `None` are the default limits: most connections never set their own.
    limits: Option<Box<Limits>>,
    paused: bool,
}

impl FlowControl {
    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits.as_deref().copied().unwrap_or_default()
    }

    /// Sets the limits; ask [`should_pause`](Self::should_pause) afterwards, as asyncio does.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = (limits != Limits::default()).then(|| Box::new(limits));
    }

    /// True when `pause_writing` is due: the buffer is strictly over high, and was not before.
    pub fn should_pause(&mut self, buffered: usize) -> bool {
        let pause = !self.paused && buffered > self.limits().high;
        self.paused |= pause;
        pause
    }

    /// Whether the protocol was paused last, and not resumed since.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// True when `resume_writing` is due: paused, and the buffer is at or under low.
    pub fn should_resume(&mut self, buffered: usize) -> bool {
        let resume = self.paused && buffered <= self.limits().low;
        self.paused &= !resume;
        resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_are_asyncios() {
        let limits = Limits::new(None, None).unwrap_or_default();
        assert_eq!((limits.low(), limits.high()), (16 * 1024, 64 * 1024));
        assert_eq!(Limits::new(None, Some(100)).map(Limits::high), Ok(400));
        assert_eq!(Limits::new(Some(100), None).map(Limits::low), Ok(25));
        assert!(Limits::new(Some(1), Some(2)).is_err());
    }

    #[test]
    fn edges_are_strictly_over_and_at_or_under() {
        let mut flow = FlowControl::default();
        flow.set_limits(Limits { low: 10, high: 20 });
        assert!(!flow.should_pause(20));
        assert!(flow.should_pause(21));
        assert!(!flow.should_pause(22), "paused once");
        assert!(!flow.should_resume(11));
        assert!(flow.should_resume(10));
        assert!(!flow.should_resume(0), "resumed once");
    }

    #[test]
    fn zero_limits_pause_on_a_byte_and_resume_on_none() {
        let mut flow = FlowControl::default();
        flow.set_limits(Limits { low: 0, high: 0 });
        assert!(!flow.should_pause(0));
        assert!(flow.should_pause(1));
        assert!(!flow.should_resume(1));
        assert!(flow.should_resume(0));
    }

    proptest! {
        /// Invariant 2: the callbacks alternate, and each comes at its edge.
        #[test]
        fn callbacks_alternate(
            high in 0usize..200, low in 0usize..200,
            sizes in prop::collection::vec(0usize..300, 0..200),
        ) {
            prop_assume!(high >= low);
            let mut flow = FlowControl::default();
            flow.set_limits(Limits { low, high });
            let mut paused = false;
            for size in sizes {
                if flow.should_pause(size) {
                    prop_assert!(!paused && size > high);
                    paused = true;
                }
                if flow.should_resume(size) {
                    prop_assert!(paused && size <= low);
                    paused = false;
                }
                prop_assert!((paused && size > low) || (!paused && size <= high));
            }
        }
    }
}

//! Timers by due time: a heap with lazy deletion (pure).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, TryReserveError};

/// Cancelled timers are swept out once there are more of them than this, and more than half.
const SWEEP_FROM: usize = 50;

/// A timer's payload.
pub trait TimerEntry {
    /// Whether it was cancelled: it is dropped instead of run.
    fn is_cancelled(&self) -> bool;
}

/// A timer in its place.
pub struct Entry<T> {
    when: f64,
    /// Timers of the same time come in the order they were made.
    order: u64,
    timer: T,
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Entry<T>) -> Ordering {
        // Reversed: BinaryHeap gives the greatest first.
        other.when.total_cmp(&self.when).then(other.order.cmp(&self.order))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Entry<T>) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Entry<T>) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

/// Cancelled timers, handed out to be dropped.
pub enum Swept<T> {
    One(Option<T>),
    #[allow(dead_code, reason = "it is dropped")]
    Many(Vec<Entry<T>>),
}

impl<T> Swept<T> {
    /// The timers.
    #[cfg(test)]
    fn into_timers(self) -> Vec<T> {
        match self {
            Swept::One(timer) => timer.into_iter().collect(),
            Swept::Many(entries) => entries.into_iter().map(|entry| entry.timer).collect(),
        }
    }
}

/// Timers, the earliest first. Times are seconds on the loop's clock.
pub struct Timers<T> {
    heap: BinaryHeap<Entry<T>>,
    order: u64,
    cancelled: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers { heap: BinaryHeap::new(), order: 0, cancelled: 0 }
    }
}

impl<T: TimerEntry> Timers<T> {
    /// Makes sure that the next [`push`](Self::push) needs no memory.
    #[inline]
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.heap.try_reserve(1)
    }

    /// Adds a timer that is due at `when`; [`reserve`](Self::reserve) first. A NaN is due at once,
    /// as asyncio's comparison has it.
    #[inline]
    pub fn push(&mut self, when: f64, timer: T) {
        let when = if when.is_nan() { f64::NEG_INFINITY } else { when };
        self.order += 1;
        self.heap.push(Entry { when, order: self.order, timer });
    }

    /// Counts one of the timers in here as cancelled.
    pub fn note_cancelled(&mut self) {
        self.cancelled += 1;
    }

    /// How many timers wait, cancelled ones included.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer waits.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// When the earliest timer is due. Cancelled timers that stand in its way are handed out first,
    /// to be dropped; ask again. All of them are once they are more than half.
    pub fn next_due(&mut self) -> Result<Option<f64>, Swept<T>> {
        if self.cancelled > SWEEP_FROM && self.cancelled * 2 > self.heap.len() {
            if let Some(swept) = self.sweep() {
                return Err(swept);
            }
        }
        match self.heap.peek() {
            Some(first) if first.timer.is_cancelled() => {
                self.cancelled = self.cancelled.saturating_sub(1);
                Err(Swept::One(self.heap.pop().map(|entry| entry.timer)))
            }
            first => Ok(first.map(|entry| entry.when)),
        }
    }

    /// Takes all cancelled timers out; `None` if there is no memory to keep the others in.
    fn sweep(&mut self) -> Option<Swept<T>> {
        let live = self.heap.iter().filter(|entry| !entry.timer.is_cancelled()).count();
        let mut kept = Vec::new();
        kept.try_reserve_exact(live).ok()?;
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        let mut index = 0;
        while index < entries.len() {
            if entries[index].timer.is_cancelled() {
                index += 1;
            } else {
                kept.push(entries.swap_remove(index));
            }
        }
        self.heap = kept.into();
        self.cancelled = 0;
        Some(Swept::Many(entries))
    }

    /// The next timer that is due before `end`, cancelled or not.
    pub fn pop_due(&mut self, end: f64) -> Option<T> {
        if self.heap.peek()?.when >= end {
            return None;
        }
        let timer = self.heap.pop()?.timer;
        if timer.is_cancelled() {
            self.cancelled = self.cancelled.saturating_sub(1);
        }
        Some(timer)
    }

    /// All timers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::without_memory;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[derive(Clone)]
    struct Timer(usize, Rc<Cell<bool>>);

    impl TimerEntry for Timer {
        fn is_cancelled(&self) -> bool {
            self.1.get()
        }
    }

    proptest! {
        /// Timers come in the order of their times, then of their making; a cancelled one never
        /// counts as the next; none is lost, and one that there is no memory for changes nothing.
        #[test]
        fn come_in_order(
            whens in prop::collection::vec((0u8..20, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let mut timers = Timers::default();
            let mut expected = Vec::new();
            let mut count = 0;
            for (number, &(when, cancel, memory)) in whens.iter().enumerate() {
                let timer = Timer(number, Rc::default());
                let mut reserve = || timers.reserve();
                let reserved = if memory { reserve() } else { without_memory(reserve) };
                prop_assert!(reserved.is_ok() || !memory);
                if reserved.is_err() {
                    continue;
                }
                let waiting = timer.clone();
                without_memory(|| timers.push(f64::from(when), waiting));
                count += 1;
                if cancel {
                    timer.1.set(true);
                    timers.note_cancelled();
                } else {
                    expected.push((when, number));
                }
            }
            expected.sort();
            let mut seen = Vec::new();
            let mut dropped = Vec::new();
            loop {
                let when = match timers.next_due() {
                    Ok(Some(when)) => when,
                    Ok(None) => break,
                    Err(swept) => {
                        dropped.extend(swept.into_timers());
                        continue;
                    }
                };
                let end = when + 0.5;
                while let Some(timer) = timers.pop_due(end) {
                    if !timer.is_cancelled() {
                        seen.push((when as u8, timer.0));
                    } else {
                        dropped.push(timer);
                    }
                }
            }
            prop_assert_eq!(seen.len() + dropped.len(), count);
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(timers.cancelled, 0);
        }
    }

    #[test]
    fn no_number_is_due_at_once() {
        let mut timers = Timers::default();
        for (number, when) in [1.0, f64::NAN, f64::INFINITY, -f64::NAN].into_iter().enumerate() {
            timers.reserve().unwrap();
            timers.push(when, Timer(number, Rc::default()));
        }
        let due = std::iter::from_fn(|| timers.pop_due(0.5)).map(|timer| timer.0);
        assert_eq!(due.collect::<Vec<_>>(), [1, 3]);
        assert_eq!(timers.pop_due(f64::MAX).map(|timer| timer.0), Some(0));
        assert!(timers.pop_due(f64::MAX).is_none(), "infinity never comes");
    }

    #[test]
    fn cancelled_timers_are_swept_out() {
        let mut timers = Timers::default();
        for number in 0..1000 {
            timers.reserve().unwrap();
            timers.push(number as f64, Timer(number, Rc::new(Cell::new(number > 300))));
            if number > 300 {
                timers.note_cancelled();
            }
        }
        assert!(matches!(without_memory(|| timers.next_due()), Ok(Some(0.0))), "they stay");
        let swept = timers.next_due().err().unwrap();
        assert_eq!((timers.len(), swept.into_timers().len()), (301, 699));
        assert!(matches!(timers.next_due(), Ok(Some(0.0))));
    }
}

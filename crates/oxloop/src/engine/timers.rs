//! Timers by due time: a heap with lazy deletion (pure).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Cancelled timers are swept out once there are more of them than this, and more than half.
const SWEEP_FROM: usize = 50;

/// A timer's payload.
pub trait TimerEntry {
    /// Whether it was cancelled: it is dropped instead of run.
    fn is_cancelled(&self) -> bool;
}

struct Entry<T> {
    when: f64,
    /// Timers of the same time come in the order they were made.
    order: u64,
    timer: T,
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Entry<T>) -> Ordering {
        // Reversed: BinaryHeap gives the greatest first. total_cmp sorts a NaN last.
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
    /// Adds a timer that is due at `when`.
    pub fn push(&mut self, when: f64, timer: T) {
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

    /// When the earliest timer is due. What was cancelled before it moves to `dropped`, and all
    /// that was cancelled once it is more than half.
    pub fn next_due(&mut self, dropped: &mut Vec<T>) -> Option<f64> {
        if self.cancelled > SWEEP_FROM && self.cancelled * 2 > self.heap.len() {
            let mut entries = std::mem::take(&mut self.heap).into_vec();
            dropped.reserve(self.cancelled);
            let mut index = 0;
            while index < entries.len() {
                if entries[index].timer.is_cancelled() {
                    dropped.push(entries.swap_remove(index).timer);
                } else {
                    index += 1;
                }
            }
            self.heap = entries.into();
            self.cancelled = 0;
        }
        while self.heap.peek()?.timer.is_cancelled() {
            self.cancelled = self.cancelled.saturating_sub(1);
            dropped.extend(self.heap.pop().map(|entry| entry.timer));
        }
        self.heap.peek().map(|entry| entry.when)
    }

    /// The next timer that is due before `end`, cancelled or not.
    pub fn pop_due(&mut self, end: f64) -> Option<T> {
        // `!(>=)` as asyncio compares: a NaN is due.
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
        /// counts as the next; none is lost.
        #[test]
        fn come_in_order(whens in prop::collection::vec((0u8..20, any::<bool>()), 0..200)) {
            let mut timers = Timers::default();
            let mut expected = Vec::new();
            for (number, &(when, cancel)) in whens.iter().enumerate() {
                let timer = Timer(number, Rc::default());
                timers.push(f64::from(when), timer.clone());
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
            while let Some(when) = timers.next_due(&mut dropped) {
                let end = when + 0.5;
                while let Some(timer) = timers.pop_due(end) {
                    if !timer.is_cancelled() {
                        seen.push((when as u8, timer.0));
                    } else {
                        dropped.push(timer);
                    }
                }
            }
            prop_assert_eq!(seen.len() + dropped.len(), whens.len());
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(timers.cancelled, 0);
        }
    }

    #[test]
    fn cancelled_timers_are_swept_out() {
        let mut timers = Timers::default();
        for number in 0..1000 {
            timers.push(number as f64, Timer(number, Rc::new(Cell::new(number > 300))));
            if number > 300 {
                timers.note_cancelled();
            }
        }
        let mut dropped = Vec::new();
        assert_eq!(timers.next_due(&mut dropped), Some(0.0));
        assert_eq!((timers.len(), dropped.len()), (301, 699));
    }
}

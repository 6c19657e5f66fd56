//! What other threads queue, until the loop takes it over.
//!
//! Posters have a lock of their own, so that they do not slow down the loop's thread, which takes
//! the lock of the ready queue for each entry. A post joins the ready queue before the loop queues
//! anything behind it: order is that of the calls, as with one queue. Only in a flood, when other
//! threads add more than a turn takes ([`Face::POSTS_PER_TURN`]), the rest waits for later turns,
//! in order among posts, while timers, I/O and the loop's own callbacks go on.

use super::*;
use std::sync::atomic::AtomicUsize;

/// The queue's memory is given back once it is empty, if there is more of it than this.
const KEPT: usize = 4096;

/// Callbacks that other threads have queued.
pub(super) struct Posts<C> {
    pub(super) queue: parking_lot::Mutex<VecDeque<C>>,
    /// The queue's length, for a look without the lock.
    len: AtomicUsize,
}

impl<C> Default for Posts<C> {
    fn default() -> Posts<C> {
        Posts { queue: parking_lot::Mutex::default(), len: AtomicUsize::new(0) }
    }
}

impl<C> Posts<C> {
    /// How many wait. What the caller has posted, or was told of, is counted.
    #[inline]
    pub(super) fn len(&self) -> usize {
        // SeqCst: a poster looks whether the loop is asleep after this has changed.
        self.len.load(Ordering::SeqCst)
    }

    pub(super) fn push(&self, callback: C) -> Result<(), TryReserveError> {
        let mut queue = self.queue.lock();
        queue.try_reserve(1)?;
        queue.push_back(callback);
        self.len.store(queue.len(), Ordering::SeqCst);
        Ok(())
    }

    /// Hands at most `limit` of them over, in order; answers how many.
    fn take(&self, limit: usize, ready: &mut impl Extend<C>) -> usize {
        let mut queue = self.queue.lock();
        let count = queue.len().min(limit);
        ready.extend(queue.drain(..count));
        if queue.is_empty() && queue.capacity() > KEPT {
            *queue = VecDeque::new();
        }
        self.len.store(queue.len(), Ordering::SeqCst);
        count
    }

    /// Takes all of them, to be dropped without a lock.
    pub(super) fn clear(&self) -> VecDeque<C> {
        let mut queue = self.queue.lock();
        self.len.store(0, Ordering::SeqCst);
        std::mem::take(&mut *queue)
    }
}

/// The ready queue, as posts join it.
struct Join<'a, F: Face>(&'a mut VecDeque<Ready<F>>);

impl<F: Face> Extend<F::Callback> for Join<'_, F> {
    fn extend<I: IntoIterator<Item = F::Callback>>(&mut self, posts: I) {
        self.0.extend(posts.into_iter().map(Ready::Callback));
    }
}

impl<F: Face> Engine<F> {
    /// How many callbacks of other threads wait for a turn that takes them.
    #[inline]
    pub fn posted(&self) -> usize {
        if F::POSTS_PER_TURN == usize::MAX { 0 } else { self.posts.len() }
    }

    /// Queues a callback of another thread. The caller wakes the loop.
    #[inline]
    pub(super) fn post(&self, callback: F::Callback) -> Result<(), TryReserveError> {
        if F::POSTS_PER_TURN < usize::MAX {
            return self.posts.push(callback);
        }
        let mut state = self.state.lock();
        state.ready.try_reserve(1)?;
        state.ready.push_back(Ready::Callback(callback));
        Ok(())
    }

    /// Lets posts join the ready queue, as many as the next turn takes. Called before anything else
    /// is queued behind them. Those that there is no memory for come later.
    #[inline]
    pub(super) fn take_posts(&self, state: &mut State<F>) {
        let posted = self.posted();
        if posted > 0 && state.post_room > 0 {
            let mut limit = state.post_room;
            if state.ready.try_reserve(posted.min(limit)).is_err() {
                limit = limit.min(state.ready.capacity() - state.ready.len());
            } else {
                // More may have come since.
                limit = limit.min(posted);
            }
            state.post_room -= self.posts.take(limit, &mut Join(&mut state.ready));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::without_memory;

    #[test]
    fn posts_are_taken_in_order_and_counted() {
        let posts = Posts::default();
        (0..5).for_each(|number| posts.push(number).unwrap());
        let mut ready = Vec::new();
        assert_eq!((posts.take(3, &mut ready), posts.len()), (3, 2));
        posts.push(5).unwrap();
        assert!(without_memory(|| Posts::default().push(6)).is_err());
        assert_eq!((posts.take(usize::MAX, &mut ready), posts.len()), (3, 0));
        assert!(ready.into_iter().eq(0..6));
        assert_eq!(posts.take(1, &mut Vec::new()), 0);
    }

    #[test]
    fn a_flood_leaves_no_memory_behind() {
        let posts = Posts::default();
        (0..10 * KEPT).for_each(|number| posts.push(number).unwrap());
        posts.take(usize::MAX, &mut Vec::new());
        assert_eq!(posts.queue.lock().capacity(), 0);
    }
}

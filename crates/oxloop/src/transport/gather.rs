//! The writes of one turn to one stream, gathered into one send (pure).
//!
//! A header and then a body cost one system call instead of two, and the sends of a turn, made
//! together, wake each peer's process once instead of for every answer. The
//! rule that makes it unnoticeable: gather only while the kernel has taken all so far and the
//! total stays within `min(64 KiB, high)`; everything that could show the difference flushes
//! first. What is gathered is never over the high-water mark, hence a flush never pauses.

use super::flow_control::Limits;
use super::write_buffer::{COPY_LIMIT, WriteBuffer};
use std::collections::TryReserveError;
use std::io::IoSlice;

/// The most that is gathered, bytes.
pub const GATHER_LIMIT: usize = 64 * 1024;

/// So much of an arena's allocation is kept for reuse, bytes.
const KEPT_ARENA: usize = 16 * 1024;

#[derive(Debug)]
enum Piece<B> {
    /// So many bytes of the arena.
    Arena(usize),
    Kept(B),
}

/// Data to write: borrowed bytes which can be kept without a copy, or have to be copied.
pub trait Data<B> {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// An owned reference to all of the bytes; `None` where they might change later.
    fn keep(&self) -> Option<B>;
}

/// Whether `more` bytes may join so many that are gathered.
pub fn may_gather(gathered: usize, more: usize, limits: Limits) -> bool {
    gathered + more <= GATHER_LIMIT.min(limits.high())
}

/// Where a gather stood.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    arena: usize,
    pieces: usize,
    /// How much of the arena the last piece had.
    last: usize,
    len: usize,
    writes: usize,
}

/// The gathered writes to one connection.
#[derive(Debug)]
pub struct Gather<B, T = ()> {
    /// Whom they go to; `None` once they are sent.
    pub target: Option<T>,
    /// Small pieces are copied here, one behind the other; the allocation is reused.
    arena: Vec<u8>,
    pieces: Vec<Piece<B>>,
    len: usize,
    writes: usize,
}

impl<B, T> Default for Gather<B, T> {
    fn default() -> Gather<B, T> {
        Gather { target: None, arena: Vec::new(), pieces: Vec::new(), len: 0, writes: 0 }
    }
}

impl<B: AsRef<[u8]>, T> Gather<B, T> {
    /// Bytes gathered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many writes there were.
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a write; ask [`may_gather`] first.
    ///
    /// # Errors
    /// There is no memory; nothing was added.
    pub fn push(&mut self, data: &(impl Data<B> + ?Sized)) -> Result<(), TryReserveError> {
        let bytes = data.bytes();
        if bytes.len() > COPY_LIMIT {
            if let Some(kept) = data.keep() {
                self.pieces.try_reserve(1)?;
                self.pieces.push(Piece::Kept(kept));
                self.len += bytes.len();
                self.writes += 1;
                return Ok(());
            }
        }
        self.arena.try_reserve(bytes.len())?;
        match self.pieces.last_mut() {
            Some(Piece::Arena(len)) => *len += bytes.len(),
            _ => {
                self.pieces.try_reserve(1)?;
                self.pieces.push(Piece::Arena(bytes.len()));
            }
        }
        self.arena.extend_from_slice(bytes);
        self.len += bytes.len();
        self.writes += 1;
        Ok(())
    }

    /// Where the gather stands, to go back to.
    pub fn mark(&self) -> Mark {
        let last = match self.pieces.last() {
            Some(Piece::Arena(len)) => *len,
            _ => 0,
        };
        let (arena, pieces) = (self.arena.len(), self.pieces.len());
        Mark { arena, pieces, last, len: self.len, writes: self.writes }
    }

    /// Takes back what was added since.
    pub fn rewind(&mut self, mark: Mark) {
        self.pieces.truncate(mark.pieces);
        if let Some(Piece::Arena(len)) = self.pieces.last_mut() {
            *len = mark.last;
        }
        self.arena.truncate(mark.arena);
        (self.len, self.writes) = (mark.len, mark.writes);
    }

    /// All of it as one slice, where it is one.
    pub fn single(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [Piece::Arena(_)] => Some(&self.arena),
            [Piece::Kept(bytes)] => Some(bytes.as_ref()),
            _ => None,
        }
    }

    /// The first of its pieces.
    pub fn first(&self) -> &[u8] {
        match self.pieces.first() {
            Some(Piece::Arena(len)) => &self.arena[..*len],
            Some(Piece::Kept(bytes)) => bytes.as_ref(),
            None => &[],
        }
    }

    /// All of it in order.
    ///
    /// # Errors
    /// There is no memory for that; [`first`](Self::first) needs none.
    pub fn slices(&self) -> Result<Vec<IoSlice<'_>>, TryReserveError> {
        let mut start = 0;
        let mut slices = Vec::new();
        slices.try_reserve_exact(self.pieces.len())?;
        for piece in &self.pieces {
            slices.push(IoSlice::new(match piece {
                Piece::Arena(len) => {
                    start += len;
                    &self.arena[start - len..start]
                }
                Piece::Kept(bytes) => bytes.as_ref(),
            }));
        }
        Ok(slices)
    }

    /// Empties the gather; what lies behind the first `sent` bytes moves into `rest`.
    ///
    /// # Errors
    /// There is no memory; a part of it is lost.
    pub fn finish(
        &mut self,
        sent: usize,
        rest: &mut WriteBuffer<B>,
    ) -> Result<(), TryReserveError> {
        let moved = self.move_rest(sent, rest);
        self.clear();
        moved
    }

    fn move_rest(&mut self, sent: usize, rest: &mut WriteBuffer<B>) -> Result<(), TryReserveError> {
        let (mut skip, mut start) = (sent, 0);
        for piece in self.pieces.drain(..) {
            let len = match &piece {
                Piece::Arena(len) => *len,
                Piece::Kept(bytes) => bytes.as_ref().len(),
            };
            let offset = skip.min(len);
            skip -= offset;
            match piece {
                Piece::Arena(_) => {
                    rest.push_copy(&self.arena[start + offset..start + len])?;
                    start += len;
                }
                Piece::Kept(bytes) => rest.push_kept(bytes, offset)?,
            }
        }
        Ok(())
    }

    /// Drops all of it.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.arena.clear();
        self.arena.shrink_to(KEPT_ARENA);
        self.len = 0;
        self.writes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::{allow, with_allocations};
    use proptest::prelude::*;

    /// Data, whether it can be kept, and what memory there is after that.
    struct Write(Vec<u8>, bool, usize);

    impl Data<Vec<u8>> for Write {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn keep(&self) -> Option<Vec<u8>> {
            // A face's reference costs no memory.
            self.1
                .then(|| with_allocations(usize::MAX, || self.0.clone()))
                .inspect(|_| allow(self.2))
        }
    }

    proptest! {
        /// Whatever part the kernel takes, the rest is queued in order, whole. What there is no
        /// memory for, and what is taken back, changes nothing.
        #[test]
        fn what_is_not_sent_is_queued(
            writes in prop::collection::vec(
                (
                    prop_oneof![0usize..100, COPY_LIMIT - 1..COPY_LIMIT + 3],
                    any::<bool>(),
                    0usize..4,
                    0usize..4,
                ),
                0..10,
            ),
            part in 0.0f64..=1.0,
        ) {
            let mut gather = Gather::<Vec<u8>>::default();
            let mut all = Vec::new();
            let mut count = 0;
            for (number, &(len, keep, memory, rewind)) in writes.iter().enumerate() {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
                let mark = gather.mark();
                let memory = if memory < 3 { memory } else { usize::MAX };
                let write = Write(data, keep, memory);
                if with_allocations(memory, || gather.push(&write)).is_err() {
                    prop_assert!(memory < 3);
                } else if rewind == 0 {
                    gather.rewind(mark);
                } else {
                    all.extend_from_slice(&write.0);
                    count += 1;
                }
                prop_assert_eq!((gather.len(), gather.writes()), (all.len(), count));
            }
            let slices = gather.slices().unwrap();
            let seen: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).collect();
            prop_assert_eq!(&seen, &all);
            prop_assert!(seen.starts_with(gather.first()));
            if let Some(single) = gather.single() {
                prop_assert_eq!(single, &all[..]);
            }
            drop(slices);
            let sent = (all.len() as f64 * part) as usize;
            let mut rest = WriteBuffer::default();
            gather.finish(sent, &mut rest).unwrap();
            let slices = rest.slices(usize::MAX).unwrap();
            let left: Vec<u8> = slices.iter().flat_map(|s| s.to_vec()).collect();
            prop_assert_eq!(&left[..], &all[sent..]);
            prop_assert!(gather.is_empty());
        }
    }

    #[test]
    fn stays_within_the_high_water_mark() {
        let limits = Limits::new(Some(100), None).unwrap_or_default();
        assert!(may_gather(60, 40, limits));
        assert!(!may_gather(60, 41, limits));
        let wide = Limits::new(Some(1 << 20), None).unwrap_or_default();
        assert!(may_gather(0, GATHER_LIMIT, wide));
        assert!(!may_gather(1, GATHER_LIMIT, wide));
    }
}

//! The writes of one turn to one stream, gathered into one send (pure).
//!
//! A header and then a body cost one system call instead of two, and the sends of a turn, made
//! together, wake each peer's process once instead of for every answer. The
//! rule that makes it unnoticeable: gather only while the kernel has taken all so far and the
//! total stays within `min(64 KiB, high)`; everything that could show the difference flushes
//! first. What is gathered is never over the high-water mark, hence a flush never pauses.

use super::flow_control::Limits;
use super::write_buffer::{COPY_LIMIT, WriteBuffer};
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
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a write; ask [`may_gather`] first.
    pub fn push(&mut self, data: &(impl Data<B> + ?Sized)) {
        let bytes = data.bytes();
        self.writes += 1;
        self.len += bytes.len();
        if bytes.len() > COPY_LIMIT {
            if let Some(kept) = data.keep() {
                self.pieces.push(Piece::Kept(kept));
                return;
            }
        }
        self.arena.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Arena(len)) => *len += bytes.len(),
            _ => self.pieces.push(Piece::Arena(bytes.len())),
        }
    }

    /// All of it as one slice, where it is one.
    pub fn single(&self) -> Option<&[u8]> {
        match self.pieces.as_slice() {
            [Piece::Arena(_)] => Some(&self.arena),
            [Piece::Kept(bytes)] => Some(bytes.as_ref()),
            _ => None,
        }
    }

    /// All of it in order.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut start = 0;
        let mut slices = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            slices.push(IoSlice::new(match piece {
                Piece::Arena(len) => {
                    start += len;
                    &self.arena[start - len..start]
                }
                Piece::Kept(bytes) => bytes.as_ref(),
            }));
        }
        slices
    }

    /// Empties the gather; what lies behind the first `sent` bytes moves into `rest`.
    pub fn finish(&mut self, sent: usize, rest: &mut WriteBuffer<B>) {
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
                    rest.push_copy(&self.arena[start + offset..start + len]);
                    start += len;
                }
                Piece::Kept(bytes) => rest.push_kept(bytes, offset),
            }
        }
        self.clear();
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
    use proptest::prelude::*;

    struct Write(Vec<u8>, bool);

    impl Data<Vec<u8>> for Write {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
        fn keep(&self) -> Option<Vec<u8>> {
            self.1.then(|| self.0.clone())
        }
    }

    proptest! {
        /// Whatever part the kernel takes, the rest is queued in order, whole.
        #[test]
        fn what_is_not_sent_is_queued(
            writes in prop::collection::vec(
                (prop_oneof![0usize..100, COPY_LIMIT - 1..COPY_LIMIT + 3], any::<bool>()), 0..10,
            ),
            part in 0.0f64..=1.0,
        ) {
            let mut gather = Gather::<Vec<u8>>::default();
            let mut all = Vec::new();
            for (number, &(len, keep)) in writes.iter().enumerate() {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + number) as u8).collect();
                all.extend_from_slice(&data);
                gather.push(&Write(data, keep));
            }
            let seen: Vec<u8> = gather.slices().iter().flat_map(|s| s.to_vec()).collect();
            prop_assert_eq!(&seen, &all);
            if let Some(single) = gather.single() {
                prop_assert_eq!(single, &all[..]);
            }
            let sent = (all.len() as f64 * part) as usize;
            let mut rest = WriteBuffer::default();
            gather.finish(sent, &mut rest);
            let left: Vec<u8> = rest.slices(usize::MAX).iter().flat_map(|s| s.to_vec()).collect();
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

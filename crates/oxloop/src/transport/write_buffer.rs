//! Bytes waiting to be sent: a queue which owns its pieces (pure).

use crate::memory::copied;
use std::collections::{TryReserveError, VecDeque};
use std::io::IoSlice;

/// One piece of a write buffer.
#[derive(Debug)]
enum Piece<B> {
    /// Copied bytes; neighbours are joined.
    Copied(Vec<u8>),
    /// Kept without a copy (an immutable `bytes` object).
    Kept(B),
}

impl<B: AsRef<[u8]>> Piece<B> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Copied(bytes) => bytes,
            Piece::Kept(bytes) => bytes.as_ref(),
        }
    }
}

/// A piece up to this size is copied behind its neighbour: a system call's vector entry, an
/// allocation and a reference cost more than moving so few bytes.
pub const COPY_LIMIT: usize = 2048;

/// A first-in-first-out queue of bytes.
///
/// `push_*` at the end, [`slices`](Self::slices) shows what to send next, and
/// [`consume`](Self::consume) takes what was sent off the front.
#[derive(Debug)]
pub struct WriteBuffer<B> {
    pieces: VecDeque<Piece<B>>,
    /// How much of the first piece has been sent already.
    sent: usize,
    len: usize,
}

impl<B> Default for WriteBuffer<B> {
    fn default() -> WriteBuffer<B> {
        WriteBuffer { pieces: VecDeque::new(), sent: 0, len: 0 }
    }
}

impl<B: AsRef<[u8]>> WriteBuffer<B> {
    /// Bytes that wait to be sent.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy of `bytes`.
    ///
    /// # Errors
    /// There is no memory; nothing was appended.
    pub fn push_copy(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        match self.pieces.back_mut() {
            Some(Piece::Copied(last)) if last.len() + bytes.len() <= 16 * COPY_LIMIT => {
                last.try_reserve(bytes.len())?;
                last.extend_from_slice(bytes);
            }
            _ if bytes.is_empty() => {}
            _ => {
                self.pieces.try_reserve(1)?;
                self.pieces.push_back(Piece::Copied(copied(bytes)?));
            }
        }
        self.len += bytes.len();
        Ok(())
    }

    /// Appends `bytes` without copying them, from `offset` on.
    ///
    /// Only the first piece can have been sent in part: with other pieces waiting, `offset` is 0.
    ///
    /// # Errors
    /// There is no memory; nothing was appended.
    pub fn push_kept(&mut self, bytes: B, offset: usize) -> Result<(), TryReserveError> {
        let len = bytes.as_ref().len();
        if self.is_empty() && offset < len {
            self.pieces.clear();
            self.pieces.try_reserve(1)?;
            self.pieces.push_back(Piece::Kept(bytes));
            (self.sent, self.len) = (offset, len - offset);
        } else if offset == 0 && len > 0 {
            self.pieces.try_reserve(1)?;
            self.pieces.push_back(Piece::Kept(bytes));
            self.len += len;
        } else if offset < len {
            self.push_copy(&bytes.as_ref()[offset..])?;
        }
        Ok(())
    }

    /// Takes back what was appended behind the first `len` bytes. Pieces are kept or dropped whole.
    pub fn truncate(&mut self, len: usize) {
        while self.len > len {
            let more = self.len - len;
            match self.pieces.back_mut() {
                Some(Piece::Copied(last)) if last.len() > more => {
                    last.truncate(last.len() - more);
                    self.len = len;
                }
                Some(last) => {
                    self.len -= last.bytes().len().min(self.len);
                    self.pieces.pop_back();
                }
                None => return,
            }
        }
    }

    /// The waiting bytes in order, at most `limit` slices of them.
    ///
    /// # Errors
    /// There is no memory for that; [`first`](Self::first) needs none.
    pub fn slices(&self, limit: usize) -> Result<Vec<IoSlice<'_>>, TryReserveError> {
        let mut slices = Vec::new();
        slices.try_reserve_exact(limit.min(self.pieces.len()))?;
        let mut skip = self.sent;
        slices.extend(
            self.pieces
                .iter()
                .take(limit)
                .map(|piece| IoSlice::new(&piece.bytes()[std::mem::take(&mut skip)..])),
        );
        Ok(slices)
    }

    /// The waiting bytes if they are one slice: no vector is needed to send them.
    pub fn single(&self) -> Option<&[u8]> {
        (self.pieces.len() == 1).then(|| self.first())
    }

    /// The first of the slices.
    pub fn first(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece.bytes()[self.sent..])
    }

    /// Drops `count` bytes from the front; the pieces sent whole are freed.
    pub fn consume(&mut self, count: usize) {
        let mut count = count.min(self.len);
        self.len -= count;
        while let Some(first) = self.pieces.front() {
            let left = first.bytes().len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::with_allocations;
    use proptest::prelude::*;

    proptest! {
        /// Nothing lost, nothing doubled, order kept, whatever is pushed, taken back and sent in
        /// between; what there is no memory for changes nothing.
        #[test]
        fn is_a_queue_of_bytes(steps in prop::collection::vec(
            (0u8..6, prop::collection::vec(any::<u8>(), 0..50), 0usize..60, 0usize..4), 0..100,
        )) {
            let mut buffer = WriteBuffer::<Vec<u8>>::default();
            let mut model: VecDeque<u8> = VecDeque::new();
            for (kind, bytes, number, memory) in steps {
                let memory = if memory < 3 { memory } else { usize::MAX };
                let before = buffer.len();
                match kind {
                    0 | 1 => {
                        let push = || buffer.push_copy(&bytes);
                        if with_allocations(memory, push).is_ok() {
                            model.extend(&bytes);
                        } else {
                            prop_assert!(memory < 3);
                        }
                    }
                    2 | 3 => {
                        let offset = number.min(bytes.len());
                        let kept = bytes.clone();
                        let push = || buffer.push_kept(kept, offset);
                        if with_allocations(memory, push).is_ok() {
                            model.extend(&bytes[offset..]);
                        } else {
                            prop_assert!(memory < 3);
                        }
                    }
                    _ => {
                        buffer.consume(number);
                        model.drain(..number.min(model.len()));
                    }
                }
                if kind % 2 == 1 && buffer.len() > before && before > 0 {
                    buffer.truncate(before);
                    model.truncate(before);
                }
                let seen: Vec<u8> =
                    buffer.slices(usize::MAX).unwrap().iter().flat_map(|s| s.to_vec()).collect();
                prop_assert_eq!(&seen, &Vec::from(model.clone()));
                prop_assert_eq!(buffer.len(), model.len());
                prop_assert!(seen.starts_with(buffer.first()));
                if let Some(single) = buffer.single() {
                    prop_assert_eq!(single, &seen[..]);
                }
            }
        }
    }
}

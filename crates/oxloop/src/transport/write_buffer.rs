//! Bytes waiting to be sent: a queue which owns its pieces (pure).

use std::collections::VecDeque;
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
    pub fn push_copy(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Copied(last)) if last.len() + bytes.len() <= 16 * COPY_LIMIT => {
                last.extend_from_slice(bytes);
            }
            _ if bytes.is_empty() => {}
            _ => self.pieces.push_back(Piece::Copied(bytes.to_vec())),
        }
    }

    /// Appends `bytes` without copying them, from `offset` on.
    ///
    /// Only the first piece can have been sent in part: with other pieces waiting, `offset` is 0.
    pub fn push_kept(&mut self, bytes: B, offset: usize) {
        let len = bytes.as_ref().len();
        if self.is_empty() && offset < len {
            self.pieces.clear();
            self.pieces.push_back(Piece::Kept(bytes));
            (self.sent, self.len) = (offset, len - offset);
        } else if offset == 0 && len > 0 {
            self.pieces.push_back(Piece::Kept(bytes));
            self.len += len;
        } else if offset < len {
            self.push_copy(&bytes.as_ref()[offset..]);
        }
    }

    /// The waiting bytes in order, at most `limit` slices of them.
    pub fn slices(&self, limit: usize) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        self.pieces
            .iter()
            .take(limit)
            .map(|piece| IoSlice::new(&piece.bytes()[std::mem::take(&mut skip)..]))
            .collect()
    }

    /// The waiting bytes if they are one slice: no vector is needed to send them.
    pub fn single(&self) -> Option<&[u8]> {
        (self.pieces.len() == 1).then(|| &self.pieces[0].bytes()[self.sent..])
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
    use proptest::prelude::*;

    proptest! {
        /// Nothing lost, nothing doubled, order kept, whatever is pushed and sent in between.
        #[test]
        fn is_a_queue_of_bytes(steps in prop::collection::vec(
            (0u8..4, prop::collection::vec(any::<u8>(), 0..50), 0usize..60), 0..100,
        )) {
            let mut buffer = WriteBuffer::<Vec<u8>>::default();
            let mut model: VecDeque<u8> = VecDeque::new();
            for (kind, bytes, number) in steps {
                match kind {
                    0 => {
                        buffer.push_copy(&bytes);
                        model.extend(&bytes);
                    }
                    1 => {
                        let offset = number.min(bytes.len());
                        model.extend(&bytes[offset..]);
                        buffer.push_kept(bytes, offset);
                    }
                    _ => {
                        buffer.consume(number);
                        model.drain(..number.min(model.len()));
                    }
                }
                let seen: Vec<u8> =
                    buffer.slices(usize::MAX).iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert_eq!(&seen, &Vec::from(model.clone()));
                prop_assert_eq!(buffer.len(), model.len());
                if let Some(single) = buffer.single() {
                    prop_assert_eq!(single, &seen[..]);
                }
            }
        }
    }
}

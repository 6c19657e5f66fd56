//! An engine, and what waits on both of its sides.

use super::engine::{Decrypted, TlsEngine};
use super::layer::Progress;
use crate::error::Error;
use crate::event_loop::owned::{Home, Owned};
use crate::memory::{append, copied};
use crate::transport::Payload;
use crate::transport::gather::Data;
use bytes::{Buf, Bytes};
use std::cell::Cell;
use std::collections::{TryReserveError, VecDeque};
use std::io::{self, IoSlice};

/// Ciphertext that has just come in and lies in the loop's buffer: what an engine does not take at
/// once is kept.
pub(crate) type Fresh<'a> = &'a Cell<&'a [u8]>;

/// A TLS engine between a transport and an application.
pub(super) struct Wire<E> {
    pub(super) engine: E,
    /// Ciphertext that the engine did not take yet.
    incoming: Kept,
    /// Plain text that it did not take yet.
    backlog: VecDeque<Owned<Bytes>>,
    backlog_size: usize,
}

/// Bytes that are added behind and taken in front.
struct Kept {
    bytes: Vec<u8>,
    start: usize,
}

impl Kept {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn advance(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            // A burst is over: its memory is not needed any more.
            *self = Kept { bytes: Vec::new(), start: 0 };
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), TryReserveError> {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        append(&mut self.bytes, bytes)
    }
}

/// Why what was written is not encrypted.
#[derive(Debug, PartialEq)]
pub(super) enum Unwritten<E> {
    /// The engine has failed.
    Engine(E),
    /// There is no memory to keep it in.
    NoMemory,
}

impl<E> From<TryReserveError> for Unwritten<E> {
    fn from(_: TryReserveError) -> Unwritten<E> {
        Unwritten::NoMemory
    }
}

impl<E: Into<Error>> From<Unwritten<E>> for Error {
    fn from(unwritten: Unwritten<E>) -> Error {
        match unwritten {
            Unwritten::Engine(error) => error.into(),
            Unwritten::NoMemory => io::Error::from(io::ErrorKind::OutOfMemory).into(),
        }
    }
}

impl<E: TlsEngine> Wire<E> {
    /// An engine, and the first ciphertext for it.
    pub(super) fn new(engine: E, received: &[u8]) -> Wire<E> {
        let incoming = Kept { bytes: received.to_vec(), start: 0 };
        Wire { engine, incoming, backlog: VecDeque::new(), backlog_size: 0 }
    }

    /// Feeds the engine; false where there is nothing for it, or it takes nothing.
    fn supply(&mut self, fresh: Fresh<'_>) -> bool {
        let kept = self.engine.feed(self.incoming.unread());
        self.incoming.advance(kept);
        if !self.incoming.unread().is_empty() {
            return kept > 0;
        }
        let data = fresh.get();
        let taken = self.engine.feed(data);
        fresh.set(&data[taken..]);
        kept + taken > 0
    }

    /// Keeps what came in and was not taken.
    pub(super) fn keep(&mut self, fresh: Fresh<'_>) -> Result<(), TryReserveError> {
        match fresh.replace(&[]) {
            [] => Ok(()),
            rest => self.incoming.push(rest),
        }
    }

    /// Ciphertext, and decrypted data, that were not read yet, bytes.
    pub(super) fn incoming(&self, fresh: Fresh<'_>) -> usize {
        self.incoming.unread().len() + fresh.get().len() + self.engine.unread()
    }

    /// What was written and not given out yet, bytes.
    pub(super) fn outgoing(&self) -> usize {
        self.engine.pending() + self.backlog_size
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn handshake(&mut self, fresh: Fresh<'_>) -> Result<Progress, E::Error> {
        loop {
            if self.engine.handshake()? == Progress::Done || !self.supply(fresh) {
                return self.engine.handshake();
            }
        }
    }

    pub(super) fn unwrap(&mut self, fresh: Fresh<'_>) -> Result<Progress, E::Error> {
        loop {
            if self.engine.unwrap()? == Progress::Done || !self.supply(fresh) {
                return self.engine.unwrap();
            }
        }
    }

    /// Decrypts into `room` as much as there is, and says how that ended: by a full room with
    /// `Ok(None)`.
    pub(super) fn fill(
        &mut self,
        fresh: Fresh<'_>,
        room: &mut [u8],
    ) -> (usize, Result<Option<Decrypted>, E::Error>) {
        let mut filled = 0;
        while filled < room.len() {
            match self.engine.read(&mut room[filled..]) {
                Ok(Decrypted::Data(count)) => filled += count,
                Ok(Decrypted::Again) if self.supply(fresh) => {}
                Ok(Decrypted::CloseNotify) => {
                    // Nothing that comes after it is anybody's.
                    self.incoming = Kept { bytes: Vec::new(), start: 0 };
                    fresh.set(&[]);
                    return (filled, Ok(Some(Decrypted::CloseNotify)));
                }
                end => return (filled, end.map(Some)),
            }
        }
        (filled, Ok(None))
    }

    /// Encrypts what is written; what the engine does not take is kept, and all of it where the
    /// session is not `ready`.
    pub(super) fn write(
        &mut self,
        pieces: &[Payload<'_>],
        ready: bool,
    ) -> Result<(), Unwritten<E::Error>> {
        let mut taken = 0;
        if ready && self.backlog.is_empty() {
            let written = match pieces {
                [piece] => self.engine.write(&[IoSlice::new(piece.bytes())]),
                pieces => {
                    let mut slices = Vec::new();
                    slices.try_reserve_exact(pieces.len())?;
                    slices.extend(pieces.iter().map(|piece| IoSlice::new(piece.bytes())));
                    self.engine.write(&slices)
                }
            };
            taken = written.map_err(Unwritten::Engine)?;
        }
        for piece in pieces {
            let bytes = piece.bytes();
            let skip = taken.min(bytes.len());
            taken -= skip;
            if skip < bytes.len() {
                self.backlog.try_reserve(1)?;
                let kept = match piece.keep() {
                    Some(mut kept) => {
                        kept.get_mut().into_iter().for_each(|kept| kept.advance(skip));
                        kept
                    }
                    None => Owned::new(Home::NONE, copied(&bytes[skip..])?.into()),
                };
                self.backlog_size += bytes.len() - skip;
                self.backlog.push_back(kept);
            }
        }
        Ok(())
    }

    /// Encrypts what was kept, as far as the engine takes it.
    pub(super) fn push(&mut self) -> Result<(), E::Error> {
        while let Some(first) = self.backlog.front_mut().and_then(Owned::get_mut) {
            let taken = self.engine.write(&[IoSlice::new(first)])?;
            self.backlog_size -= taken;
            first.advance(taken);
            if !first.is_empty() {
                break;
            }
            self.backlog.pop_front();
        }
        Ok(())
    }

    /// Gives up all that waits. What was written is dropped by the caller, under no lock.
    #[must_use]
    pub(super) fn clear(&mut self) -> VecDeque<Owned<Bytes>> {
        self.incoming = Kept { bytes: Vec::new(), start: 0 };
        self.backlog_size = 0;
        drop(self.engine.take());
        std::mem::take(&mut self.backlog)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encrypts by doing nothing, and takes as little at once as it is told to. 0 is a closing
    /// alert.
    #[derive(Default)]
    struct Narrow {
        limits: Vec<usize>,
        turn: usize,
        plain: VecDeque<u8>,
        ended: bool,
        out: Vec<u8>,
    }

    impl Narrow {
        fn limit(&mut self) -> usize {
            self.turn += 1;
            self.limits.get(self.turn % self.limits.len().max(1)).copied().unwrap_or(usize::MAX)
        }
    }

    impl TlsEngine for Narrow {
        type Error = ();

        fn feed(&mut self, ciphertext: &[u8]) -> usize {
            let room = if self.ended { 0 } else { self.limit().saturating_sub(self.plain.len()) };
            let taken = ciphertext.len().min(room);
            for byte in &ciphertext[..taken] {
                self.ended |= *byte == 0;
                if !self.ended {
                    self.plain.push_back(*byte);
                }
            }
            taken
        }

        fn handshake(&mut self) -> Result<Progress, ()> {
            Ok(if self.plain.is_empty() { Progress::Again } else { Progress::Done })
        }

        fn read(&mut self, room: &mut [u8]) -> Result<Decrypted, ()> {
            let count = room.len().min(self.plain.len());
            room[..count]
                .iter_mut()
                .zip(self.plain.drain(..count))
                .for_each(|(to, from)| *to = from);
            Ok(match (count, self.ended) {
                (0, true) => Decrypted::CloseNotify,
                (0, false) => Decrypted::Again,
                (count, _) => Decrypted::Data(count),
            })
        }

        fn write(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, ()> {
            let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let taken = all.len().min(self.limit());
            self.out.extend(&all[..taken]);
            Ok(taken)
        }

        fn unwrap(&mut self) -> Result<Progress, ()> {
            match (self.plain.is_empty(), self.ended) {
                (false, _) => Err(()),
                (true, true) => Ok(Progress::Done),
                (true, false) => Ok(Progress::Again),
            }
        }

        fn unread(&self) -> usize {
            self.plain.len()
        }

        fn pending(&self) -> usize {
            self.out.len()
        }

        fn take(&mut self) -> Vec<u8> {
            std::mem::take(&mut self.out)
        }
    }

    fn wire(limits: Vec<usize>) -> Wire<Narrow> {
        Wire::new(Narrow { limits, ..Narrow::default() }, &[])
    }

    proptest! {
        /// What comes in is read once and in order, however little the engine takes and the reader
        /// has room for, and is counted until then.
        #[test]
        fn nothing_that_comes_in_is_lost(
            limits in prop::collection::vec(1usize..9, 1..5),
            steps in prop::collection::vec((prop::collection::vec(1u8.., 0..30), 0usize..20), 0..30),
        ) {
            let mut wire = wire(limits);
            let (mut sent, mut seen) = (Vec::new(), Vec::<u8>::new());
            for (data, room) in steps {
                sent.extend(&data);
                let fresh = Cell::new(&data[..]);
                let mut room = vec![0; room];
                let (filled, end) = wire.fill(&fresh, &mut room);
                seen.extend(&room[..filled]);
                prop_assert_eq!(wire.incoming(&fresh), sent.len() - seen.len());
                match end {
                    Ok(None) => prop_assert_eq!(filled, room.len()),
                    end => prop_assert_eq!(end, Ok(Some(Decrypted::Again))),
                }
                wire.keep(&fresh).unwrap();
                prop_assert_eq!(fresh.get(), b"");
            }
            let mut room = vec![0; sent.len() + 1];
            let (filled, _) = wire.fill(&Cell::new(&[]), &mut room);
            seen.extend(&room[..filled]);
            prop_assert_eq!(seen, sent);
        }

        /// What is written leaves once and in order, and is counted until then.
        #[test]
        fn nothing_that_is_written_is_lost(
            limits in prop::collection::vec(1usize..9, 1..5),
            steps in prop::collection::vec(
                (prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..4), 0u8..4),
                0..30,
            ),
        ) {
            let mut wire = wire(limits);
            let (mut written, mut left) = (Vec::<u8>::new(), Vec::new());
            for (pieces, kind) in steps {
                written.extend(pieces.concat());
                let pieces: Vec<Payload<'_>> = match kind % 2 {
                    0 => pieces.iter().map(Payload::from).collect(),
                    _ => pieces.into_iter().map(Payload::from).collect(),
                };
                wire.write(&pieces, kind < 2).unwrap();
                prop_assert_eq!(wire.outgoing(), written.len() - left.len());
                wire.push().unwrap();
                left.extend(wire.engine.take());
                prop_assert_eq!(wire.outgoing(), written.len() - left.len());
                prop_assert_eq!(wire.has_backlog(), wire.outgoing() > 0);
            }
            while wire.has_backlog() {
                wire.push().unwrap();
            }
            left.extend(wire.engine.take());
            prop_assert_eq!(left, written);
        }
    }

    #[test]
    fn nothing_comes_after_the_closing_alert() {
        let mut wire = wire(vec![2]);
        let fresh = Cell::new(&b"abc\0def"[..]);
        let mut room = [0; 20];
        let (filled, end) = wire.fill(&fresh, &mut room);
        assert_eq!((&room[..filled], end), (&b"abc"[..], Ok(Some(Decrypted::CloseNotify))));
        assert_eq!(wire.incoming(&fresh), 0);
        assert_eq!(wire.unwrap(&fresh), Ok(Progress::Done));
    }

    #[test]
    fn steps_take_what_they_need() {
        let mut wire = wire(vec![1]);
        assert_eq!(wire.handshake(&Cell::new(&[])), Ok(Progress::Again));
        let fresh = Cell::new(&b"ab"[..]);
        assert_eq!(wire.handshake(&fresh), Ok(Progress::Done));
        assert_eq!(fresh.get(), b"b");
        assert_eq!(wire.unwrap(&fresh), Err(()), "data after the end");
        drop(wire.clear());
        assert_eq!(wire.outgoing(), 0);
    }
}

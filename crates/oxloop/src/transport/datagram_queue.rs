//! Datagrams waiting to be sent: a queue which owns them (pure).

use crate::memory::copied;
use std::collections::{TryReserveError, VecDeque};

/// One datagram and where it goes.
#[derive(Debug)]
pub struct Datagram<B, A> {
    data: Kept<B>,
    /// Its destination.
    pub to: A,
}

#[derive(Debug)]
enum Kept<B> {
    Copied(Vec<u8>),
    /// Kept without a copy (an immutable `bytes` object).
    Shared(B),
}

impl<B: AsRef<[u8]>, A> Datagram<B, A> {
    /// A datagram which shares its bytes.
    pub fn shared(data: B, to: A) -> Datagram<B, A> {
        Datagram { data: Kept::Shared(data), to }
    }

    /// A datagram with a copy of `data`.
    ///
    /// # Errors
    /// There is no memory for the copy.
    pub fn copied(data: &[u8], to: A) -> Result<Datagram<B, A>, TryReserveError> {
        Ok(Datagram { data: Kept::Copied(copied(data)?), to })
    }

    /// What it carries; it may be nothing.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Kept::Copied(bytes) => bytes,
            Kept::Shared(bytes) => bytes.as_ref(),
        }
    }
}

/// A first-in-first-out queue of datagrams, each sent as a whole or not at all.
#[derive(Debug)]
pub struct DatagramQueue<B, A> {
    datagrams: VecDeque<Datagram<B, A>>,
    /// What a datagram counts for beside its bytes.
    header: usize,
    size: usize,
}

impl<B: AsRef<[u8]>, A> DatagramQueue<B, A> {
    /// An empty queue which counts `header` bytes for each datagram beside its own.
    pub fn new(header: usize) -> DatagramQueue<B, A> {
        DatagramQueue { datagrams: VecDeque::new(), header, size: 0 }
    }

    /// How many datagrams wait.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes that wait, headers included (`get_write_buffer_size`).
    pub fn size(&self) -> usize {
        self.size
    }

    /// Makes sure that the next [`push`](Self::push) needs no memory, nor a
    /// [`push_front`](Self::push_front) after it.
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.datagrams.try_reserve(2)
    }

    /// Appends a datagram; [`reserve`](Self::reserve) first.
    pub fn push(&mut self, datagram: Datagram<B, A>) {
        self.size += datagram.bytes().len() + self.header;
        self.datagrams.push_back(datagram);
    }

    /// Puts back the one that [`pop`](Self::pop) took. Its place was kept for it.
    pub fn push_front(&mut self, datagram: Datagram<B, A>) {
        self.size += datagram.bytes().len() + self.header;
        self.datagrams.push_front(datagram);
    }

    /// Takes the first one.
    pub fn pop(&mut self) -> Option<Datagram<B, A>> {
        let datagram = self.datagrams.pop_front()?;
        self.size -= datagram.bytes().len() + self.header;
        Some(datagram)
    }

    /// All that wait, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &Datagram<B, A>> {
        self.datagrams.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::without_memory;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>, bool),
        Pop,
        PutBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (prop::collection::vec(any::<u8>(), 0..40), any::<bool>())
                .prop_map(|(data, shared)| Step::Push(data, shared)),
            2 => Just(Step::Pop),
            1 => Just(Step::PutBack),
        ]
    }

    proptest! {
        /// Whatever is done to it, the queue holds the datagrams in order, whole and each to its
        /// own place, and its size is what they add up to. One that there is no memory for changes
        /// nothing; for one that is put back there always is.
        #[test]
        fn is_a_queue(
            header in 0usize..10,
            steps in prop::collection::vec((step(), any::<bool>()), 0..100),
        ) {
            let mut queue: DatagramQueue<Vec<u8>, usize> = DatagramQueue::new(header);
            let mut model: VecDeque<(Vec<u8>, usize)> = VecDeque::new();
            for (number, (step, memory)) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(data, shared) => {
                        let datagram = if shared {
                            Datagram::shared(data.clone(), number)
                        } else {
                            let copied = without_memory(|| Datagram::copied(&data, number));
                            let failed: Result<Datagram<Vec<u8>, _>, _> = copied;
                            prop_assert_eq!(failed.is_err(), !data.is_empty());
                            Datagram::copied(&data, number).unwrap()
                        };
                        let mut reserve = || queue.reserve();
                        let reserved = if memory { reserve() } else { without_memory(reserve) };
                        prop_assert!(reserved.is_ok() || !memory);
                        if reserved.is_ok() {
                            without_memory(|| queue.push(datagram));
                            model.push_back((data, number));
                        }
                    }
                    Step::Pop => {
                        let popped = queue.pop().map(|one| (one.bytes().to_vec(), one.to));
                        prop_assert_eq!(popped, model.pop_front());
                    }
                    Step::PutBack => {
                        if let Some(datagram) = queue.pop() {
                            // Others may have come meanwhile.
                            if queue.reserve().is_ok() {
                                queue.push(Datagram::shared(Vec::new(), number));
                                model.push_back((Vec::new(), number));
                            }
                            without_memory(|| queue.push_front(datagram));
                        }
                    }
                }
                let held: Vec<_> = queue.iter().map(|one| (one.bytes().to_vec(), one.to)).collect();
                prop_assert_eq!(&held, &Vec::from(model.clone()));
                let size: usize = model.iter().map(|(data, _)| data.len() + header).sum();
                prop_assert_eq!(queue.size(), size);
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}

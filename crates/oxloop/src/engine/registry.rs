//! Sources by token: slots are reused, tokens are not (pure).

use std::collections::TryReserveError;
use std::num::NonZeroU32;

/// Names a source: its slot, and which of the slot's tenants it is. An event for a source that
/// is gone never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    slot: u32,
    /// Never 0, so no token's bits are 0.
    tenancy: NonZeroU32,
}

impl Token {
    /// The token as the selector carries it.
    pub fn to_bits(self) -> u64 {
        u64::from(self.tenancy.get()) << 32 | u64::from(self.slot)
    }

    /// The reverse of [`to_bits`](Self::to_bits); `None` for what is no token's.
    pub fn from_bits(bits: u64) -> Option<Token> {
        Some(Token { slot: bits as u32, tenancy: NonZeroU32::new((bits >> 32) as u32)? })
    }
}

#[derive(Debug)]
enum Slot<T> {
    Taken(NonZeroU32, T),
    /// Free, and so is the next one named, if there is one.
    Free(Option<u32>),
}

/// A table of sources.
#[derive(Debug)]
pub struct Registry<T> {
    slots: Vec<Slot<T>>,
    /// The first free slot, if there is one.
    free: Option<u32>,
    /// The latest one. After 2^32 sources it begins anew: a token that comes back by then is told
    /// from those of living sources by its slot, as a slot has one tenant at a time.
    tenancy: NonZeroU32,
}

impl<T> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry { slots: Vec::new(), free: None, tenancy: NonZeroU32::MAX }
    }
}

impl<T> Registry<T> {
    /// Makes sure that the next [`insert`](Self::insert) needs no memory.
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        match self.free {
            Some(_) => Ok(()),
            None => self.slots.try_reserve(1),
        }
    }

    /// Adds a source; [`reserve`](Self::reserve) first.
    pub fn insert(&mut self, source: T) -> Token {
        self.tenancy = self.tenancy.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let taken = Slot::Taken(self.tenancy, source);
        let slot = match self.free {
            Some(slot) => {
                let free = std::mem::replace(&mut self.slots[slot as usize], taken);
                self.free = if let Slot::Free(next) = free { next } else { None };
                slot
            }
            None => {
                self.slots.push(taken);
                (self.slots.len() - 1) as u32
            }
        };
        Token { slot, tenancy: self.tenancy }
    }

    /// The source, unless it was removed.
    pub fn get(&self, token: Token) -> Option<&T> {
        match self.slots.get(token.slot as usize) {
            Some(Slot::Taken(tenancy, source)) if *tenancy == token.tenancy => Some(source),
            _ => None,
        }
    }

    /// The source, unless it was removed.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.slots.get_mut(token.slot as usize) {
            Some(Slot::Taken(tenancy, source)) if *tenancy == token.tenancy => Some(source),
            _ => None,
        }
    }

    /// Takes a source out.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        let slot = self.slots.get_mut(token.slot as usize)?;
        let old = std::mem::replace(slot, Slot::Free(self.free.replace(token.slot)));
        if let Slot::Taken(_, source) = old { Some(source) } else { None }
    }

    /// All sources with their tokens.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, content)| match content {
            Slot::Taken(tenancy, source) => {
                Some((Token { slot: slot as u32, tenancy: *tenancy }, source))
            }
            Slot::Free(_) => None,
        })
    }

    /// The first source behind `last` (from the start on if `None`): how all are visited while they
    /// come and go.
    pub fn next(&self, last: Option<Token>) -> Option<Token> {
        let from = last.map_or(0, |last| last.slot as usize + 1);
        self.slots.iter().enumerate().skip(from).find_map(|(slot, content)| match content {
            Slot::Taken(tenancy, _) => Some(Token { slot: slot as u32, tenancy: *tenancy }),
            Slot::Free(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::without_memory;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// A token finds its own source or nothing, however the slots are reused; also where the
        /// tenancies begin anew in between. A source that there is no memory for leaves the others
        /// as they are.
        #[test]
        fn tokens_are_never_reused(
            before_the_end in 0u32..60,
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..40), 0..200)
        ) {
            let tenancy = NonZeroU32::MAX.get() - before_the_end;
            let tenancy = NonZeroU32::new(tenancy).unwrap_or(NonZeroU32::MIN);
            let mut registry = Registry { tenancy, ..Registry::default() };
            let mut live: HashMap<u64, usize> = HashMap::new();
            let mut all = Vec::new();
            for (number, (insert, memory, index)) in steps.into_iter().enumerate() {
                if insert {
                    let mut reserve = || registry.reserve();
                    let reserved = if memory { reserve() } else { without_memory(reserve) };
                    prop_assert!(reserved.is_ok() || !memory);
                    if reserved.is_ok() {
                        let token = without_memory(|| registry.insert(number));
                        prop_assert_ne!(token.to_bits(), 0, "the waker's");
                        prop_assert!(live.insert(token.to_bits(), number).is_none());
                        all.push(token);
                    }
                } else if !all.is_empty() {
                    let token = all[index % all.len()];
                    prop_assert_eq!(registry.remove(token), live.remove(&token.to_bits()));
                }
                for token in &all {
                    let back = Token::from_bits(token.to_bits());
                    prop_assert_eq!(back, Some(*token));
                    prop_assert_eq!(registry.get(*token), live.get(&token.to_bits()));
                }
                let listed: Vec<Token> = registry.iter().map(|(token, _)| token).collect();
                prop_assert_eq!(listed.len(), live.len());
                let visited = std::iter::successors(registry.next(None), |last| {
                    registry.next(Some(*last))
                });
                prop_assert_eq!(visited.collect::<Vec<_>>(), listed);
            }
        }
    }
}

//! Sources by token: slots are reused, tokens are not (pure).

use slab::Slab;

/// Names a source: its slot, and which of the slot's tenants it is. An event for a source that
/// is gone never reaches its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    slot: u32,
    tenancy: u32,
}

impl Token {
    /// The token as the selector carries it.
    pub fn to_bits(self) -> u64 {
        u64::from(self.tenancy) << 32 | u64::from(self.slot)
    }

    /// The reverse of [`to_bits`](Self::to_bits).
    pub fn from_bits(bits: u64) -> Token {
        Token { slot: bits as u32, tenancy: (bits >> 32) as u32 }
    }
}

/// A table of sources.
#[derive(Debug)]
pub struct Registry<T> {
    slots: Slab<(u32, T)>,
    tenancy: u32,
}

impl<T> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry { slots: Slab::new(), tenancy: 0 }
    }
}

impl<T> Registry<T> {
    /// Takes a source in.
    pub fn insert(&mut self, source: T) -> Token {
        self.tenancy = self.tenancy.wrapping_add(1);
        let slot = self.slots.insert((self.tenancy, source)) as u32;
        Token { slot, tenancy: self.tenancy }
    }

    /// The source, unless it was removed.
    pub fn get(&self, token: Token) -> Option<&T> {
        match self.slots.get(token.slot as usize) {
            Some((tenancy, source)) if *tenancy == token.tenancy => Some(source),
            _ => None,
        }
    }

    /// The source, unless it was removed.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.slots.get_mut(token.slot as usize) {
            Some((tenancy, source)) if *tenancy == token.tenancy => Some(source),
            _ => None,
        }
    }

    /// Takes a source out.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        Some(self.slots.remove(token.slot as usize).1)
    }

    /// All sources with their tokens.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().map(|(slot, (tenancy, source))| {
            (Token { slot: slot as u32, tenancy: *tenancy }, source)
        })
    }

    /// How many sources there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// A token finds its own source or nothing, however the slots are reused.
        #[test]
        fn tokens_are_never_reused(steps in prop::collection::vec((any::<bool>(), 0usize..40), 0..200)) {
            let mut registry = Registry::default();
            let mut live: HashMap<u64, usize> = HashMap::new();
            let mut all = Vec::new();
            for (number, (insert, index)) in steps.into_iter().enumerate() {
                if insert {
                    let token = registry.insert(number);
                    prop_assert!(live.insert(token.to_bits(), number).is_none());
                    all.push(token);
                } else if !all.is_empty() {
                    let token = all[index % all.len()];
                    prop_assert_eq!(registry.remove(token), live.remove(&token.to_bits()));
                }
                for token in &all {
                    let token = Token::from_bits(token.to_bits());
                    prop_assert_eq!(registry.get(token), live.get(&token.to_bits()));
                }
                prop_assert_eq!(registry.len(), live.len());
            }
        }
    }
}

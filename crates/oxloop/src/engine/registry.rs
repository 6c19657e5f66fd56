//! Sources by token: slots are reused, tokens are not (pure).

use slab::Slab;
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

/// A table of sources.
#[derive(Debug)]
pub struct Registry<T> {
    slots: Slab<(NonZeroU32, T)>,
    /// The latest one. After 2^32 sources it begins anew: a token that comes back by then is told
    /// from those of living sources by its slot, as a slot has one tenant at a time.
    tenancy: NonZeroU32,
}

impl<T> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry { slots: Slab::new(), tenancy: NonZeroU32::MAX }
    }
}

impl<T> Registry<T> {
    /// Takes a source in.
    pub fn insert(&mut self, source: T) -> Token {
        self.tenancy = self.tenancy.checked_add(1).unwrap_or(NonZeroU32::MIN);
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
        /// A token finds its own source or nothing, however the slots are reused; also where the
        /// tenancies begin anew in between.
        #[test]
        fn tokens_are_never_reused(
            before_the_end in 0u32..60,
            steps in prop::collection::vec((any::<bool>(), 0usize..40), 0..200),
        ) {
            let tenancy = NonZeroU32::MAX.get() - before_the_end;
            let tenancy = NonZeroU32::new(tenancy).unwrap_or(NonZeroU32::MIN);
            let mut registry = Registry { slots: Slab::new(), tenancy };
            let mut live: HashMap<u64, usize> = HashMap::new();
            let mut all = Vec::new();
            for (number, (insert, index)) in steps.into_iter().enumerate() {
                if insert {
                    let token = registry.insert(number);
                    prop_assert_ne!(token.to_bits(), 0, "the waker's");
                    prop_assert!(live.insert(token.to_bits(), number).is_none());
                    all.push(token);
                } else if !all.is_empty() {
                    let token = all[index % all.len()];
                    prop_assert_eq!(registry.remove(token), live.remove(&token.to_bits()));
                }
                for token in &all {
                    let back = Token::from_bits(token.to_bits());
                    prop_assert_eq!(back, Some(*token));
                    prop_assert_eq!(registry.get(*token), live.get(&token.to_bits()));
                }
                prop_assert_eq!(registry.len(), live.len());
            }
        }
    }
}

//! How the engine holds the handler of a stream or an endpoint.

use super::Handler;

/// A source's handler: owned only while something can happen to the source by itself, so that a
/// transport which its program has dropped is released as asyncio releases it.
pub(super) enum HandlerSlot<H: Handler> {
    /// Nobody is told any more, or not yet.
    Empty,
    /// Events are due: the engine keeps the handler's object alive.
    Owned(H),
    /// Nothing can happen: the object lives as long as its other owners let it.
    Unowned(H::Unowned),
}

impl<H: Handler> HandlerSlot<H> {
    /// The handler, for a call.
    #[inline]
    pub(super) fn get(&self) -> Option<H> {
        match self {
            HandlerSlot::Empty => None,
            HandlerSlot::Owned(handler) => Some(handler.clone()),
            HandlerSlot::Unowned(handler) => H::upgrade(handler),
        }
    }

    /// The handler that the engine keeps alive, for a collector.
    pub(super) fn owned(&self) -> Option<&H> {
        match self {
            HandlerSlot::Owned(handler) => Some(handler),
            HandlerSlot::Empty | HandlerSlot::Unowned(_) => None,
        }
    }

    /// Empties the slot. Drop the result without the lock.
    #[must_use]
    pub(super) fn take(&mut self) -> Option<H> {
        match std::mem::replace(self, HandlerSlot::Empty) {
            HandlerSlot::Owned(handler) => Some(handler),
            HandlerSlot::Empty | HandlerSlot::Unowned(_) => None,
        }
    }

    /// Owns the handler, or stops to. Drop the result without the lock.
    #[inline]
    #[must_use]
    pub(super) fn own(&mut self, active: bool) -> Option<H> {
        match self {
            HandlerSlot::Unowned(handler) if active => {
                if let Some(handler) = H::upgrade(handler) {
                    *self = HandlerSlot::Owned(handler);
                }
                None
            }
            HandlerSlot::Owned(handler) if !active => {
                let unowned = HandlerSlot::Unowned(handler.unowned()?);
                match std::mem::replace(self, unowned) {
                    HandlerSlot::Owned(handler) => Some(handler),
                    HandlerSlot::Empty | HandlerSlot::Unowned(_) => None,
                }
            }
            _ => None,
        }
    }
}

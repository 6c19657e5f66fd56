//! Allocations that may fail: whatever a caller or a peer decides the size or the number of (pure).
//!
//! Rust's own containers abort the process when memory runs out, unless room was reserved before.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

/// A copy of `bytes`.
pub fn copied(bytes: &[u8]) -> Result<Vec<u8>, TryReserveError> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

/// Appends `bytes`. If there is no memory for the usual growth, tries for as much as is needed.
#[inline]
pub fn append(vec: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TryReserveError> {
    if vec.try_reserve(bytes.len()).is_err() {
        vec.try_reserve_exact(bytes.len())?;
    }
    vec.extend_from_slice(bytes);
    Ok(())
}

/// A box, made where that may fail.
#[derive(Debug)]
pub struct TryBox<T>(Box<[T; 1]>);

impl<T> TryBox<T> {
    /// Boxes `value`; without memory it is dropped.
    pub fn new(value: T) -> Result<TryBox<T>, TryReserveError> {
        Ok(Room::new()?.fill(value))
    }

    /// What is in the box.
    pub fn into_inner(self) -> T {
        let [value] = *self.0;
        value
    }
}

impl<T> Deref for TryBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0[0]
    }
}

impl<T> DerefMut for TryBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0[0]
    }
}

/// Memory for a [`TryBox`], acquired before there is something to put into it.
#[derive(Debug)]
pub struct Room<T>(Vec<T>);

impl<T> Room<T> {
    /// Room for one value.
    pub fn new() -> Result<Room<T>, TryReserveError> {
        let mut room = Vec::new();
        room.try_reserve_exact(1)?;
        Ok(Room(room))
    }

    /// The box; allocates nothing.
    pub fn fill(self, value: T) -> TryBox<T> {
        let Room(mut room) = self;
        room.push(value);
        match room.try_into() {
            Ok(boxed) => TryBox(boxed),
            Err(_) => unreachable!("it holds the one value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::failing::without_memory;

    #[test]
    fn what_fails_takes_nothing() {
        let mut vec = copied(b"abc").unwrap();
        assert!(without_memory(|| copied(b"x")).is_err());
        assert!(without_memory(|| append(&mut vec, &[0; 100])).is_err());
        assert_eq!(vec, b"abc");
        assert!(without_memory(|| TryBox::new(1)).is_err());
    }

    #[test]
    fn a_box_is_filled_without_memory() {
        let room = Room::new().unwrap();
        let mut boxed = without_memory(|| room.fill([1, 2]));
        boxed[0] = 3;
        assert_eq!(boxed.into_inner(), [3, 2]);
    }
}

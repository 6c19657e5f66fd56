//! Memory to receive into, written to before or not.

use std::mem::MaybeUninit;

/// Memory to receive into.
#[derive(Debug)]
pub enum Room<'a> {
    /// It has been written to before.
    Written(&'a mut [u8]),
    /// Perhaps not yet.
    Fresh(&'a mut [MaybeUninit<u8>]),
}

impl<'a> Room<'a> {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self {
            Room::Written(room) => room.len(),
            Room::Fresh(room) => room.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a mut [u8]> for Room<'a> {
    fn from(room: &'a mut [u8]) -> Room<'a> {
        Room::Written(room)
    }
}

impl<'a> From<&'a mut [MaybeUninit<u8>]> for Room<'a> {
    fn from(room: &'a mut [MaybeUninit<u8>]) -> Room<'a> {
        Room::Fresh(room)
    }
}

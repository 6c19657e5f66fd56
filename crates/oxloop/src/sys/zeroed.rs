//! Memory that is zeroed when it is first touched, and not before.

use std::alloc::{Layout, alloc_zeroed};
use std::io;

/// `size` bytes of zeros. The system supplies them page by page as they are used.
pub(crate) fn zeroed(size: usize) -> io::Result<Vec<u8>> {
    let layout = Layout::array::<u8>(size).ok().filter(|layout| layout.size() > 0);
    let Some(layout) = layout else { return Ok(Vec::new()) };
    // SAFETY: the layout is not of size 0.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: allocated by the global allocator with the layout of `size` bytes, all initialised.
    Ok(unsafe { Vec::from_raw_parts(memory, size, size) })
}

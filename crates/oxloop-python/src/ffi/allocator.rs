//! Memory for the moment in which there is none.
//!
//! What a caller or a peer decides the size of is allocated where that may fail. The small things
//! around it are not: the state of a `PyErr`, which says that memory has run out, a message, a
//! boxed closure. Rust aborts the process where one of them finds no memory, so these come from a
//! reserve then.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The size of a block of the reserve, bytes: nothing larger comes from it.
const BLOCK: usize = 512;
/// Words of the map of used blocks.
const WORDS: usize = 8;
const BLOCKS: usize = WORDS * u64::BITS as usize;

#[repr(C, align(64))]
struct Block(UnsafeCell<[u8; BLOCK]>);

/// The system's allocator, and blocks of our own that are touched only once it has failed.
pub(crate) struct Reserved {
    blocks: [Block; BLOCKS],
    /// A bit for each block in use.
    used: [AtomicU64; WORDS],
}

// SAFETY: a block is used by whoever has set its bit, and by nobody else until that is cleared.
unsafe impl Sync for Reserved {}

#[global_allocator]
static ALLOCATOR: Reserved = Reserved {
    blocks: [const { Block(UnsafeCell::new([0; BLOCK])) }; BLOCKS],
    used: [const { AtomicU64::new(0) }; WORDS],
};

impl Reserved {
    #[cold]
    fn acquire(&self, layout: Layout) -> *mut u8 {
        if layout.size() > BLOCK || layout.align() > align_of::<Block>() {
            return std::ptr::null_mut();
        }
        for (index, word) in self.used.iter().enumerate() {
            let mut used = word.load(Ordering::Relaxed);
            while used != u64::MAX {
                let bit = used.trailing_ones();
                let taken = used | 1 << bit;
                match word.compare_exchange_weak(used, taken, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => {
                        let block = index * u64::BITS as usize + bit as usize;
                        return self.blocks[block].0.get().cast();
                    }
                    Err(other) => used = other,
                }
            }
        }
        std::ptr::null_mut()
    }

    /// Which block it is; `None` for the system's memory.
    #[inline]
    fn block(&self, memory: *mut u8) -> Option<usize> {
        let offset = memory.addr().wrapping_sub(self.blocks.as_ptr().addr());
        (offset < size_of_val(&self.blocks)).then_some(offset / BLOCK)
    }

    #[cold]
    fn release(&self, block: usize) {
        let bit = 1 << (block % u64::BITS as usize);
        self.used[block / u64::BITS as usize].fetch_and(!bit, Ordering::Release);
    }
}

// SAFETY: System's methods, and where they give NULL a block that is large and aligned enough and
// nobody else's.
unsafe impl GlobalAlloc for Reserved {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says.
        let memory = unsafe { System.alloc(layout) };
        if memory.is_null() { self.acquire(layout) } else { memory }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller says. Buffers are large: not from the reserve.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match self.block(memory) {
            Some(block) => self.release(block),
            // SAFETY: as the caller says; the memory is the system's.
            None => unsafe { System.dealloc(memory, layout) },
        }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.block(memory).is_none() {
            // SAFETY: as the caller says; the memory is the system's.
            let moved = unsafe { System.realloc(memory, layout, size) };
            if !moved.is_null() || size > BLOCK {
                return moved;
            }
        }
        // SAFETY: as the caller says: `size` is valid for the alignment, and so much of the old
        // memory may be read.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            moved
        }
    }
}

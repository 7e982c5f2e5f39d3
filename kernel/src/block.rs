//! Memory of ended tasks, kept for the next ones.
//!
//! A task is one allocation, and where tasks come and go, the next is usually as large as one that
//! has just ended. So a few blocks of each size are kept, the last one first, while it is warm:
//! `malloc` and `free` were a fifth of what spawning and joining a task cost.
//!
//! Builds with debug assertions keep none, so that a sanitizer sees every use of a dead task.

use std::{
    alloc::{Layout, LayoutError, alloc, dealloc, handle_alloc_error},
    ptr::NonNull,
};

/// Sizes are rounded up to so many grains, and a rest: as `malloc` does it, which keeps its own word
/// before each block. In bytes.
const GRAIN: usize = 16;
const REST: usize = 8;
/// Larger ones than this many grains are not kept.
const CLASSES: usize = 32;
/// How many blocks of one size are kept.
const KEPT: usize = if cfg!(debug_assertions) { 0 } else { 64 };

/// Blocks that are free, by their size in grains.
pub(crate) struct Blocks {
    free: [Vec<NonNull<u8>>; CLASSES],
    kept: usize,
}

/// The layout that a block for this layout has, and its class if it may be kept.
const fn class(of: Layout) -> (Layout, Option<usize>) {
    let class = of.size().saturating_sub(REST).div_ceil(GRAIN);
    match layout(class) {
        Ok(layout) if of.align() <= GRAIN && class < CLASSES => (layout, Some(class)),
        _ => (of, None),
    }
}

const fn layout(class: usize) -> Result<Layout, LayoutError> {
    Layout::from_size_align(class * GRAIN + REST, GRAIN)
}

impl Blocks {
    pub(crate) fn new() -> Blocks {
        Blocks {
            free: [const { Vec::new() }; CLASSES],
            kept: KEPT,
        }
    }

    /// A block for a value of this type, with nothing in it.
    #[inline]
    pub(crate) fn take<T>(&mut self) -> NonNull<T> {
        let (layout, class) = const { class(Layout::new::<T>()) };
        let kept = class.and_then(|class| self.free[class].pop());
        kept.unwrap_or_else(|| fresh(layout)).cast()
    }

    /// Takes a block back. False if it is not to be kept: the caller frees it.
    ///
    /// # Safety
    /// The block came from `take::<T>` of any `Blocks`, and nobody uses it any more.
    #[inline]
    pub(crate) unsafe fn keep<T>(&mut self, block: NonNull<T>) -> bool {
        match const { class(Layout::new::<T>()).1 } {
            Some(class) if self.free[class].len() < self.kept => {
                self.free[class].push(block.cast());
                true
            }
            _ => false,
        }
    }
}

#[inline(never)]
fn fresh(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "a task's cell has a header");
    // SAFETY: the size is not 0.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Frees a block.
///
/// # Safety
/// It came from [`Blocks::take`] for this type, and nobody uses it any more.
pub(crate) unsafe fn free<T>(block: NonNull<T>) {
    let (layout, _) = const { class(Layout::new::<T>()) };
    // SAFETY: `take` allocated it with the layout that `class` gives for this type.
    unsafe { dealloc(block.as_ptr().cast(), layout) }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for (class, blocks) in self.free.iter_mut().enumerate() {
            let layout = layout(class).expect("as in `class`");
            for block in blocks.drain(..) {
                // SAFETY: all blocks of this class were allocated with this layout.
                unsafe { dealloc(block.as_ptr(), layout) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_by_types_of_its_size_only() {
        let mut blocks = Blocks::new();
        blocks.kept = 1;
        let (one, other) = (blocks.take::<[u64; 5]>(), blocks.take::<[u64; 5]>());
        // SAFETY: each block goes back, or is freed, with a type of the size it was taken for.
        unsafe {
            assert!(blocks.keep(one));
            assert!(!blocks.keep(other));
            free(other);
            let larger = blocks.take::<[u64; 6]>();
            assert_ne!(larger.cast(), one);
            let again = blocks.take::<[u8; 33]>();
            assert_eq!(again.cast(), one);
            free(again);
            free(larger);
        }
    }

    #[test]
    fn what_is_large_or_widely_aligned_is_not_kept() {
        #[repr(align(64))]
        struct Wide(#[expect(dead_code)] u8);
        let mut blocks = Blocks::new();
        blocks.kept = 1;
        let (large, wide) = (blocks.take::<[u64; 1000]>(), blocks.take::<Wide>());
        assert!(wide.as_ptr().is_aligned());
        // SAFETY: as above.
        unsafe {
            assert!(!blocks.keep(large) && !blocks.keep(wide));
            free(large);
            free(wide);
        }
    }
}

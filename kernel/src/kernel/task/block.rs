//! Memory for tasks: blocks of one size are cut out of chunks.
//!
//! A task is one block. From `malloc` it would cost a fifth of what spawning and joining it does,
//! and a word more of memory; and a million tasks are spawned as fast as their memory is touched.
//! So there is a pool for each size. A chunk knows its blocks that are free, the last one first,
//! while that is warm; a pool knows its chunks that have any. A chunk of which nothing is in use
//! is given back, but for one of each pool.
//!
//! A block may be given back when its kernel is gone: whatever that needs is in the chunk.
//!
//! Builds with debug assertions have no pools, so that a sanitizer sees every use of a dead task.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    cell::Cell,
    ptr::NonNull,
    rc::Rc,
};

/// Sizes are rounded up to this; in bytes.
const GRAIN: usize = 8;
/// Larger blocks than this many grains are allocated alone.
const LARGEST: usize = 64;
/// A chunk with its blocks, in bytes: with the allocator's own word, less than a page.
const SMALL: usize = 4096 - 16;
/// A chunk of a pool that has this much already. Its pages are asked for at once: a million tasks are
/// spawned as fast as their memory comes, and two thirds of that were page faults.
const LARGE: usize = 64 << 10;
/// What those chunks are aligned to; pages of another size only make asking in vain.
const PAGE: usize = 4096;

/// A block's number in its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u16);

impl Slot {
    const NONE: Slot = Slot(u16::MAX);
    /// Of a block in no chunk.
    const ALONE: Slot = Slot::NONE;
}

/// All blocks of a kernel.
pub(crate) struct Blocks {
    pools: Rc<Pools>,
    pooled: bool,
}

struct Pools {
    /// For each size in grains, the chunks that have a free block, as a list.
    open: [Cell<Option<NonNull<Chunk>>>; LARGEST + 1],
    /// For each size, the bytes of all its chunks.
    held: [Cell<usize>; LARGEST + 1],
    /// For each size, whether one of the chunks in the list is kept though nothing in it is in use.
    spare: [Cell<bool>; LARGEST + 1],
    /// The kernel is gone: nothing is kept for another task.
    closed: Cell<bool>,
}

/// What stands before the blocks of a chunk.
#[repr(align(16))]
struct Chunk {
    pools: Rc<Pools>,
    /// Neighbours in the list of those that have a free block.
    next: Cell<Option<NonNull<Chunk>>>,
    prev: Cell<Option<NonNull<Chunk>>>,
    /// The block that was given back last; in it lies the number of the one before.
    free: Cell<Slot>,
    /// So many blocks were ever used; those behind them are free too.
    touched: Cell<u16>,
    live: Cell<u16>,
    /// So many blocks it has.
    room: u16,
    size: usize,
}

/// The size of blocks for this type in grains, if they come out of chunks.
const fn grains(of: Layout) -> Option<usize> {
    // Where blocks follow each other, a size that is a multiple of the alignment keeps it.
    let grains = of.pad_to_align().size().div_ceil(GRAIN);
    match of.align() <= align_of::<Chunk>() && 0 < grains && grains <= LARGEST {
        true => Some(grains),
        false => None,
    }
}

const fn layout(size: usize) -> Layout {
    let align = match size {
        LARGE => PAGE,
        _ => align_of::<Chunk>(),
    };
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("no overflow"),
    }
}

impl Blocks {
    pub(crate) fn new() -> Blocks {
        Blocks {
            pools: Rc::new(Pools {
                open: [const { Cell::new(None) }; LARGEST + 1],
                held: [const { Cell::new(0) }; LARGEST + 1],
                spare: [const { Cell::new(false) }; LARGEST + 1],
                closed: Cell::new(false),
            }),
            pooled: !cfg!(debug_assertions),
        }
    }

    /// A block for a value of this type, with nothing in it.
    #[inline]
    pub(crate) fn take<T>(&self) -> (NonNull<T>, Slot) {
        match const { grains(Layout::new::<T>()) } {
            Some(grains) if self.pooled => {
                let (block, slot) = self.pools.take(grains);
                (block.cast(), slot)
            }
            _ => (alone(Layout::new::<T>()).cast(), Slot::ALONE),
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.pools.closed.set(true);
        for (grains, open) in self.pools.open.iter().enumerate() {
            let mut next = open.get();
            while let Some(chunk) = next {
                // SAFETY: chunks in a list are alive.
                unsafe {
                    next = chunk.as_ref().next.get();
                    if chunk.as_ref().live.get() == 0 {
                        self.pools.give_back(grains, chunk);
                    }
                }
            }
        }
    }
}

/// Gives a block back.
///
/// # Safety
/// `take::<T>` gave it, with this slot, and nobody uses it any more.
#[inline(always)]
pub(crate) unsafe fn free<T>(block: NonNull<T>, slot: Slot) {
    let layout = Layout::new::<T>();
    match const { grains(Layout::new::<T>()) } {
        Some(grains) if slot != Slot::ALONE => {
            // SAFETY: the caller's word; so the block lies in a chunk of such blocks.
            unsafe { Chunk::put_back(block.cast(), slot, grains) }
        }
        // SAFETY: `alone` allocated it with this layout.
        _ => unsafe { dealloc(block.as_ptr().cast(), layout) },
    }
}

#[inline(never)]
fn alone(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "a task's cell has a header");
    // SAFETY: the size is not 0.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

impl Pools {
    #[inline(always)] // as `put_back`
    fn take(self: &Rc<Pools>, grains: usize) -> (NonNull<u8>, Slot) {
        let chunk = self.open[grains].get();
        let chunk = chunk.unwrap_or_else(|| self.new_chunk(grains));
        // SAFETY: chunks in a list are alive, and have a free block: it lies within the chunk, and
        // holds the number of another if it was given back.
        unsafe {
            let Chunk {
                free,
                touched,
                live,
                room,
                ..
            } = chunk.as_ref();
            let mut slot = free.get();
            let block;
            if slot == Slot::NONE {
                slot = Slot(touched.get());
                touched.set(slot.0 + 1);
                block = Chunk::block(chunk, slot, grains);
            } else {
                block = Chunk::block(chunk, slot, grains);
                free.set(block.cast::<Slot>().read());
            }
            if live.replace(live.get() + 1) == 0 {
                self.spare[grains].set(false);
            }
            if live.get() == *room {
                self.unlink(grains, chunk);
            }
            (block, slot)
        }
    }

    #[cold]
    #[inline(never)]
    fn new_chunk(self: &Rc<Pools>, grains: usize) -> NonNull<Chunk> {
        let held = &self.held[grains];
        let size = if held.get() < LARGE { SMALL } else { LARGE };
        let chunk = alone(layout(size)).cast::<Chunk>();
        held.set(held.get() + size);
        if size == LARGE {
            ask_for_pages(chunk.cast());
        }
        // SAFETY: it is long and aligned enough, and nobody else has it.
        unsafe {
            chunk.write(Chunk {
                pools: self.clone(),
                next: Cell::new(None),
                prev: Cell::new(None),
                free: Cell::new(Slot::NONE),
                touched: Cell::new(0),
                live: Cell::new(0),
                room: ((size - size_of::<Chunk>()) / (grains * GRAIN)) as u16,
                size,
            });
            self.link(grains, chunk);
        }
        chunk
    }

    /// Puts a chunk first in its list.
    ///
    /// # Safety
    /// It is alive, and in no list.
    unsafe fn link(&self, grains: usize, chunk: NonNull<Chunk>) {
        let first = self.open[grains].replace(Some(chunk));
        // SAFETY: the caller's word; those in the list are alive.
        unsafe {
            chunk.as_ref().prev.set(None);
            chunk.as_ref().next.set(first);
            if let Some(first) = first {
                first.as_ref().prev.set(Some(chunk));
            }
        }
    }

    /// # Safety
    /// The chunk is in the list.
    unsafe fn unlink(&self, grains: usize, chunk: NonNull<Chunk>) {
        // SAFETY: the caller's word; those in the list are alive.
        unsafe {
            let Chunk { next, prev, .. } = chunk.as_ref();
            match prev.get() {
                Some(prev) => prev.as_ref().next.set(next.get()),
                None => self.open[grains].set(next.get()),
            }
            if let Some(next) = next.get() {
                next.as_ref().prev.set(prev.get());
            }
        }
    }

    /// Nothing in a chunk is in use: true if it is kept, as one of each size is. (Whichever empties first:
    /// if only the last of all were kept, two tasks that come and go at the edge of a chunk would have a
    /// chunk come and go with them.)
    #[inline]
    fn keeps_one(&self, grains: usize) -> bool {
        !self.closed.get() && !self.spare[grains].replace(true)
    }

    /// Frees a chunk.
    ///
    /// # Safety
    /// It is in the list, and nothing in it is in use.
    #[cold]
    unsafe fn give_back(&self, grains: usize, chunk: NonNull<Chunk>) {
        // SAFETY: the caller's word; `new_chunk` made it.
        unsafe {
            self.unlink(grains, chunk);
            let size = chunk.as_ref().size;
            self.held[grains].set(self.held[grains].get() - size);
            chunk.drop_in_place();
            dealloc(chunk.as_ptr().cast(), layout(size));
        }
    }
}

/// Asks for the pages of a large chunk, before they are touched one by one. (Since Linux 5.14; where it
/// is not known, they come as they are touched.)
fn ask_for_pages(chunk: NonNull<u8>) {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: it is memory of ours, of that size and alignment; what is in it stays.
    unsafe {
        libc::madvise(chunk.as_ptr().cast(), LARGE, libc::MADV_POPULATE_WRITE);
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = chunk;
}

impl Chunk {
    /// Where a block lies.
    ///
    /// # Safety
    /// The chunk has a block of this number and size.
    #[inline]
    unsafe fn block(chunk: NonNull<Chunk>, slot: Slot, grains: usize) -> NonNull<u8> {
        let offset = size_of::<Chunk>() + usize::from(slot.0) * grains * GRAIN;
        // SAFETY: the caller's word: this is within the chunk.
        unsafe { chunk.cast::<u8>().byte_add(offset) }
    }

    /// # Safety
    /// The block was taken out of a chunk for this many grains, and nobody uses it any more.
    #[inline(always)] // for one type, the block's size is a constant
    unsafe fn put_back(block: NonNull<u8>, slot: Slot, grains: usize) {
        let offset = size_of::<Chunk>() + usize::from(slot.0) * grains * GRAIN;
        // SAFETY: the reverse of `block`. The chunk is alive as long as a block of it is in use; one
        // whose blocks were all in use is in no list, any other in its pool's.
        unsafe {
            let chunk = block.byte_sub(offset).cast::<Chunk>();
            let Chunk {
                pools,
                free,
                live,
                room,
                ..
            } = chunk.as_ref();
            block.cast::<Slot>().write(free.replace(slot));
            let were = live.replace(live.get() - 1);
            if were == *room {
                pools.link(grains, chunk);
            }
            if were == 1 && !pools.keeps_one(grains) {
                let pools = pools.clone(); // which may go with the chunk otherwise
                pools.give_back(grains, chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Blocks {
        fn pooled() -> Blocks {
            let mut blocks = Blocks::new();
            blocks.pooled = true;
            blocks
        }

        fn chunks(&self) -> usize {
            Rc::strong_count(&self.pools) - 1
        }
    }

    /// A block with a value in it, which is wrong if somebody else writes to the block.
    struct Taken<T> {
        block: NonNull<[T; 3]>,
        slot: Slot,
        value: T,
    }

    impl<T: Copy + PartialEq + std::fmt::Debug> Taken<T> {
        fn new(blocks: &Blocks, value: T) -> Taken<T> {
            let (block, slot) = blocks.take::<[T; 3]>();
            assert!(block.is_aligned());
            // SAFETY: it was made for this type.
            unsafe { block.write([value; 3]) };
            Taken { block, slot, value }
        }

        fn give_back(self) {
            // SAFETY: it is taken, and given back once, by value.
            unsafe {
                assert_eq!(self.block.read(), [self.value; 3]);
                free(self.block, self.slot);
            }
        }
    }

    #[test]
    fn blocks_in_use_do_not_overlap_and_chunks_go_when_nothing_is() {
        let blocks = Blocks::pooled();
        let (mut small, mut large, mut dice) = (Vec::new(), Vec::new(), 7_u64);
        let mut most = 0;
        for n in 0..if cfg!(miri) { 4000 } else { 100_000_u64 } {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let roll = (dice >> 33) as usize;
            // More and more, then fewer and fewer.
            match roll % 10 < if n % 2000 < 1000 { 8 } else { 2 } {
                true if roll.is_multiple_of(3) => large.push(Taken::new(&blocks, u128::from(n))),
                true => small.push(Taken::new(&blocks, n)),
                false if !small.is_empty() => small.swap_remove(roll % small.len()).give_back(),
                false => large.drain(..).for_each(Taken::give_back),
            }
            most = most.max(blocks.chunks());
        }
        assert!(most > 4, "no chunk was ever spare");
        small.drain(..).for_each(Taken::give_back);
        large.drain(..).for_each(Taken::give_back);
        assert_eq!(blocks.chunks(), 2, "one of each size");
    }

    #[test]
    fn no_chunk_comes_and_goes_with_two_tasks_at_its_edge() {
        let blocks = Blocks::pooled();
        let mut room = 0;
        let mut taken = Vec::new();
        while blocks.chunks() < 2 {
            taken.push(Taken::new(&blocks, room));
            room += 1_u64;
        }
        for short in 0..3 {
            let held = blocks.pools.held[3].get();
            for _ in 0..10 {
                let (one, other) = (Taken::new(&blocks, 1_u64), Taken::new(&blocks, 2_u64));
                assert_eq!(blocks.pools.held[3].get(), held, "{short} short of full");
                one.give_back();
                other.give_back();
                assert_eq!(blocks.pools.held[3].get(), held, "{short} short of full");
            }
            taken.pop().expect("many").give_back();
        }
        taken.into_iter().for_each(Taken::give_back);
    }

    #[test]
    fn the_block_that_was_given_back_last_is_the_next_for_any_type_of_its_size() {
        let blocks = Blocks::pooled();
        let (one, other) = (Taken::new(&blocks, 1_u64), Taken::new(&blocks, 2_u64));
        let (first, last) = (one.block, other.block);
        one.give_back();
        other.give_back();
        let again = Taken::new(&blocks, 3_i64);
        let third = Taken::new(&blocks, 4_u64);
        assert_eq!((again.block.cast(), third.block), (last, first));
        let longer = Taken::new(&blocks, 5_u128);
        longer.give_back();
        again.give_back();
        third.give_back();
    }

    #[test]
    fn blocks_outlive_their_kernel() {
        let blocks = Blocks::pooled();
        let count = if cfg!(miri) { 500 } else { 30_000_u64 };
        let taken: Vec<_> = (0..count).map(|n| Taken::new(&blocks, n)).collect();
        let held = blocks.pools.held[3].get();
        assert!(cfg!(miri) || held > 2 * LARGE, "no large chunk: {held}");
        let pools = Rc::downgrade(&blocks.pools);
        drop(blocks);
        assert!(pools.upgrade().is_some());
        taken.into_iter().for_each(Taken::give_back);
        assert!(pools.upgrade().is_none(), "all is freed");
    }

    #[test]
    fn what_is_large_or_widely_aligned_is_alone() {
        #[repr(align(64))]
        struct Wide(#[expect(dead_code)] u8);
        let blocks = Blocks::pooled();
        let ((large, alone), (wide, too)) = (blocks.take::<[u64; 1000]>(), blocks.take::<Wide>());
        assert!(wide.is_aligned());
        assert_eq!((alone, too, blocks.chunks()), (Slot::ALONE, Slot::ALONE, 0));
        // SAFETY: taken as such, and given back once.
        unsafe {
            free(large, alone);
            free(wide, too);
        }
    }
}

//! A table whose places are used again: the ground under waits, scopes and timers.
//!
//! What `slab` does, but an item is written and read where it stands and never moved in or out.
//! An item that was just put together by small stores stalls the processor when it is moved, and
//! such a move was a third of what arming and cancelling a timeout cost.

use std::ops::{Index, IndexMut};

/// Has the processor fetch what will be touched soon. Waiting for memory is most of the work where a
/// million of anything comes up in no order.
#[inline(always)]
pub(crate) fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of::<T>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = std::ptr::from_ref(what).cast::<i8>();
        // SAFETY: a prefetch reads nothing and faults nowhere, whatever the address.
        unsafe { _mm_prefetch(at.wrapping_add(line), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// Items by number. Numbers that were given back are used again, the last one first.
pub(crate) struct Places<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T> Places<T> {
    pub(crate) const fn new() -> Places<T> {
        Places {
            items: Vec::new(),
            free: Vec::new(),
        }
    }

    /// How many are in use.
    pub(crate) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    /// Puts an item in; gives its number.
    #[inline(always)]
    pub(crate) fn put(&mut self, item: T) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.items[number as usize] = item;
                number
            }
            None => {
                self.items.push(item);
                (self.items.len() - 1) as u32
            }
        }
    }

    /// Gives a number back. The item stays until the place is used again: what must not stay with
    /// it is taken out before.
    #[inline]
    pub(crate) fn give_back(&mut self, number: u32) {
        self.free.push(number);
    }

    /// All items, also those of numbers that were given back.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.items.iter()
    }

    /// The same, to be changed.
    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.items.iter_mut()
    }
}

impl<T> Index<u32> for Places<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.items[number as usize]
    }
}

impl<T> IndexMut<u32> for Places<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.items[number as usize]
    }
}

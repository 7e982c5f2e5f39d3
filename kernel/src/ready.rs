//! The ready queue: first in, first out, or in an order drawn by dice.
//!
//! A ring whose length is a power of two, so that a step costs one masked index for its pop and one
//! for its push: half of what they are on a `VecDeque`, which has to ask at each whether it wraps.
//! Pure.

use std::cell::Cell;

/// What waits for its turn.
pub(crate) struct Ready<T> {
    /// Empty, or as long as a power of two.
    ring: Vec<Option<T>>,
    /// How many were ever taken out, and put in. They may wrap around: only their difference and
    /// their lower bits count.
    taken: usize,
    put: usize,
    /// The state of the generator that draws the next, if it is drawn.
    dice: Option<Cell<u64>>,
}

impl<T> Ready<T> {
    /// An empty queue; with a seed, one that is shuffled.
    pub(crate) fn new(seed: Option<u64>) -> Ready<T> {
        // Spread out, so that neighbouring seeds differ; never 0, where xorshift stands still.
        let dice = seed.map(|seed| Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        Ready {
            ring: Vec::new(),
            taken: 0,
            put: 0,
            dice,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.put
    }

    fn len(&self) -> usize {
        self.put.wrapping_sub(self.taken)
    }

    /// The place of the item that was put in as this number.
    #[inline]
    fn place(&mut self, number: usize) -> Option<&mut Option<T>> {
        let mask = self.ring.len().wrapping_sub(1);
        self.ring.get_mut(number & mask)
    }

    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        match self.place(self.put) {
            Some(place @ None) => {
                std::mem::forget(place.replace(item)); // it was empty: nothing to drop
                self.put = self.put.wrapping_add(1);
            }
            _ => self.push_into_more(item), // the place of the first is the next: it is full
        }
    }

    #[cold]
    fn push_into_more(&mut self, item: T) {
        self.grow();
        self.push(item);
    }

    /// Takes the next; shows with it what some later `pop` will give, if that is easily known: the one
    /// this far behind.
    #[inline]
    pub(crate) fn pop(&mut self, behind: usize) -> Option<(T, Option<&T>)> {
        let (taken, ring) = (self.taken, &mut self.ring[..]);
        let mask = ring.len().wrapping_sub(1);
        let item = ring.get_mut(taken & mask)?.take()?; // none there: it is empty
        self.taken = taken.wrapping_add(1);
        let later = ring.get(taken.wrapping_add(behind) & mask);
        Some((item, later.and_then(Option::as_ref)))
    }

    /// True if dice draw the next.
    pub(crate) fn is_drawn(&self) -> bool {
        self.dice.is_some()
    }

    /// Lets one of all be the next, if dice draw it.
    #[cold]
    pub(crate) fn draw(&mut self) {
        if let (Some(dice), false) = (&self.dice, self.is_empty()) {
            let drawn = (roll(dice) % self.len() as u64) as usize;
            let mask = self.ring.len() - 1;
            let drawn = self.taken.wrapping_add(drawn) & mask;
            self.ring.swap(self.taken & mask, drawn);
        }
    }

    /// Twice the ring. What stays in its place is not touched: for a ring that was never taken from,
    /// that is everything.
    #[cold]
    fn grow(&mut self) {
        let old = self.ring.len();
        self.ring.resize_with((2 * old).max(16), || None);
        for n in 0..old {
            let number = self.taken.wrapping_add(n);
            if number & old != 0 {
                let place = number & (old - 1);
                self.ring.swap(place, place + old);
            }
        }
    }

    /// Everything in it, in its order.
    pub(crate) fn take(&mut self) -> Vec<T> {
        let count = self.len();
        let first = self.taken;
        self.taken = self.put;
        (0..count)
            .filter_map(|n| self.place(first.wrapping_add(n))?.take())
            .collect()
    }
}

/// The next number of a xorshift generator.
fn roll(dice: &Cell<u64>) -> u64 {
    let mut x = dice.get();
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    dice.set(x);
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_a_queue() {
        let (mut ready, mut naive) = (Ready::new(None), std::collections::VecDeque::new());
        let dice = Cell::new(7);
        for n in 0..if cfg!(miri) { 500 } else { 10_000 } {
            if roll(&dice) % 9 < 5 {
                ready.push(n);
                naive.push_back(n);
            } else {
                let next = naive.pop_front();
                let popped = ready.pop(2).map(|(item, later)| (item, later.copied()));
                assert_eq!(popped, next.map(|next| (next, naive.get(1).copied())));
            }
            assert_eq!(ready.is_empty(), naive.is_empty());
        }
        assert!(ready.take().into_iter().eq(naive) && ready.is_empty());
    }

    #[test]
    fn a_seed_decides_the_order_and_loses_nothing() {
        let drawn = |seed| {
            let mut ready = Ready::new(Some(seed));
            (0..50).for_each(|n| ready.push(n));
            let next = move || {
                ready.draw();
                Some(ready.pop(1)?.0)
            };
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        let (mut one, other) = (drawn(1), drawn(2));
        assert_eq!(one, drawn(1));
        assert_ne!(one, other);
        one.sort_unstable();
        assert!(one.into_iter().eq(0..50));
    }
}

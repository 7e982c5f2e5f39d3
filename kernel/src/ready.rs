//! The ready queue: first in, first out, or in an order drawn by dice.
//!
//! Two stacks instead of a ring: a step costs a push and a pop of a `Vec`, which are a third of
//! what they are on a `VecDeque`, and turning the stack around is a fraction of either. Pure.

use std::cell::Cell;

/// What waits for its turn.
pub(crate) struct Ready<T> {
    /// The front of the queue; its first is the last here.
    front: Vec<T>,
    /// What came after that; its first is the first here.
    back: Vec<T>,
    /// The state of the generator that draws the next, if it is drawn.
    dice: Option<Cell<u64>>,
}

impl<T> Ready<T> {
    /// An empty queue; with a seed, one that is shuffled.
    pub(crate) fn new(seed: Option<u64>) -> Ready<T> {
        // Spread out, so that neighbouring seeds differ; never 0, where xorshift stands still.
        let dice = seed.map(|seed| Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        Ready {
            front: Vec::new(),
            back: Vec::new(),
            dice,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.back.is_empty()
    }

    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        self.back.push(item);
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        match self.front.pop() {
            None => self.pop_from_back(),
            some => some,
        }
    }

    /// What the next `pop` will give, if it is easily known.
    #[inline]
    pub(crate) fn peek(&self) -> Option<&T> {
        self.front.last()
    }

    /// The front is used up. (It always is, in a shuffled queue.)
    fn pop_from_back(&mut self) -> Option<T> {
        if let (Some(dice), false) = (&self.dice, self.back.is_empty()) {
            let drawn = roll(dice) % self.back.len() as u64;
            return Some(self.back.swap_remove(drawn as usize));
        }
        if self.back.len() > 1 {
            std::mem::swap(&mut self.front, &mut self.back);
            self.front.reverse();
            return self.front.pop();
        }
        self.back.pop()
    }

    /// Everything in it, in no order.
    pub(crate) fn take(&mut self) -> Vec<T> {
        let mut all = std::mem::take(&mut self.front);
        all.append(&mut self.back);
        all
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
        for n in 0..10_000 {
            if roll(&dice) % 9 < 5 {
                ready.push(n);
                naive.push_back(n);
            } else {
                assert_eq!(ready.pop(), naive.pop_front());
            }
            assert_eq!(ready.is_empty(), naive.is_empty());
        }
        assert!(ready.take().len() == naive.len() && ready.is_empty());
    }

    #[test]
    fn a_seed_decides_the_order_and_loses_nothing() {
        let drawn = |seed| {
            let mut ready = Ready::new(Some(seed));
            (0..50).for_each(|n| ready.push(n));
            std::iter::from_fn(move || ready.pop()).collect::<Vec<_>>()
        };
        let (mut one, other) = (drawn(1), drawn(2));
        assert_eq!(one, drawn(1));
        assert_ne!(one, other);
        one.sort_unstable();
        assert!(one.into_iter().eq(0..50));
    }
}

//! The ready queue: first in, first out, or in an order drawn by dice.
//!
//! Two stacks. What becomes ready is put on one; the next is taken from the other, and when that is
//! empty, the first is turned over. So a step costs a plain push and a plain pop, which is less than in
//! any ring, where each has to ask whether it wraps. Pure.

use std::{cell::Cell, mem::swap};

/// What waits for its turn.
pub(crate) struct Ready<T> {
    /// The next is the last of these.
    now: Vec<T>,
    /// Those after them, in their order.
    later: Vec<T>,
    /// The state of the generator that draws the next, if it is drawn.
    dice: Option<Cell<u64>>,
}

impl<T> Ready<T> {
    /// An empty queue; with a seed, one that is shuffled.
    pub(crate) fn new(seed: Option<u64>) -> Ready<T> {
        // Spread out, so that neighbouring seeds differ; never 0, where xorshift stands still.
        let dice = seed.map(|seed| Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        Ready {
            now: Vec::new(),
            later: Vec::new(),
            dice,
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.now.is_empty() && self.later.is_empty()
    }

    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        self.later.push(item);
    }

    /// Takes the next.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        match self.now.pop() {
            None => self.pop_later(),
            next => next,
        }
    }

    #[cold]
    fn pop_later(&mut self) -> Option<T> {
        if self.later.len() > 1 {
            self.turn_over();
            return self.now.pop();
        }
        self.later.pop()
    }

    /// To be called when `now` is empty.
    #[inline]
    fn turn_over(&mut self) {
        swap(&mut self.now, &mut self.later);
        self.now.reverse();
    }

    /// What `pop` will give after as many others, if that is easily known.
    #[inline]
    pub(crate) fn peek(&self, behind: usize) -> Option<&T> {
        self.now.get(self.now.len().wrapping_sub(behind + 1))
    }

    /// True if dice draw the next.
    pub(crate) fn is_drawn(&self) -> bool {
        self.dice.is_some()
    }

    /// Lets one of all be the next, if dice draw it.
    #[cold]
    pub(crate) fn draw(&mut self) {
        if self.now.is_empty() {
            self.turn_over();
        }
        if let (Some(dice), Some(next)) = (&self.dice, self.now.len().checked_sub(1)) {
            let all = self.now.len() + self.later.len();
            let drawn = (roll(dice) % all as u64) as usize;
            match next.checked_sub(drawn) {
                Some(drawn) => self.now.swap(next, drawn),
                None => swap(&mut self.now[next], &mut self.later[drawn - next - 1]),
            }
        }
    }

    /// Everything in it, in its order.
    pub(crate) fn take(&mut self) -> Vec<T> {
        std::iter::from_fn(|| self.pop()).collect()
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
        let (dice, mut peeked) = (Cell::new(7), 0);
        for n in 0..if cfg!(miri) { 500 } else { 10_000 } {
            if roll(&dice) % 9 < 5 {
                ready.push(n);
                naive.push_back(n);
            } else {
                let next = naive.pop_front();
                assert_eq!(ready.pop(), next);
                let known = ready.peek(1);
                assert!(known.is_none() || known == naive.get(1));
                peeked += usize::from(known.is_some());
            }
            assert_eq!(ready.is_empty(), naive.is_empty());
        }
        assert!(peeked > 10, "{peeked} of all were known before their turn");
        assert!(ready.take().into_iter().eq(naive) && ready.is_empty());
    }

    #[test]
    fn a_seed_decides_the_order_and_loses_nothing() {
        let drawn = |seed, idle| {
            let mut ready = Ready::new(Some(seed));
            // How often nothing was ready is a matter of time, and must not decide.
            (0..idle).for_each(|_| ready.draw());
            (0..50).for_each(|n| ready.push(n));
            let next = move || {
                ready.draw();
                ready.pop()
            };
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        let (mut one, other) = (drawn(1, 0), drawn(2, 0));
        assert_eq!(one, drawn(1, 3));
        assert_ne!(one, other);
        one.sort_unstable();
        assert!(one.into_iter().eq(0..50));
    }
}

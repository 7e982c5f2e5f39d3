//! Whether to stay awake a little, because what is waited for has lately come at once.
//!
//! To put a thread to sleep and to wake it again costs more than most of what a pool's thread is
//! given to do, above all where a processor that has gone idle has to be woken too. So both sides
//! of the hand-over look for a while before they sleep. Who has looked in vain lets the next
//! occasion pass, then four of them, in the end 256; each look that is rewarded halves that.

use std::cell::Cell;

use crate::across::{Whereabouts, Window, several_processors};

/// The most occasions that are let pass after one look in vain.
const MOST_SKIPPED: u32 = 256;

/// What one thread has learnt about its waiting.
pub(crate) struct Patience {
    /// False with one processor, for then nothing comes while we look.
    any: bool,
    /// Set while it looks.
    window: Cell<Option<Window>>,
    /// Occasions still to be let pass.
    skip: Cell<u32>,
    /// As many are let pass after the next look in vain.
    penalty: Cell<u32>,
}

impl Patience {
    pub(crate) fn new() -> Patience {
        Patience {
            any: several_processors(),
            window: Cell::new(None),
            skip: Cell::new(0),
            penalty: Cell::new(1),
        }
    }

    /// There is nothing to do: true if the thread is to look again, false if it is to sleep. It
    /// does not begin to look where the other side has to run if anything is to come.
    pub(crate) fn looks_on(&self, other: &Whereabouts) -> bool {
        match self.window.take() {
            None if !self.any => return false,
            Some(window) if window.is_open() => self.window.set(Some(window)),
            Some(_) => {
                let penalty = self.penalty.get();
                self.skip.set(penalty);
                self.penalty.set((4 * penalty).min(MOST_SKIPPED));
                return false;
            }
            None if self.skip.get() > 0 => {
                self.skip.set(self.skip.get() - 1);
                return false;
            }
            None if other.is_here() => return false,
            None => self.window.set(Some(Window::open())),
        }
        true
    }

    /// What was waited for has come.
    pub(crate) fn rewarded(&self) {
        if self.window.take().is_some() {
            self.penalty.set((self.penalty.get() / 2).max(1));
        }
    }

    /// Nothing is waited for any more.
    pub(crate) fn give_up(&self) {
        self.window.set(None);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience {
            any: true,
            ..Patience::new()
        }
    }

    /// Looks until it gives up; false if it does not look at all.
    fn looks_in_vain(patience: &Patience) -> bool {
        let mut looked = false;
        while patience.looks_on(&Whereabouts::unknown()) {
            looked = true;
        }
        looked
    }

    #[test]
    fn who_looks_in_vain_looks_less_and_less_but_never_ceases() {
        let patience = patience();
        let looks: Vec<usize> = (0..1200).filter(|_| looks_in_vain(&patience)).collect();
        let gaps: Vec<usize> = looks.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(gaps, [2, 5, 17, 65, 257, 257, 257, 257]);
    }

    #[test]
    fn who_finds_something_looks_every_time() {
        let patience = patience();
        for _ in 0..10 {
            looks_in_vain(&patience);
        }
        for _ in 0..10 {
            while !patience.looks_on(&Whereabouts::unknown()) {}
            patience.rewarded();
        }
        for _ in 0..100 {
            assert!(patience.looks_on(&Whereabouts::unknown()));
            patience.rewarded();
        }
        // Without a look there is no reward.
        assert!(looks_in_vain(&patience));
        patience.rewarded();
        assert!(!patience.looks_on(&Whereabouts::unknown()));
        assert!(looks_in_vain(&patience));
        assert_eq!(patience.skip.get(), 4);
    }

    #[test]
    fn nobody_looks_for_one_who_needs_the_same_processor() {
        let (patience, other) = (patience(), Whereabouts::unknown());
        // Moved to another processor in between, we would look: but not every time.
        assert!((0..1000).any(|_| {
            other.tell();
            !patience.looks_on(&other)
        }));
    }

    #[test]
    fn with_one_processor_nobody_looks() {
        let patience = Patience {
            any: false,
            ..patience()
        };
        assert!((0..100).all(|_| !patience.looks_on(&Whereabouts::unknown())));
    }
}

//! Who waits for something to change. `std`'s wakers only: the core knows no runtime, and the blocking façade
//! hands in one that does nothing.

use std::task::Waker;

/// All that wait for one thing. Waking empties the set; who still waits registers again.
#[derive(Default)]
pub(crate) struct Wakers {
    wakers: Vec<Waker>,
}

impl Wakers {
    pub(crate) fn add(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    pub(crate) fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }
}

//! Tasks that wait for each other.

use std::{cell::Cell, rc::Rc};

use crate::{
    WaitQueue,
    error::Error,
    trap::{Trap, ask, breathe, may_go_on},
};

/// Holds tasks until a given number has arrived, then lets them all go on; and so again. Clones
/// are the same barrier.
#[derive(Clone, Debug)]
pub struct Barrier {
    size: usize,
    /// How many have arrived, and perhaps some who have left the line since.
    at_most: Rc<Cell<usize>>,
    queue: WaitQueue,
}

impl Barrier {
    /// A barrier for this many tasks.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: usize) -> Barrier {
        assert!(size > 0, "a barrier is for at least one task");
        Barrier {
            size,
            at_most: Rc::default(),
            queue: WaitQueue::named("Barrier"),
        }
    }

    /// Waits until all have arrived. True for the one that came last.
    ///
    /// # Cancellation
    /// A waiter that is given up no longer counts, from the moment in which it is told: one more
    /// has to come.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn wait(&self) -> Result<bool, Error> {
        if !may_go_on() {
            breathe().await?;
        }
        if self.is_last() {
            self.at_most.set(0);
            self.queue.wake(usize::MAX);
            return Ok(true);
        }
        ask(Trap::Wait(self.queue.clone())).await.map(|()| false)
    }

    /// Counts one that arrives. Only when it may be the last is the line counted itself.
    fn is_last(&self) -> bool {
        self.at_most.set(self.at_most.get() + 1);
        if self.at_most.get() >= self.size {
            self.at_most.set(self.queue.count_waiters() + 1);
        }
        self.at_most.get() >= self.size
    }
}

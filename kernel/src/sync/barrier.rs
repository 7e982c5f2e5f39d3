//! Tasks that wait for each other.

use std::{cell::Cell, rc::Rc};

use crate::{
    WaitQueue,
    error::Error,
    trap::{Trap, ask, check},
};

/// Holds tasks until a given number has arrived, then lets them all go on; and so again. Clones
/// are the same barrier.
#[derive(Clone, Debug)]
pub struct Barrier {
    size: usize,
    arrived: Rc<Cell<usize>>,
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
            arrived: Rc::default(),
            queue: WaitQueue::named("Barrier"),
        }
    }

    /// Waits until all have arrived. True for the one that came last.
    ///
    /// # Cancellation
    /// A waiter that is given up no longer counts: one more has to come.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn wait(&self) -> Result<bool, Error> {
        check()?;
        self.arrived.set(self.arrived.get() + 1);
        if self.arrived.get() == self.size {
            self.arrived.set(0);
            self.queue.wake(usize::MAX);
            return Ok(true);
        }
        let mut arrival = Arrival {
            barrier: self,
            ask: ask(Trap::Wait(self.queue.clone())),
            passed: false,
        };
        let answer = (&mut arrival.ask).await;
        arrival.passed = answer.is_ok();
        answer.map(|()| false)
    }
}

/// One that has arrived and may still be given up.
struct Arrival<'a> {
    barrier: &'a Barrier,
    ask: crate::trap::Ask,
    passed: bool,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if !self.passed && !self.ask.was_granted() {
            let arrived = &self.barrier.arrived;
            arrived.set(arrived.get() - 1);
        }
    }
}

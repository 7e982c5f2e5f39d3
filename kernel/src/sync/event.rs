//! A flag that tasks wait for.

use std::{cell::Cell, rc::Rc};

use crate::{
    WaitQueue,
    error::Error,
    trap::{Trap, ask, breathe},
};

/// A flag, and the tasks that wait for it to be set. Clones are the same event.
#[derive(Clone, Debug)]
pub struct Event {
    set: Rc<Cell<bool>>,
    queue: WaitQueue,
}

impl Event {
    /// An event that is not set.
    pub fn new() -> Event {
        Event {
            set: Rc::default(),
            queue: WaitQueue::named("Event"),
        }
    }

    /// Sets it: all that wait go on, and waiting returns at once until it is cleared.
    pub fn set(&self) {
        self.set.set(true);
        self.queue.wake(usize::MAX);
    }

    /// Clears it. Tasks that `set` let go on go on all the same.
    pub fn clear(&self) {
        self.set.set(false);
    }

    /// True if it is set.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Waits until it is set.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn wait(&self) -> Result<(), Error> {
        match self.set.get() {
            true => breathe().await,
            false => ask(Trap::Wait(self.queue.clone())).await,
        }
    }
}

impl Default for Event {
    fn default() -> Event {
        Event::new()
    }
}

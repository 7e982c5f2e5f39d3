//! One value, sent once.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use crate::{
    WaitQueue,
    error::Error,
    trap::{Trap, ask, breathe},
};

struct Shared<T> {
    value: RefCell<Option<T>>,
    /// One of the two ends is gone.
    closed: Cell<bool>,
    queue: WaitQueue,
}

/// Makes a pair of ends for one value.
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(None),
        closed: Cell::new(false),
        queue: WaitQueue::named("Oneshot"),
    });
    (
        OneshotSender {
            shared: shared.clone(),
        },
        OneshotReceiver { shared },
    )
}

/// Sends the value; dropped without sending, the receiver learns that none will come.
pub struct OneshotSender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> OneshotSender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// Gives it back if the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.shared.closed.get() {
            return Err(value);
        }
        *self.shared.value.borrow_mut() = Some(value);
        Ok(()) // the drop of `self` wakes the receiver
    }

    /// True if the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        self.shared.queue.wake(usize::MAX);
    }
}

/// Waits for the value.
pub struct OneshotReceiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> OneshotReceiver<T> {
    /// Waits for the value; `None` if the sender is gone without having sent it.
    ///
    /// # Cancellation
    /// Safe: a value that was not taken stays.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn recv(&self) -> Result<Option<T>, Error> {
        match self.shared.closed.get() {
            true => breathe().await?,
            false => ask(Trap::Wait(self.shared.queue.clone())).await?,
        }
        Ok(self.try_recv())
    }

    /// Takes the value if it is there.
    pub fn try_recv(&self) -> Option<T> {
        self.shared.value.borrow_mut().take()
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        let left = self.try_recv();
        drop(left);
    }
}

impl<T> fmt::Debug for OneshotSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneshotSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for OneshotReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneshotReceiver").finish_non_exhaustive()
    }
}

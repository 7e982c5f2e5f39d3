//! Permits, handed out in order of arrival.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::{
    WaitQueue,
    error::Error,
    trap::{Ask, Trap, ask, breathe, may_go_on},
};

/// A number of permits. Whoever wants one that is not there waits in line. Clones are the same
/// semaphore.
#[derive(Clone, Debug)]
pub struct Semaphore {
    free: Rc<Cell<usize>>,
    queue: WaitQueue,
}

impl Semaphore {
    /// A semaphore with this many permits.
    pub fn new(permits: usize) -> Semaphore {
        Semaphore::named(permits, "Semaphore")
    }

    /// As `new`; listings of tasks say that they wait for `what`.
    pub(crate) fn named(permits: usize, what: &'static str) -> Semaphore {
        Semaphore {
            free: Rc::new(Cell::new(permits)),
            queue: WaitQueue::named(what),
        }
    }

    /// Waits until a permit is free and takes it. Returns at once if one is free; else waiters
    /// are served in order of arrival.
    ///
    /// # Cancellation
    /// Safe: a cancelled waiter leaves the line and takes nothing. A permit already handed to it
    /// goes to the next in line.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn acquire(&self) -> Result<Permit, Error> {
        if !may_go_on() {
            breathe().await?;
        }
        match self.try_acquire() {
            Some(permit) => Ok(permit),
            None => {
                let semaphore = self.clone();
                let ask = ask(Trap::Wait(self.queue.clone()));
                Acquire { semaphore, ask }.await
            }
        }
    }

    /// Takes a permit if one is free.
    pub fn try_acquire(&self) -> Option<Permit> {
        let left = self.free.get().checked_sub(1)?;
        self.free.set(left);
        Some(self.permit())
    }

    fn permit(&self) -> Permit {
        Permit {
            semaphore: self.clone(),
            forgotten: false,
        }
    }

    /// Adds a permit: hands it to the first in line, if there is one.
    pub fn release(&self) {
        if self.queue.wake(1) == 0 {
            self.free.set(self.free.get() + 1);
        }
    }

    /// How many permits are free.
    pub fn available(&self) -> usize {
        self.free.get()
    }
}

/// The wait for a permit. Whoever is woken from the line owns a permit.
struct Acquire {
    semaphore: Semaphore,
    ask: Ask,
}

impl Future for Acquire {
    type Output = Result<Permit, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.ask).poll(cx);
        answer.map_ok(|()| self.semaphore.permit())
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        if self.ask.was_granted() {
            self.semaphore.release();
        }
    }
}

/// A permit; given back when dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    semaphore: Semaphore,
    forgotten: bool,
}

impl Permit {
    /// Keeps the permit from coming back: the semaphore has one less from now on, unless
    /// [`release`](Semaphore::release) adds one.
    pub fn forget(mut self) {
        self.forgotten = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.forgotten {
            self.semaphore.release();
        }
    }
}

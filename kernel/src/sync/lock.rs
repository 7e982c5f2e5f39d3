//! Exclusive access across awaits.

use std::{
    cell::{RefCell, RefMut},
    fmt,
    ops::{Deref, DerefMut},
};

use super::{Permit, Semaphore};
use crate::error::Error;

/// A value that one task at a time may use, also while it awaits. Served in order of arrival.
///
/// Between two awaits nothing else runs on a kernel, so a `RefCell` is enough for what is not
/// held across one.
pub struct Lock<T> {
    turn: Semaphore,
    value: RefCell<T>,
}

impl<T> Lock<T> {
    /// A free lock.
    pub fn new(value: T) -> Lock<T> {
        Lock {
            turn: Semaphore::named(1, "Lock"),
            value: RefCell::new(value),
        }
    }

    /// Waits for its turn.
    ///
    /// # Cancellation
    /// Safe: a lock already handed to a waiter that is given up goes to the next in line.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn lock(&self) -> Result<LockGuard<'_, T>, Error> {
        let turn = self.turn.acquire().await?;
        Ok(self.guard(turn))
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<LockGuard<'_, T>> {
        self.turn.try_acquire().map(|turn| self.guard(turn))
    }

    /// True if some task holds it.
    pub fn is_locked(&self) -> bool {
        self.turn.available() == 0
    }

    fn guard(&self, turn: Permit) -> LockGuard<'_, T> {
        LockGuard {
            value: self.value.borrow_mut(),
            _turn: turn,
            lock: self,
        }
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("locked", &self.is_locked())
            .finish_non_exhaustive()
    }
}

/// The lock, held; free again when dropped.
pub struct LockGuard<'a, T> {
    // Dropped in this order: the next in line must find the value free.
    value: RefMut<'a, T>,
    _turn: Permit,
    lock: &'a Lock<T>,
}

impl<'a, T> LockGuard<'a, T> {
    /// The lock that it holds.
    pub fn lock(&self) -> &'a Lock<T> {
        self.lock
    }
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(&*self.value).finish()
    }
}

//! A lock that ThreadSanitizer can follow although std was compiled without it.
//!
//! The sanitizer knows an order between two threads only where it sees both sides of it. std's
//! fast paths are inlined and so compiled with our flags; its slow ones (a lock that is taken, a
//! condition variable) are in a library that was not, and the sanitizer would report whatever
//! they order as a race. Here nothing takes a slow path.

pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64};
use std::{
    ops::{Deref, DerefMut},
    sync::{LockResult, TryLockError},
    thread,
    time::Duration,
};

#[derive(Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

/// Knows its lock, as std's guard does not tell.
pub(crate) struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    guard: std::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    /// Never poisoned: all users in this crate go on after a panic anyway.
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        loop {
            let guard = match self.0.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    thread::yield_now();
                    continue;
                }
            };
            return Ok(MutexGuard { lock: self, guard });
        }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A condition variable that wakes by accident only, which its users have to expect of any.
#[derive(Default)]
pub(crate) struct Condvar;

/// As std's, which only std can make.
pub(crate) struct WaitTimeoutResult;

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        false
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar
    }

    pub(crate) fn notify_one(&self) {}

    pub(crate) fn notify_all(&self) {}

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let lock = guard.lock;
        drop(guard);
        thread::sleep(Duration::from_millis(1));
        Ok((
            lock.lock().unwrap_or_else(|e| e.into_inner()),
            WaitTimeoutResult,
        ))
    }
}

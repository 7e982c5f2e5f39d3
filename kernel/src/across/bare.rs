//! A ground on which there is no system: nothing below the kernel but memory, threads and locks.
//!
//! For Miri, which has no system either, or little of one. The kernel's loop, its tasks, timers,
//! threads and wakers are the same; only its sleep is one on a condition variable, and nothing can
//! be registered for readiness.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mio::{Interest, Token, event::Event};

/// In place of epoll: there are never any events.
pub(crate) struct Poll(Registry);

impl Poll {
    pub(crate) fn new() -> io::Result<Poll> {
        Ok(Poll(Registry))
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0
    }

    pub(crate) fn poll(&mut self, _: &mut Events, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Events;

impl Events {
    pub(crate) fn with_capacity(_: usize) -> Events {
        Events
    }

    pub(crate) fn iter(&self) -> std::iter::Empty<&Event> {
        std::iter::empty()
    }
}

/// Takes nothing.
pub(crate) struct Registry;

impl Registry {
    pub(crate) fn try_clone(&self) -> io::Result<Registry> {
        Ok(Registry)
    }

    pub(crate) fn register<S>(&self, _: &mut S, _: Token, _: Interest) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn reregister<S>(&self, _: &mut S, _: Token, _: Interest) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn deregister<S>(&self, _: &mut S) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// In place of the eventfd, and of epoll asleep on it.
#[derive(Default)]
pub(crate) struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Alarm {
    pub(crate) fn new(_: &Registry, _: Token) -> io::Result<Alarm> {
        Ok(Alarm::default())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        *self.lock() = true;
        self.changed.notify_one();
        Ok(())
    }

    /// Sleeps until it is rung, or for this long. Gives what the poll is told, which does not sleep.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> Option<Duration> {
        let started = Instant::now();
        let mut rung = self.lock();
        while !*rung {
            let left = match timeout {
                None => Duration::from_secs(3600), // and then again
                Some(timeout) => timeout.saturating_sub(started.elapsed()),
            };
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(rung, left);
            rung = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
        timeout
    }
}

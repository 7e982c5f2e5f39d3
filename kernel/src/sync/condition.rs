//! Waiting, under a lock, for something to become true.

use super::{LockGuard, wait_for_one};
use crate::{
    WaitQueue,
    error::Error,
    trap::{breathe, may_go_on},
};

/// A line of tasks that wait for a change of what a [`Lock`](super::Lock) guards.
///
/// On one thread nothing changes between two awaits, so this is needed only where the lock is
/// held across awaits; else an [`Event`](super::Event) or a mailbox does.
#[derive(Clone, Debug)]
pub struct Condition {
    queue: WaitQueue,
}

impl Condition {
    /// A condition that nobody waits for.
    pub fn new() -> Condition {
        Condition {
            queue: WaitQueue::named("Condition"),
        }
    }

    /// Frees the lock, waits to be notified, and takes the lock again. What was notified need not
    /// be true (any more): look, as [`wait_until`](Condition::wait_until) does.
    ///
    /// # Cancellation
    /// Safe: the lock stays free. A notification that had already arrived goes to the next, also
    /// if the task was waiting for the lock by then.
    ///
    /// # Errors
    /// Cancellation and timeouts; the lock is then free.
    pub async fn wait<'a, T>(&self, guard: LockGuard<'a, T>) -> Result<LockGuard<'a, T>, Error> {
        let lock = guard.lock();
        drop(guard);
        wait_for_one(&self.queue).await?;
        let mut heard = Heard(Some(&self.queue));
        let guard = lock.lock().await?;
        heard.0 = None;
        Ok(guard)
    }

    /// Waits until `done` says so of the guarded value. Looks at once, and after each
    /// notification.
    ///
    /// # Cancellation
    /// As for [`wait`](Condition::wait).
    ///
    /// # Errors
    /// As [`wait`](Condition::wait).
    pub async fn wait_until<'a, T>(
        &self,
        mut guard: LockGuard<'a, T>,
        mut done: impl FnMut(&mut T) -> bool,
    ) -> Result<LockGuard<'a, T>, Error> {
        if !may_go_on() {
            breathe().await?;
        }
        while !done(&mut guard) {
            guard = self.wait(guard).await?;
        }
        Ok(guard)
    }

    /// Lets up to `count` waiting tasks look again, the longest waiting first.
    pub fn notify(&self, count: usize) {
        self.queue.wake(count);
    }

    /// Lets all waiting tasks look again.
    pub fn notify_all(&self) {
        self.queue.wake(usize::MAX);
    }
}

impl Default for Condition {
    fn default() -> Condition {
        Condition::new()
    }
}

/// A notification that was heard, and is passed on if the lock is not taken.
struct Heard<'a>(Option<&'a WaitQueue>);

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        if let Some(queue) = self.0 {
            queue.wake(1);
        }
    }
}

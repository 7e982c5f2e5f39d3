//! What tasks of one kernel use to wait for each other. All of it is built on [`Trap::Wait`] and
//! [`WaitQueue::wake`], as anybody could.
//!
//! For other threads there is [`inbox`](crate::inbox) and [`Bell`](crate::Bell).
//!
//! [`Trap::Wait`]: crate::Trap::Wait
//! [`WaitQueue::wake`]: crate::WaitQueue::wake

pub(crate) mod shortcut;

use crate::{
    WaitQueue,
    error::Error,
    trap::{Ask, Trap, ask},
};

mod barrier;
mod condition;
mod event;
mod lock;
mod mailbox;
mod oneshot;
mod semaphore;

pub use barrier::Barrier;
pub use condition::Condition;
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use mailbox::{BoundedSender, Receiver, SendError, Sender, mailbox, mailbox_bounded};
pub use oneshot::{OneshotReceiver, OneshotSender, oneshot};
pub use semaphore::{Permit, Semaphore};

/// Stands in a line whose waking means "there is one for you": an item, or room for one. If
/// whoever was woken no longer wants it, the next in line is woken.
pub(crate) async fn wait_for_one(queue: &WaitQueue) -> Result<(), Error> {
    struct PassOn<'a>(&'a WaitQueue, Ask);
    impl Drop for PassOn<'_> {
        fn drop(&mut self) {
            if self.1.was_granted() {
                self.0.wake(1);
            }
        }
    }
    let mut turn = PassOn(queue, ask(Trap::Wait(queue.clone())));
    (&mut turn.1).await
}

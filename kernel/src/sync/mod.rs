//! What tasks of one kernel use to wait for each other. All of it is built on [`Trap::Wait`] and
//! [`WaitQueue::wake`], as anybody could.
//!
//! For other threads there is [`inbox`](crate::inbox) and [`Bell`](crate::Bell).
//!
//! [`Trap::Wait`]: crate::Trap::Wait
//! [`WaitQueue::wake`]: crate::WaitQueue::wake

mod event;
mod lock;
mod mailbox;
mod oneshot;
mod semaphore;

pub use event::Event;
pub use lock::{Lock, LockGuard};
pub use mailbox::{BoundedSender, Receiver, SendError, Sender, mailbox, mailbox_bounded};
pub use oneshot::{OneshotReceiver, OneshotSender, oneshot};
pub use semaphore::{Permit, Semaphore};

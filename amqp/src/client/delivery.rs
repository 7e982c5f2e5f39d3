//! A delivery owns the duty to settle it.

use crate::core::{Channel, Message, Raw, Settle};
use crate::error::Error;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A message and the duty to settle it. The message's fields (`body`, `exchange`, …) are reached directly.
///
/// Dropped without being settled it is given back to its queue after a moment, with a line in the log; dropped by a
/// panic it is rejected (put back, and counted by quorum queues).
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The duty.
    pub acker: Acker,
}

impl Delivery {
    pub(super) fn new(channel: &Rc<Channel>, raw: Raw, no_ack: bool) -> Self {
        let channel = (!no_ack).then(|| Rc::clone(channel));
        Delivery {
            message: raw.message,
            acker: Acker {
                channel,
                tag: raw.tag,
            },
        }
    }

    /// The delivery's tag on its channel.
    pub fn delivery_tag(&self) -> u64 {
        self.acker.tag
    }

    /// The work is done and its outcome safe: the server may forget the message.
    ///
    /// The ack leaves with the connection's next write, joined with others where order allows.
    ///
    /// # Errors
    /// The first cause of the channel's end, if it is over: the server has then given the message to somebody else,
    /// or will.
    pub fn ack(self) -> Result<(), Error> {
        self.acker.ack()
    }

    /// Given back unharmed (`requeue`), or dropped and dead-lettered if its queue says so. Does not count as a
    /// failure.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn nack(self, requeue: bool) -> Result<(), Error> {
        self.acker.nack(requeue)
    }

    /// The work failed. Back to the queue (`requeue`), where a quorum queue counts it, or dropped and dead-lettered.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn reject(self, requeue: bool) -> Result<(), Error> {
        self.acker.reject(requeue)
    }

    /// The message, which may go to another thread, and the duty, which stays on this one.
    pub fn into_parts(self) -> (Message, Acker) {
        (self.message, self.acker)
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl DerefMut for Delivery {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.message
    }
}

/// The duty to settle one delivery, see [`Delivery`].
pub struct Acker {
    /// `None`: nothing to settle (any more).
    channel: Option<Rc<Channel>>,
    tag: u64,
}

impl Acker {
    /// See [`Delivery::ack`].
    ///
    /// # Errors
    /// See [`Delivery::ack`].
    pub fn ack(self) -> Result<(), Error> {
        self.settle(Settle::Ack)
    }

    /// See [`Delivery::nack`].
    ///
    /// # Errors
    /// See [`Delivery::ack`].
    pub fn nack(self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { requeue })
    }

    /// See [`Delivery::reject`].
    ///
    /// # Errors
    /// See [`Delivery::ack`].
    pub fn reject(self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Reject { requeue })
    }

    /// Leaves the delivery to a later [`Acker::ack_through`] or [`Channel::ack_through`](super::Channel::ack_through):
    /// nobody else settles it, and nobody gives it back.
    pub fn leave(mut self) {
        self.channel = None;
    }

    /// Acks this delivery and all before it on its channel, also those whose [`Acker`]s are still held: these then
    /// answer [`Error::AlreadySettled`]. Single acks are coalesced anyway, so this saves little; it is here for
    /// consumers that count rather than keep.
    ///
    /// # Errors
    /// See [`Delivery::ack`].
    pub fn ack_through(mut self) -> Result<(), Error> {
        self.channel.take().map_or(Ok(()), |channel| {
            channel.settle_through(self.tag, Settle::Ack)
        })
    }

    /// Nacks this delivery and all before it on its channel, see [`Acker::ack_through`].
    ///
    /// # Errors
    /// See [`Delivery::ack`].
    pub fn nack_through(mut self, requeue: bool) -> Result<(), Error> {
        let how = Settle::Nack { requeue };
        self.channel
            .take()
            .map_or(Ok(()), |channel| channel.settle_through(self.tag, how))
    }

    /// Whether the channel is still there to be told. If not, the server gives the message to somebody else.
    pub fn is_alive(&self) -> bool {
        self.channel
            .as_ref()
            .is_none_or(|channel| channel.closed().is_none())
    }

    #[inline]
    fn settle(mut self, how: Settle) -> Result<(), Error> {
        self.channel
            .take()
            .map_or(Ok(()), |channel| channel.settle(self.tag, how))
    }
}

impl Drop for Acker {
    fn drop(&mut self) {
        let Some(channel) = self.channel.take() else {
            return;
        };
        if std::thread::panicking() {
            // An error means that the channel is closed: the server gives the message back by itself.
            let _ = channel.settle(self.tag, Settle::Reject { requeue: true });
        } else {
            let core = Rc::clone(&channel.core);
            core.dropped(channel, self.tag);
        }
    }
}

impl std::fmt::Debug for Acker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acker(tag {}, alive: {})", self.tag, self.is_alive())
    }
}

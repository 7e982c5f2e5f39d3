//! Deliveries and consumers of a blocking program.

use super::Channel;
use crate::core::{ConsumerState, Ended, Message, Settle};
use crate::error::Error;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A message and the duty to settle it. Dropped unsettled, it is given back to its queue by the next call.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// `None`: nothing to settle (any more).
    pub(super) channel: Option<Channel>,
    pub(super) tag: u64,
}

impl Delivery {
    /// The work is done: the server may forget the message. Leaves with the next call that waits.
    ///
    /// # Errors
    /// The channel's end.
    pub fn ack(mut self) -> Result<(), Error> {
        self.settle(Settle::Ack)
    }

    /// Given back unharmed (`requeue`), or dropped.
    ///
    /// # Errors
    /// The channel's end.
    pub fn nack(mut self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { requeue })
    }

    /// The work failed; see the kernel's client.
    ///
    /// # Errors
    /// The channel's end.
    pub fn reject(mut self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Reject { requeue })
    }

    /// The delivery's tag on its channel.
    pub fn delivery_tag(&self) -> u64 {
        self.tag
    }

    /// Acks this delivery and all before it on its channel, also those that are still held: these then answer
    /// [`Error::AlreadySettled`].
    ///
    /// # Errors
    /// The channel's end.
    pub fn ack_through(mut self) -> Result<(), Error> {
        self.channel.take().map_or(Ok(()), |channel| {
            channel.core().settle_through(self.tag, Settle::Ack)
        })
    }

    /// Leaves the delivery to a later [`Delivery::ack_through`]: nobody else settles it, and nobody gives it back.
    pub fn leave(mut self) {
        self.channel = None;
    }

    fn settle(&mut self, how: Settle) -> Result<(), Error> {
        self.channel
            .take()
            .map_or(Ok(()), |channel| channel.core().settle(self.tag, how))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // An error means that the channel is closed: the server gives the message back by itself.
        let _ = self.settle(Settle::Nack { requeue: true });
    }
}

/// A consumer, as an iterator with a patience.
pub struct Consumer {
    pub(super) channel: Channel,
    pub(super) state: Rc<ConsumerState>,
}

impl Consumer {
    /// Waits up to `patience` for the next delivery. `Ok(None)`: none came, or the consumer was cancelled.
    ///
    /// # Errors
    /// The channel's end.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Delivery>, Error> {
        let (channel, state) = (&self.channel, &self.state);
        let next = channel.driver().drive(Instant::now() + patience, |waker| {
            if let Some(raw) = channel.core().take_delivery(state) {
                return Poll::Ready(Ok(Some(raw)));
            }
            match &*state.ended.borrow() {
                Some(Ended::Cancelled) => Poll::Ready(Ok(None)),
                Some(Ended::Closed(error)) => Poll::Ready(Err(error.clone())),
                None => {
                    state.waiting.borrow_mut().add(waker);
                    Poll::Pending
                }
            }
        });
        Ok(next
            .transpose()?
            .flatten()
            .map(|raw| channel.delivery(raw, state.no_ack)))
    }
}

impl Consumer {
    /// Whether the consumer was cancelled: by the server (its queue was deleted), or by [`Consumer::cancel`].
    pub fn is_cancelled(&self) -> bool {
        matches!(*self.state.ended.borrow(), Some(Ended::Cancelled))
    }

    /// Its tag.
    pub fn tag(&self) -> &str {
        &self.state.tag
    }

    /// Asks the server to stop delivering; what came before its answer can still be taken.
    ///
    /// # Errors
    /// The channel's end.
    pub fn cancel(&mut self) -> Result<(), Error> {
        let over = self.state.ended.borrow().is_some();
        if over {
            return Ok(());
        }
        let call = self.channel.core().cancel_consumer(&self.state)?;
        self.channel.driver().answer(&call).map(drop)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.channel.core().abandon_consumer(&self.state);
    }
}

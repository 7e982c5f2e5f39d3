//! Publishing: confirmed, pipelined, unconfirmed.

use super::channel::Channel;
use super::wait;
use crate::core::{self, Publish};
use crate::error::{Error, PublishError, Returned};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

impl Channel {
    /// Publishes a message and waits until the server has taken responsibility for it.
    ///
    /// The limit for all of it is the connection's `publish_timeout`.
    ///
    /// # Cancellation
    /// The message may or may not have been sent; its confirm is ignored.
    ///
    /// # Errors
    /// [`PublishError`]; `Invalid` without [`Channel::confirm_select`].
    pub async fn publish(&self, message: Publish<'_>) -> Result<(), PublishError> {
        self.publish_pending(message).await?.await
    }

    /// Publishes a message and returns at once with a [`Confirm`] to wait for, so that many can be on their way.
    ///
    /// Waits only while the connection's `confirm_window` or its write buffer is full, or the server blocks
    /// publishers.
    ///
    /// # Cancellation
    /// Safe: cancelled while waiting, the message was not sent.
    ///
    /// # Errors
    /// [`PublishError::Blocked`] or [`PublishError::Deadline`] if there was no room within `publish_timeout`;
    /// `Closed`; `Invalid` without [`Channel::confirm_select`].
    pub async fn publish_pending(&self, message: Publish<'_>) -> Result<Confirm, PublishError> {
        if !self.core().has_confirms() {
            let text = "confirms are off: call confirm_select first, or publish_unconfirmed";
            return Err(PublishError::Invalid(Error::Invalid(text.into())));
        }
        let sent = kernel::now();
        let _room = self.room(&message).await?;
        let number = self
            .core()
            .publish(&message)?
            .expect("the channel has confirms: just checked");
        let limit = self.core().core.options().publish_timeout;
        Ok(Confirm {
            channel: Some(Rc::clone(self.core())),
            number,
            deadline: sent + limit,
            limit,
            waiting: None,
        })
    }

    /// Hands a message to the connection and does not ask what becomes of it: it may be lost with the connection,
    /// or for want of a queue. Mandatory ones that come back are found by [`Channel::returned`].
    ///
    /// Waits only while the write buffer is full or the server blocks publishers.
    ///
    /// # Cancellation
    /// Safe: cancelled while waiting, the message was not sent.
    ///
    /// # Errors
    /// As [`Channel::publish_pending`].
    pub async fn publish_unconfirmed(&self, message: Publish<'_>) -> Result<(), PublishError> {
        let _room = self.room(&message).await?;
        if let Some(number) = self.core().publish(&message)? {
            self.core().abandon_confirm(number);
        }
        Ok(())
    }

    /// Waits until everything published so far is confirmed or refused; which, the [`Confirm`]s tell.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// The channel's end.
    pub async fn all_confirmed(&self) -> Result<(), Error> {
        wait(|waker| self.core().poll_all_confirmed(waker)).await?
    }

    /// How many publishes are not confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.core().unconfirmed()
    }

    /// Waits for a mandatory message that came back and that no [`Confirm`] tells about. At most 256 are kept.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// The channel's end.
    pub async fn returned(&self) -> Result<Returned, Error> {
        wait(|waker| self.core().poll_returned(waker)).await?
    }

    /// Waits for room; `None`: there was some. To be kept until the message is written.
    #[inline]
    async fn room(&self, message: &Publish<'_>) -> Result<Option<core::Room>, PublishError> {
        match self.core().has_room() {
            true => Ok(None),
            false => self.wait_for_room(message).await.map(Some),
        }
    }

    async fn wait_for_room(&self, message: &Publish<'_>) -> Result<core::Room, PublishError> {
        let limit = self.core().core.options().publish_timeout;
        let mut room = core::Room::new(self.core(), message);
        let wait = async {
            match wait(|waker| room.poll(waker)).await {
                Ok(result) => result.map_err(PublishError::Closed),
                Err(cancelled) => Err(PublishError::Kernel(cancelled)),
            }
        };
        match kernel::timeout_after(limit, wait).await {
            Ok(()) => Ok(room),
            Err(PublishError::Kernel(kernel::Error::TaskTimeout)) => {
                Err(match self.connection().blocked() {
                    Some(reason) => PublishError::Blocked(reason),
                    None => PublishError::Deadline(limit),
                })
            }
            Err(error) => Err(error),
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<(), PublishError>>>>;

/// The server's word on one publish, to be awaited. Dropping it does not take the publish back.
///
/// Its deadline is the connection's `publish_timeout` from the publish on.
#[must_use = "a publish is confirmed only when its Confirm was awaited"]
pub struct Confirm {
    /// `None` once the answer was given.
    channel: Option<Rc<core::Channel>>,
    number: u64,
    deadline: Instant,
    limit: Duration,
    /// Made only when the answer is not there at the first poll.
    waiting: Option<Waiting>,
}

impl Future for Confirm {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let channel = this
            .channel
            .as_ref()
            .expect("a future is not polled after its end");
        let waiting = match &mut this.waiting {
            Some(waiting) => waiting,
            None => {
                if let Some(answer) = channel.confirmed(this.number) {
                    this.channel = None;
                    return Poll::Ready(answer);
                }
                let wait = wait_for(Rc::clone(channel), this.number, this.deadline, this.limit);
                this.waiting.insert(Box::pin(wait))
            }
        };
        let answer = waiting.as_mut().poll(context);
        // Deadline and cancellation leave the number behind; Drop takes care of it.
        match &answer {
            Poll::Ready(Err(
                PublishError::Deadline(_) | PublishError::Kernel(_) | PublishError::Closed(_),
            ))
            | Poll::Pending => {}
            Poll::Ready(_) => this.channel = None,
        }
        answer
    }
}

async fn wait_for(
    channel: Rc<core::Channel>,
    number: u64,
    deadline: Instant,
    limit: Duration,
) -> Result<(), PublishError> {
    let confirmed = async {
        match wait(|waker| channel.poll_confirm(number, waker)).await {
            Ok(answer) => answer,
            Err(cancelled) => Err(PublishError::Kernel(cancelled)),
        }
    };
    match kernel::timeout_at(deadline, confirmed).await {
        Err(PublishError::Kernel(kernel::Error::TaskTimeout)) => Err(PublishError::Deadline(limit)),
        result => result,
    }
}

impl Drop for Confirm {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            channel.abandon_confirm(self.number);
        }
    }
}

impl std::fmt::Debug for Confirm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Confirm({})", self.number)
    }
}

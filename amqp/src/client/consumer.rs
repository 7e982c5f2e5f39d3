//! A consumer as a stream that says why it ends.

use super::channel::{Channel, answered};
use super::delivery::Delivery;
use super::wait;
use crate::core::{ConsumerState, Ended};
use crate::error::Error;
use std::rc::Rc;
use std::task::Poll;

/// What a consumer yields.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// A message to work on.
    Delivery(Delivery),
    /// The server cancelled the consumer (its queue was deleted, a node went, or it took too long to ack), or
    /// [`Consumer::cancel`] was called. The channel lives on.
    Cancelled,
    /// The channel or connection is over, with its first cause; or [`Error::Kernel`], if only this wait was
    /// cancelled.
    Closed(Error),
}

/// Deliveries of one consumer, pulled by the user: no callbacks.
///
/// Dropping it cancels the consumer and gives back what was not taken. Keeps its connection alive.
pub struct Consumer {
    channel: Channel,
    state: Rc<ConsumerState>,
}

impl Consumer {
    pub(super) fn new(channel: Channel, state: Rc<ConsumerState>) -> Self {
        Consumer { channel, state }
    }

    /// Its tag.
    pub fn tag(&self) -> &str {
        &self.state.tag
    }

    /// Its channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// How many deliveries wait to be taken.
    pub fn buffered(&self) -> usize {
        self.state.queue.borrow().len()
    }

    /// What is there already, without waiting. `None`: nothing yet.
    ///
    /// What came before the end is yielded before the end, though the server gives the messages of a closed channel
    /// to somebody else: only work on them tells, by the error of the ack.
    #[inline]
    pub fn try_next(&mut self) -> Option<ConsumerEvent> {
        if let Some(raw) = self.channel.core().take_delivery(&self.state) {
            return Some(ConsumerEvent::Delivery(Delivery::new(
                self.channel.core(),
                raw,
                self.state.no_ack,
            )));
        }
        match &*self.state.ended.borrow() {
            None => None,
            Some(Ended::Cancelled) => Some(ConsumerEvent::Cancelled),
            Some(Ended::Closed(error)) => Some(ConsumerEvent::Closed(error.clone())),
        }
    }

    /// Waits for the next delivery, or the end. After the end it yields the end again.
    ///
    /// A timeout around it is better put around [`Consumer::ready`], which returns it as the error it is.
    ///
    /// # Cancellation
    /// Safe: a delivery that was not returned stays for the next call.
    pub async fn next(&mut self) -> ConsumerEvent {
        loop {
            if let Some(event) = self.try_next() {
                return event;
            }
            if let Err(cancelled) = self.ready().await {
                return ConsumerEvent::Closed(Error::Kernel(cancelled));
            }
        }
    }

    /// Waits until [`Consumer::try_next`] has something to give.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// Only those of the kernel: cancelled, or out of time.
    pub async fn ready(&mut self) -> Result<(), kernel::Error> {
        let state = &self.state;
        wait(|waker| {
            if !state.queue.borrow().is_empty() || state.ended.borrow().is_some() {
                return Poll::Ready(());
            }
            state.waiting.borrow_mut().add(waker);
            Poll::Pending
        })
        .await
    }

    /// Asks the server to stop delivering; what came before its answer can still be taken with
    /// [`Consumer::try_next`], and is given back when the consumer is dropped.
    ///
    /// # Cancellation
    /// The cancel goes on by itself.
    ///
    /// # Errors
    /// The channel's end.
    pub async fn cancel(&mut self) -> Result<(), Error> {
        if self.state.ended.borrow().is_some() {
            return Ok(());
        }
        let call = self.channel.core().cancel_consumer(&self.state)?;
        answered(&call, self.channel.core().core.options().answer_timeout)
            .await
            .map(drop)
    }

    /// [`Consumer::cancel`] without an answer. What was not taken, and what still comes, is given back. The tag stays in
    /// use on the channel.
    ///
    /// # Errors
    /// The channel's end.
    pub fn cancel_no_wait(self) -> Result<(), Error> {
        let over = self.state.ended.borrow().is_some();
        match over {
            true => Ok(()),
            false => self.channel.core().cancel_consumer_no_wait(&self.state),
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.channel.core().abandon_consumer(&self.state);
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Consumer({:?}, {} waiting)",
            self.state.tag,
            self.buffered()
        )
    }
}

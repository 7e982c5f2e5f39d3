//! The user's handle of a channel: the calls of the kernel's client, which block.

use super::{Consumer, Delivery, Driver};
use crate::core::ops::{self, Op};
use crate::core::{self, Reply, Room, requests};
use crate::core::{Consume, ExchangeDeclare, NoWait, Publish, QueueDeclare, QueueOk};
use crate::error::{Error, PublishError, Returned};
use crate::protocol::{FieldTable, reply};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A channel; the calls are those of the kernel's client.
#[derive(Clone)]
pub struct Channel {
    handle: Rc<Handle>,
}

struct Handle {
    core: Rc<core::Channel>,
    driver: Rc<Driver>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.core.closed().is_none() {
            // An error means that it is closed already.
            let _ = self
                .core
                .close(reply::SUCCESS, "the last handle was dropped");
            self.driver.flush();
        }
    }
}

impl Channel {
    pub(super) fn new(core: Rc<core::Channel>, driver: Rc<Driver>) -> Self {
        Channel {
            handle: Rc::new(Handle { core, driver }),
        }
    }

    pub(super) fn core(&self) -> &Rc<core::Channel> {
        &self.handle.core
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.handle.driver
    }

    /// The first cause of the end, if the channel is over.
    pub fn is_closed(&self) -> Option<Error> {
        self.core().closed()
    }

    /// The requests that ask for no answer; they leave with the next call that waits.
    pub fn no_wait(&self) -> NoWait<'_> {
        NoWait::new(self.core())
    }

    fn run<T>(&self, op: Op<T>) -> Result<T, Error> {
        let call = self.core().call(&op.method, op.what, op.expects)?;
        match self.driver().answer(&call)? {
            Reply::Method(class) => {
                Ok((op.read)(*class).expect("the channel checked which answer it is"))
            }
            Reply::Got(_) => unreachable!("only basic.get is answered by a message"),
        }
    }

    requests!();

    /// Publishes a message; with [`Channel::confirm_select`] waits until the server has taken responsibility for it,
    /// else only until it was handed to the system.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(&self, message: Publish<'_>) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.driver().core.options().publish_timeout;
        match self.send(&message, deadline)? {
            Some(number) => self.confirmed(number, deadline),
            None => {
                self.driver().flush();
                Ok(())
            }
        }
    }

    /// Publishes many messages and waits for all their confirms together, which is much quicker than one by one. Tells
    /// in order what became of each. Needs [`Channel::confirm_select`] to tell anything.
    pub fn publish_all<'a>(
        &self,
        messages: impl IntoIterator<Item = Publish<'a>>,
    ) -> Vec<Result<(), PublishError>> {
        let limit = self.driver().core.options().publish_timeout;
        let send = |message| {
            let deadline = Instant::now() + limit;
            (self.send(&message, deadline), deadline)
        };
        let sent: Vec<_> = messages.into_iter().map(send).collect();
        let confirm = |(number, deadline): (Result<Option<u64>, _>, _)| match number? {
            Some(number) => self.confirmed(number, deadline),
            None => Ok(()),
        };
        let results = sent.into_iter().map(confirm).collect();
        self.driver().flush();
        results
    }

    /// Hands a message to the system and does not ask what becomes of it.
    ///
    /// # Errors
    /// [`PublishError`], if it could not be sent.
    pub fn publish_unconfirmed(&self, message: Publish<'_>) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.driver().core.options().publish_timeout;
        if let Some(number) = self.send(&message, deadline)? {
            self.core().abandon_confirm(number);
        }
        self.driver().flush();
        Ok(())
    }

    /// Waits up to `patience` for a mandatory message that came back and that no publish has told about.
    ///
    /// # Errors
    /// The channel's end.
    pub fn returned(&self, patience: Duration) -> Result<Option<Returned>, Error> {
        let deadline = Instant::now() + patience;
        let returned = self
            .driver()
            .drive(deadline, |waker| self.core().poll_returned(waker));
        returned.transpose()
    }

    /// Writes a message once there is room for it. Its number, if the channel has confirms.
    fn send(&self, message: &Publish<'_>, deadline: Instant) -> Result<Option<u64>, PublishError> {
        let (driver, core) = (self.driver(), self.core());
        let mut room = Room::new(core, message);
        match driver.drive(deadline, |waker| room.poll(waker)) {
            Some(room) => room.map_err(PublishError::Closed)?,
            None => {
                let limit = driver.core.options().publish_timeout;
                return Err(driver
                    .core
                    .blocked()
                    .map_or(PublishError::Deadline(limit), PublishError::Blocked));
            }
        }
        core.publish(message)
    }

    fn confirmed(&self, number: u64, deadline: Instant) -> Result<(), PublishError> {
        let (driver, core) = (self.driver(), self.core());
        let answer = driver.drive(deadline, |waker| core.poll_confirm(number, waker));
        if matches!(answer, None | Some(Err(PublishError::Closed(_)))) {
            core.abandon_confirm(number);
        }
        let limit = driver.core.options().publish_timeout;
        answer.unwrap_or(Err(PublishError::Deadline(limit)))
    }

    /// Takes one message from a queue, if there is one.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn get(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        self.get_as(queue, false)
    }

    /// [`Channel::get`] without acks: the message is gone from the queue at once.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn get_no_ack(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        self.get_as(queue, true)
    }

    fn get_as(&self, queue: &str, no_ack: bool) -> Result<Option<Delivery>, Error> {
        let op = ops::get(queue, no_ack)?;
        let call = self.core().call(&op.method, op.what, op.expects)?;
        match self.driver().answer(&call)? {
            Reply::Got(got) => Ok(got.map(|(raw, _left)| self.delivery(raw, no_ack))),
            Reply::Method(_) => unreachable!("basic.get is answered by get-ok or get-empty"),
        }
    }

    pub(super) fn delivery(&self, raw: core::Raw, no_ack: bool) -> Delivery {
        let channel = (!no_ack).then(|| self.clone());
        Delivery {
            message: raw.message,
            channel,
            tag: raw.tag,
        }
    }

    /// Starts a consumer.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn consume(&self, consume: Consume) -> Result<Consumer, Error> {
        let (state, call) = self.core().consume(&consume)?;
        let consumer = Consumer {
            channel: self.clone(),
            state,
        };
        self.driver().answer(&call)?;
        Ok(consumer)
    }

    /// Closes the channel.
    ///
    /// # Errors
    /// The reason, if it was closed before.
    pub fn close(&self) -> Result<(), Error> {
        let call = self.core().close(reply::SUCCESS, "Goodbye")?;
        self.driver().answer(&call).map(drop)
    }
}

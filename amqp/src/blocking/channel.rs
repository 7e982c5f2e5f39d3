//! The user's handle of a channel: the calls of the kernel's client, which block.

use super::{Consumer, Delivery, Driver};
use crate::core::ops::{self, Op};
use crate::core::{self, Reply, Room};
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

    /// Declares an exchange.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`]; [`Error::Invalid`].
    pub fn exchange_declare(&self, declare: ExchangeDeclare) -> Result<(), Error> {
        self.run(ops::exchange_declare(&declare)?)
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`]; [`Error::Invalid`].
    pub fn queue_declare(&self, declare: QueueDeclare) -> Result<QueueOk, Error> {
        self.run(ops::queue_declare(&declare)?)
    }

    /// Deletes an exchange; with `if_unused` only if nothing is bound to it.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn exchange_delete(&self, name: &str, if_unused: bool) -> Result<(), Error> {
        self.run(ops::exchange_delete(name, if_unused)?)
    }

    /// Binds an exchange to another one: what `source` routes goes to `destination`.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn exchange_bind(
        &self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        let op = ops::exchange_bind(destination, source, routing_key, arguments);
        self.run(op?)
    }

    /// Takes back a binding between exchanges.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn exchange_unbind(
        &self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        let op = ops::exchange_unbind(destination, source, routing_key, arguments);
        self.run(op?)
    }

    /// Binds a queue to an exchange.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.queue_bind_with(queue, exchange, routing_key, FieldTable::default())
    }

    /// [`Channel::queue_bind`] with arguments, as headers exchanges need them.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_bind_with(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        self.run(ops::queue_bind(queue, exchange, routing_key, arguments)?)
    }

    /// Takes back a binding with the same arguments.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_unbind(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        self.run(ops::queue_unbind(queue, exchange, routing_key, arguments)?)
    }

    /// Drops all messages that are ready in a queue; returns how many.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_purge(&self, queue: &str) -> Result<u32, Error> {
        self.run(ops::queue_purge(queue)?)
    }

    /// Deletes a queue; returns how many messages went with it.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_delete(&self, queue: &str, if_unused: bool, if_empty: bool) -> Result<u32, Error> {
        self.run(ops::queue_delete(queue, if_unused, if_empty)?)
    }

    /// How many unsettled deliveries a consumer may hold; 0 = no limit.
    ///
    /// # Errors
    /// The channel's end.
    pub fn qos(&self, prefetch: u16) -> Result<(), Error> {
        self.run(ops::qos(prefetch))
    }

    /// Puts all unsettled deliveries of the channel back into their queues (RabbitMQ knows only `requeue`); what this
    /// program still holds of them answers the next ack with [`Error::AlreadySettled`].
    ///
    /// # Errors
    /// The channel's end.
    pub fn recover(&self, requeue: bool) -> Result<(), Error> {
        self.run(ops::recover(requeue))?;
        self.core().forget_deliveries();
        Ok(())
    }

    /// From now on publishes and acks take effect with [`Channel::tx_commit`] only.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`] with 406 on a channel with confirms.
    pub fn tx_select(&self) -> Result<(), Error> {
        self.run(ops::tx_select())
    }

    /// Makes publishes and acks since the last commit take effect.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`] with 406 without [`Channel::tx_select`].
    pub fn tx_commit(&self) -> Result<(), Error> {
        self.run(ops::tx_commit())
    }

    /// Forgets publishes and acks since the last commit.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`] with 406 without [`Channel::tx_select`].
    pub fn tx_rollback(&self) -> Result<(), Error> {
        self.run(ops::tx_rollback())
    }

    /// From now on the server confirms publishes.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn confirm_select(&self) -> Result<(), Error> {
        if self.core().has_confirms() {
            Ok(())
        } else {
            self.run(ops::confirm_select())
        }
    }

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

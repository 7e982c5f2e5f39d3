//! Requests that the server does not answer (`no-wait`).

use super::channel::Channel;
use super::ops;
use super::request::{ExchangeDeclare, QueueDeclare};
use crate::error::Error;
use crate::protocol::{AMQPClass, FieldTable, basic, confirm, exchange, queue};
use basic::AMQPMethod as Basic;
use exchange::AMQPMethod as Exchange;
use queue::AMQPMethod as Queue;

/// The requests of a channel that ask for no answer: they save a round trip each, and are for those that are known to
/// succeed.
///
/// A method returns once its request is in the write buffer. One that the server refuses closes the channel, with the
/// usual reason, at some later time; a request that waits, sent after them, tells that all of them were done.
///
/// # Errors
/// All: [`Error::Invalid`], or the channel's end. What a server refuses is told by what is called later.
#[derive(Clone, Copy)]
pub struct NoWait<'a> {
    channel: &'a Channel,
}

impl<'a> NoWait<'a> {
    pub(crate) fn new(channel: &'a Channel) -> Self {
        NoWait { channel }
    }

    fn send<T>(self, op: ops::Op<T>) -> Result<(), Error> {
        self.channel.send(&unanswered(op.method))
    }

    /// Declares an exchange.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn exchange_declare(self, declare: ExchangeDeclare) -> Result<(), Error> {
        self.send(ops::exchange_declare(&declare)?)
    }

    /// Deletes an exchange; with `if_unused` only if nothing is bound to it.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn exchange_delete(self, name: &str, if_unused: bool) -> Result<(), Error> {
        self.send(ops::exchange_delete(name, if_unused)?)
    }

    /// Binds an exchange to another one.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn exchange_bind(
        self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        self.send(ops::exchange_bind(
            [destination, source, routing_key],
            arguments,
        )?)
    }

    /// Takes back a binding between exchanges.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn exchange_unbind(
        self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        self.send(ops::exchange_unbind(
            [destination, source, routing_key],
            arguments,
        )?)
    }

    /// Declares a queue. It needs a name: nobody would learn the one that a server gives.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn queue_declare(self, declare: QueueDeclare) -> Result<(), Error> {
        if declare.name.is_empty() {
            let text = "a queue that the server names has to be declared with an answer";
            return Err(Error::Invalid(text.into()));
        }
        self.send(ops::queue_declare(&declare)?)
    }

    /// Binds a queue to an exchange. (AMQP has no `no-wait` for taking a queue's binding back.)
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn queue_bind(
        self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        self.send(ops::queue_bind([queue, exchange, routing_key], arguments)?)
    }

    /// Drops all messages that are ready in a queue.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn queue_purge(self, queue: &str) -> Result<(), Error> {
        self.send(ops::queue_purge(queue)?)
    }

    /// Deletes a queue; with `if_unused` only without consumers, with `if_empty` only without messages.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn queue_delete(self, queue: &str, if_unused: bool, if_empty: bool) -> Result<(), Error> {
        self.send(ops::queue_delete(queue, if_unused, if_empty)?)
    }

    /// From the next publish on the server confirms. Calling it again has no effect.
    ///
    /// # Errors
    /// See [`NoWait`].
    pub fn confirm_select(self) -> Result<(), Error> {
        if self.channel.has_confirms() {
            return Ok(());
        }
        self.send(ops::confirm_select())?;
        self.channel.begin_confirms();
        Ok(())
    }
}

/// The same method, asking for no answer.
pub(super) fn unanswered(mut method: AMQPClass) -> AMQPClass {
    let nowait = match &mut method {
        AMQPClass::Exchange(Exchange::Declare(method)) => &mut method.nowait,
        AMQPClass::Exchange(Exchange::Delete(method)) => &mut method.nowait,
        AMQPClass::Exchange(Exchange::Bind(method)) => &mut method.nowait,
        AMQPClass::Exchange(Exchange::Unbind(method)) => &mut method.nowait,
        AMQPClass::Queue(Queue::Declare(method)) => &mut method.nowait,
        AMQPClass::Queue(Queue::Bind(method)) => &mut method.nowait,
        AMQPClass::Queue(Queue::Purge(method)) => &mut method.nowait,
        AMQPClass::Queue(Queue::Delete(method)) => &mut method.nowait,
        AMQPClass::Basic(Basic::Consume(method)) => &mut method.nowait,
        AMQPClass::Confirm(confirm::AMQPMethod::Select(method)) => &mut method.nowait,
        other => unreachable!("{other:?} has no form without an answer"),
    };
    *nowait = true;
    method
}

//! What a user asks of a channel, as values.
//!
//! Each is built with the entity's name and the switches that differ from the defaults, and becomes one
//! amq-protocol method. Queues and exchanges are durable unless said otherwise: RabbitMQ 4.3 refuses transient
//! queues that are not exclusive.

use crate::codec::RawProperties;
use crate::error::Error;
use crate::protocol::{AMQPClass, AMQPValue, FieldTable, ShortString, basic, exchange, queue};
use basic::AMQPMethod as Basic;
use exchange::AMQPMethod as Exchange;
use queue::AMQPMethod as Queue;

/// A name as a short string.
pub(crate) fn short(text: &str, what: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text).map_err(|_| {
        Error::Invalid(format!(
            "the {what} is {} bytes long, AMQP allows 255",
            text.len()
        ))
    })
}

/// Refuses what has no form on the wire: amq-protocol would write a type that no peer reads.
pub(crate) fn checked(table: &FieldTable) -> Result<(), Error> {
    fn check(value: &AMQPValue) -> Result<(), Error> {
        match value {
            AMQPValue::ShortString(_) => Err(Error::Invalid(
                "a table cannot hold a ShortString: use a LongString".into(),
            )),
            AMQPValue::FieldTable(table) => checked(table),
            AMQPValue::FieldArray(array) => array.as_slice().iter().try_for_each(check),
            _ => Ok(()),
        }
    }
    table.into_iter().try_for_each(|(_, each)| check(each))
}

/// What the requests with arguments have in common.
macro_rules! with_arguments {
    () => {
        /// Adds one argument, such as `("x-queue-type", "quorum")` of a queue, with the value as a `LongString`.
        pub fn argument(mut self, key: &'static str, value: impl Into<AMQPValue>) -> Self {
            self.arguments.insert(key.into(), value.into());
            self
        }

        /// Sets all arguments.
        pub fn arguments(mut self, arguments: FieldTable) -> Self {
            self.arguments = arguments;
            self
        }
    };
}

/// The methods that only set a request's switches: its name, and the fields it sets.
macro_rules! switches {
    ($($(#[$doc:meta])+ $name:ident: $($field:ident = $value:literal),+;)+) => {
        $(
            $(#[$doc])+
            pub fn $name(mut self) -> Self {
                $(self.$field = $value;)+
                self
            }
        )+
    };
}

/// `exchange.declare`. Durable unless [`ExchangeDeclare::transient`].
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeDeclare {
    name: String,
    kind: String,
    passive: bool,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: FieldTable,
}

impl ExchangeDeclare {
    /// An exchange of any kind, such as `"x-delayed-message"`.
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        ExchangeDeclare {
            name: name.into(),
            kind: kind.into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        }
    }

    /// Routes to the queues bound with exactly the message's routing key.
    pub fn direct(name: impl Into<String>) -> Self {
        Self::new(name, "direct")
    }

    /// Routes to every queue bound.
    pub fn fanout(name: impl Into<String>) -> Self {
        Self::new(name, "fanout")
    }

    /// Routes by patterns with `*` and `#`.
    pub fn topic(name: impl Into<String>) -> Self {
        Self::new(name, "topic")
    }

    /// Routes by headers.
    pub fn headers(name: impl Into<String>) -> Self {
        Self::new(name, "headers")
    }

    switches! {
        /// Only asks whether it exists.
        passive: passive = true;
        /// Survives a restart of the broker. The default; here so that it can be said.
        durable: durable = true;
        /// Does not survive a restart of the broker.
        transient: durable = false;
        /// Is deleted when the last binding from it goes.
        auto_delete: auto_delete = true;
        /// Takes messages from other exchanges only.
        internal: internal = true;
    }

    with_arguments!();

    pub(crate) fn method(&self) -> Result<AMQPClass, Error> {
        checked(&self.arguments)?;
        Ok(AMQPClass::Exchange(Exchange::Declare(exchange::Declare {
            exchange: short(&self.name, "exchange name")?,
            kind: short(&self.kind, "exchange type")?,
            passive: self.passive,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            nowait: false,
            arguments: self.arguments.clone(),
        })))
    }
}

/// `queue.declare`. Durable unless [`QueueDeclare::transient`] or [`QueueDeclare::exclusive`].
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDeclare {
    pub(crate) name: String,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: FieldTable,
}

impl QueueDeclare {
    /// A queue. The empty name asks the server for one, which [`QueueOk::name`] then tells.
    pub fn new(name: impl Into<String>) -> Self {
        QueueDeclare {
            name: name.into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
        }
    }

    switches! {
        /// Only asks whether it exists, and how many messages and consumers it has.
        passive: passive = true;
        /// Survives a restart of the broker. The default; here so that it can be said.
        durable: durable = true;
        /// Does not survive a restart of the broker. RabbitMQ 4.3 allows that for exclusive queues only.
        transient: durable = false;
        /// Belongs to this connection and goes with it; not durable.
        exclusive: exclusive = true, durable = false;
        /// Is deleted when its last consumer goes.
        auto_delete: auto_delete = true;
    }

    with_arguments!();

    pub(crate) fn method(&self) -> Result<AMQPClass, Error> {
        checked(&self.arguments)?;
        Ok(AMQPClass::Queue(Queue::Declare(queue::Declare {
            queue: short(&self.name, "queue name")?,
            passive: self.passive,
            durable: self.durable,
            exclusive: self.exclusive,
            auto_delete: self.auto_delete,
            nowait: false,
            arguments: self.arguments.clone(),
        })))
    }
}

/// Answer to a `queue.declare`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOk {
    /// The queue's name, given by the server if the declaration left it empty.
    pub name: String,
    /// Messages ready for delivery.
    pub messages: u32,
    /// Consumers it has.
    pub consumers: u32,
}

/// `basic.consume`.
#[derive(Debug, Clone, PartialEq)]
pub struct Consume {
    pub(crate) queue: String,
    pub(crate) tag: String,
    no_local: bool,
    pub(crate) no_ack: bool,
    exclusive: bool,
    arguments: FieldTable,
}

impl Consume {
    /// Consumes from a queue, with acks.
    pub fn new(queue: impl Into<String>) -> Self {
        Consume {
            queue: queue.into(),
            tag: String::new(),
            no_local: false,
            no_ack: false,
            exclusive: false,
            arguments: FieldTable::default(),
        }
    }

    /// The consumer's tag; without one the client makes one up.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = tag.into();
        self
    }

    /// Messages count as settled once sent: those on the way are lost if this program dies. Default off.
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    switches! {
        /// Refuse other consumers on the queue.
        exclusive: exclusive = true;
        /// Not messages published on this connection. RabbitMQ ignores it.
        no_local: no_local = true;
    }

    /// Deliver to consumers of higher priority first (RabbitMQ's `x-priority`).
    pub fn priority(self, priority: i32) -> Self {
        self.argument("x-priority", priority)
    }

    with_arguments!();

    pub(crate) fn method(&self, tag: &str) -> Result<AMQPClass, Error> {
        checked(&self.arguments)?;
        Ok(AMQPClass::Basic(Basic::Consume(basic::Consume {
            queue: short(&self.queue, "queue name")?,
            consumer_tag: short(tag, "consumer tag")?,
            no_local: self.no_local,
            no_ack: self.no_ack,
            exclusive: self.exclusive,
            nowait: false,
            arguments: self.arguments.clone(),
        })))
    }
}

/// One message to publish.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// Exchange; empty = the default one, which routes to the queue named by the key.
    pub exchange: &'a str,
    /// Routing key.
    pub routing_key: &'a str,
    /// Fail with `Unroutable` if no queue takes it, instead of dropping it.
    pub mandatory: bool,
    /// Properties, encoded once by the caller and as often used as wanted.
    pub properties: &'a RawProperties,
    /// Body.
    pub body: &'a [u8],
}

impl<'a> Publish<'a> {
    /// A message without properties, not mandatory. A broker keeps it in memory only; see
    /// [`Publish::properties`].
    pub fn new(exchange: &'a str, routing_key: &'a str, body: &'a [u8]) -> Self {
        const NONE: &RawProperties = &RawProperties::none();
        Publish {
            exchange,
            routing_key,
            mandatory: false,
            properties: NONE,
            body,
        }
    }

    /// Fail with `Unroutable` if no queue takes it.
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// Sets the properties, such as delivery mode 2 for a message that survives a restart of the broker.
    pub fn properties(mut self, properties: &'a RawProperties) -> Self {
        self.properties = properties;
        self
    }
}

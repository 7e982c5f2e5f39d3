//! What has to exist on the broker, as a value.

use super::request::{Consume, ExchangeDeclare, QueueDeclare};
use crate::protocol::FieldTable;

/// A queue bound to an exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The queue; a name or alias given to the [`Topology`], also where the server chooses the real one.
    pub queue: String,
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Arguments, for headers exchanges.
    pub arguments: FieldTable,
}

/// What a session declares at every start, in this order: exchanges, queues, bindings, prefetch, confirms,
/// consumers. Nothing is recorded from calls: what is not here does not come back after a loss.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topology {
    pub(crate) exchanges: Vec<ExchangeDeclare>,
    /// A name for use in bindings and consumers, and the declaration.
    pub(crate) queues: Vec<(String, QueueDeclare)>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) prefetch: Option<u16>,
    pub(crate) confirms: bool,
    pub(crate) consumers: Vec<(String, Consume)>,
}

impl Topology {
    /// Nothing: a session with it only connects and opens a channel.
    pub fn new() -> Self {
        Topology::default()
    }

    /// Adds an exchange.
    pub fn exchange(mut self, declare: ExchangeDeclare) -> Self {
        self.exchanges.push(declare);
        self
    }

    /// Adds a queue.
    pub fn queue(mut self, declare: QueueDeclare) -> Self {
        self.queues.push((declare.name.clone(), declare));
        self
    }

    /// Adds a queue whose name the server chooses anew at every start, such as a queue for replies. `alias` stands
    /// for it in bindings and consumers.
    pub fn server_named_queue(mut self, alias: impl Into<String>, declare: QueueDeclare) -> Self {
        self.queues.push((alias.into(), declare));
        self
    }

    /// Binds a queue to an exchange.
    pub fn bind(
        mut self,
        queue: impl Into<String>,
        exchange: impl Into<String>,
        routing_key: impl Into<String>,
    ) -> Self {
        self.bindings.push(Binding {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            arguments: FieldTable::default(),
        });
        self
    }

    /// Adds a binding with arguments.
    pub fn binding(mut self, binding: Binding) -> Self {
        self.bindings.push(binding);
        self
    }

    /// Sets the prefetch of the consumers; 0 = no limit.
    pub fn prefetch(mut self, count: u16) -> Self {
        self.prefetch = Some(count);
        self
    }

    /// Switches publisher confirms on.
    pub fn confirms(mut self) -> Self {
        self.confirms = true;
        self
    }

    /// Adds a consumer.
    pub fn consume(mut self, consume: Consume) -> Self {
        self.consumers.push((consume.queue.clone(), consume));
        self
    }
}

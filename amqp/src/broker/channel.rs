//! One channel: publish under way, unsettled deliveries, prefetch, confirms.

use super::arena::Key;
use super::confirms::Confirms;
use super::consumer::Consumer;
use super::ledger::Ledger;
use super::message::Assembly;
use super::queue::Queue;
use super::world::World;
use std::collections::HashMap;
use std::rc::Rc;

/// Where messages with the same exchange and key went last, valid while nothing was declared, bound or deleted.
/// Most channels publish with one key many times over.
#[derive(Default)]
pub(crate) struct LastRoute {
    pub(crate) version: u64,
    pub(crate) routing: Vec<u8>,
    pub(crate) queues: Vec<Key<Queue>>,
}

/// The consumer of direct replies on a channel (`amq.rabbitmq.reply-to`).
pub(crate) struct ReplyConsumer {
    pub(crate) tag: Box<str>,
    /// The name that stands for it in requests.
    pub(crate) address: String,
}

/// One open channel.
#[derive(Default)]
pub(crate) struct Channel {
    pub(crate) assembly: Assembly,
    /// The message under way is to be stored by lasting queues.
    pub(crate) is_persistent: bool,
    /// Its own time to live in milliseconds.
    pub(crate) ttl: Option<u64>,
    /// The route of the message under way is in `route` and need not be looked up.
    pub(crate) route: LastRoute,
    pub(crate) ledger: Ledger,
    pub(crate) confirms: Option<Confirms>,
    /// It stands in the list of channels with confirms to send.
    pub(crate) is_confirming: bool,
    /// For consumers to come (qos with `global` off, as RabbitMQ defines it); 0 = no limit.
    pub(crate) prefetch: u16,
    pub(crate) consumers: HashMap<Box<str>, Key<Consumer>>,
    pub(crate) replies: Option<ReplyConsumer>,
    /// The queue declared last: what an empty queue name means (AMQP 0-9-1 §1.7.2.3).
    pub(crate) last_queue: Option<Rc<str>>,
}

impl Channel {
    /// Ends the channel: its consumers go, what it has not settled goes back to its queues.
    pub(crate) fn close(mut self, world: &mut World) {
        world.memory -= self.assembly.held();
        if let Some(replies) = self.replies.take() {
            world.reply_addresses.remove(&replies.address);
        }
        // Messages first: an auto-delete queue goes with its last consumer, and they must not outlive it. The
        // consumers cannot get them again, for deliveries happen at the end of the turn.
        self.give_back_all(world);
        for key in self.consumers.into_values() {
            world.remove_consumer(key);
        }
    }

    /// Gives back all unsettled deliveries.
    pub(crate) fn give_back_all(&mut self, world: &mut World) {
        for unacked in self.ledger.take_up_to(0).unwrap_or_default() {
            world.give_back(unacked);
        }
    }
}

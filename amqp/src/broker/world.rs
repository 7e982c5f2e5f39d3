//! What all connections share: the names, the consumers, the accounts, and what is to be done this turn.

use super::arena::{Arena, Key};
use super::config::Config;
use super::consumer::Consumer;
use super::ledger::Unacked;
use super::message::Message;
use super::peer::Peer;
use super::queue::{Entry, NEVER, Queue};
use super::store::{Batch, Op, Origin};
use super::vhost::Vhost;
use std::collections::HashMap;

/// Something that concerns another connection than the one being read; done at the end of the turn.
pub(crate) enum Notice {
    /// A consumer has lost its queue.
    Cancelled {
        peer: Key<Peer>,
        channel: u16,
        tag: Box<str>,
        consumer: Key<Consumer>,
    },
    /// A message for a direct reply-to consumer.
    Reply {
        peer: Key<Peer>,
        channel: u16,
        message: Message,
    },
}

/// The state of the broker without its connections.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) vhost: Vhost,
    pub(crate) consumers: Arena<Consumer>,
    /// Queues that may have both a message and a consumer for it.
    pub(crate) scheduled: Vec<Key<Queue>>,
    pub(crate) notices: Vec<Notice>,
    /// Channels that have confirms to send, now or once something is stored.
    pub(crate) confirming: Vec<(Key<Peer>, u16)>,
    /// Direct reply-to: address → the channel that consumes.
    pub(crate) reply_addresses: HashMap<String, (Key<Peer>, u16)>,
    /// What the store is to be told at the end of the turn.
    batch: Batch,
    /// The number of that batch.
    batch_number: u64,
    /// All batches up to this one are safe.
    pub(crate) stored: u64,
    /// Whether there is a store that keeps anything.
    is_lasting: bool,
    /// Milliseconds since the node was made, as the driver last told.
    pub(crate) now: u64,
    /// Queues that have, or hold messages that have, a time to live.
    timed: Vec<Key<Queue>>,
    /// Bytes of messages held, in queues, ledgers and assembly.
    pub(crate) memory: u64,
    last_generated: u64,
    /// Makes generated names hard to guess.
    secret: std::hash::RandomState,
}

impl World {
    pub(crate) fn new(config: Config, is_lasting: bool) -> Self {
        World {
            config,
            vhost: Vhost::new(),
            consumers: Arena::default(),
            scheduled: Vec::new(),
            notices: Vec::new(),
            confirming: Vec::new(),
            reply_addresses: HashMap::new(),
            batch: Batch::new(),
            batch_number: 1,
            stored: 0,
            is_lasting,
            now: 0,
            timed: Vec::new(),
            memory: 0,
            last_generated: 0,
            secret: std::hash::RandomState::new(),
        }
    }

    /// Whether a turn has something to do beside scheduled queues.
    pub(crate) fn has_work(&self) -> bool {
        !self.notices.is_empty() || !self.batch.is_empty()
    }

    /// A number that differs from all others and cannot be guessed from them.
    pub(crate) fn generate(&mut self) -> u64 {
        use std::hash::BuildHasher;
        self.last_generated += 1;
        self.secret.hash_one(self.last_generated)
    }

    /// The batch of this turn with its number, unless it is empty.
    pub(crate) fn take_batch(&mut self) -> Option<(u64, Batch)> {
        if self.batch.is_empty() {
            return None;
        }
        self.batch_number += 1;
        Some((self.batch_number - 1, std::mem::take(&mut self.batch)))
    }

    /// Marks a queue as one to look at this turn.
    #[inline]
    pub(crate) fn schedule(&mut self, key: Key<Queue>) {
        if let Some(queue) = self.vhost.queue_mut(key)
            && !queue.is_scheduled
        {
            queue.is_scheduled = true;
            self.scheduled.push(key);
        }
    }

    /// Puts a message into these queues, for `ttl` milliseconds if it has such a limit of its own. Returns the batch
    /// that makes it safe, 0 if it need not be stored.
    pub(crate) fn enqueue(
        &mut self,
        message: Message,
        queues: &[Key<Queue>],
        origin: Option<Origin>,
        ttl: Option<u64>,
    ) -> u64 {
        let is_kept = self.is_lasting && message.is_persistent();
        let mut places = Vec::new();
        for (index, &key) in queues.iter().enumerate() {
            let Some(queue) = self.vhost.queue_mut(key) else {
                continue;
            };
            self.memory += message.share();
            let expires = match (ttl, queue.message_ttl) {
                (None, None) => NEVER,
                // The shorter of the two counts, as on RabbitMQ.
                (own, queues) => self.now + own.unwrap_or(NEVER).min(queues.unwrap_or(NEVER)),
            };
            if expires != NEVER && !queue.is_timed {
                queue.is_timed = true;
                self.timed.push(key);
            }
            if is_kept && queue.is_lasting() {
                // The position that the push below gives.
                places.push((queue.id, queue.next_position()));
            }
            if index + 1 == queues.len() && places.is_empty() {
                // The last queue takes the message itself; most messages have only one.
                queue.push(message, expires);
                self.schedule(key);
                return 0;
            }
            queue.push(message.clone(), expires);
            self.schedule(key);
        }
        if places.is_empty() {
            return 0;
        }
        self.batch.push(Op::Put {
            message,
            places,
            origin,
        });
        self.batch_number
    }

    /// The store could not take a message: it is taken out of the queues where it still waits.
    pub(crate) fn take_back(&mut self, places: &[(u64, u64)]) {
        for &(id, position) in places {
            let key = self.vhost.queue_with_id(id);
            let removed = key
                .and_then(|key| self.vhost.queue_mut(key))
                .and_then(|queue| queue.remove(position));
            if let Some(entry) = removed {
                self.memory -= entry.message.share();
            }
        }
    }

    /// A delivered message is done with: acknowledged, or rejected for good.
    #[inline]
    pub(crate) fn settle(&mut self, unacked: Unacked) {
        if let Some(queue) = self.vhost.queue_mut(unacked.queue) {
            queue.unacked -= 1;
        }
        self.drop_entry(unacked.queue, &unacked.entry);
        self.refund(unacked.consumer);
    }

    /// A message leaves a queue for good.
    #[inline]
    pub(crate) fn drop_entry(&mut self, key: Key<Queue>, entry: &Entry) {
        self.memory -= entry.message.share();
        if self.is_lasting
            && entry.message.is_persistent()
            && let Some(queue) = self.vhost.queue(key)
            && queue.is_lasting()
        {
            self.batch.push(Op::Settle {
                queue: queue.id,
                position: entry.position,
            });
        }
    }

    /// A delivered message goes back to its place in the queue.
    pub(crate) fn give_back(&mut self, unacked: Unacked) {
        match self.vhost.queue_mut(unacked.queue) {
            Some(queue) => {
                queue.unacked -= 1;
                queue.put_back(unacked.entry);
                self.schedule(unacked.queue);
            }
            None => self.memory -= unacked.entry.message.share(),
        }
        self.refund(unacked.consumer);
    }

    /// A consumer has one delivery less to settle.
    #[inline]
    fn refund(&mut self, key: Option<Key<Consumer>>) {
        let Some(key) = key else { return };
        if let Some(consumer) = self.consumers.get_mut(key) {
            consumer.in_flight -= 1;
            self.rejoin(key);
        }
    }

    /// Puts a consumer that has credit back into its queue's rotation. If its connection is full, the dispatcher
    /// will notice.
    #[inline]
    pub(crate) fn rejoin(&mut self, key: Key<Consumer>) {
        let Some(consumer) = self.consumers.get_mut(key) else {
            return;
        };
        if consumer.in_rotation || !consumer.has_credit() {
            return;
        }
        if let Some(queue) = self.vhost.queue_mut(consumer.queue) {
            consumer.in_rotation = true;
            queue.rotation.push_back(key);
            let queue = consumer.queue;
            self.schedule(queue);
        }
    }

    /// Has time act on a queue that was declared with a time to live.
    pub(crate) fn watch(&mut self, key: Key<Queue>) {
        if let Some(queue) = self.vhost.queue_mut(key)
            && !queue.is_timed
        {
            queue.is_timed = true;
            self.timed.push(key);
        }
    }

    /// Whether [`World::sweep`] has anything to look at.
    pub(crate) fn has_timed(&self) -> bool {
        !self.timed.is_empty()
    }

    /// Drops what has expired at the front of a queue.
    pub(crate) fn expire(&mut self, key: Key<Queue>) {
        while let Some(queue) = self.vhost.queue_mut(key)
            && let Some(entry) = queue.pop_expired(self.now)
        {
            self.drop_entry(key, &entry);
        }
    }

    /// Drops all messages and queues whose time has passed. Deliveries look at the clock themselves; this only
    /// sees to it that nothing expired stays for long where nobody consumes.
    pub(crate) fn sweep(&mut self) {
        let mut timed = std::mem::take(&mut self.timed);
        timed.retain(|&key| {
            self.expire(key);
            let Some(queue) = self.vhost.queue_mut(key) else {
                return false;
            };
            if let Some(after) = queue.expires_after {
                let is_unused = queue.consumers.is_empty();
                if is_unused && self.now > queue.last_used.saturating_add(after) {
                    self.delete_queue(key);
                    return false;
                }
                return true;
            }
            queue.is_timed = !queue.is_empty() || queue.unacked > 0;
            queue.is_timed
        });
        self.timed.append(&mut timed);
    }

    /// Adds a consumer to its queue.
    pub(crate) fn add_consumer(&mut self, consumer: Consumer, exclusive: bool) -> Key<Consumer> {
        let queue_key = consumer.queue;
        let key = self.consumers.insert(consumer);
        if let Some(queue) = self.vhost.queue_mut(queue_key) {
            queue.consumers.push(key);
            queue.has_exclusive_consumer = exclusive;
        }
        self.rejoin(key);
        key
    }

    /// Takes a consumer away; what it holds unsettled stays with its channel. The last one takes an auto-delete
    /// queue with it.
    pub(crate) fn remove_consumer(&mut self, key: Key<Consumer>) {
        let Some(consumer) = self.consumers.remove(key) else {
            return;
        };
        let Some(queue) = self.vhost.queue_mut(consumer.queue) else {
            return;
        };
        queue.forget_consumer(key);
        queue.last_used = self.now;
        if queue.options.auto_delete && queue.consumers.is_empty() {
            self.delete_queue(consumer.queue);
        }
    }

    /// Empties a queue of its ready messages and says how many they were.
    pub(crate) fn purge(&mut self, key: Key<Queue>) -> u32 {
        let Some(queue) = self.vhost.queue_mut(key) else {
            return 0;
        };
        let entries: Vec<Entry> = queue.drain().collect();
        for entry in &entries {
            self.drop_entry(key, entry);
        }
        entries.len() as u32
    }

    /// Deletes a queue with its messages, bindings and consumers, and says how many messages were ready.
    pub(crate) fn delete_queue(&mut self, key: Key<Queue>) -> u32 {
        let Some(mut queue) = self.vhost.remove_queue(key) else {
            return 0;
        };
        let mut count = 0;
        for entry in queue.drain() {
            self.memory -= entry.message.share();
            count += 1;
        }
        if self.is_lasting && queue.is_lasting() {
            self.batch.push(Op::DeleteQueue { queue: queue.id });
        }
        for key in queue.consumers {
            if let Some(consumer) = self.consumers.remove(key) {
                self.notices.push(Notice::Cancelled {
                    consumer: key,
                    peer: consumer.peer,
                    channel: consumer.channel,
                    tag: consumer.tag,
                });
            }
        }
        count
    }

    /// Deletes what belongs to a connection that has ended.
    pub(crate) fn delete_queues_of(&mut self, peer: Key<Peer>) {
        let own = self
            .vhost
            .queues()
            .filter(|(_, queue)| queue.owner == Some(peer));
        let own: Vec<_> = own.map(|(key, _)| key).collect();
        for key in own {
            self.delete_queue(key);
        }
    }

    /// Messages in all queues, ready or delivered and unsettled.
    pub(crate) fn message_count(&self) -> usize {
        self.vhost
            .queues()
            .map(|(_, queue)| queue.len() + queue.unacked)
            .sum()
    }
}

//! The whole broker without sockets, clocks and disks: bytes in per connection, bytes out per connection.
//!
//! A driver (see `server.rs`, or a test) calls [`Node::receive`] for whatever came in, then [`Node::turn`] once,
//! hands the batch to the store, calls [`Node::stored`] when it is safe, and writes what [`Node::take_touched`]
//! names. Everything that concerns other connections than the one being read happens in the turn: deliveries,
//! cancels, direct replies, confirms. So a burst of publishes becomes one burst of deliveries and one confirm.

use super::arena::{Arena, Key};
use super::config::Config;
use super::confirms::Verdict;
use super::consumer::Consumer;
use super::fault::Fault;
use super::ledger::Unacked;
use super::peer::{Peer, Phase};
use super::queue::Queue;
use super::store::{Batch, Op, Outcome};
use super::wire;
use super::world::{Notice, World};
use crate::codec::{Ack, Nack, WriteBuffer, encode};
use crate::protocol::{AMQPClass, basic, connection, reply};
use std::time::Duration;

/// Connections and all they share.
pub(crate) struct Node {
    peers: Arena<Peer>,
    world: World,
    /// Peers with something to write.
    touched: Vec<Key<Peer>>,
    /// Memory is short: connections that publish are not read.
    is_short: bool,
}

impl Node {
    /// A node; `is_lasting`: its batches go to a store that keeps them.
    pub(crate) fn new(config: Config, is_lasting: bool) -> Self {
        Node {
            peers: Arena::default(),
            world: World::new(config, is_lasting),
            touched: Vec::new(),
            is_short: false,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.world.config
    }

    /// A client has connected.
    pub(crate) fn connect(&mut self, is_loopback: bool) -> Key<Peer> {
        let key = self.peers.insert(Peer::new(is_loopback, &self.world));
        if let Some(peer) = self.peers.get_mut(key) {
            peer.key = key;
        }
        key
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.peers.len()
    }

    /// Handles the whole frames at the start of `input` and says how many bytes they took. The rest must be given
    /// again, with what follows it.
    pub(crate) fn receive(&mut self, key: Key<Peer>, input: &[u8]) -> usize {
        let Some(peer) = self.peers.get_mut(key) else {
            return input.len();
        };
        let taken = peer.receive(input, &mut self.world);
        touch(peer, &mut self.touched);
        taken
    }

    /// Whether bytes of this peer should be read now. Asked again after turns and writes.
    pub(crate) fn takes_input(&self, key: Key<Peer>) -> bool {
        self.peers
            .get(key)
            .is_none_or(|peer| peer.takes_input(&self.world) && !(self.is_short && peer.publishes))
    }

    /// A connection has ended, in whatever way.
    pub(crate) fn disconnect(&mut self, key: Key<Peer>) {
        if let Some(peer) = self.peers.get_mut(key) {
            peer.end(&mut self.world);
        }
        self.peers.remove(key);
    }

    /// Where a connection stands; `None`: it has ended.
    pub(crate) fn phase(&self, key: Key<Peer>) -> Option<Phase> {
        self.peers.get(key).map(|peer| peer.phase)
    }

    /// The heartbeat interval agreed on, once the handshake has come so far; zero = off.
    pub(crate) fn heartbeat_of(&self, key: Key<Peer>) -> Duration {
        let peer = self.peers.get(key);
        peer.map_or(Duration::ZERO, |peer| peer.terms.heartbeat)
    }

    /// Puts a heartbeat frame into a peer's buffer.
    pub(crate) fn send_heartbeat(&mut self, key: Key<Peer>) {
        if let Some(peer) = self.peers.get_mut(key) {
            encode::heartbeat(peer.out.out());
            touch(peer, &mut self.touched);
        }
    }

    /// What is to be written to a peer.
    pub(crate) fn out(&mut self, key: Key<Peer>) -> Option<&mut WriteBuffer> {
        self.peers.get_mut(key).map(|peer| &mut peer.out)
    }

    /// Some of a peer's bytes have been written: its consumers may go on once half of the bound is free.
    pub(crate) fn drained(&mut self, key: Key<Peer>) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.has_stalled_consumers && peer.out.len() <= self.world.config.write_buffer_max / 2 {
            peer.has_stalled_consumers = false;
            for channel in peer.channels() {
                for &consumer in channel.consumers.values() {
                    self.world.rejoin(consumer);
                }
            }
        }
    }

    /// Tells the time, in milliseconds since the node was made; never goes back.
    pub(crate) fn set_time(&mut self, now: u64) {
        self.world.now = self.world.now.max(now);
    }

    /// Whether [`Node::sweep`] should be called now and then.
    pub(crate) fn has_timed(&self) -> bool {
        self.world.has_timed()
    }

    /// Drops messages and queues whose time to live has passed.
    pub(crate) fn sweep(&mut self) {
        self.world.sweep();
    }

    /// Whether a turn has something to do.
    pub(crate) fn has_work(&self) -> bool {
        !self.touched.is_empty() || !self.world.scheduled.is_empty() || self.world.has_work()
    }

    /// The peers with something to write. Their list is handed out once.
    pub(crate) fn take_touched(&mut self, into: &mut Vec<Key<Peer>>) {
        into.clear();
        std::mem::swap(into, &mut self.touched);
        for &key in &*into {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.is_touched = false;
            }
        }
    }

    /// The second half of a turn of the loop: delivers, and gives out what the store must keep, with the number
    /// that [`Node::stored`] wants to hear. [`Node::confirm`] must follow.
    pub(crate) fn turn(&mut self) -> Option<(u64, Batch)> {
        for notice in std::mem::take(&mut self.world.notices) {
            self.notify(notice);
        }
        let mut scheduled = std::mem::take(&mut self.world.scheduled);
        for key in scheduled.drain(..) {
            self.serve(key);
        }
        if self.world.scheduled.is_empty() {
            self.world.scheduled = scheduled; // keeps its memory
        }
        self.weigh();
        self.world.take_batch()
    }

    /// All batches up to `number` are safe, except the operations refused.
    pub(crate) fn stored(&mut self, number: u64, outcome: Outcome) {
        self.world.stored = self.world.stored.max(number);
        for (op, reason) in outcome.refused {
            log::error!("the store refused an operation: {reason}");
            let Op::Put { places, origin, .. } = op else {
                continue;
            };
            self.world.take_back(&places);
            let Some(origin) = origin else { continue };
            let channel = self
                .peers
                .get_mut(Key::from_bits(origin.peer))
                .and_then(|peer| peer.channel_mut(origin.channel));
            if let Some(confirms) = channel.and_then(|channel| channel.confirms.as_mut()) {
                confirms.refuse(origin.publish);
            }
        }
    }

    /// Sends the confirms that can be sent.
    pub(crate) fn confirm(&mut self) {
        let mut confirming = std::mem::take(&mut self.world.confirming);
        confirming.retain(|&(key, number)| {
            let Some(peer) = self.peers.get_mut(key) else {
                return false;
            };
            let (out, Some(channel)) = peer.out_and_channel(number) else {
                return false;
            };
            let Some(confirms) = &mut channel.confirms else {
                return false;
            };
            confirms.release(self.world.stored, |verdict| say(out, number, verdict));
            let is_waiting = confirms.is_waiting();
            channel.is_confirming = is_waiting;
            touch(peer, &mut self.touched);
            is_waiting
        });
        self.world.confirming = confirming;
    }

    /// Delivers what a queue has to the consumers that can take it, one message each in turn.
    fn serve(&mut self, key: Key<Queue>) {
        let world = &mut self.world;
        let Some(queue) = world.vhost.queue_mut(key) else {
            return;
        };
        queue.is_scheduled = false;
        if queue.is_timed {
            world.expire(key);
        }
        while let Some(queue) = world.vhost.queue_mut(key)
            && !queue.is_empty()
            && let Some(consumer_key) = queue.rotation.pop_front()
        {
            let is_alone = queue.rotation.is_empty();
            let Some(consumer) = world.consumers.get_mut(consumer_key) else {
                continue;
            };
            consumer.in_rotation = false;
            let Some(peer) = self.peers.get_mut(consumer.peer) else {
                continue;
            };
            touch(peer, &mut self.touched);
            // Alone, it gets all it can take; otherwise one, and then it is the next one's turn.
            while deliver_one(world, peer, key, consumer_key) && is_alone {}
            if !peer.has_stalled_consumers {
                world.rejoin(consumer_key);
            }
        }
    }

    fn notify(&mut self, notice: Notice) {
        match notice {
            Notice::Cancelled {
                peer,
                channel: number,
                tag,
                consumer,
            } => {
                let Some(peer) = self.peers.get_mut(peer) else {
                    return;
                };
                let Some(channel) = peer.channel_mut(number) else {
                    return;
                };
                if channel.consumers.get(&tag) != Some(&consumer) {
                    return;
                }
                channel.consumers.remove(&tag);
                if peer.terms.knows_cancel {
                    let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
                        consumer_tag: (&*tag).into(),
                        nowait: true,
                    });
                    peer.say(number, AMQPClass::Basic(cancel));
                    touch(peer, &mut self.touched);
                }
            }
            Notice::Reply {
                peer,
                channel: number,
                message,
            } => {
                let Some(peer) = self.peers.get_mut(peer) else {
                    return;
                };
                if !peer.takes_input(&self.world) {
                    log::warn!("a direct reply is dropped: its client does not read");
                    return;
                }
                let frame_max = peer.terms.frame_max;
                let (out, Some(channel)) = peer.out_and_channel(number) else {
                    return;
                };
                // As RabbitMQ does it: a direct reply shows the next tag and does not use it up.
                let tag = channel.ledger.upcoming_tag();
                if let Some(replies) = &channel.replies {
                    wire::deliver(out, number, frame_max, &replies.tag, tag, false, &message);
                }
                touch(peer, &mut self.touched);
            }
        }
    }

    /// Compares the messages held with the high-water mark, and tells those it concerns.
    fn weigh(&mut self) {
        let mark = self.world.config.memory_high_water;
        let was_short = self.is_short;
        self.is_short = match was_short {
            false => self.world.memory > mark,
            true => self.world.memory > mark / 5 * 4,
        };
        if !self.is_short && !was_short {
            return;
        }
        if self.is_short && !was_short {
            log::warn!(
                "messages in memory are over the mark: connections that publish have to wait"
            );
        }
        for key in self.peers.keys() {
            let Some(peer) = self.peers.get_mut(key) else {
                continue;
            };
            let is_held = self.is_short && peer.publishes;
            if peer.phase != Phase::Running || is_held == peer.was_told_blocked {
                continue;
            }
            peer.was_told_blocked = is_held;
            if peer.terms.knows_blocked {
                let method = match is_held {
                    true => connection::AMQPMethod::Blocked(connection::Blocked {
                        reason: "low on memory".into(),
                    }),
                    false => connection::AMQPMethod::Unblocked(connection::Unblocked {}),
                };
                peer.say(0, AMQPClass::Connection(method));
                touch(peer, &mut self.touched);
            }
        }
    }

    /// Closes all connections because the broker stops.
    pub(crate) fn close_all(&mut self) {
        for key in self.peers.keys() {
            if let Some(peer) = self.peers.get_mut(key) {
                let fault = Fault::new(reply::CONNECTION_FORCED, "the broker is shutting down");
                peer.close_with(fault, &mut self.world);
                touch(peer, &mut self.touched);
            }
        }
    }

    /// Messages in all queues, delivered ones included.
    pub(crate) fn message_count(&self) -> usize {
        self.world.message_count()
    }
}

/// Puts a peer on the list of those with something to write.
#[inline]
fn touch(peer: &mut Peer, touched: &mut Vec<Key<Peer>>) {
    if !peer.is_touched {
        peer.is_touched = true;
        touched.push(peer.key);
    }
}

/// Delivers the oldest message of a queue to a consumer, if both allow it. `true`: it was done, so try again.
#[inline]
fn deliver_one(
    world: &mut World,
    peer: &mut Peer,
    queue_key: Key<Queue>,
    consumer_key: Key<Consumer>,
) -> bool {
    if peer.out.len() >= world.config.write_buffer_max {
        peer.has_stalled_consumers = true;
        return false;
    }
    let (Some(queue), Some(consumer)) = (
        world.vhost.queue_mut(queue_key),
        world.consumers.get_mut(consumer_key),
    ) else {
        return false;
    };
    let (frame_max, number) = (peer.terms.frame_max, consumer.channel);
    let (out, Some(channel)) = peer.out_and_channel(number) else {
        return false;
    };
    if !consumer.has_credit() {
        return false;
    }
    let Some(entry) = queue.pop() else {
        return false;
    };
    // `serve` has dropped what had expired at the front; behind a live message there may be more.
    if world.now > entry.expires {
        world.drop_entry(queue_key, &entry);
        return true;
    }
    let tag = channel.ledger.next_tag();
    let (redelivered, message) = (entry.redelivered, &entry.message);
    wire::deliver(
        out,
        number,
        frame_max,
        &consumer.tag,
        tag,
        redelivered,
        message,
    );
    if consumer.no_ack {
        world.drop_entry(queue_key, &entry);
    } else {
        queue.unacked += 1;
        consumer.in_flight += 1;
        channel.ledger.record(
            tag,
            Unacked {
                queue: queue_key,
                consumer: Some(consumer_key),
                entry,
            },
        );
    }
    true
}

fn say(out: &mut Vec<u8>, channel: u16, verdict: Verdict) {
    match verdict {
        Verdict::Ack { up_to, multiple } => {
            let delivery_tag = up_to;
            encode::ack(
                out,
                channel,
                Ack {
                    delivery_tag,
                    multiple,
                },
            );
        }
        Verdict::Nack(delivery_tag) => encode::nack(
            out,
            channel,
            Nack {
                delivery_tag,
                multiple: false,
                requeue: false,
            },
        ),
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;

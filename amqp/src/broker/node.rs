//! The whole broker without sockets, clocks and disks: bytes in per connection, bytes out per connection.
//!
//! A driver (see `server.rs`, or a test) calls [`Node::receive`] for whatever came in, then [`Node::turn`] once,
//! hands the batch to the store, calls [`Node::stored`] when it is safe, and writes what [`Node::take_touched`]
//! names. Everything that concerns other connections than the one being read happens in the turn: deliveries,
//! cancels, direct replies, confirms. So a burst of publishes becomes one burst of deliveries and one confirm.

use super::arena::{Arena, Key};
use super::config::Config;
use super::confirms::Verdict;
use super::fault::Fault;
use super::peer::{Peer, Phase};
use super::store::{Batch, Op, Outcome};
use super::world::World;
use crate::codec::{Ack, Nack, WriteBuffer, encode};
use crate::protocol::{AMQPClass, connection, reply};
use std::time::Duration;

/// Connections and all they share.
pub(crate) struct Node {
    pub(crate) peers: Arena<Peer>,
    pub(crate) world: World,
    /// Peers with something to write.
    pub(crate) touched: Vec<Key<Peer>>,
    shortage: Shortage,
}

/// How short memory is, and so which connections are not read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Shortage {
    /// Over the mark: those that publish.
    is_short: bool,
    /// Over the second mark: those that bring results too.
    is_full: bool,
}

impl Shortage {
    /// Results pass the first mark: were they held back with the rest, no job would be acked and memory would
    /// never fall. The second mark bounds them.
    fn holds(self, peer: &Peer) -> bool {
        let counts = match peer.terms.brings_results {
            true => self.is_full,
            false => self.is_short,
        };
        counts && peer.publishes
    }

    /// The same with so many bytes held. A mark once passed counts until memory is well below it.
    fn after(self, memory: u64, config: &Config) -> Shortage {
        let (first, second) = (config.memory_high_water, config.second_memory_mark());
        Shortage {
            is_short: memory > if self.is_short { first / 5 * 4 } else { first },
            is_full: memory > if self.is_full { first } else { second },
        }
    }
}

impl Node {
    /// A node; `is_lasting`: its batches go to a store that keeps them.
    pub(crate) fn new(config: Config, is_lasting: bool) -> Self {
        Node {
            peers: Arena::default(),
            world: World::new(config, is_lasting),
            touched: Vec::new(),
            shortage: Shortage::default(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.world.config
    }

    /// A client has connected; `name` is what the log calls it.
    pub(crate) fn connect(&mut self, is_loopback: bool, name: String) -> Key<Peer> {
        let peer = Peer::new(is_loopback, name, &self.world);
        let key = self.peers.insert(peer);
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
            .is_none_or(|peer| peer.takes_input(&self.world) && !self.shortage.holds(peer))
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

    /// Compares the messages held with the two marks, and tells those it concerns.
    fn weigh(&mut self) {
        let was = self.shortage;
        let is = was.after(self.world.memory, &self.world.config);
        self.shortage = is;
        if !is.is_short && !was.is_short {
            return;
        }
        if is.is_full && !was.is_full {
            log::warn!("messages in memory are over the second mark: results have to wait too");
        }
        if is.is_short && !was.is_short {
            log::warn!(
                "messages in memory are over the mark: connections that publish have to wait"
            );
        }
        for key in self.peers.keys() {
            let Some(peer) = self.peers.get_mut(key) else {
                continue;
            };
            let is_held = is.holds(peer);
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
pub(crate) fn touch(peer: &mut Peer, touched: &mut Vec<Key<Peer>>) {
    if !peer.is_touched {
        peer.is_touched = true;
        touched.push(peer.key);
    }
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
pub(super) mod hostile_tests;
#[cfg(test)]
mod tests;

//! From the queues to the consumers: what the turn writes into other connections than the one that was read.

use super::arena::Key;
use super::consumer::Consumer;
use super::ledger::Unacked;
use super::node::{Node, touch};
use super::peer::Peer;
use super::queue::Queue;
use super::wire;
use super::world::{Notice, World};
use crate::protocol::{AMQPClass, basic};

impl Node {
    /// Delivers what a queue has to the consumers that can take it, one message each in turn.
    pub(crate) fn serve(&mut self, key: Key<Queue>) {
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

    /// Does what concerns another connection than the one that caused it.
    pub(crate) fn notify(&mut self, notice: Notice) {
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
                if let Err(fault) = wire::check_fit(message.properties(), frame_max) {
                    log::warn!("a direct reply is dropped: {}", fault.reply_text());
                    return;
                }
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
    let Some(oldest) = queue.oldest() else {
        return false;
    };
    if let Err(fault) = wire::check_fit(oldest.message.properties(), frame_max) {
        // The message stays for a consumer with larger frames.
        peer.close_channel(number, fault, world);
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

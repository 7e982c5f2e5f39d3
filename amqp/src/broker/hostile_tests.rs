//! Hostile bytes against the whole broker, from a seed.

use super::tests::{Client, Out, handshake_bytes, node, turn};
use super::*;
use crate::codec::{Publish, RawProperties};
use crate::protocol::{BasicProperties, basic, confirm, exchange, queue};

/// Any bytes at all: no panic, no account left open, and the others are served as before.
#[test]
fn hostile_bytes_harm_nobody_else() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut node = node(seed % 2 == 0);
        let honest = Client::open(&mut node);
        honest.declare(&mut node, "q");
        honest.consume(&mut node, "q", 5);
        honest.drop_output(&mut node);
        for _ in 0..4 {
            let hostile = node.connect(true, "test".into());
            let mut bytes = session(&mut random);
            mutate(&mut bytes, &mut random);
            let (mut at, mut end) = (0, 0);
            while end < bytes.len() {
                end = (end + 1 + random.below(300)).min(bytes.len());
                let taken = node.receive(hostile, &bytes[at..end]);
                assert!(taken <= end - at);
                at += taken;
                if random.below(3) == 0 {
                    turn(&mut node);
                }
                if let Some(out) = node.out(hostile) {
                    out.advance(out.len());
                }
            }
            node.disconnect(hostile);
            turn(&mut node);
        }
        honest.drop_output(&mut node);
        honest.publish(&mut node, "amq.none", b"x", false);
        honest.declare(&mut node, "still-here");
        let frames = honest.take(&mut node);
        assert!(
            matches!(frames.last(), Some(Out::Other(1, _))),
            "seed {seed}: {frames:?}"
        );
        node.disconnect(honest.key);
        for (key, _) in node
            .world
            .vhost
            .queues()
            .map(|(k, q)| (k, q.len()))
            .collect::<Vec<_>>()
        {
            let queue = node.world.vhost.queue(key).unwrap();
            assert_eq!(
                (queue.unacked, queue.consumers.len()),
                (0, 0),
                "seed {seed}"
            );
            node.world.delete_queue(key);
        }
        assert_eq!(node.world.memory, 0, "seed {seed}");
        assert_eq!(node.world.consumers.len(), 0, "seed {seed}");
        assert!(node.world.reply_addresses.is_empty());
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A valid session that touches most methods.
fn session(random: &mut Random) -> Vec<u8> {
    let mut bytes = handshake_bytes();
    let mut say = |method| encode::method(&mut bytes, 1, &method);
    let name = ["q", "r", "s"][random.below(3)];
    let declare = queue::Declare {
        queue: name.into(),
        durable: true,
        ..queue::Declare::default()
    };
    say(AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
    let declare = exchange::Declare {
        exchange: "x".into(),
        kind: ["topic", "direct", "fanout", "headers"][random.below(4)].into(),
        ..exchange::Declare::default()
    };
    say(AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)));
    let bind = queue::Bind {
        queue: name.into(),
        exchange: "x".into(),
        routing_key: "a.#".into(),
        ..queue::Bind::default()
    };
    say(AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    say(AMQPClass::Confirm(confirm::AMQPMethod::Select(
        confirm::Select { nowait: false },
    )));
    let consume = basic::Consume {
        queue: "amq.rabbitmq.reply-to".into(),
        no_ack: true,
        ..basic::Consume::default()
    };
    say(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    let consume = basic::Consume {
        queue: name.into(),
        no_ack: random.below(2) == 0,
        ..basic::Consume::default()
    };
    say(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    for _ in 0..random.below(20) {
        let publish = Publish {
            exchange: ["", "x"][random.below(2)],
            routing_key: ["q", "r", "a.b"][random.below(3)],
            mandatory: random.below(2) == 0,
            immediate: false,
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_reply_to("amq.rabbitmq.reply-to".into());
        let raw = RawProperties::from(properties);
        let body = vec![b'x'; random.below(9000)];
        encode::publish(&mut bytes, 1, &publish, raw.as_wire(), &body, 4096);
        let delivery_tag = random.below(10) as u64;
        let (multiple, requeue) = (random.below(2) == 0, random.below(2) == 0);
        if random.below(2) == 0 {
            let nack = Nack {
                delivery_tag,
                multiple,
                requeue,
            };
            encode::nack(&mut bytes, 1, nack);
        }
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    // The handshake stays whole in most runs, or few would come further.
    let from = if random.below(8) == 0 {
        0
    } else {
        handshake_bytes().len()
    };
    for _ in 0..random.below(6) {
        let at = from + random.below(bytes.len() - from);
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                let end = (at + random.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let end = (at + random.below(10)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

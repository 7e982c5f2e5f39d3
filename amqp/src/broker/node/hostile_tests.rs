//! Hostile bytes against the whole broker, from a seed.

use super::tests::{Client, Out, handshake_bytes, node, turn};
use super::*;
use crate::codec::{Publish, RawProperties};
use crate::protocol::{BasicProperties, basic, confirm, exchange, queue};
use crate::testing::{Random, mutate, peak_bytes, seeds};

#[test]
fn hostile_bytes_harm_nobody_else() {
    seeds(400, hostile_round);
}

/// Any bytes at all: no panic, bounded memory, no account left open, and the others are served as before.
pub(crate) fn hostile_round(seed: u64) {
    let ((), peak) = peak_bytes(|| one_node(seed));
    // Four sessions of at most 20 bodies of 9 kB, with all their copies.
    assert!(peak < 4 << 20, "{peak} bytes");
}

fn one_node(seed: u64) {
    let mut random = Random(seed);
    let mut node = node(seed.is_multiple_of(2));
    let honest = Client::open(&mut node);
    honest.declare(&mut node, "q");
    honest.consume(&mut node, "q", 5);
    honest.drop_output(&mut node);
    for _ in 0..4 {
        let hostile = node.connect(true, "test".into());
        let mut bytes = session(&mut random);
        // The handshake stays whole in most runs, or few would come further.
        let from = match random.one_in(8) {
            true => 0,
            false => handshake_bytes().len(),
        };
        mutate(&mut bytes, from, &mut random);
        let (mut at, mut end) = (0, 0);
        while end < bytes.len() {
            end = (end + 1 + random.below(300)).min(bytes.len());
            let taken = node.receive(hostile, &bytes[at..end]);
            assert!(taken <= end - at);
            at += taken;
            if random.one_in(3) {
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
        no_ack: random.one_in(2),
        ..basic::Consume::default()
    };
    say(AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
    for _ in 0..random.below(20) {
        let publish = Publish {
            exchange: ["", "x"][random.below(2)],
            routing_key: ["q", "r", "a.b"][random.below(3)],
            mandatory: random.one_in(2),
            immediate: false,
        };
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_reply_to("amq.rabbitmq.reply-to".into());
        let raw = RawProperties::from(properties);
        let body = vec![b'x'; random.below(9000)];
        encode::publish(&mut bytes, 1, &publish, raw.as_wire(), &body, 4096);
        let delivery_tag = random.below(10) as u64;
        let (multiple, requeue) = (random.one_in(2), random.one_in(2));
        if random.one_in(2) {
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

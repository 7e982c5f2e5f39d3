//! What is confirmed when, and what the store is told.

use super::*;

/// A slow disk: the confirm of a persistent message waits for its batch, those behind it wait too, and deliveries
/// do not.
#[test]
fn the_ticket_releases_the_confirms() {
    let mut node = node(true);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    client.select_confirms(&mut node);
    client.consume(&mut node, "q", 0);
    client.drop_output(&mut node);

    client.publish(&mut node, "q", b"transient", false);
    client.publish(&mut node, "q", b"one", true);
    let (first, batch) = node.turn().expect("a batch");
    assert_eq!(batch.len(), 1, "only the persistent one is stored");
    node.confirm();
    client.publish(&mut node, "q", b"two", true);
    client.publish(&mut node, "nowhere", b"unroutable", true);
    let (second, _) = node.turn().expect("a batch");
    node.confirm();
    let frames = client.take(&mut node);
    let acks = |frames: &[Out]| -> Vec<Out> {
        let acks = frames
            .iter()
            .filter(|out| matches!(out, Out::Ack(..) | Out::Nack(_)));
        acks.cloned().collect()
    };
    assert_eq!(acks(&frames), [Out::Ack(1, false)]);
    assert_eq!(
        frames
            .iter()
            .filter(|out| matches!(out, Out::Deliver { .. }))
            .count(),
        3
    );

    node.stored(first, Outcome::default());
    node.confirm();
    assert_eq!(acks(&client.take(&mut node)), [Out::Ack(2, false)]);
    node.stored(second, Outcome::default());
    node.confirm();
    assert_eq!(acks(&client.take(&mut node)), [Out::Ack(4, true)]);
}

/// An operation the store refuses takes nothing else of its batch with it: its publish is nacked, the message
/// disappears, the others are confirmed.
#[test]
fn a_refused_message_is_nacked_alone() {
    let mut node = node(true);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    client.select_confirms(&mut node);
    client.drop_output(&mut node);
    for body in ["one", "two", "three"] {
        client.publish(&mut node, "q", body.as_bytes(), true);
    }
    let (number, mut batch) = node.turn().expect("a batch");
    let refused = vec![(batch.remove(1), "too large".to_owned())];
    node.stored(number, Outcome { refused });
    node.confirm();
    let expected = [Out::Ack(1, false), Out::Nack(2), Out::Ack(3, false)];
    assert_eq!(client.take(&mut node), expected);
    client.consume(&mut node, "q", 0);
    turn(&mut node);
    assert_eq!(client.take_bodies(&mut node), ["one", "three"]);
}

/// What is stored is settled in the store once it is acknowledged, purged or deleted.
#[test]
fn what_leaves_a_queue_leaves_the_store() {
    let mut node = node(true);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    client.consume(&mut node, "q", 1);
    client.publish(&mut node, "q", b"one", true);
    client.publish(&mut node, "q", b"two", true);
    node.turn();
    client.ack(&mut node, 1);
    let (_, batch) = node.turn().expect("a batch");
    assert!(
        matches!(batch[..], [Op::Settle { position: 0, .. }]),
        "{batch:?}"
    );
    let delete = queue::Delete {
        queue: "q".into(),
        ..queue::Delete::default()
    };
    client.call(
        &mut node,
        AMQPClass::Queue(queue::AMQPMethod::Delete(delete)),
    );
    let (_, batch) = node.turn().expect("a batch");
    assert!(matches!(batch[..], [Op::DeleteQueue { .. }]), "{batch:?}");
    assert_eq!(
        node.world.memory,
        node.peers.get(client.key).map_or(0, unsettled)
    );
}

/// Bytes that a peer's unsettled deliveries count for.
fn unsettled(peer: &Peer) -> u64 {
    peer.channels().map(|channel| channel.ledger.bytes()).sum()
}

/// `Origin` names who publishes, so a store that answers late cannot hit another connection in the same slot.
#[test]
fn a_late_refusal_does_not_hit_the_next_connection() {
    let mut node = node(true);
    let first = Client::open(&mut node);
    first.declare(&mut node, "q");
    first.select_confirms(&mut node);
    first.publish(&mut node, "q", b"one", true);
    let (number, mut batch) = node.turn().expect("a batch");
    node.disconnect(first.key);
    let second = Client::open(&mut node);
    second.select_confirms(&mut node);
    let op = batch.remove(0);
    let Op::Put {
        origin: Some(Origin { peer, .. }),
        ..
    } = op
    else {
        panic!("a put with an origin");
    };
    assert_ne!(Key::<Peer>::from_bits(peer), second.key);
    let refused = vec![(op, "full".to_owned())];
    node.stored(number, Outcome { refused });
    node.confirm();
    assert_eq!(second.take(&mut node), []);
}

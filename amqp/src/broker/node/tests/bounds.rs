//! Memory: what is held for a slow or greedy peer, and where it stops.

use super::*;

/// A client that does not read gets no more than the bound plus one message, and goes on when it reads.
#[test]
fn a_slow_consumer_is_bounded() {
    let config = Config {
        write_buffer_max: 10_000,
        ..Config::default()
    };
    let mut node = Node::new(config, false);
    let (slow, fast) = (Client::open(&mut node), Client::open(&mut node));
    slow.declare(&mut node, "q");
    slow.consume(&mut node, "q", 0);
    for _ in 0..100 {
        fast.publish(&mut node, "q", &[b'x'; 1000], false);
        turn(&mut node);
    }
    let waiting = node.out(slow.key).unwrap().len();
    assert!((10_000..12_000).contains(&waiting), "{waiting}");
    let mut count = 0;
    while node.message_count()
        > node
            .peers
            .get(slow.key)
            .map_or(0, |p| p.channels().map(|c| c.ledger.len()).sum::<usize>())
    {
        count += slow.take_bodies(&mut node).len();
        turn(&mut node);
    }
    count += slow.take_bodies(&mut node).len();
    assert_eq!(count, 100);
}

/// Over the memory mark, connections that publish are held back and told so; others are not; below it, they go on.
#[test]
fn memory_has_a_mark() {
    let config = Config {
        memory_high_water: 10_000,
        ..Config::default()
    };
    let mut node = Node::new(config, false);
    let (publisher, consumer) = (Client::open(&mut node), Client::open(&mut node));
    publisher.declare(&mut node, "q");
    publisher.drop_output(&mut node);
    for _ in 0..12 {
        publisher.publish(&mut node, "q", &[b'x'; 1000], false);
    }
    turn(&mut node);
    assert!(!node.takes_input(publisher.key));
    assert!(node.takes_input(consumer.key));
    let is_blocked = |out: &Out| {
        let Out::Other(0, AMQPClass::Connection(method)) = out else {
            return None;
        };
        Some(matches!(method, connection::AMQPMethod::Blocked(_)))
    };
    assert_eq!(is_blocked(&publisher.take(&mut node)[0]), Some(true));
    consumer.consume(&mut node, "q", 0);
    turn(&mut node);
    for tag in 1..=12 {
        consumer.ack(&mut node, tag);
    }
    turn(&mut node);
    assert!(node.takes_input(publisher.key));
    assert_eq!(is_blocked(&publisher.take(&mut node)[0]), Some(false));
    assert_eq!(node.world.memory, 0);
}

/// The worker acks a job once its result is taken. Results pass the first mark, so that acks can bring memory down
/// and the producer is read again; a second mark bounds them.
#[test]
fn results_pass_the_memory_mark_up_to_a_second_one() {
    let config = Config {
        memory_high_water: 10_000,
        ..Config::default()
    };
    let mut node = Node::new(config, false);
    let (producer, worker) = (Client::open(&mut node), Client::open(&mut node));
    let results = Client::open_with(&mut node, Some("results"), 4096);
    let other = Client::open_with(&mut node, Some("something else"), 4096);
    producer.declare(&mut node, "jobs");
    producer.declare(&mut node, "replies");
    worker.consume(&mut node, "jobs", 0);
    // Everyone publishes, so everyone could be held back.
    for client in [&producer, &results, &other] {
        client.publish(&mut node, "replies", b"", false);
    }
    for _ in 0..9 {
        producer.publish(&mut node, "jobs", &[b'x'; 1000], false);
    }
    turn(&mut node);
    let read = |node: &Node| [&producer, &other, &results].map(|c| node.takes_input(c.key));
    assert_eq!(read(&node), [false, false, true]);
    results.drop_output(&mut node);

    // Results go on; with each a job is acked.
    for tag in 1..=3 {
        results.publish(&mut node, "replies", b"small", false);
        turn(&mut node);
        assert_eq!(read(&node), [false, false, true]);
        worker.ack(&mut node, tag);
        turn(&mut node);
    }
    assert_eq!(read(&node), [true; 3]);
    assert_eq!(results.take(&mut node), [], "it was never told to stop");

    // Results that nobody consumes come to their own bound.
    for _ in 0..5 {
        assert!(node.takes_input(results.key));
        results.publish(&mut node, "replies", &[b'x'; 1000], false);
        turn(&mut node);
    }
    assert!(node.world.memory > 12_500);
    assert_eq!(read(&node), [false; 3]);
    let told = results.take(&mut node);
    let [Out::Other(0, AMQPClass::Connection(connection::AMQPMethod::Blocked(_)))] = &told[..]
    else {
        panic!("{told:?}");
    };
    // Back at the first mark the results go on, and the producer later.
    for tag in 4..=7 {
        worker.ack(&mut node, tag);
    }
    turn(&mut node);
    assert!((8000..=10_000).contains(&node.world.memory));
    assert_eq!(read(&node), [false, false, true]);
    for tag in 8..=9 {
        worker.ack(&mut node, tag);
    }
    turn(&mut node);
    assert_eq!(read(&node), [true; 3]);
}

/// A peer that asks and never reads the answers is not listened to for ever.
#[test]
fn unread_answers_are_bounded() {
    let mut node = node(false);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    for _ in 0..8 {
        client.publish(&mut node, "q", &vec![b'x'; 1 << 20], false);
    }
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: true,
    });
    let mut bytes = Vec::new();
    for _ in 0..8 {
        encode::method(&mut bytes, 1, &AMQPClass::Basic(get.clone()));
    }
    let taken = node.receive(client.key, &bytes);
    assert!(taken < bytes.len());
    assert!(!node.takes_input(client.key));
    assert!(node.out(client.key).unwrap().len() < 6 << 20);
    client.drop_output(&mut node);
    assert_eq!(
        node.receive(client.key, &bytes[taken..]),
        bytes.len() - taken
    );
}

/// A message never waits for another channel's half message, and its bytes are counted while it grows.
#[test]
fn a_message_under_way_counts_and_is_forgotten_with_its_channel() {
    let mut node = node(false);
    let client = Client::open(&mut node);
    client.declare(&mut node, "q");
    let mut bytes = Vec::new();
    let publish = Publish {
        routing_key: "q",
        ..Publish::default()
    };
    encode::publish(&mut bytes, 1, &publish, &[0, 0], &[0; 10_000], 4096);
    node.receive(client.key, &bytes[..8200]);
    assert!(node.world.memory > 4000);
    node.disconnect(client.key);
    assert_eq!(node.world.memory, 0);
    assert_eq!(node.message_count(), 0);
}

//! Who gets which message, and in what order.

use super::*;

/// Two consumers get messages in turn; what one gives back goes to its original place, marked.
#[test]
fn consumers_take_turns_and_requeued_messages_keep_their_place() {
    let mut node = node(false);
    let (one, two) = (Client::open(&mut node), Client::open(&mut node));
    one.declare(&mut node, "q");
    one.consume(&mut node, "q", 3);
    two.consume(&mut node, "q", 3);
    one.drop_output(&mut node);
    two.drop_output(&mut node);
    for body in 0..10 {
        one.publish(&mut node, "q", body.to_string().as_bytes(), false);
    }
    turn(&mut node);
    assert_eq!(one.take_bodies(&mut node), ["0", "2", "4"]);
    assert_eq!(two.take_bodies(&mut node), ["1", "3", "5"]);
    node.disconnect(two.key);
    one.nack(&mut node, 2, false);
    turn(&mut node);
    assert_eq!(
        one.take(&mut node)[0],
        Out::Deliver {
            channel: 1,
            tag: 4,
            redelivered: true
        }
    );
    one.nack(&mut node, 0, true);
    turn(&mut node);
    assert_eq!(one.take_bodies(&mut node), ["0", "1", "2"]);
    for tag in 5..=7 {
        one.ack(&mut node, tag);
    }
    turn(&mut node);
    assert_eq!(one.take_bodies(&mut node), ["3", "4", "5"]);
    for tag in 8..=10 {
        one.ack(&mut node, tag);
    }
    turn(&mut node);
    let frames = one.take(&mut node);
    assert_eq!(
        frames[0],
        Out::Deliver {
            channel: 1,
            tag: 11,
            redelivered: false
        }
    );
}

/// Properties cannot be cut into frames: a consumer whose frames are too small for them loses its channel, and the
/// message waits for one who can take it.
#[test]
fn properties_over_the_consumers_frame_max_are_not_sent() {
    let mut node = node(false);
    let large = Client::open_with(&mut node, None, 100_000);
    let (small, getter) = (Client::open(&mut node), Client::open(&mut node));
    large.declare(&mut node, "q");
    small.consume(&mut node, "q", 0);
    small.drop_output(&mut node);
    large.publish(&mut node, "q", b"first", false);
    let mut headers = FieldTable::default();
    let text = crate::protocol::AMQPValue::LongString("x".repeat(5000).into());
    headers.insert("h".into(), text);
    let properties = RawProperties::from(BasicProperties::default().with_headers(headers));
    let publish = Publish {
        routing_key: "q",
        ..Publish::default()
    };
    let mut bytes = Vec::new();
    encode::publish(&mut bytes, 1, &publish, properties.as_wire(), b"big", 9000);
    large.send(&mut node, &bytes);
    turn(&mut node);
    let closed = |out: Vec<Out>| match out.last() {
        Some(Out::Other(1, AMQPClass::Channel(channel::AMQPMethod::Close(close)))) => {
            close.reply_code
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(closed(small.take(&mut node)), 406);
    assert_eq!(node.phase(small.key), Some(Phase::Running));
    assert_eq!(node.message_count(), 2);

    large.consume(&mut node, "q", 0);
    turn(&mut node);
    assert_eq!(large.take_bodies(&mut node), ["first", "big"]);
    node.disconnect(large.key);
    let get = basic::AMQPMethod::Get(basic::Get {
        queue: "q".into(),
        no_ack: true,
    });
    getter.call(&mut node, AMQPClass::Basic(get.clone()));
    assert!(matches!(getter.take(&mut node)[0], Out::GetOk(1)));
    getter.call(&mut node, AMQPClass::Basic(get));
    assert_eq!(closed(getter.take(&mut node)), 406);
    assert_eq!(node.message_count(), 1);
}

/// A message past its time is not delivered, however it came to be at the front, and an unused queue goes.
#[test]
fn time_to_live_of_messages_and_queues() {
    let mut node = node(false);
    let client = Client::open(&mut node);
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-message-ttl".into(),
        crate::protocol::AMQPValue::LongInt(1000),
    );
    arguments.insert(
        "x-expires".into(),
        crate::protocol::AMQPValue::LongInt(5000),
    );
    let declare = queue::Declare {
        queue: "q".into(),
        arguments,
        ..queue::Declare::default()
    };
    client.call(
        &mut node,
        AMQPClass::Queue(queue::AMQPMethod::Declare(declare)),
    );
    client.publish(&mut node, "q", b"old", false);
    node.set_time(500);
    client.publish(&mut node, "q", b"young", false);
    node.set_time(1001);
    client.consume(&mut node, "q", 0);
    turn(&mut node);
    client.take_bodies(&mut node);
    client.nack(&mut node, 1, false);
    node.set_time(1501);
    turn(&mut node);
    assert_eq!(
        client.take(&mut node),
        [],
        "what came back had expired meanwhile"
    );
    assert_eq!(node.world.memory, 0);

    node.set_time(7000);
    node.sweep();
    assert!(
        node.world.vhost.queue_named("q").is_some(),
        "it has a consumer"
    );
    let cancel = basic::AMQPMethod::Cancel(basic::Cancel {
        consumer_tag: "c".into(),
        nowait: true,
    });
    client.call(&mut node, AMQPClass::Basic(cancel));
    node.set_time(12_000);
    node.sweep();
    assert!(node.world.vhost.queue_named("q").is_some());
    node.set_time(12_001);
    node.sweep();
    assert!(node.world.vhost.queue_named("q").is_none());
    assert!(!node.has_timed());
}

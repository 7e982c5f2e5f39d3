//! Deliveries, and how they are settled.

use super::*;

#[test]
fn a_login_and_a_delivery_byte_by_byte() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    let body: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    script.deliver(1, b"");
    script.deliver(2, &body);
    script.feed();
    assert!(
        channel
            .take_delivery(&consumer)
            .unwrap()
            .message
            .body
            .is_empty()
    );
    let raw = channel.take_delivery(&consumer).unwrap();
    assert_eq!(
        (&*raw.message.exchange, &*raw.message.routing_key),
        ("x", "k")
    );
    assert!(raw.message.body == body);
    assert!(channel.take_delivery(&consumer).is_none());
}

#[test]
fn acks_of_a_turn_leave_together_and_before_what_follows_them() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    script.consume(&channel);
    (1..=6).for_each(|tag| script.deliver(tag, b"x"));
    script.feed();
    for tag in [2, 1, 4, 3] {
        channel.settle(tag, Settle::Ack).unwrap();
    }
    channel.settle(6, Settle::Ack).unwrap();
    assert_eq!(script.said(), ["ack 4*", "ack 6"]);
    channel.settle(5, Settle::Nack { requeue: true }).unwrap();
    assert_eq!(channel.settle(5, Settle::Ack), Err(Error::AlreadySettled));
    assert_eq!(script.said(), ["nack 5"]);
    script.deliver(7, b"x");
    script.deliver(8, b"x");
    script.feed();
    channel.settle(7, Settle::Ack).unwrap();
    channel.close(200, "bye").unwrap();
    assert_eq!(script.said(), ["ack 7", "20.40"]);
    assert_eq!(channel.settle(8, Settle::Ack), Err(Error::ClosedByUs));
    assert!(script.said().is_empty());
}

#[test]
fn deliveries_for_a_consumer_that_is_gone_are_given_back() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    script.deliver(1, b"x");
    script.feed();
    channel.abandon_consumer(&consumer);
    assert_eq!(script.said(), ["60.30", "nack 1"]);
    script.deliver(2, b"x");
    script.feed();
    assert_eq!(script.said(), ["nack 2"]);
    let ok = basic::CancelOk {
        consumer_tag: "t".into(),
    };
    method(
        &mut script.bytes,
        1,
        AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)),
    );
    script.deliver(3, b"x");
    script.feed();
    assert_eq!(script.said(), ["nack 3"]);
    assert_eq!(script.core.closed(), None);
}

#[test]
fn properties_arrive_as_they_were_sent() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    let properties = RawProperties::from(
        crate::protocol::BasicProperties::default()
            .with_reply_to("r".into())
            .with_delivery_mode(2),
    );
    let deliver = Deliver {
        consumer_tag: "t",
        delivery_tag: 1,
        ..Deliver::default()
    };
    encode::deliver(&mut script.bytes, 1, &deliver);
    encode::content(&mut script.bytes, 1, properties.as_wire(), b"x", 4096);
    let bytes = script.bytes.clone();
    let (_, first) = parse_frame(&bytes, 4096).unwrap().unwrap();
    let second = parse_frame(&bytes[first..], 4096).unwrap().unwrap().0;
    assert!(matches!(second, Frame::Header(1, header) if header.properties() == properties));
    script.feed();
    assert_eq!(
        channel.take_delivery(&consumer).unwrap().message.properties,
        properties
    );
}

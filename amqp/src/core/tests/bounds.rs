//! Where publishing and reading wait, and what is refused before it is written.

use super::*;

/// A publisher who asks now would have to wait.
fn is_full(channel: &Rc<Channel>) -> bool {
    let mut room = Room::new(channel, &Publish::new("", "q", b"x"));
    room.poll(Waker::noop()).is_pending()
}

/// Publishers in line are let in as confirms come and bytes leave: each is woken once, in its turn.
#[test]
fn publishers_are_let_in_one_after_the_other() {
    let mut script = Script::opened_with(ConnectOptions {
        write_buffer_bytes: 500,
        confirm_window: 3,
        ..ConnectOptions::default()
    });
    let channel = script.open_channel();
    script.confirms(&channel);
    let message = Publish::new("", "q", &[b'x'; 180]);
    let mut line: Vec<_> = (0..1000).map(|_| Room::new(&channel, &message)).collect();
    let mut published = 0;
    while !line.is_empty() {
        let ready: Vec<bool> = line
            .iter_mut()
            .map(|room| room.poll(Waker::noop()).is_ready())
            .collect();
        let count = ready.iter().filter(|ready| **ready).count();
        assert!(ready[..count].iter().all(|ready| *ready), "from the front");
        assert!((1..=3).contains(&count), "{count}");
        for room in line.drain(..count) {
            channel.publish(&message).unwrap();
            published += 1;
            drop(room);
        }
        assert!(channel.unconfirmed() <= 3);
        assert!(script.output().len() < 1000);
        let ack = crate::codec::Ack {
            delivery_tag: published,
            multiple: true,
        };
        encode::ack(&mut script.bytes, 1, ack);
        script.feed();
    }
    assert_eq!(published, 1000);
    assert!(channel.has_room());

    // The channel's end is told to all at once.
    script.core.write(|out| out.resize(600, 0));
    let mut line: Vec<_> = (0..10).map(|_| Room::new(&channel, &message)).collect();
    assert!(
        line.iter_mut()
            .all(|room| room.poll(Waker::noop()).is_pending())
    );
    script.core.fail(Error::ClosedByUs);
    for room in &mut line {
        assert_eq!(
            room.poll(Waker::noop()),
            Poll::Ready(Err(Error::ClosedByUs))
        );
    }
}

#[test]
fn reading_and_publishing_wait_where_their_bounds_say() {
    let options = ConnectOptions {
        read_buffer_bytes: 1000,
        write_buffer_bytes: 500,
        confirm_window: 3,
        ..ConnectOptions::default()
    };
    let mut script = Script::opened_with(options);
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    script.deliver(1, &[0; 700]);
    script.deliver(2, &[0; 700]);
    script.feed();
    assert!(script.core.is_over_full());
    assert!(script.core.poll_read_room(Waker::noop()).is_pending());
    channel.take_delivery(&consumer).unwrap();
    channel.take_delivery(&consumer).unwrap();
    assert!(script.core.poll_read_room(Waker::noop()).is_ready());

    script.confirms(&channel);
    for _ in 0..3 {
        assert!(channel.has_room());
        channel.publish(&Publish::new("", "q", b"x")).unwrap();
    }
    assert!(!channel.has_room() && is_full(&channel));
    encode::ack(
        &mut script.bytes,
        1,
        crate::codec::Ack {
            delivery_tag: 2,
            multiple: true,
        },
    );
    script.feed();
    assert!(channel.has_room());
    channel.publish(&Publish::new("", "q", &[0; 600])).unwrap();
    assert!(!channel.has_room(), "the write buffer is full");
    script.output();
    assert!(channel.has_room());
    let blocked = connection::Blocked {
        reason: "low on memory".into(),
    };
    method(
        &mut script.bytes,
        0,
        connection_method(connection::AMQPMethod::Blocked(blocked)),
    );
    script.feed();
    assert!(!channel.has_room() && is_full(&channel));
    assert_eq!(script.core.blocked().as_deref(), Some("low on memory"));
    let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
    method(&mut script.bytes, 0, connection_method(unblocked));
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: false });
    method(&mut script.bytes, 1, AMQPClass::Channel(flow));
    script.feed();
    assert_eq!(script.said(), ["20.21"]);
    assert!(!channel.has_room(), "the server asked for a pause");
}

/// Only bodies are cut into frames. What cannot be cut is refused here, or the server would end the connection.
#[test]
fn what_no_frame_can_hold_is_refused_and_not_written() {
    let mut script = Script::opened_with(ConnectOptions {
        frame_max: 4096,
        ..ConnectOptions::default()
    });
    let channel = script.open_channel();
    script.confirms(&channel);
    let with_header = |len: usize| {
        let mut headers = FieldTable::default();
        let text = crate::protocol::AMQPValue::LongString("x".repeat(len).into());
        headers.insert("h".into(), text);
        RawProperties::from(crate::protocol::BasicProperties::default().with_headers(headers))
    };
    // Frame 8, class, weight and size 12, flags 2, table 4, name 2, kind and length 5.
    let most = 4096 - 8 - 12 - 2 - 4 - 2 - 5;
    let (fits, over) = (with_header(most), with_header(most + 1));
    let error = channel
        .publish(&Publish::new("", "q", b"x").properties(&over))
        .unwrap_err();
    let PublishError::Invalid(Error::Invalid(text)) = error else {
        panic!("{error}");
    };
    assert!(text.contains("4097") && text.contains("4096"), "{text}");
    assert_eq!((script.output().len(), channel.unconfirmed()), (0, 0));

    let number = channel.publish(&Publish::new("", "q", b"x").properties(&fits));
    assert_eq!(number.unwrap(), Some(1), "no number was used");
    let out = script.output();
    let mut rest = &out[..];
    while let Some((_, len)) = parse_frame(rest, 4096).unwrap() {
        rest = &rest[len..];
    }
    assert!(rest.is_empty());

    let mut declare = crate::protocol::queue::Declare::default();
    let text = crate::protocol::AMQPValue::LongString("x".repeat(5000).into());
    declare.arguments.insert("x-long".into(), text);
    let declare = AMQPClass::Queue(crate::protocol::queue::AMQPMethod::Declare(declare));
    let refused = channel.call(&declare, "queue.declare", (50, 11));
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert!(script.output().is_empty());
    assert_eq!((channel.closed(), script.core.closed()), (None, None));
}

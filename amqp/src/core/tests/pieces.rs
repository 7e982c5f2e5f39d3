//! Body frames that come in parts, by the read buffer or past it.

use super::*;
use crate::testing::peak_bytes;

const SIZE: usize = 100_000;

fn a_body() -> Vec<u8> {
    (0..SIZE as u32).map(|n| (n % 251) as u8).collect()
}

/// A consumer that was sent a delivery, header and the first bytes of a body frame of `SIZE` bytes.
fn begun(announced: u64) -> (Script, Rc<Channel>, Rc<ConsumerState>) {
    let mut script = Script::opened();
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    let deliver = Deliver {
        consumer_tag: "t",
        delivery_tag: 1,
        ..Deliver::default()
    };
    encode::deliver(&mut script.bytes, 1, &deliver);
    encode::header(&mut script.bytes, 1, announced, &[0, 0]);
    script.feed();
    let mut frame = vec![3, 0, 1];
    frame.extend((SIZE as u32).to_be_bytes());
    frame.extend_from_slice(&a_body()[..10]);
    script.core.receive(&frame);
    (script, channel, consumer)
}

/// Reads up to `most` bytes of the body as a socket would.
fn read_directly(script: &Script, from: &[u8], most: usize) -> Option<usize> {
    let read = script.core.read_body(|body, room| {
        let count = from.len().min(most).min(room);
        assert!(
            body.capacity() - body.len() >= count,
            "there is room for it"
        );
        body.extend_from_slice(&from[..count]);
        Ok(count)
    });
    read.map(|read| read.expect("this socket never fails"))
}

#[test]
fn a_large_body_is_read_past_the_buffer() {
    let (script, channel, consumer) = begun(SIZE as u64);
    let body = a_body();
    let mut at = 10;
    while at < SIZE {
        // In turn past the buffer and through it.
        at += read_directly(&script, &body[at..], 30_000).expect("a body is under way");
        let end = (at + 7).min(SIZE);
        at += script.core.receive(&body[at..end]);
    }
    assert_eq!(read_directly(&script, b"more", 4), Some(0));
    assert!(
        channel.take_delivery(&consumer).is_none(),
        "its frame has not ended"
    );
    assert_eq!(script.core.receive(&[0xCE]), 1);
    let raw = channel.take_delivery(&consumer).expect("now it has");
    assert!(raw.message.body == body);
    assert_eq!(read_directly(&script, &body, SIZE), None);
    assert_eq!(script.core.closed(), None);
}

#[test]
fn a_frame_without_its_end_delivers_nothing() {
    let (script, channel, consumer) = begun(SIZE as u64);
    let body = a_body();
    assert_eq!(read_directly(&script, &body[10..], SIZE), Some(SIZE - 10));
    script.core.receive(b"x");
    assert!(channel.take_delivery(&consumer).is_none());
    assert!(script.core.is_closed());
    assert_eq!(script.said(), ["close 501"]);
}

#[test]
fn more_body_than_announced_is_refused_when_its_frame_begins() {
    let (script, _, _) = begun(SIZE as u64 - 1);
    assert!(script.core.is_closed());
    assert_eq!(script.said(), ["close 501"]);
    assert_eq!(read_directly(&script, b"x", 1), None);
}

#[test]
fn a_channel_closed_inside_a_body_drops_the_rest_of_it() {
    let (mut script, channel, _) = begun(SIZE as u64);
    channel.close(200, "enough").unwrap();
    let rest = &a_body()[10..];
    assert_eq!(read_directly(&script, rest, SIZE), None);
    assert_eq!(script.core.receive(rest), rest.len());
    assert_eq!(script.core.receive(&[0xCE]), 1);
    let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
    method(&mut script.bytes, 1, AMQPClass::Channel(close_ok));
    script.feed();
    assert_eq!(script.core.closed(), None);
    script.open_channel();
}

/// A frame may be as large as `frame_max` allows, and a body as `max_message_bytes`; that alone takes no memory.
#[test]
fn what_is_only_announced_takes_little_memory() {
    let mut script = Script::opened_with(ConnectOptions {
        frame_max: 64 << 20,
        ..ConnectOptions::default()
    });
    script.core.receive(&[]);
    let channel = script.open_channel();
    script.consume(&channel);
    let deliver = Deliver {
        consumer_tag: "t",
        delivery_tag: 1,
        ..Deliver::default()
    };
    encode::deliver(&mut script.bytes, 1, &deliver);
    encode::header(&mut script.bytes, 1, 60 << 20, &[0, 0]);
    script.bytes.extend([3, 0, 1, 0, 1, 0xFF, 0xF8]);
    let (read, peak) = peak_bytes(|| {
        script.feed();
        read_directly(&script, &[0; 1000], 1000)
    });
    assert_eq!(read, Some(1000));
    assert!(peak < 300_000, "{peak}");
}

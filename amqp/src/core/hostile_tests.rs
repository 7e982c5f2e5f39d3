//! A peer that sends anything: a seeded mutator over good transcripts.
//!
//! Whatever comes, the core must not panic, must not hold more memory than its limits say, and every wait must end
//! once the transport does.

use super::tests::{Script, method};
use super::*;
use crate::codec::{Ack, RawProperties, encode};
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::protocol::{
    AMQPClass, AMQPValue, BasicProperties, FieldTable, basic, channel, connection, queue,
};
use crate::testing::{Random, mutate, peak_bytes, seeds};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Frames a server may send in the middle of a connection, each whole.
fn good_frames() -> Vec<Vec<u8>> {
    let mut script = Script {
        core: Core::new(ConnectOptions::default()),
        bytes: Vec::new(),
    };
    let mut frames = Vec::new();
    let mut take = |bytes: &mut Vec<u8>| frames.push(std::mem::take(bytes));
    for (tag, size) in [(1, 0), (2, 16), (3, 5000)] {
        script.deliver(tag, &vec![b'x'; size]);
        take(&mut script.bytes);
    }
    script.deliver_in_frames_of(1 << 17, 4, &[b'x'; 40_000]);
    take(&mut script.bytes);
    let mut headers = FieldTable::default();
    headers.insert("h".into(), AMQPValue::FieldTable(FieldTable::default()));
    headers.insert("n".into(), AMQPValue::LongLongInt(7));
    let properties = RawProperties::from(
        BasicProperties::default()
            .with_headers(headers)
            .with_content_type("text/plain".into())
            .with_timestamp(1),
    );
    let bytes = &mut script.bytes;
    encode::header(bytes, 1, 10, properties.as_wire());
    take(bytes);
    for tag in [1, 2, 1000] {
        encode::ack(
            bytes,
            1,
            Ack {
                delivery_tag: tag,
                multiple: tag == 2,
            },
        );
        take(bytes);
    }
    let returned = basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "".into(),
        routing_key: "q".into(),
    };
    method(
        bytes,
        1,
        AMQPClass::Basic(basic::AMQPMethod::Return(returned)),
    );
    encode::content(bytes, 1, &[0, 0], b"x", 4096);
    take(bytes);
    let purged = queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count: 3 });
    method(bytes, 1, AMQPClass::Queue(purged));
    take(bytes);
    let cancel = basic::Cancel {
        consumer_tag: "t".into(),
        nowait: true,
    };
    method(
        bytes,
        1,
        AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)),
    );
    take(bytes);
    method(
        bytes,
        1,
        AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active: false })),
    );
    take(bytes);
    let close = channel::Close {
        reply_code: 404,
        reply_text: "no".into(),
        class_id: 0,
        method_id: 0,
    };
    method(
        bytes,
        1,
        AMQPClass::Channel(channel::AMQPMethod::Close(close)),
    );
    take(bytes);
    let blocked = connection::Blocked {
        reason: "memory".into(),
    };
    method(
        bytes,
        0,
        AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)),
    );
    take(bytes);
    let close = connection::Close {
        reply_code: 320,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    };
    method(
        bytes,
        0,
        AMQPClass::Connection(connection::AMQPMethod::Close(close)),
    );
    take(bytes);
    encode::heartbeat(bytes);
    take(bytes);
    frames
}

/// A few good frames in random order, damaged in random places.
fn hostile_bytes(random: &mut Random, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(12) {
        bytes.extend_from_slice(&frames[random.below(frames.len())]);
    }
    mutate(&mut bytes, 0, random);
    bytes
}

/// A connection that is told anything: see the head of this file.
pub(crate) fn hostile_round(seed: u64) {
    let random = &mut Random(seed);
    let frames = FRAMES.with(Rc::clone);
    let ((), peak) = peak_bytes(|| one_connection(random, &frames));
    // Twelve frames of at most 40 kB, here and as bodies, and what a peer's word alone may reserve.
    assert!(peak < 2 << 20, "{peak} bytes");
}

thread_local! {
    static FRAMES: Rc<Vec<Vec<u8>>> = Rc::new(good_frames());
}

fn one_connection(random: &mut Random, frames: &[Vec<u8>]) {
    let before_login = random.one_in(10);
    let mut script = if before_login {
        let mut script = Script {
            core: Core::new(ConnectOptions::default()),
            bytes: Vec::new(),
        };
        script.login();
        script
    } else {
        Script::opened()
    };
    let mut waits = None;
    if !before_login {
        let channel = script.open_channel();
        let consumer = script.consume(&channel);
        if random.one_in(2) {
            script.confirms(&channel);
            for _ in 0..3 {
                channel
                    .publish(&Publish::new("", "q", b"x").mandatory())
                    .unwrap();
            }
        }
        let op = ops::queue_purge("q").unwrap();
        let call = channel.call(&op.method, op.what, op.expects).unwrap();
        waits = Some((channel, consumer, call));
    }
    let mut bytes = std::mem::take(&mut script.bytes);
    if before_login {
        // Damage the login itself.
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes.extend(hostile_bytes(random, frames));
    let (mut start, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + 1 + random.below(64)).min(bytes.len());
        // As the reader does: the rest of a large body frame goes past the buffer.
        let direct = script.core.read_body(|body, most| {
            let count = (end - start).min(most);
            body.extend_from_slice(&bytes[start..start + count]);
            Ok(count)
        });
        start += direct.map_or(0, |count| count.expect("no socket, no error"));
        start += script.core.receive(&bytes[start..end]);
        if random.one_in(8) {
            script.output();
        }
        if let Some((channel, consumer, _)) = &waits
            && let Some(raw) = channel.take_delivery(consumer)
        {
            // Dead or alive, settling is an answer and never a panic.
            let _ = channel.settle(raw.tag, Settle::Ack);
        }
    }
    assert!(script.output().len() < 1 << 20);
    script
        .core
        .transport_ended(Error::lost(&std::io::Error::other("end of script")));
    assert!(script.core.is_closed());
    if let Some((channel, consumer, call)) = waits {
        assert!(matches!(call.poll(Waker::noop()), Poll::Ready(_)));
        assert!(consumer.ended.borrow().is_some());
        assert!(channel.closed().is_some());
    }
}

#[test]
fn no_bytes_break_the_core() {
    seeds(3000, hostile_round);
}

//! A peer that sends anything: a seeded mutator over good transcripts.
//!
//! Whatever comes, the core must not panic, must not hold more memory than its limits say, and every wait must end
//! once the transport does. `AMQP_FUZZ_SEED` runs one seed, `AMQP_FUZZ_SECONDS` runs for so long (`tests/run --long`
//! gives it an hour); without them 3,000 seeds run.

use super::tests::{Script, method};
use super::*;
use crate::codec::{Ack, RawProperties, encode};
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::protocol::{
    AMQPClass, AMQPValue, BasicProperties, FieldTable, basic, channel, connection, queue,
};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

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
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.remove(at)),
            4 => bytes.insert(at, random.below(256) as u8),
            _ => {
                let extreme: [u8; 4] = [
                    [0xFF; 4],
                    [0; 4],
                    [0x7F, 0xFF, 0xFF, 0xFF],
                    [0, 1, 0xFF, 0xF8],
                ][random.below(4)];
                for (offset, byte) in extreme.into_iter().enumerate().take(bytes.len() - at) {
                    bytes[at + offset] = byte;
                }
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

fn one_round(seed: u64, frames: &[Vec<u8>]) {
    let random = &mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let before_login = random.below(10) == 0;
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
        if random.below(2) == 0 {
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
        start += script.core.receive(&bytes[start..end]);
        if random.below(8) == 0 {
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
    let frames = good_frames();
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("AMQP_FUZZ_SEED") {
        return one_round(seed, &frames);
    }
    let until =
        number("AMQP_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = if until.is_some() { 3000 } else { 0 };
    while until.map_or(seed < 3000, |until| Instant::now() < until) {
        let round = std::panic::AssertUnwindSafe(|| one_round(seed, &frames));
        if let Err(panic) = std::panic::catch_unwind(round) {
            eprintln!("seed {seed} failed: run it alone with AMQP_FUZZ_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        seed += 1;
    }
}

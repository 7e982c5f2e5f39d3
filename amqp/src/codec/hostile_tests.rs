//! Hostile bytes against the decoder alone.

use super::*;
use crate::protocol::{AMQPClass, basic, connection, exchange, queue};
use crate::testing::{Random, mutate, peak_bytes, seeds};

const FRAME_MAX: u32 = 1 << 17;

/// A few good frames of every kind with random contents.
fn good_frames(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(5) {
        let channel = random.next() as u16;
        let other = match random.below(9) {
            0 => {
                let text = random.text();
                let publish = Publish {
                    exchange: &text,
                    routing_key: &text,
                    mandatory: random.flag(),
                    immediate: random.flag(),
                };
                let properties = RawProperties::from(random.properties());
                let body = vec![b'x'; random.below(200)];
                encode::publish(
                    &mut bytes,
                    channel,
                    &publish,
                    properties.as_wire(),
                    &body,
                    64,
                );
                continue;
            }
            1 => {
                let deliver = Deliver {
                    consumer_tag: "c",
                    ..Deliver::default()
                };
                encode::deliver(&mut bytes, channel, &deliver);
                continue;
            }
            2 => {
                let properties = RawProperties::from(random.properties());
                encode::header(&mut bytes, channel, random.next(), properties.as_wire());
                continue;
            }
            3 => {
                encode::heartbeat(&mut bytes);
                continue;
            }
            4 => AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
                queue: random.short(),
                arguments: random.table(4),
                ..queue::Declare::default()
            })),
            5 => AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
                source: random.short(),
                arguments: random.table(4),
                ..exchange::Bind::default()
            })),
            6 => AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: random.short(),
                arguments: random.table(4),
                ..basic::Consume::default()
            })),
            7 => AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
                client_properties: random.table(4),
                response: random.text().into(),
                ..connection::StartOk::default()
            })),
            _ => AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
                reply_text: random.short(),
                ..connection::Close::default()
            })),
        };
        encode::method(&mut bytes, channel, &other);
    }
    bytes
}

/// No panic; what is parsed costs no more than its bytes can explain; what parses as a method is written again as
/// bytes that parse to the same method.
pub(crate) fn hostile_round(seed: u64) {
    let random = &mut Random(seed);
    let mut bytes = good_frames(random);
    mutate(&mut bytes, 0, random);
    let ((), peak) = peak_bytes(|| parse_all(&bytes));
    // A value can cost two bytes on the wire and a hundred in memory, up to the bound on values.
    let bound = 64 * bytes.len() + 16 * 1024;
    assert!(
        peak <= bound,
        "{peak} bytes for {} on the wire",
        bytes.len()
    );
}

fn parse_all(bytes: &[u8]) {
    let mut at = 0;
    while let Ok(Some((frame, len))) = parse_frame(&bytes[at..], FRAME_MAX) {
        at += len;
        match frame {
            Frame::Header(_, header) => {
                // Checked once, it can be read as often as one likes.
                let properties = header.properties();
                assert_eq!(properties.as_wire(), header.as_wire());
                let _ = properties.decode();
            }
            Frame::Method(channel, Method::Other(class)) => write_again(channel, &class),
            _ => {}
        }
    }
}

fn write_again(channel: u16, class: &AMQPClass) {
    let mut bytes = Vec::new();
    encode::method(&mut bytes, channel, class);
    match parse_frame(&bytes, u32::MAX) {
        Ok(Some((Frame::Method(_, Method::Other(again)), _))) => {
            // NaN is not itself; its bytes are.
            let mut twice = Vec::new();
            encode::method(&mut twice, channel, &again);
            assert_eq!(bytes, twice);
        }
        other => panic!("{class:?} does not come back: {other:?}"),
    }
}

#[test]
fn no_bytes_break_the_decoder() {
    seeds(5000, hostile_round);
}

/// The worst that a table may do to memory: as many values as are allowed, each as small as can be.
#[test]
fn the_smallest_values_cost_bounded_memory() {
    let mut bytes = vec![1, 0, 1, 0, 0, 0, 0, 0, 10, 0, 10, 0, 9];
    let values = MAX_TABLE_VALUES - 1;
    let array_len = values as u32;
    let table_len = 2 + 1 + 4 + array_len;
    bytes.extend(table_len.to_be_bytes());
    bytes.extend([1, b'a', b'A']);
    bytes.extend(array_len.to_be_bytes());
    bytes.extend(std::iter::repeat_n(b'V', values));
    bytes.extend([0; 8]);
    let size = (bytes.len() - 7) as u32;
    bytes[3..7].copy_from_slice(&size.to_be_bytes());
    bytes.push(0xCE);
    let (parsed, peak) = peak_bytes(|| parse_frame(&bytes, FRAME_MAX).map(|frame| frame.is_some()));
    assert_eq!(parsed, Ok(true));
    assert!(peak < 2 << 20, "{peak}");
}

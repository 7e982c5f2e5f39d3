//! The hand-written hot paths against amq-protocol, byte for byte, on random values from a seed.

use super::*;
use crate::protocol::{AMQPClass, BasicProperties, ShortString, basic, queue};
use crate::testing::Random;
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame};
use basic::AMQPMethod as Basic;

const FRAME_MAX: u32 = 1 << 17;

fn standard(frame: &AMQPFrame) -> Vec<u8> {
    gen_frame(frame)(WriteContext::from(Vec::new()))
        .unwrap()
        .into_inner()
        .0
}

fn standard_method(channel: u16, method: Basic) -> Vec<u8> {
    standard(&AMQPFrame::Method(channel, AMQPClass::Basic(method)))
}

/// Parses one whole frame, checks that every shorter input asks for more, and returns the frame.
fn parse_all(bytes: &[u8]) -> Frame<'_> {
    for len in 0..bytes.len() {
        assert_eq!(parse_frame(&bytes[..len], FRAME_MAX), Ok(None));
    }
    let (frame, len) = parse_frame(bytes, FRAME_MAX).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    frame
}

/// Writes a method in both ways, compares the bytes, and reads it back.
fn same_bytes(channel: u16, ours: impl FnOnce(&mut Vec<u8>), standard: Basic, method: Method<'_>) {
    let mut out = Vec::new();
    ours(&mut out);
    assert_eq!(out, standard_method(channel, standard));
    assert_eq!(parse_all(&out), Frame::Method(channel, method));
}

#[test]
fn hot_methods_are_the_same_bytes() {
    for seed in 0..500 {
        println!("seed {seed}");
        let random = &mut Random(seed);
        let channel = random.next() as u16;
        let (exchange, key, consumer) = (random.text(), random.text(), random.text());
        let (delivery_tag, a, b) = (random.next(), random.flag(), random.flag());
        let message_count = random.next() as u32;

        let deliver = Deliver {
            consumer_tag: &consumer,
            delivery_tag,
            redelivered: a,
            exchange: &exchange,
            routing_key: &key,
        };
        let standard = basic::Deliver {
            consumer_tag: consumer.as_str().into(),
            delivery_tag,
            redelivered: a,
            exchange: exchange.as_str().into(),
            routing_key: key.as_str().into(),
        };
        let ours = |out: &mut Vec<u8>| encode::deliver(out, channel, &deliver);
        same_bytes(
            channel,
            ours,
            Basic::Deliver(standard),
            Method::Deliver(deliver),
        );

        let get_ok = GetOk {
            delivery_tag,
            redelivered: a,
            exchange: &exchange,
            routing_key: &key,
            message_count,
        };
        let standard = basic::GetOk {
            delivery_tag,
            redelivered: a,
            exchange: exchange.as_str().into(),
            routing_key: key.as_str().into(),
            message_count,
        };
        let ours = |out: &mut Vec<u8>| encode::get_ok(out, channel, &get_ok);
        same_bytes(channel, ours, Basic::GetOk(standard), Method::GetOk(get_ok));

        let (multiple, requeue) = (a, b);
        let ack = Ack {
            delivery_tag,
            multiple,
        };
        let standard = basic::Ack {
            delivery_tag,
            multiple,
        };
        let ours = |out: &mut Vec<u8>| encode::ack(out, channel, ack);
        same_bytes(channel, ours, Basic::Ack(standard), Method::Ack(ack));

        let nack = Nack {
            delivery_tag,
            multiple,
            requeue,
        };
        let standard = basic::Nack {
            delivery_tag,
            multiple,
            requeue,
        };
        let ours = |out: &mut Vec<u8>| encode::nack(out, channel, nack);
        same_bytes(channel, ours, Basic::Nack(standard), Method::Nack(nack));

        let reject = Reject {
            delivery_tag,
            requeue,
        };
        let standard = basic::Reject {
            delivery_tag,
            requeue,
        };
        let ours = |out: &mut Vec<u8>| encode::reject(out, channel, reject);
        same_bytes(
            channel,
            ours,
            Basic::Reject(standard),
            Method::Reject(reject),
        );
    }
}

#[test]
fn publish_with_content_is_the_same_bytes() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let channel = random.next() as u16;
        let (exchange, key) = (random.text(), random.text());
        let properties = if random.flag() {
            random.properties()
        } else {
            BasicProperties::default()
        };
        let raw = RawProperties::from(&properties);
        let body: Vec<u8> = (0..random.below(10_000))
            .map(|_| random.next() as u8)
            .collect();
        let frame_max = 4096;
        let publish = Publish {
            exchange: &exchange,
            routing_key: &key,
            mandatory: random.flag(),
            immediate: random.flag(),
        };

        let mut out = Vec::new();
        encode::publish(&mut out, channel, &publish, raw.as_wire(), &body, frame_max);

        let mut expected = standard_method(
            channel,
            Basic::Publish(basic::Publish {
                exchange: exchange.as_str().into(),
                routing_key: key.as_str().into(),
                mandatory: publish.mandatory,
                immediate: publish.immediate,
            }),
        );
        let method_len = expected.len();
        expected.extend(standard(&AMQPFrame::Header(
            channel,
            AMQPContentHeader {
                class_id: 60,
                body_size: body.len() as u64,
                properties: properties.clone(),
            },
        )));
        for piece in body.chunks(frame_max as usize - 8) {
            expected.extend(standard(&AMQPFrame::Body(channel, piece.to_vec())));
        }
        assert_eq!(out, expected, "seed {seed}");

        // And back: frames into the assembler give the message again.
        assert_eq!(
            parse_all(&out[..method_len]),
            Frame::Method(channel, Method::Publish(publish))
        );
        let mut assembler = Assembler::new();
        let mut at = 0;
        let mut whole = None;
        while let Some((frame, len)) = parse_frame(&out[at..], FRAME_MAX).unwrap() {
            at += len;
            whole = match frame {
                Frame::Method(_, method) => assembler.begin(method).map(|()| None).unwrap(),
                Frame::Header(_, header) => assembler.header(&header, 1 << 20).unwrap(),
                Frame::Body(_, piece) => assembler.body(piece).unwrap(),
                Frame::Heartbeat => unreachable!("none was written"),
            };
        }
        let whole = whole.expect("the last frame completes the content");
        assert_eq!(whole.body, body);
        assert_eq!(whole.properties, raw);
        assert_eq!(whole.properties.decode(), Some(properties));
    }
}

#[test]
fn properties_borrowed_and_decoded_agree() {
    for seed in 0..500 {
        let properties = Random(seed).properties();
        let raw = RawProperties::from(&properties);
        assert_eq!(RawProperties::from_wire(raw.as_wire()), Some(raw.clone()));
        let fields = raw.fields();
        let text =
            |value: &Option<ShortString>| value.as_ref().map(|s| s.as_str().as_bytes().to_vec());
        let bytes = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        assert_eq!(
            bytes(fields.content_type),
            text(properties.content_type()),
            "seed {seed}"
        );
        assert_eq!(
            bytes(fields.content_encoding),
            text(properties.content_encoding())
        );
        assert_eq!(
            raw.headers(),
            Some(properties.headers().clone().unwrap_or_default())
        );
        assert_eq!(fields.delivery_mode, *properties.delivery_mode());
        assert_eq!(fields.priority, *properties.priority());
        assert_eq!(
            bytes(fields.correlation_id),
            text(properties.correlation_id())
        );
        assert_eq!(bytes(fields.reply_to), text(properties.reply_to()));
        assert_eq!(bytes(fields.expiration), text(properties.expiration()));
        assert_eq!(bytes(fields.message_id), text(properties.message_id()));
        assert_eq!(fields.timestamp, *properties.timestamp());
        assert_eq!(bytes(fields.kind), text(properties.kind()));
        assert_eq!(bytes(fields.user_id), text(properties.user_id()));
        assert_eq!(bytes(fields.app_id), text(properties.app_id()));
        assert_eq!(bytes(fields.cluster_id), text(properties.cluster_id()));
    }
}

#[test]
fn other_methods_pass_through_amq_protocol() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let class = AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: random.short(),
            passive: random.flag(),
            durable: random.flag(),
            exclusive: random.flag(),
            auto_delete: random.flag(),
            nowait: random.flag(),
            arguments: random.table(4),
        }));
        // Behind another frame, as in a real write buffer.
        let mut out = Vec::new();
        encode::heartbeat(&mut out);
        let start = out.len();
        encode::method(&mut out, 7, &class);
        assert_eq!(
            out[start..],
            standard(&AMQPFrame::Method(7, class.clone())),
            "seed {seed}"
        );
        assert_eq!(
            parse_all(&out[start..]),
            Frame::Method(7, Method::Other(Box::new(class)))
        );
    }
}

#[test]
fn heartbeats_are_the_same_bytes() {
    let mut out = Vec::new();
    encode::heartbeat(&mut out);
    assert_eq!(out, standard(&AMQPFrame::Heartbeat));
    assert_eq!(parse_all(&out), Frame::Heartbeat);
}

#[test]
fn a_peer_cannot_nest_tables_into_a_stack_overflow() {
    let mut table = vec![0, 0, 0, 0];
    while table.len() < 40_000 {
        let mut outer = ((table.len() + 2) as u32).to_be_bytes().to_vec();
        outer.extend_from_slice(&[0, b'F']);
        outer.extend_from_slice(&table);
        table = outer;
    }
    // queue.declare with that table as its arguments, and a header with it as its headers.
    let mut declare = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    declare.extend_from_slice(&table);
    assert_eq!(parse_method(&declare), Err(FrameError::TableBeyondBounds));
    let mut header = vec![0x20, 0];
    header.extend_from_slice(&table);
    assert_eq!(RawProperties::from_wire(&header), None);
}

#[test]
fn hostile_frames_are_refused_with_their_code() {
    let error = |bytes: &[u8]| parse_frame(bytes, 4096).unwrap_err();
    // Refused at the seventh byte, before any payload is waited for.
    let large = error(&[1, 0, 1, 0, 0, 0x10, 0]);
    assert_eq!(
        large,
        FrameError::TooLarge {
            size: 4104,
            frame_max: 4096
        }
    );
    assert_eq!(large.reply_code(), 501);
    assert_eq!(error(b"GET / HTTP/1.1"), FrameError::UnknownType(b'G'));
    assert_eq!(error(&[8, 0, 0, 0, 0, 0, 0, 0]), FrameError::NoEnd(0));
    assert_eq!(
        error(&[8, 0, 1, 0, 0, 0, 0, 0xCE]),
        FrameError::BadHeartbeat
    );
    assert_eq!(error(&[1, 0, 1, 0, 0, 0, 0, 0xCE]).reply_code(), 502);
    let unknown = error(&[1, 0, 1, 0, 0, 0, 4, 0, 99, 0, 1, 0xCE]);
    assert_eq!(
        unknown,
        FrameError::UnknownMethod {
            class: 99,
            method: 1
        }
    );
    assert_eq!(unknown.reply_code(), 540);
    let cut = error(&[1, 0, 1, 0, 0, 0, 5, 0, 60, 0, 80, 0, 0xCE]);
    assert_eq!(
        cut,
        FrameError::MalformedMethod {
            class: 60,
            method: 80
        }
    );
    assert_eq!(cut.reply_code(), 502);
    // A header of class `queue`; one whose flags announce what is not there.
    let header = [
        2, 0, 1, 0, 0, 0, 14, 0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xCE,
    ];
    assert_eq!(error(&header), FrameError::MalformedHeader);
    let mut header = header;
    header[8] = 60;
    header[19] = 0x80;
    assert_eq!(error(&header), FrameError::MalformedHeader);
}

#[test]
fn contents_out_of_order_are_refused_with_their_code() {
    let mut out = Vec::new();
    encode::header(&mut out, 1, 4, &[0, 0]);
    let Ok(Some((Frame::Header(_, header), _))) = parse_frame(&out, 4096) else {
        panic!("a header was written");
    };
    let fresh = Assembler::<u8>::new;
    assert_eq!(
        fresh().header(&header, 100),
        Err(ContentError::UnexpectedHeader)
    );
    assert_eq!(fresh().body(b"x"), Err(ContentError::UnexpectedBody));
    let mut assembler = fresh();
    assembler.begin(1).unwrap();
    assert_eq!(assembler.begin(2), Err(ContentError::MethodInside));
    assert_eq!(assembler.body(b"x"), Err(ContentError::UnexpectedBody));
    assert_eq!(
        assembler.header(&header, 3),
        Err(ContentError::TooLarge { size: 4, limit: 3 })
    );
    let mut assembler = fresh();
    assembler.begin(1).unwrap();
    assert_eq!(assembler.header(&header, 4), Ok(None));
    assert_eq!(assembler.body(b"abc"), Ok(None));
    assert_eq!(assembler.body(b"de"), Err(ContentError::BodyTooLong));
}

#[test]
fn the_greeting_is_told_apart() {
    assert_eq!(parse_greeting(b""), Greeting::Incomplete);
    assert_eq!(parse_greeting(b"AMQP\x00"), Greeting::Incomplete);
    assert_eq!(
        parse_greeting(b"AMQP\x00\x00\x09\x01rest"),
        Greeting::Amqp091
    );
    assert_eq!(parse_greeting(b"AMQP\x01\x01\x00\x09"), Greeting::Other);
    assert_eq!(parse_greeting(b"GET"), Greeting::Other);
}

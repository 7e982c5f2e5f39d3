//! What a server may not send, and the code that answers it.

use super::*;

fn header(bytes: &mut Vec<u8>, id: u16, size: u64) {
    encode::header(bytes, id, size, &[0, 0]);
}

#[test]
fn what_comes_out_of_order_is_answered_with_its_code() {
    let opened = || {
        let mut script = Script::opened();
        let channel = script.open_channel();
        script.consume(&channel);
        script
    };
    // A header or a body without a method; a method inside a content; more body than announced.
    let mut script = opened();
    header(&mut script.bytes, 1, 3);
    script.expect_close(505);
    let mut script = opened();
    script
        .bytes
        .extend_from_slice(&[3, 0, 1, 0, 0, 0, 1, b'x', 0xCE]);
    script.expect_close(505);
    let mut script = opened();
    let deliver = Deliver {
        consumer_tag: "t",
        delivery_tag: 1,
        ..Deliver::default()
    };
    encode::deliver(&mut script.bytes, 1, &deliver);
    encode::deliver(
        &mut script.bytes,
        1,
        &Deliver {
            delivery_tag: 2,
            ..deliver
        },
    );
    script.expect_close(505);
    let mut script = opened();
    encode::deliver(&mut script.bytes, 1, &deliver);
    let ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
    method(&mut script.bytes, 1, AMQPClass::Channel(ok));
    script.expect_close(505);
    let mut script = opened();
    encode::deliver(&mut script.bytes, 1, &deliver);
    header(&mut script.bytes, 1, 1);
    script
        .bytes
        .extend_from_slice(&[3, 0, 1, 0, 0, 0, 2, b'x', b'y', 0xCE]);
    script.expect_close(501);
    // A channel that is not open; a delivery tag out of order; an answer nobody asked for.
    let mut script = opened();
    encode::deliver(&mut script.bytes, 9, &deliver);
    script.expect_close(504);
    let mut script = opened();
    script.deliver(2, b"x");
    script.expect_close(503);
    let mut script = opened();
    let ok = basic::AMQPMethod::QosOk(basic::QosOk {});
    method(&mut script.bytes, 1, AMQPClass::Basic(ok));
    script.expect_close(503);
    // A confirm on a channel without; for a publish never made; a client's method; a channel's method on 0.
    let mut script = opened();
    encode::ack(
        &mut script.bytes,
        1,
        crate::codec::Ack {
            delivery_tag: 1,
            multiple: false,
        },
    );
    script.expect_close(503);
    let mut script = opened();
    let channel = script.open_channel();
    script.confirms(&channel);
    encode::ack(
        &mut script.bytes,
        channel.id,
        crate::codec::Ack {
            delivery_tag: 7,
            multiple: true,
        },
    );
    script.expect_close(503);
    let mut script = opened();
    encode::reject(&mut script.bytes, 1, crate::codec::Reject::default());
    script.expect_close(503);
    let mut script = opened();
    encode::deliver(&mut script.bytes, 0, &deliver);
    script.expect_close(504);
    // Frames too large, of no type, without their end; a malformed field; an unknown method.
    for (bytes, code) in [
        (&[3, 0, 1, 0, 2, 0, 0][..], 501),
        (&[7, 0, 1, 0, 0, 0, 0], 501),
        (&[8, 0, 0, 0, 0, 0, 0, 0], 501),
        (&[1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 60, 0xCE], 502),
        (&[1, 0, 1, 0, 0, 0, 4, 0, 60, 0, 99, 0xCE], 540),
    ] {
        let mut script = opened();
        script.bytes.extend_from_slice(bytes);
        script.expect_close(code);
    }
    // A message over our limit.
    let mut script = Script::opened_with(ConnectOptions {
        max_message_bytes: 10,
        ..ConnectOptions::default()
    });
    let channel = script.open_channel();
    script.consume(&channel);
    encode::deliver(&mut script.bytes, 1, &deliver);
    header(&mut script.bytes, 1, 11);
    script.expect_close(311);
}

#[test]
fn other_servers_are_told_apart() {
    let error_of = |bytes: &[u8]| {
        let core = Core::new(ConnectOptions::default());
        core.receive(bytes);
        core.closed().expect("it is no AMQP server")
    };
    let http = error_of(b"HTTP/1.1 400 Bad Request\r\n");
    assert!(
        matches!(&http, Error::NotAmqp(text) if text.contains("HTTP/1.1 400")),
        "{http}"
    );
    let other = error_of(b"AMQP\x03\x01\x00\x00");
    assert!(
        matches!(&other, Error::NotAmqp(text) if text.contains("1-0-0")),
        "{other}"
    );
    let core = Core::new(ConnectOptions::default());
    core.transport_ended(Error::lost(&std::io::Error::other("eof")));
    assert!(
        core.closed().unwrap().is_retryable(),
        "a proxy before a server that starts does that"
    );
}

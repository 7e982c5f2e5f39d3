//! The core against a scripted server: bytes in, bytes out, no socket.

use super::*;
use crate::codec::{Deliver, Frame, Method, RawProperties, encode, parse_frame};
use crate::error::{Error, PublishError};
use crate::options::ConnectOptions;
use crate::protocol::{
    AMQPClass, FieldTable, PROTOCOL_HEADER, basic, channel, confirm, connection,
};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The server's end: writes frames, reads what the core says.
pub(super) struct Script {
    pub(super) core: Rc<Core>,
    /// Frames for the core, not yet fed.
    pub(super) bytes: Vec<u8>,
}

pub(super) fn method(bytes: &mut Vec<u8>, id: u16, class: AMQPClass) {
    encode::method(bytes, id, &class);
}

pub(super) fn connection_method(method: connection::AMQPMethod) -> AMQPClass {
    AMQPClass::Connection(method)
}

impl Script {
    /// A server that has answered the greeting and the login.
    pub(super) fn opened() -> Self {
        Script::opened_with(ConnectOptions::default())
    }

    pub(super) fn opened_with(options: ConnectOptions) -> Self {
        let mut script = Script {
            core: Core::new(options),
            bytes: Vec::new(),
        };
        assert!(script.output().starts_with(&PROTOCOL_HEADER));
        script.login();
        script.feed();
        assert!(matches!(
            script.core.poll_open(Waker::noop()),
            Poll::Ready(Ok(()))
        ));
        script.output();
        script
    }

    pub(super) fn login(&mut self) {
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: "PLAIN AMQPLAIN".into(),
            locales: "en_US".into(),
        };
        method(
            &mut self.bytes,
            0,
            connection_method(connection::AMQPMethod::Start(start)),
        );
        let tune = connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        };
        method(
            &mut self.bytes,
            0,
            connection_method(connection::AMQPMethod::Tune(tune)),
        );
        method(
            &mut self.bytes,
            0,
            connection_method(connection::AMQPMethod::OpenOk(connection::OpenOk {})),
        );
    }

    /// Hands what is written to the core, one byte more at a time as a slow network would.
    pub(super) fn feed(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut start = 0;
        for end in 1..=bytes.len() {
            start += self.core.receive(&bytes[start..end]);
        }
    }

    pub(super) fn output(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.core.take_output(&mut out);
        out
    }

    /// What the core says, in short: `basic.ack 3*` and so on.
    pub(super) fn said(&self) -> Vec<String> {
        let out = self.output();
        let mut rest = &out[..];
        let mut said = Vec::new();
        while let Some((frame, len)) = parse_frame(rest, u32::MAX).expect("our own frames are good")
        {
            said.push(match frame {
                Frame::Method(_, Method::Ack(ack)) => {
                    format!(
                        "ack {}{}",
                        ack.delivery_tag,
                        if ack.multiple { "*" } else { "" }
                    )
                }
                Frame::Method(_, Method::Nack(nack)) => format!("nack {}", nack.delivery_tag),
                Frame::Method(_, Method::Reject(reject)) => {
                    format!("reject {}", reject.delivery_tag)
                }
                Frame::Method(_, Method::Publish(_)) => "publish".into(),
                Frame::Method(_, Method::Other(class)) => match *class {
                    AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                        format!("close {}", close.reply_code)
                    }
                    other => format!(
                        "{}.{}",
                        other.get_amqp_class_id(),
                        other.get_amqp_method_id()
                    ),
                },
                Frame::Header(..) => "header".into(),
                Frame::Body(..) => "body".into(),
                other => format!("{other:?}"),
            });
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
        said
    }

    pub(super) fn open_channel(&mut self) -> Rc<Channel> {
        let (channel, call) = self.core.open_channel().unwrap();
        let open_ok = channel::AMQPMethod::OpenOk(channel::OpenOk {});
        method(&mut self.bytes, channel.id, AMQPClass::Channel(open_ok));
        self.feed();
        assert!(matches!(call.poll(Waker::noop()), Poll::Ready(Ok(_))));
        self.output();
        channel
    }

    pub(super) fn consume(&mut self, channel: &Channel) -> Rc<ConsumerState> {
        let (consumer, call) = channel.consume(&Consume::new("q").tag("t")).unwrap();
        let ok = basic::ConsumeOk {
            consumer_tag: "t".into(),
        };
        method(
            &mut self.bytes,
            channel.id,
            AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)),
        );
        self.feed();
        assert!(matches!(call.poll(Waker::noop()), Poll::Ready(Ok(_))));
        self.output();
        consumer
    }

    pub(super) fn confirms(&mut self, channel: &Channel) {
        let op = ops::confirm_select();
        channel.call(&op.method, op.what, op.expects).unwrap();
        let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
        method(&mut self.bytes, channel.id, AMQPClass::Confirm(ok));
        self.feed();
        assert!(channel.has_confirms());
        self.output();
    }

    pub(super) fn deliver(&mut self, tag: u64, body: &[u8]) {
        let deliver = Deliver {
            consumer_tag: "t",
            delivery_tag: tag,
            redelivered: false,
            exchange: "x",
            routing_key: "k",
        };
        encode::deliver(&mut self.bytes, 1, &deliver);
        encode::content(&mut self.bytes, 1, &[0, 0], body, 4096);
    }

    /// Feeds what is written and expects the core to give up with this code, said in a Close.
    fn expect_close(mut self, code: u16) {
        self.feed();
        let error = self.core.closed().expect("the connection must end");
        assert_eq!(
            self.said().last(),
            Some(&format!("close {code}")),
            "{error}"
        );
    }
}

fn header(bytes: &mut Vec<u8>, id: u16, size: u64) {
    encode::header(bytes, id, size, &[0, 0]);
}

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
fn acks_called_before_a_close_leave_before_it_and_nothing_after_it() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    script.consume(&channel);
    script.deliver(1, b"x");
    script.feed();
    channel.settle(1, Settle::Ack).unwrap();
    script.core.close(200, "bye");
    assert!(channel.publish(&Publish::new("", "q", b"late")).is_err());
    script.core.write_heartbeat();
    assert_eq!(script.said(), ["ack 1", "close 200"]);
    // Whatever comes before the answer is dropped.
    script.deliver(2, b"x");
    script.feed();
    assert!(!script.core.is_closed());
    let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
    method(&mut script.bytes, 0, connection_method(ok));
    script.feed();
    assert_eq!(script.core.closed(), Some(Error::ClosedByUs));
}

/// Everything there is to wait for, started and pending.
struct Waits {
    channel: Rc<Channel>,
    consumer: Rc<ConsumerState>,
    confirm: u64,
    call: Rc<Call>,
}

fn everything_pending(script: &mut Script) -> Waits {
    let channel = script.open_channel();
    let consumer = script.consume(&channel);
    script.confirms(&channel);
    let confirm = channel
        .publish(&Publish::new("", "q", b"x"))
        .unwrap()
        .unwrap();
    let op = ops::queue_purge("q").unwrap();
    let call = channel.call(&op.method, op.what, op.expects).unwrap();
    assert!(call.poll(Waker::noop()).is_pending());
    assert!(channel.poll_confirm(confirm, Waker::noop()).is_pending());
    script.output();
    Waits {
        channel,
        consumer,
        confirm,
        call,
    }
}

impl Waits {
    fn all_ended_with(self, cause: &Error) {
        let Poll::Ready(Err(error)) = self.call.poll(Waker::noop()) else {
            panic!("the call must end")
        };
        assert_eq!(&error, cause);
        let Poll::Ready(Err(PublishError::Closed(error))) =
            self.channel.poll_confirm(self.confirm, Waker::noop())
        else {
            panic!("the confirm must end")
        };
        assert_eq!(&error, cause);
        assert!(
            matches!(&*self.consumer.ended.borrow(), Some(Ended::Closed(error)) if error == cause)
        );
        assert_eq!(self.channel.closed().as_ref(), Some(cause));
        assert!(matches!(
            self.channel.poll_room(Waker::noop()),
            Poll::Ready(Err(_))
        ));
        assert!(matches!(
            self.channel.poll_returned(Waker::noop()),
            Poll::Ready(Err(_))
        ));
        assert!(matches!(
            self.channel.poll_closed(Waker::noop()),
            Poll::Ready(_)
        ));
    }
}

#[test]
fn every_wait_ends_with_the_first_cause() {
    // The server closes the channel.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    let close = channel::Close {
        reply_code: 404,
        reply_text: "NOT_FOUND - no".into(),
        class_id: 50,
        method_id: 30,
    };
    method(
        &mut script.bytes,
        1,
        AMQPClass::Channel(channel::AMQPMethod::Close(close)),
    );
    script.feed();
    let cause = waits.channel.closed().unwrap();
    assert!(matches!(&cause, Error::ChannelClosed(reason) if reason.code == 404));
    waits.all_ended_with(&cause);
    assert_eq!(script.said(), ["20.41"]);
    assert_eq!(script.core.closed(), None);

    // The server closes the connection; what happens to the transport afterwards is not the cause.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    let close = connection::Close {
        reply_code: 320,
        reply_text: "shutdown".into(),
        class_id: 0,
        method_id: 0,
    };
    method(
        &mut script.bytes,
        0,
        connection_method(connection::AMQPMethod::Close(close)),
    );
    script.feed();
    assert_eq!(script.said(), ["10.51"]);
    script
        .core
        .transport_ended(Error::lost(&std::io::Error::other("reset")));
    let cause = script.core.closed().unwrap();
    assert!(matches!(&cause, Error::ConnectionClosed(reason) if reason.code == 320));
    waits.all_ended_with(&cause);

    // The transport breaks.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    let cause = Error::lost(&std::io::Error::other("reset"));
    script.core.transport_ended(cause.clone());
    waits.all_ended_with(&cause);
    assert!(script.core.open_channel().is_err());

    // We close it.
    let mut script = Script::opened();
    let waits = everything_pending(&mut script);
    script.core.close(200, "bye");
    waits.all_ended_with(&Error::ClosedByUs);
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

/// Found by the mutator with seed 24182: a wrong answer took the call out of the line, and its caller then waited for
/// its own timeout instead of being told why the connection had ended.
#[test]
fn a_wrong_answer_does_not_lose_the_call_it_came_for() {
    let mut script = Script::opened();
    let channel = script.open_channel();
    let op = ops::queue_purge("q").unwrap();
    let call = channel.call(&op.method, op.what, op.expects).unwrap();
    let ok = basic::AMQPMethod::QosOk(basic::QosOk {});
    method(&mut script.bytes, 1, AMQPClass::Basic(ok));
    script.feed();
    let Poll::Ready(Err(error)) = call.poll(Waker::noop()) else {
        panic!("the call must end")
    };
    assert_eq!(Some(error), script.core.closed());
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
    assert!(!channel.has_room() && channel.poll_room(Waker::noop()).is_pending());
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
    assert!(!channel.has_room() && channel.poll_room(Waker::noop()).is_pending());
    assert_eq!(script.core.blocked().as_deref(), Some("low on memory"));
    let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
    method(&mut script.bytes, 0, connection_method(unblocked));
    let flow = channel::AMQPMethod::Flow(channel::Flow { active: false });
    method(&mut script.bytes, 1, AMQPClass::Channel(flow));
    script.feed();
    assert_eq!(script.said(), ["20.21"]);
    assert!(!channel.has_room(), "the server asked for a pause");
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

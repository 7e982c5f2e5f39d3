//! What is refused, with which code, and what is closed by it.

#![cfg(feature = "kernel")]

mod broker_support;

use amqp::codec::{Publish, RawProperties, encode};
use amqp::protocol::{
    AMQPClass, AMQPValue, BasicProperties, FieldTable, basic, channel, connection, exchange, queue,
    tx,
};
use broker_support::Scope::{Channel, Connection};
use broker_support::{Raw, start};

fn declare(name: &str) -> queue::Declare {
    queue::Declare {
        queue: name.into(),
        durable: true,
        ..queue::Declare::default()
    }
}

fn queue_declare(declare: queue::Declare) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(declare))
}

fn with_argument(name: &str, argument: &str, value: AMQPValue) -> AMQPClass {
    let mut arguments = FieldTable::default();
    arguments.insert(argument.into(), value);
    queue_declare(queue::Declare {
        arguments,
        ..declare(name)
    })
}

fn exchange_declare(name: &str, kind: &str) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        durable: true,
        ..exchange::Declare::default()
    }))
}

fn get(queue: &str) -> AMQPClass {
    let queue = queue.into();
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get {
        queue,
        no_ack: false,
    }))
}

fn bind(queue: &str, exchange: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        ..Default::default()
    }))
}

fn consume(consume: basic::Consume) -> AMQPClass {
    AMQPClass::Basic(basic::AMQPMethod::Consume(consume))
}

/// Each request alone on a fresh connection; the queue `there` exists, durable and with no arguments.
#[test]
fn methods_are_refused_with_code_and_scope() {
    let address = start(|_| ());
    let mut owner = Raw::open(address);
    owner.call(1, queue_declare(declare("there")));
    let mine = queue::Declare {
        exclusive: true,
        ..declare("owned")
    };
    owner.call(1, queue_declare(mine.clone()));
    let number = |n| AMQPValue::LongInt(n);
    let text = |text: &str| AMQPValue::LongString(text.into());
    let there = |change: fn(&mut basic::Consume)| {
        let mut c = basic::Consume {
            queue: "there".into(),
            ..basic::Consume::default()
        };
        change(&mut c);
        consume(c)
    };
    let cases = [
        (
            Channel,
            404,
            queue_declare(queue::Declare {
                passive: true,
                ..declare("no")
            }),
        ),
        (
            Channel,
            406,
            queue_declare(queue::Declare {
                durable: false,
                ..declare("there")
            }),
        ),
        (
            Channel,
            406,
            queue_declare(queue::Declare {
                auto_delete: true,
                ..declare("there")
            }),
        ),
        (
            Channel,
            406,
            with_argument("there", "x-message-ttl", number(1)),
        ),
        (
            Channel,
            406,
            with_argument("new", "x-message-ttl", number(-1)),
        ),
        (Channel, 406, with_argument("new", "x-expires", number(0))),
        (Channel, 403, queue_declare(declare("amq.mine"))),
        (Channel, 405, queue_declare(mine.clone())),
        (
            Channel,
            405,
            queue_declare(queue::Declare {
                passive: true,
                ..mine
            }),
        ),
        (
            Connection,
            540,
            with_argument("new", "x-max-length", number(1)),
        ),
        (
            Connection,
            540,
            with_argument("new", "x-dead-letter-exchange", text("x")),
        ),
        (
            Connection,
            540,
            with_argument("new", "x-queue-type", text("quorum")),
        ),
        (Connection, 503, exchange_declare("new", "strange")),
        (Channel, 403, exchange_declare("amq.mine", "direct")),
        (Channel, 403, exchange_declare("", "direct")),
        (Channel, 406, exchange_declare("amq.direct", "fanout")),
        (
            Channel,
            403,
            AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
                exchange: "amq.topic".into(),
                ..Default::default()
            })),
        ),
        (
            Connection,
            540,
            AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind::default())),
        ),
        (Channel, 404, bind("there", "no")),
        (Channel, 403, bind("there", "")),
        (
            Channel,
            404,
            AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge {
                queue: "no".into(),
                nowait: false,
            })),
        ),
        (Channel, 404, get("no")),
        (Channel, 404, get("")),
        (Channel, 405, get("owned")),
        (
            Connection,
            540,
            AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos {
                prefetch_count: 1,
                global: true,
            })),
        ),
        (
            Connection,
            540,
            AMQPClass::Basic(basic::AMQPMethod::Recover(basic::Recover {
                requeue: false,
            })),
        ),
        (Connection, 540, there(|c| c.no_local = true)),
        (
            Connection,
            540,
            there(|c| {
                c.arguments
                    .insert("x-priority".into(), AMQPValue::LongInt(1));
            }),
        ),
        (
            Channel,
            406,
            there(|c| c.queue = "amq.rabbitmq.reply-to".into()),
        ),
        (
            Connection,
            540,
            AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})),
        ),
        (
            Connection,
            540,
            AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active: false })),
        ),
        (
            Connection,
            504,
            AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        ),
        (
            Connection,
            503,
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(queue::DeclareOk::default())),
        ),
    ];
    for (scope, code, method) in cases {
        let mut raw = Raw::open(address);
        let what = format!("{method:?}");
        raw.method(1, method);
        assert_eq!(raw.next_close(), Some((scope, code)), "{what}");
    }
}

#[test]
fn in_use_and_not_empty() {
    let address = start(|_| ());
    let mut raw = Raw::open(address);
    raw.call(1, queue_declare(declare("q")));
    let exclusive = basic::Consume {
        queue: "q".into(),
        exclusive: true,
        consumer_tag: "one".into(),
        ..basic::Consume::default()
    };
    raw.call(1, consume(exclusive.clone()));
    let delete = |if_unused, if_empty| {
        AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
            queue: "q".into(),
            if_unused,
            if_empty,
            nowait: false,
        }))
    };
    let mut second = Raw::open(address);
    second.method(
        1,
        consume(basic::Consume {
            queue: "q".into(),
            ..basic::Consume::default()
        }),
    );
    assert_eq!(second.next_close(), Some((Channel, 403)));
    let mut second = Raw::open(address);
    second.method(1, delete(true, false));
    assert_eq!(second.next_close(), Some((Channel, 406)));
    raw.method(1, consume(exclusive));
    assert_eq!(
        raw.next_close(),
        Some((Connection, 530)),
        "the tag is taken"
    );
    drop(raw);

    let mut raw = Raw::open(address);
    publish(&mut raw, "", "q", &BasicProperties::default(), b"x", false);
    raw.method(1, delete(false, true));
    assert_eq!(raw.next_close(), Some((Channel, 406)));
}

fn publish(
    raw: &mut Raw,
    exchange: &str,
    key: &str,
    properties: &BasicProperties,
    body: &[u8],
    immediate: bool,
) {
    let publish = Publish {
        exchange,
        routing_key: key,
        mandatory: false,
        immediate,
    };
    let mut bytes = Vec::new();
    let properties = RawProperties::from(properties);
    encode::publish(&mut bytes, 1, &publish, properties.as_wire(), body, 4096);
    // The broker may close before it has read all of it.
    let _ = std::io::Write::write_all(&mut raw.socket, &bytes);
}

#[test]
fn publishes_are_refused() {
    let address = start(|config| config.body_max = 100_000);
    let none = BasicProperties::default();
    let cases = [
        (Channel, 404, "no", none.clone(), 0, false),
        (Connection, 540, "", none.clone(), 0, true),
        (Channel, 311, "", none.clone(), 100_001, false),
        (
            Channel,
            406,
            "",
            none.clone().with_user_id("ann".into()),
            0,
            false,
        ),
        (
            Channel,
            406,
            "",
            none.clone().with_expiration("soon".into()),
            0,
            false,
        ),
        (
            Channel,
            406,
            "",
            none.with_reply_to("amq.rabbitmq.reply-to".into()),
            0,
            false,
        ),
    ];
    for (scope, code, exchange, properties, size, immediate) in cases {
        let mut raw = Raw::open(address);
        publish(
            &mut raw,
            exchange,
            "k",
            &properties,
            &vec![0; size],
            immediate,
        );
        assert_eq!(
            raw.next_close(),
            Some((scope, code)),
            "{exchange} {properties:?} {size}"
        );
        if scope == Channel {
            // What was under way on the closed channel disappears; the connection lives and the number is free.
            let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
            raw.method(1, AMQPClass::Channel(ok));
            raw.call(
                1,
                AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
            );
            raw.call(1, queue_declare(declare("q")));
        }
    }
}

/// Frames that are no frames, or stand where they must not.
#[test]
fn frames_out_of_place() {
    let address = start(|_| ());
    let frame = |kind: u8, channel: u16, payload: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&channel.to_be_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.push(0xCE);
        bytes
    };
    let header = [&[0, 60, 0, 0][..], &[0; 8], &[0, 0]].concat();
    let publish = [&[0, 60, 0, 40, 0, 0, 0, 1][..], b"q\0"].concat();
    let header_of_two = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..], &[0, 0]].concat();
    let cases: [(u16, Vec<u8>); 12] = [
        (501, frame(9, 1, b"")),
        (501, frame(8, 1, b"")),
        (501, vec![1, 0, 1, 0xFF, 0, 0, 0]),
        (501, {
            let mut f = frame(1, 1, &publish);
            f.pop();
            f.push(0);
            f
        }),
        (502, frame(1, 1, &[0, 60, 0, 40, 0])),
        (
            503,
            frame(1, 1, &[0, 10, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ),
        (504, frame(1, 9, &publish)),
        (505, frame(2, 1, &header)),
        (505, frame(3, 1, b"body")),
        (505, [frame(1, 1, &publish), frame(1, 1, &publish)].concat()),
        (
            501,
            [
                frame(1, 1, &publish),
                frame(2, 1, &header_of_two),
                frame(3, 1, b"abc"),
            ]
            .concat(),
        ),
        (540, frame(1, 1, &[0, 60, 0, 200])),
    ];
    for (code, bytes) in cases {
        let mut raw = Raw::open(address);
        raw.send(&bytes);
        assert_eq!(raw.next_close(), Some((Connection, code)), "{bytes:?}");
        let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
        raw.method(0, AMQPClass::Connection(ok));
        assert_eq!(raw.next(), None, "closed after Close-Ok");
    }
}

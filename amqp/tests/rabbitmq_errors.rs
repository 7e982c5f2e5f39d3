//! Every class of error that a real broker can be brought to, each with its type, its code and its words.
//!
//! What our client does not let a program do wrong, a proxy says in its place: it writes bytes of its own into the
//! connection. Codes that a broker never sends are in `core/tests/ends.rs`.

mod support;

use amqp::client::{Channel, Connection, Consume, ExchangeDeclare, Publish, QueueDeclare};
use amqp::codec::{RawProperties, encode};
use amqp::protocol::{AMQPClass, BasicProperties, FieldTable, channel, connection, queue};
use amqp::{ConnectOptions, Error, ErrorKind};
use support::proxy::{Proxy, before};
use support::{connected, name, on_kernel, options};

/// A connection that says what its proxy is told.
struct Liar {
    proxy: Proxy,
    connection: Connection,
    channel: Channel,
}

impl Liar {
    async fn new() -> Liar {
        let proxy = before(&options(), &[], 1, 0);
        let through = ConnectOptions {
            host: "127.0.0.1".into(),
            port: proxy.address.port(),
            ..options()
        };
        let connection = Connection::open(through).await.unwrap();
        let channel = connection.channel().await.unwrap();
        Liar {
            proxy,
            connection,
            channel,
        }
    }

    async fn says(&self, bytes: &[u8]) -> Error {
        self.proxy.inject(bytes);
        self.connection.closed().await
    }
}

/// One frame with any payload.
fn frame(kind: u8, channel: u16, payload: &[u8], end: u8) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(channel.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes.push(end);
    bytes
}

fn method(channel: u16, class: AMQPClass) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::method(&mut bytes, channel, &class);
    bytes
}

/// A connection error with this code, words that begin with its name, and a kind that says what to do.
#[track_caller]
fn ends_connection(error: &Error, code: u16, words: &str, kind: ErrorKind) {
    let Error::ConnectionClosed(reason) = error else {
        panic!("the server must close the connection: {error:?}")
    };
    assert_eq!(reason.code, code, "{error}");
    assert!(reason.text.contains(words), "{error}");
    assert!(error.to_string().contains(&code.to_string()), "{error}");
    assert_eq!(error.kind(), kind, "{error}");
}

#[track_caller]
fn ends_channel(error: &Error, code: u16, words: &str, caused_by: (u16, u16)) {
    let Error::ChannelClosed(reason) = error else {
        panic!("the server must close the channel: {error:?}")
    };
    assert_eq!((reason.code, reason.method), (code, caused_by), "{error}");
    assert!(reason.text.contains(words), "{error}");
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn frames_that_are_none() {
    on_kernel(async {
        let error = Liar::new()
            .await
            .says(&frame(1, 0, b"\0\x0a\0\x32", 0))
            .await;
        ends_connection(&error, 501, "FRAME_ERROR", ErrorKind::Bug);
        // A queue.declare that breaks off after its first field: 502 by the book, 501 on RabbitMQ.
        let broken = frame(1, 1, b"\0\x32\0\x0a\0\0", 0xCE);
        let error = Liar::new().await.says(&broken).await;
        ends_connection(&error, 501, "FRAME_ERROR", ErrorKind::Bug);
        assert!(error.to_string().contains("queue.declare"), "{error}");
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn methods_and_contents_out_of_order() {
    on_kernel(async {
        let tune_ok = connection::TuneOk {
            channel_max: 0,
            frame_max: 0,
            heartbeat: 0,
        };
        let tune_ok = AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok));
        let error = Liar::new().await.says(&method(0, tune_ok)).await;
        ends_connection(&error, 504, "CHANNEL_ERROR", ErrorKind::Bug);
        let answer = AMQPClass::Queue(queue::AMQPMethod::PurgeOk(queue::PurgeOk {
            message_count: 1,
        }));
        let error = Liar::new().await.says(&method(1, answer)).await;
        ends_connection(&error, 503, "COMMAND_INVALID", ErrorKind::Bug);
        let open = || AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        let error = Liar::new().await.says(&method(1, open())).await;
        ends_connection(&error, 504, "CHANNEL_ERROR", ErrorKind::Bug);
        let purge = AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge {
            queue: "q".into(),
            nowait: false,
        }));
        let error = Liar::new().await.says(&method(77, purge)).await;
        ends_connection(&error, 504, "CHANNEL_ERROR", ErrorKind::Bug);
        // A header, and nothing that it could belong to.
        let mut header = Vec::new();
        encode::content(&mut header, 1, &[0, 0], b"x", 4096);
        let error = Liar::new().await.says(&header).await;
        ends_connection(&error, 505, "UNEXPECTED_FRAME", ErrorKind::Bug);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn what_is_not_allowed_and_what_is_not_there() {
    on_kernel(async {
        let liar = Liar::new().await;
        let declared = liar
            .channel
            .queue_declare(QueueDeclare::new("").exclusive());
        let queue = declared.await.unwrap().name;
        let consume = Consume::new(&queue).tag("twice");
        let _consumer = liar.channel.consume(consume).await.unwrap();
        // Our client refuses a tag that is in use.
        let again = liar
            .channel
            .consume(Consume::new(&queue).tag("twice"))
            .await;
        assert!(matches!(again, Err(Error::Invalid(_))));
        let again = amqp::protocol::basic::Consume {
            queue: queue.as_str().into(),
            consumer_tag: "twice".into(),
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let again = AMQPClass::Basic(amqp::protocol::basic::AMQPMethod::Consume(again));
        let error = liar.says(&method(liar.channel.id(), again)).await;
        ends_connection(&error, 530, "NOT_ALLOWED", ErrorKind::Config);

        let vhost = ConnectOptions {
            vhost: "no-such".into(),
            ..options()
        };
        let error = Connection::open(vhost).await.unwrap_err();
        assert_eq!(error.close_reason().map(|reason| reason.code), Some(530));
        assert!(matches!(error, Error::VhostRefused { .. }), "{error}");

        for flow in [true, false] {
            let liar = Liar::new().await;
            let error = match flow {
                true => liar.channel.flow(false).await.unwrap_err(),
                false => liar.channel.recover(false).await.unwrap_err(),
            };
            ends_connection(&error, 540, "NOT_IMPLEMENTED", ErrorKind::Config);
        }
        let wrong = ConnectOptions {
            password: "wrong".into(),
            ..options()
        };
        let error = Connection::open(wrong).await.unwrap_err();
        assert!(matches!(error, Error::LoginRefused(_)), "{error}");
        assert_eq!(error.close_reason().map(|reason| reason.code), Some(403));
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn errors_of_a_channel() {
    on_kernel(async {
        let connection = Connection::open(options()).await.unwrap();
        let fresh = || async { connection.channel().await.unwrap() };
        let exclusive = QueueDeclare::new("").exclusive();
        let queue = fresh().await.queue_declare(exclusive).await.unwrap().name;

        let ours = ExchangeDeclare::direct("amq.ours");
        let error = fresh().await.exchange_declare(ours).await.unwrap_err();
        ends_channel(&error, 403, "ACCESS_REFUSED", (40, 10));
        let only = Consume::new(&queue).exclusive();
        let _only = fresh().await.consume(only).await.unwrap();
        let error = fresh()
            .await
            .consume(Consume::new(&queue))
            .await
            .unwrap_err();
        ends_channel(&error, 403, "ACCESS_REFUSED", (60, 20));

        let error = fresh().await.get("no-such-queue").await.unwrap_err();
        ends_channel(&error, 404, "NOT_FOUND", (60, 70));
        let publishing = fresh().await;
        let nowhere = Publish::new("no-such-exchange", "k", b"");
        publishing.publish_unconfirmed(nowhere).await.unwrap();
        ends_channel(&publishing.closed().await, 404, "NOT_FOUND", (60, 40));

        let (_other, channel) = connected().await;
        let error = channel.queue_purge(&queue).await.unwrap_err();
        ends_channel(&error, 405, "RESOURCE_LOCKED", (50, 30));
        assert_eq!(error.kind(), ErrorKind::Retry);

        let error = fresh().await.tx_commit().await.unwrap_err();
        ends_channel(&error, 406, "PRECONDITION_FAILED", (90, 20));
        let both = fresh().await;
        both.tx_select().await.unwrap();
        let error = both.confirm_select().await.unwrap_err();
        ends_channel(&error, 406, "PRECONDITION_FAILED", (85, 10));
        let full = QueueDeclare::new(name("full"));
        let (first, second) = (
            full.clone().argument("x-max-length", 1),
            full.argument("x-max-length", 2),
        );
        let declaring = fresh().await;
        let full = declaring.queue_declare(first).await.unwrap().name;
        let error = declaring.queue_declare(second).await.unwrap_err();
        ends_channel(&error, 406, "inequivalent arg", (50, 10));
        fresh()
            .await
            .queue_delete(&full, false, false)
            .await
            .unwrap();
        let expiring = BasicProperties::default().with_expiration("soon".into());
        let expiring = RawProperties::from(expiring);
        let publishing = fresh().await;
        let message = Publish::new("", "q", b"").properties(&expiring);
        publishing.publish_unconfirmed(message).await.unwrap();
        ends_channel(
            &publishing.closed().await,
            406,
            "PRECONDITION_FAILED",
            (60, 40),
        );
        // All of it on one connection, which is well.
        assert_eq!(connection.is_closed(), None);
    });
}

//! The blocking façade against a real broker.

use amqp::blocking::Connection;
use amqp::{ConnectOptions, Consume, Error, Publish, PublishError, QueueDeclare, Uri};
use std::time::Duration;

fn options() -> ConnectOptions {
    let url = std::env::var("OLIVE_TEST_AMQP_URL")
        .expect("OLIVE_TEST_AMQP_URL names a broker; tests/run sets it");
    Uri::parse(&url).expect("OLIVE_TEST_AMQP_URL is an AMQP URI")
}

fn name(test: &str) -> String {
    format!("amqp-test-{test}-{}", std::process::id())
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_message_goes_through_and_back() {
    let connection = Connection::open(options()).unwrap();
    let channel = connection.channel().unwrap();
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive())
        .unwrap()
        .name;
    assert!(queue.starts_with("amq.gen"), "{queue}");
    channel.confirm_select().unwrap();
    for size in [0, 1, 1000, 200_000, 3_000_000] {
        let body = vec![b'x'; size];
        channel
            .publish(Publish::new("", &queue, &body).mandatory())
            .unwrap();
        let delivery = channel.get(&queue).unwrap().expect("one message is there");
        assert!(delivery.message.body == body);
        delivery.ack().unwrap();
    }
    assert!(channel.get(&queue).unwrap().is_none());
    connection.close();
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_consumer_gets_what_is_published_and_gives_back_what_it_drops() {
    let connection = Connection::open(options()).unwrap();
    let channel = connection.channel().unwrap();
    let queue = channel
        .queue_declare(QueueDeclare::new(name("consume")).auto_delete())
        .unwrap()
        .name;
    channel.confirm_select().unwrap();
    channel.qos(7).unwrap();
    for number in 0..100u32 {
        channel
            .publish(Publish::new("", &queue, &number.to_be_bytes()))
            .unwrap();
    }
    let mut consumer = channel.consume(Consume::new(&queue)).unwrap();
    for number in 0..100u32 {
        let delivery = consumer
            .next(Duration::from_secs(10))
            .unwrap()
            .expect("a hundred messages");
        assert_eq!(delivery.message.body, number.to_be_bytes());
        if number < 99 {
            delivery.ack().unwrap();
        }
    }
    // The last one was dropped: it comes again, marked.
    let again = consumer
        .next(Duration::from_secs(10))
        .unwrap()
        .expect("the dropped one comes again");
    assert!(again.message.redelivered);
    again.ack().unwrap();
    assert!(consumer.next(Duration::from_millis(50)).unwrap().is_none());
    channel.queue_delete(&queue, false, false).unwrap();
    assert!(
        consumer.next(Duration::from_secs(10)).unwrap().is_none(),
        "the server cancelled the consumer"
    );
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn refusals_are_typed_and_say_why() {
    let connection = Connection::open(options()).unwrap();
    let channel = connection.channel().unwrap();
    channel.confirm_select().unwrap();
    let lost = channel
        .publish(Publish::new("", "no-such-queue", b"x").mandatory())
        .unwrap_err();
    assert!(matches!(lost, PublishError::Unroutable(_)), "{lost}");
    let missing = channel
        .queue_declare(QueueDeclare::new("no-such-queue").passive())
        .unwrap_err();
    assert_eq!(
        missing.close_reason().map(|reason| reason.code),
        Some(404),
        "{missing}"
    );
    // The channel is gone, with its reason; the connection lives.
    assert_eq!(channel.qos(1), Err(missing));
    connection.channel().unwrap();

    let wrong = ConnectOptions {
        password: "wrong".into(),
        ..options()
    };
    assert!(matches!(
        Connection::open(wrong),
        Err(Error::LoginRefused(_))
    ));
    let vhost = ConnectOptions {
        vhost: "no-such-vhost".into(),
        ..options()
    };
    assert!(matches!(
        Connection::open(vhost),
        Err(Error::VhostRefused { .. })
    ));
    let closed = ConnectOptions {
        port: 1,
        ..options()
    };
    assert!(matches!(
        Connection::open(closed),
        Err(Error::Connect { .. })
    ));
    let unknown = ConnectOptions {
        host: "no-such-host.invalid".into(),
        ..options()
    };
    assert!(matches!(
        Connection::open(unknown),
        Err(Error::UnknownHost { .. })
    ));
}

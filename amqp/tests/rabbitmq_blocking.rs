//! The blocking façade against a real broker.

use amqp::blocking::Connection;
use amqp::protocol::FieldTable;
use amqp::{
    ConnectOptions, Consume, Error, ExchangeDeclare, Publish, PublishError, QueueDeclare, Uri,
};
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
    assert!(consumer.next(Duration::from_secs(10)).unwrap().is_none());
    assert!(consumer.is_cancelled(), "the server cancelled the consumer");
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn every_operation_blocking() {
    const PATIENCE: Duration = Duration::from_secs(10);
    let none = FieldTable::default;
    let connection = Connection::open(options()).unwrap();
    let channel = connection.channel().unwrap();
    let (x, y, q) = (name("bx"), name("by"), name("bq"));
    channel
        .exchange_declare(ExchangeDeclare::topic(&x))
        .unwrap();
    channel
        .no_wait()
        .exchange_declare(ExchangeDeclare::fanout(&y))
        .unwrap();
    channel.exchange_bind(&y, &x, "a.#", none()).unwrap();
    channel.queue_declare(QueueDeclare::new(&q)).unwrap();
    channel.queue_bind(&q, &y, "").unwrap();
    channel.queue_bind_with(&q, &x, "b", none()).unwrap();

    let plain = connection.channel().unwrap();
    plain
        .publish_unconfirmed(Publish::new("", "no-such-queue", b"back").mandatory())
        .unwrap();
    let returned = plain.returned(PATIENCE).unwrap().expect("nobody takes it");
    assert_eq!(returned.body, b"back");
    assert!(plain.returned(Duration::from_millis(10)).unwrap().is_none());
    plain.close().unwrap();
    assert_eq!(plain.is_closed(), Some(Error::ClosedByUs));

    // Many at once, more than the window holds; one of them finds no queue.
    channel.confirm_select().unwrap();
    let bodies: Vec<_> = (0..3000u32).map(u32::to_be_bytes).collect();
    let key = |number: usize| if number == 1234 { "c" } else { "a.b" };
    let messages = bodies.iter().enumerate();
    let results = channel.publish_all(
        messages.map(|(number, body)| Publish::new(&x, key(number), body).mandatory()),
    );
    assert_eq!(results.len(), 3000);
    for (number, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(number, 1234),
            Err(error) => assert!(
                matches!(error, PublishError::Unroutable(_)) && number == 1234,
                "{error}"
            ),
        }
    }
    channel.qos(500).unwrap();
    let mut consumer = channel.consume(Consume::new(&q)).unwrap();
    let mut held = None;
    for _ in 0..100 {
        held = consumer.next(PATIENCE).unwrap().inspect(|delivery| {
            assert_eq!(&*delivery.message.exchange, x.as_str());
        });
        if let Some(delivery) = held.take() {
            match delivery.delivery_tag() {
                100 => delivery.ack_through().unwrap(),
                _ => delivery.leave(),
            }
        }
    }
    assert!(held.is_none());
    consumer.cancel().unwrap();
    assert!(consumer.is_cancelled());
    drop(consumer);
    channel.recover(true).unwrap();
    assert_eq!(channel.queue_purge(&q).unwrap(), 2899);

    let tx = connection.channel().unwrap();
    tx.tx_select().unwrap();
    tx.publish(Publish::new("", &q, b"rolled back")).unwrap();
    tx.tx_rollback().unwrap();
    tx.publish(Publish::new("", &q, b"committed")).unwrap();
    tx.tx_commit().unwrap();
    let got = channel.get_no_ack(&q).unwrap().expect("one was committed");
    assert_eq!(got.message.body, b"committed");
    assert!(channel.get_no_ack(&q).unwrap().is_none());

    // RabbitMQ's own users have no secret that expires; it takes the new one and says so.
    connection.update_secret("another", "a test").unwrap();
    assert_eq!((connection.blocked(), connection.is_closed()), (None, None));
    channel.queue_unbind(&q, &x, "b", none()).unwrap();
    channel.exchange_unbind(&y, &x, "a.#", none()).unwrap();
    channel.exchange_delete(&x, false).unwrap();
    channel.exchange_delete(&y, false).unwrap();
    assert_eq!(channel.queue_delete(&q, true, true).unwrap(), 0);
    connection.close();
    assert_eq!(connection.is_closed(), Some(Error::ClosedByUs));
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

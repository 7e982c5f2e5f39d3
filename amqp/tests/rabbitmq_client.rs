//! The kernel's client against a real broker: every operation, and its refusals.

mod support;

use amqp::client::{
    Connection, Consume, ConsumerEvent, Delivery, ExchangeDeclare, Publish, QueueDeclare,
};
use amqp::codec::RawProperties;
use amqp::protocol::{AMQPValue, BasicProperties, FieldTable};
use amqp::{Error, PublishError};
use std::time::Duration;
use support::{connected, delete_queue, name, on_kernel, options, own_queue};

async fn delivery(consumer: &mut amqp::client::Consumer) -> Delivery {
    match consumer.next().await {
        ConsumerEvent::Delivery(delivery) => delivery,
        other => panic!("a delivery was due, not {other:?}"),
    }
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn ten_thousand_messages_confirmed_and_consumed_in_order() {
    on_kernel(async {
        let (connection, channel) = connected().await;
        let queue = channel
            .queue_declare(QueueDeclare::new(name("many")).auto_delete())
            .await
            .unwrap()
            .name;
        channel.confirm_select().await.unwrap();
        const COUNT: u32 = 10_000;
        let publisher = channel.clone();
        let to = queue.clone();
        let producer = kernel::spawn(async move {
            let mut confirms = std::collections::VecDeque::new();
            for number in 0..COUNT {
                let body = number.to_be_bytes();
                confirms.push_back(
                    publisher
                        .publish_pending(Publish::new("", &to, &body).mandatory())
                        .await
                        .unwrap(),
                );
                if confirms.len() > 500 {
                    confirms.pop_front().unwrap().await.unwrap();
                }
            }
            for confirm in confirms {
                confirm.await.unwrap();
            }
            assert_eq!(publisher.unconfirmed(), 0);
        });
        let consuming = connection.channel().await.unwrap();
        consuming.qos(80).await.unwrap();
        let mut consumer = consuming.consume(Consume::new(&queue)).await.unwrap();
        for number in 0..COUNT {
            let delivery = delivery(&mut consumer).await;
            assert_eq!(delivery.body, number.to_be_bytes());
            delivery.ack().unwrap();
        }
        producer.join().await.unwrap();
        consumer.cancel().await.unwrap();
        assert!(matches!(consumer.next().await, ConsumerEvent::Cancelled));
        assert_eq!(consuming.unsettled(), 0);
        connection.close().await;
        assert_eq!(connection.closed().await, Error::ClosedByUs);
    });
}

/// What every broker of AMQP 0-9-1 has.
#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn the_common_operations() {
    on_kernel(async {
        let (connection, channel) = connected().await;
        channel.confirm_select().await.unwrap();
        let queue = name("common-q");
        channel
            .queue_declare(QueueDeclare::new(&queue))
            .await
            .unwrap();
        for (kind, bound, sent) in [
            ("direct", "k", "k"),
            ("fanout", "", "any"),
            ("topic", "a.*", "a.b"),
        ] {
            let exchange = name(&format!("common-{kind}"));
            let declare = ExchangeDeclare::new(&exchange, kind).auto_delete();
            channel.exchange_declare(declare).await.unwrap();
            channel.queue_bind(&queue, &exchange, bound).await.unwrap();
            let message = Publish::new(&exchange, sent, kind.as_bytes());
            channel.publish(message).await.unwrap();
            let got = channel.get(&queue).await.unwrap().expect("it was routed");
            assert_eq!(
                (&*got.exchange, &*got.routing_key),
                (exchange.as_str(), sent)
            );
            assert_eq!(got.body, kind.as_bytes());
            got.ack().unwrap();
            let unbound = channel.queue_unbind(&queue, &exchange, bound, FieldTable::default());
            unbound.await.unwrap();
        }
        for body in [&b"one"[..], b"two", &vec![3; 200_000]] {
            let message = Publish::new("", &queue, body).mandatory();
            channel.publish(message).await.unwrap();
        }
        let one = channel.get(&queue).await.unwrap().unwrap();
        assert_eq!(one.body, b"one");
        one.nack(true).unwrap();
        channel.qos(10).await.unwrap();
        let mut consumer = channel.consume(Consume::new(&queue)).await.unwrap();
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let delivered = delivery(&mut consumer).await;
            sizes.push(delivered.body.len());
            delivered.ack().unwrap();
        }
        sizes.sort_unstable();
        assert_eq!(sizes, [3, 3, 200_000]);
        consumer.cancel().await.unwrap();
        channel
            .publish(Publish::new("", &queue, b"left"))
            .await
            .unwrap();
        assert_eq!(channel.queue_purge(&queue).await.unwrap(), 1);
        assert_eq!(channel.queue_delete(&queue, true, true).await.unwrap(), 0);
        connection.close().await;
        assert_eq!(connection.closed().await, Error::ClosedByUs);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn every_operation() {
    on_kernel(async {
        let connection = Connection::open(options().named("every operation"))
            .await
            .unwrap();
        assert!(connection.negotiated().server_can("consumer_cancel_notify"));
        let channel = connection.channel().await.unwrap();
        let (x, y, q) = (name("x"), name("y"), name("q"));
        channel
            .exchange_declare(ExchangeDeclare::topic(&x))
            .await
            .unwrap();
        channel
            .exchange_declare(ExchangeDeclare::new(&x, "topic").passive())
            .await
            .unwrap();
        channel
            .exchange_declare(ExchangeDeclare::fanout(&y).auto_delete())
            .await
            .unwrap();
        channel
            .exchange_bind(&y, &x, "a.#", FieldTable::default())
            .await
            .unwrap();
        let declared = channel
            .queue_declare(QueueDeclare::new(&q).argument("x-max-length", 1000))
            .await
            .unwrap();
        assert_eq!((declared.name.as_str(), declared.messages), (q.as_str(), 0));
        channel.queue_bind(&q, &y, "").await.unwrap();
        channel.confirm_select().await.unwrap();

        // Headers and all, through two exchanges.
        let mut headers = FieldTable::default();
        headers.insert("attempt".into(), AMQPValue::LongInt(3));
        let properties = RawProperties::from(
            BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(2)
                .with_headers(headers)
                .with_correlation_id("c-1".into()),
        );
        channel
            .publish(
                Publish::new(&x, "a.b", b"{}")
                    .properties(&properties)
                    .mandatory(),
            )
            .await
            .unwrap();
        let got = channel.get(&q).await.unwrap().expect("it was confirmed");
        assert_eq!(
            (&*got.exchange, &*got.routing_key, got.redelivered),
            (x.as_str(), "a.b", false)
        );
        assert_eq!(got.properties, properties);
        got.nack(true).unwrap();
        let got = channel.get(&q).await.unwrap().expect("it was put back");
        assert!(got.redelivered);
        got.reject(false).unwrap();
        assert!(channel.get(&q).await.unwrap().is_none());

        // recover puts everything back; what we still hold is void.
        for body in [b"1", b"2", b"3"] {
            channel.publish(Publish::new("", &q, body)).await.unwrap();
        }
        let held = channel.get(&q).await.unwrap().unwrap();
        channel.recover(true).await.unwrap();
        assert_eq!(held.ack(), Err(Error::AlreadySettled));
        let first = channel.get(&q).await.unwrap().unwrap();
        let second = channel.get(&q).await.unwrap().unwrap();
        let third = channel.get(&q).await.unwrap().unwrap();
        second.into_parts().1.ack_through().unwrap();
        assert_eq!(first.ack(), Err(Error::AlreadySettled));
        third.ack().unwrap();
        assert!(channel.get(&q).await.unwrap().is_none());
        assert_eq!(channel.unsettled(), 0);

        // Transactions on a channel of their own.
        let tx = connection.channel().await.unwrap();
        tx.tx_select().await.unwrap();
        tx.publish_unconfirmed(Publish::new("", &q, b"rolled back"))
            .await
            .unwrap();
        tx.tx_rollback().await.unwrap();
        tx.publish_unconfirmed(Publish::new("", &q, b"committed"))
            .await
            .unwrap();
        tx.tx_commit().await.unwrap();
        assert_eq!(
            channel
                .queue_declare(QueueDeclare::new(&q).passive())
                .await
                .unwrap()
                .messages,
            1
        );
        assert!(tx.flow(true).await.unwrap());
        tx.close().await.unwrap();
        assert_eq!(tx.tx_commit().await, Err(Error::ClosedByUs));

        assert_eq!(channel.queue_purge(&q).await.unwrap(), 1);
        channel
            .queue_unbind(&q, &y, "", FieldTable::default())
            .await
            .unwrap();
        channel
            .exchange_unbind(&y, &x, "a.#", FieldTable::default())
            .await
            .ok();
        channel
            .publish_unconfirmed(Publish::new(&x, "nowhere", b"back").mandatory())
            .await
            .unwrap();
        assert_eq!(channel.queue_delete(&q, true, true).await.unwrap(), 0);
        channel.exchange_delete(&x, false).await.unwrap();
        connection.close().await;
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn every_operation_without_an_answer() {
    on_kernel(async {
        let (connection, channel) = connected().await;
        let none = FieldTable::default;
        let (x, y, q) = (name("no-wait-x"), name("no-wait-y"), name("no-wait-q"));
        let now = channel.no_wait();
        now.exchange_declare(ExchangeDeclare::fanout(&x)).unwrap();
        now.exchange_declare(ExchangeDeclare::fanout(&y)).unwrap();
        now.exchange_bind(&y, &x, "", none()).unwrap();
        now.queue_declare(QueueDeclare::new(&q)).unwrap();
        now.queue_bind(&q, &y, "", none()).unwrap();
        now.confirm_select().unwrap();
        now.confirm_select().unwrap();
        let message = Publish::new(&x, "", b"through both").mandatory();
        channel.publish(message).await.unwrap();
        channel.publish(message).await.unwrap();
        now.queue_purge(&q).unwrap();
        channel.publish(message).await.unwrap();
        let mut consumer = channel.consume_no_wait(Consume::new(&q)).unwrap();
        let delivered = delivery(&mut consumer).await;
        assert_eq!(
            (delivered.delivery_tag(), &*delivered.body),
            (1, &b"through both"[..])
        );
        delivered.ack().unwrap();
        consumer.cancel_no_wait().unwrap();
        now.exchange_unbind(&y, &x, "", none()).unwrap();
        let unbound = channel.publish(message).await.unwrap_err();
        assert!(matches!(unbound, PublishError::Unroutable(_)), "{unbound}");
        now.exchange_delete(&x, false).unwrap();
        now.exchange_delete(&y, false).unwrap();
        now.queue_delete(&q, true, true).unwrap();
        // A request that waits is answered after all of them are done; the queue was deleted, as nobody consumed.
        let declared = channel.queue_declare(QueueDeclare::new(&q).passive());
        let error = declared.await.unwrap_err();
        assert_eq!(error.close_reason().map(|reason| reason.code), Some(404));

        // Refused: the channel is closed with the reason, whoever asks next.
        let channel = connection.channel().await.unwrap();
        let mut consumer = channel.consume_no_wait(Consume::new(&q)).unwrap();
        let ConsumerEvent::Closed(error) = consumer.next().await else {
            panic!("there is no such queue")
        };
        let reason = error.close_reason().unwrap();
        assert_eq!((reason.code, reason.method), (404, (60, 20)));
        assert_eq!(channel.no_wait().queue_purge(&q), Err(error));
        let channel = connection.channel().await.unwrap();
        let nameless = channel.no_wait().queue_declare(QueueDeclare::new(""));
        assert!(matches!(nameless, Err(Error::Invalid(_))), "{nameless:?}");
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn unroutable_messages_come_back_to_their_publisher() {
    on_kernel(async {
        let (connection, channel) = connected().await;
        let queue = channel.queue_declare(own_queue()).await.unwrap().name;
        channel.confirm_select().await.unwrap();
        let mut confirms = Vec::new();
        for number in 0..200u32 {
            let key = if number % 3 == 0 {
                "no-such-queue"
            } else {
                queue.as_str()
            };
            let body = number.to_be_bytes();
            confirms.push(
                channel
                    .publish_pending(Publish::new("", key, &body).mandatory())
                    .await
                    .unwrap(),
            );
        }
        for (number, confirm) in confirms.into_iter().enumerate() {
            match confirm.await {
                Ok(()) => assert_ne!(number % 3, 0),
                Err(PublishError::Unroutable(returned)) => {
                    assert_eq!((number % 3, returned.code), (0, 312));
                    assert_eq!(returned.body, (number as u32).to_be_bytes());
                }
                Err(other) => panic!("{other}"),
            }
        }
        // Without confirms they are found by `returned`.
        let plain = connection.channel().await.unwrap();
        plain
            .publish_unconfirmed(Publish::new("", "no-such-queue", b"x").mandatory())
            .await
            .unwrap();
        assert_eq!(plain.returned().await.unwrap().body, b"x");
        assert!(matches!(
            plain.publish(Publish::new("", &queue, b"x")).await,
            Err(PublishError::Invalid(_))
        ));
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_dead_channel_ends_everything_that_waits_with_the_first_cause() {
    on_kernel(async {
        let (connection, channel) = connected().await;
        let queue = channel.queue_declare(own_queue()).await.unwrap().name;
        channel.confirm_select().await.unwrap();
        let mut consumer = channel.consume(Consume::new(&queue)).await.unwrap();
        channel
            .publish(Publish::new("", &queue, b"held"))
            .await
            .unwrap();
        let held = delivery(&mut consumer).await;
        // Publishing to an exchange that does not exist closes the channel, with all its confirms.
        let confirm = channel
            .publish_pending(Publish::new("no-such-exchange", "k", b"x"))
            .await
            .unwrap();
        let waiting = {
            let channel = channel.clone();
            kernel::spawn(async move { channel.closed().await })
        };
        let Err(PublishError::Closed(cause)) = confirm.await else {
            panic!("the confirm must fail")
        };
        let Error::ChannelClosed(reason) = &cause else {
            panic!("{cause:?}")
        };
        assert_eq!((reason.code, reason.method), (404, (60, 40)));
        assert_eq!(waiting.join().await.unwrap(), cause);
        let ConsumerEvent::Closed(seen) = consumer.next().await else {
            panic!("the consumer must end")
        };
        assert_eq!(seen, cause);
        assert_eq!(held.ack(), Err(cause.clone()));
        assert_eq!(channel.qos(1).await, Err(cause.clone()));
        assert_eq!(connection.is_closed(), None);
        // The connection lives, and gives the number out again.
        assert_eq!(connection.channel().await.unwrap().id(), channel.id());
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn refusals_are_typed() {
    on_kernel(async {
        let connection = Connection::open(options()).await.unwrap();
        let (x, q) = (name("refusal-x"), name("refusal-q"));
        let code = |error: Error| error.close_reason().map(|reason| reason.code);
        let fresh = || async { connection.channel().await.unwrap() };
        let channel = fresh().await;
        channel
            .exchange_declare(ExchangeDeclare::direct(&x))
            .await
            .unwrap();
        channel.queue_declare(QueueDeclare::new(&q)).await.unwrap();

        let error = channel
            .exchange_declare(ExchangeDeclare::fanout(&x))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("other arguments"), "{error}");
        assert_eq!(code(error), Some(406));
        let error = fresh()
            .await
            .queue_declare(QueueDeclare::new(&q).auto_delete())
            .await
            .unwrap_err();
        assert!(!error.is_retryable());
        assert_eq!(code(error), Some(406));
        let error = fresh()
            .await
            .queue_bind(&q, "no-such-exchange", "k")
            .await
            .unwrap_err();
        assert_eq!(code(error), Some(404));
        let error = fresh()
            .await
            .exchange_declare(ExchangeDeclare::direct("amq.mine"))
            .await
            .unwrap_err();
        assert_eq!(code(error), Some(403));
        let error = fresh().await.tx_commit().await.unwrap_err();
        assert_eq!(code(error), Some(406));
        let long = "n".repeat(256);
        assert!(matches!(
            fresh().await.queue_declare(QueueDeclare::new(&long)).await,
            Err(Error::Invalid(_))
        ));

        // Exclusive: 405 on another connection.
        let exclusive = fresh().await.queue_declare(own_queue()).await.unwrap().name;
        let (other, other_channel) = connected().await;
        let error = other_channel
            .queue_declare(QueueDeclare::new(&exclusive).passive())
            .await
            .unwrap_err();
        assert!(error.is_retryable());
        assert_eq!(code(error), Some(405));

        // 540 closes the connection; everything on it knows.
        let channel = other.channel().await.unwrap();
        let error = channel.flow(false).await.unwrap_err();
        assert!(matches!(error, Error::ConnectionClosed(_)), "{error:?}");
        assert_eq!(code(error.clone()), Some(540));
        assert_eq!(other.closed().await, error);
        assert_eq!(other.channel().await.unwrap_err(), error);

        let wrong = amqp::ConnectOptions {
            password: "wrong".into(),
            ..options()
        };
        let error = Connection::open(wrong).await.unwrap_err();
        assert!(
            matches!(error, Error::LoginRefused(_)) && !error.is_retryable(),
            "{error}"
        );
        let vhost = amqp::ConnectOptions {
            vhost: "no-such".into(),
            ..options()
        };
        let error = Connection::open(vhost).await.unwrap_err();
        assert!(matches!(error, Error::VhostRefused { .. }), "{error}");
        let closed = amqp::ConnectOptions {
            port: 1,
            ..options()
        };
        let error = Connection::open(closed).await.unwrap_err();
        assert!(
            matches!(error, Error::Connect { .. }) && error.is_retryable(),
            "{error}"
        );
        let unknown = amqp::ConnectOptions {
            host: "no-such-host.invalid".into(),
            ..options()
        };
        let error = Connection::open(unknown).await.unwrap_err();
        assert!(matches!(error, Error::UnknownHost { .. }), "{error}");

        let channel = fresh().await;
        channel.exchange_delete(&x, false).await.unwrap();
        channel.queue_delete(&q, false, false).await.unwrap();
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn other_logins() {
    on_kernel(async {
        let options = amqp::ConnectOptions {
            mechanisms: vec![amqp::Mechanism::AmqPlain],
            ..options()
        };
        Connection::open(options.clone())
            .await
            .unwrap()
            .close()
            .await;
        let wrong = amqp::ConnectOptions {
            password: "wrong".into(),
            ..options.clone()
        };
        let error = Connection::open(wrong).await.unwrap_err();
        assert!(matches!(error, Error::LoginRefused(_)), "{error}");
        // A new secret for a login that expires: RabbitMQ's own users have none, and it says yes.
        let connection = Connection::open(options.clone()).await.unwrap();
        connection.update_secret("another", "a test").await.unwrap();
        assert_eq!(connection.is_closed(), None);
        // RabbitMQ does not offer EXTERNAL without its plugin, and the error says what it offers.
        let external = amqp::ConnectOptions {
            mechanisms: vec![amqp::Mechanism::External],
            ..options
        };
        let error = Connection::open(external).await.unwrap_err();
        assert!(error.to_string().contains("AMQPLAIN"), "{error}");
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn dropped_deliveries_are_given_back() {
    on_kernel(async {
        let (_connection, channel) = connected().await;
        let queue = channel.queue_declare(own_queue()).await.unwrap().name;
        channel
            .publish_unconfirmed(Publish::new("", &queue, b"x"))
            .await
            .unwrap();
        channel.qos(1).await.unwrap();
        let mut consumer = channel.consume(Consume::new(&queue)).await.unwrap();
        drop(delivery(&mut consumer).await);
        let again = delivery(&mut consumer).await;
        assert!(again.redelivered);
        again.nack(true).unwrap();
        // A consumer dropped with deliveries in its buffer gives them back too.
        let third = delivery(&mut consumer).await;
        third.nack(true).unwrap();
        kernel::sleep(Duration::from_millis(20)).await.unwrap();
        drop(consumer);
        let mut other = channel.consume(Consume::new(&queue)).await.unwrap();
        delivery(&mut other).await.ack().unwrap();
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_deleted_queue_cancels_its_consumer() {
    on_kernel(async {
        let (connection, channel) = connected().await;
        let queue = channel.queue_declare(own_queue()).await.unwrap().name;
        let mut consumer = channel.consume(Consume::new(&queue)).await.unwrap();
        delete_queue(&connection, &queue).await;
        assert!(matches!(consumer.next().await, ConsumerEvent::Cancelled));
        channel.qos(1).await.unwrap();
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_request_and_its_reply_by_direct_reply_to() {
    on_kernel(async {
        let (connection, server) = connected().await;
        let queue = server.queue_declare(own_queue()).await.unwrap().name;
        let mut requests = server.consume(Consume::new(&queue)).await.unwrap();
        let answering = kernel::spawn(async move {
            let request = delivery(&mut requests).await;
            let to = request.properties.fields().reply_to.unwrap().to_vec();
            let to = String::from_utf8(to).unwrap();
            server
                .publish_unconfirmed(Publish::new("", &to, &request.body))
                .await
                .unwrap();
            request.ack().unwrap();
            server.close().await.unwrap();
        });
        let client = connection.channel().await.unwrap();
        let mut replies = client
            .consume(Consume::new("amq.rabbitmq.reply-to").no_ack(true))
            .await
            .unwrap();
        let properties = RawProperties::from(
            BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into()),
        );
        client
            .publish_unconfirmed(Publish::new("", &queue, b"ping").properties(&properties))
            .await
            .unwrap();
        assert_eq!(delivery(&mut replies).await.body, b"ping");
        answering.join().await.unwrap();
    });
}

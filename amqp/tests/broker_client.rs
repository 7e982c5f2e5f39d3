//! Our own client and broker in one kernel: what olive does with both in one process.
#![cfg(feature = "kernel")]

use amqp::PublishError;
use amqp::broker::{Broker, Config, MemoryStore};
use amqp::client::{Connection, Consume, ConsumerEvent, Delivery, Publish, QueueDeclare};
use amqp::codec::RawProperties;
use amqp::protocol::BasicProperties;
use std::time::Duration;

/// Runs a scenario against a broker of its own, with a limit on its time.
fn with_broker<F: Future<Output = ()> + 'static>(scenario: impl FnOnce(String) -> F + 'static) {
    with_broker_of(Config::default(), scenario);
}

fn with_broker_of<F: Future<Output = ()> + 'static>(
    mut config: Config,
    scenario: impl FnOnce(String) -> F + 'static,
) {
    config.listen = ([127, 0, 0, 1], 0).into();
    kernel::run(async move {
        let broker = Broker::bind(config, MemoryStore::new()).await.unwrap();
        let url = format!("amqp://guest:guest@{}/%2F", broker.local_addr());
        let stopper = broker.stopper();
        let serving = kernel::spawn(async move { broker.serve().await });
        let scenario = scenario(url);
        let whole = async {
            scenario.await;
            Ok::<_, kernel::Error>(())
        };
        kernel::timeout_after(Duration::from_secs(60), whole)
            .await
            .expect("the scenario ends in time");
        stopper.stop().await.unwrap();
        serving.join().await.unwrap().unwrap();
    })
    .unwrap();
}

async fn connect(url: &str) -> Connection {
    let options = amqp::Uri::parse(url).unwrap();
    Connection::open(options).await.unwrap()
}

async fn delivery(consumer: &mut amqp::client::Consumer) -> Delivery {
    match consumer.next().await {
        ConsumerEvent::Delivery(delivery) => delivery,
        other => panic!("a delivery was due, not {other:?}"),
    }
}

#[test]
fn a_burst_is_confirmed_and_consumed_in_order() {
    with_broker(|url| async move {
        let (publishing, consuming) = (connect(&url).await, connect(&url).await);
        let publisher = publishing.channel().await.unwrap();
        publisher
            .queue_declare(QueueDeclare::new("q"))
            .await
            .unwrap();
        publisher.confirm_select().await.unwrap();
        let mut confirms = Vec::new();
        for number in 0..2000u32 {
            let body = number.to_be_bytes();
            let publish = Publish::new("", "q", &body).mandatory();
            confirms.push(publisher.publish_pending(publish).await.unwrap());
        }
        let channel = consuming.channel().await.unwrap();
        channel.qos(80).await.unwrap();
        let mut consumer = channel.consume(Consume::new("q")).await.unwrap();
        for number in 0..2000u32 {
            let delivery = delivery(&mut consumer).await;
            assert_eq!(delivery.body, number.to_be_bytes());
            delivery.ack().unwrap();
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }
        let unroutable = publisher
            .publish(Publish::new("", "no", b"").mandatory())
            .await;
        assert!(
            matches!(unroutable, Err(PublishError::Unroutable(_))),
            "{unroutable:?}"
        );
        // A connection that ends without settling gives everything back, marked.
        publisher
            .publish(Publish::new("", "q", b"held"))
            .await
            .unwrap();
        let held = delivery(&mut consumer).await;
        consuming.close().await;
        drop(held);
        let again = publisher.get("q").await.unwrap().expect("it came back");
        assert!(again.redelivered);
        again.ack().unwrap();
    });
}

#[test]
fn direct_replies_come_back() {
    with_broker(|url| async move {
        let (asking, answering) = (connect(&url).await, connect(&url).await);
        let server = answering.channel().await.unwrap();
        server
            .queue_declare(QueueDeclare::new("rpc"))
            .await
            .unwrap();
        let mut requests = server.consume(Consume::new("rpc")).await.unwrap();
        let client = asking.channel().await.unwrap();
        let mut replies = client
            .consume(Consume::new("amq.rabbitmq.reply-to").no_ack(true))
            .await
            .unwrap();
        for _ in 0..3 {
            let properties = BasicProperties::default()
                .with_reply_to("amq.rabbitmq.reply-to".into())
                .with_correlation_id("7".into());
            let properties = RawProperties::from(&properties);
            let request = Publish::new("", "rpc", b"ping").properties(&properties);
            client.publish_unconfirmed(request).await.unwrap();
            let request = delivery(&mut requests).await;
            let address = request.properties.fields().reply_to.unwrap().to_vec();
            let address = String::from_utf8(address).unwrap();
            assert_ne!(address, "amq.rabbitmq.reply-to");
            request.ack().unwrap();
            server
                .publish_unconfirmed(Publish::new("", &address, b"pong"))
                .await
                .unwrap();
            assert_eq!(delivery(&mut replies).await.body, b"pong");
        }
    });
}

/// A worker whose results are confirmed before its jobs are acked, at the memory mark: the producer waits, the
/// worker gets memory down, and the producer goes on.
#[test]
fn a_worker_gets_on_while_memory_is_short() {
    let config = Config {
        memory_high_water: 64 * 1024,
        ..Config::default()
    };
    with_broker_of(config, |url| async move {
        let connect_as = async |is_worker: bool| {
            let mut options = amqp::Uri::parse(&url).unwrap();
            options.publish_timeout = Duration::from_secs(2);
            if is_worker {
                options = options.brings_results();
            }
            let connection = Connection::open(options).await.unwrap();
            let channel = connection.channel().await.unwrap();
            channel.confirm_select().await.unwrap();
            (connection, channel)
        };
        let (_producing, producer) = connect_as(false).await;
        let (_resulting, results) = connect_as(true).await;
        for queue in ["jobs", "replies"] {
            let declare = QueueDeclare::new(queue);
            producer.queue_declare(declare).await.unwrap();
        }
        // Both have published before memory is short.
        let reply = Publish::new("", "replies", b"result");
        results.publish(reply).await.unwrap();
        let mut jobs = 0;
        while producer
            .publish(Publish::new("", "jobs", &[b'x'; 1000]))
            .await
            .is_ok()
        {
            jobs += 1;
        }
        assert!((50..70).contains(&jobs), "{jobs} jobs until it had to wait");

        let consuming = connect(&url).await;
        let channel = consuming.channel().await.unwrap();
        channel.qos(5).await.unwrap();
        let mut consumer = channel.consume(Consume::new("jobs")).await.unwrap();
        for _ in 0..jobs {
            let job = delivery(&mut consumer).await;
            results.publish(reply).await.unwrap();
            job.ack().unwrap();
        }
        let publish = Publish::new("", "jobs", b"another");
        producer.publish(publish).await.unwrap();
    });
}

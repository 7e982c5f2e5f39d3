//! What a whole node does to its clients: alarms, restarts, an operator who closes all connections.

mod support;

use amqp::client::{Connection, Consume, Publish, QueueDeclare, Session, SessionEvent, Topology};
use amqp::{ConnectOptions, Error, PublishError, Uri};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use support::fire::{self, Facts, resident_kib};
use support::node::Node;
use support::on_kernel_for;

const LIMIT: Duration = Duration::from_secs(300);

fn options(node: &Node) -> ConnectOptions {
    ConnectOptions {
        heartbeat: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(20),
        ..Uri::parse(&node.url()).unwrap()
    }
}

/// `tests/rabbitmq`, while the kernel goes on.
async fn run(node: &Arc<Node>, verb: &'static str, arguments: &'static [&'static str]) {
    let node = Arc::clone(node);
    let ran = kernel::run_in_thread(move || node.run(verb, arguments));
    ran.await.unwrap();
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn alarms_block_publishers_and_are_told() {
    on_kernel_for(LIMIT, async {
        let node = Arc::new(Node::start());
        let impatient = ConnectOptions {
            publish_timeout: Duration::from_millis(300),
            ..options(&node)
        };
        let topology = Topology::new()
            .queue(QueueDeclare::new("").exclusive())
            .confirms();
        let mut session = Session::new(impatient, topology);
        let live = session.connect().await.unwrap();
        let queue = live.queues[""].as_str();
        let message = Publish::new("", queue, b"x").mandatory();
        let patient = Connection::open(options(&node)).await.unwrap();
        let channel = patient.channel().await.unwrap();
        channel.confirm_select().await.unwrap();

        // A memory alarm: everything is above this mark. The server tells those that publish.
        run(&node, "ctl", &["set_vm_memory_high_watermark", "0.00001"]).await;
        while live.connection.blocked().is_none() {
            let _ = live.channel.publish(message).await;
        }
        let Ok(SessionEvent::Blocked(reason)) = session.next().await else {
            panic!("it must be told")
        };
        assert!(reason.contains("memory"), "{reason}");
        assert_eq!(live.connection.blocked(), Some(reason.clone()));
        let error = live.channel.publish(message).await.unwrap_err();
        assert_eq!(error, PublishError::Blocked(reason));
        // It reads nothing more from this connection; others, that do not publish, go on.
        channel.qos(1).await.unwrap();
        let blocked = kernel::spawn(async move {
            channel
                .publish(Publish::new("", "no-such-queue", b"x"))
                .await
        });

        run(&node, "ctl", &["set_vm_memory_high_watermark", "0.6"]).await;
        assert!(matches!(session.next().await, Ok(SessionEvent::Unblocked)));
        live.channel.publish(message).await.unwrap();
        assert_eq!(blocked.join().await.unwrap(), Ok(()));

        // A server that stops says so.
        run(&node, "stop", &[]).await;
        let Ok(SessionEvent::Lost(error)) = session.next().await else {
            panic!("it must be lost")
        };
        assert!(error.is_retryable(), "{error}");
        assert!(
            matches!(&error, Error::ConnectionClosed(reason) if reason.code == 320),
            "{error}"
        );
    });
}

/// Kills the node and brings it back, stops and starts it, and closes all connections, so often; meanwhile numbers are
/// published and consumed.
fn outlive(rounds: u32) {
    on_kernel_for(LIMIT * rounds, async move {
        let node = Arc::new(Node::start());
        let hosts = || vec![options(&node)];
        let topology = Topology::new()
            .queue(QueueDeclare::new("fire"))
            .prefetch(40);
        let facts = Rc::new(Facts::default());
        let producing = fire::session(hosts(), topology.clone().confirms());
        let producer = kernel::spawn(fire::produce(producing, "fire".into(), facts.clone()));
        let consuming = fire::session(hosts(), topology.consume(Consume::new("fire")));
        let consumer = kernel::spawn(fire::consume(consuming, facts.clone()));
        let mut warm = 0;
        for round in 0..rounds {
            facts.progress(200).await;
            let close = &["close_all_connections", "closed by the test"];
            run(&node, "ctl", close).await;
            facts.progress(200).await;
            run(&node, "kill", &[]).await;
            run(&node, "start", &[]).await;
            facts.progress(200).await;
            if round % 2 == 1 {
                run(&node, "stop", &[]).await;
                run(&node, "start", &[]).await;
                facts.progress(200).await;
            }
            warm = if round == 0 { resident_kib() } else { warm };
            println!("round {round}: {facts}, {} KiB", resident_kib());
        }
        facts.stop.set(true);
        producer.join().await.unwrap();
        consumer.join().await.unwrap();
        assert!(facts.lives.get() >= u64::from(4 * rounds), "{facts}");
        // Book is kept of each number, which is some memory; what is lost with each life would be more.
        let grown = resident_kib().saturating_sub(warm);
        assert!(
            grown < 32 * 1024,
            "{grown} KiB more than after the first round"
        );
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn nothing_confirmed_is_lost_with_a_killed_node() {
    outlive(1);
}

#[test]
#[ignore = "needs RabbitMQ: tests/run --long"]
fn long_nothing_confirmed_is_lost_in_a_row_of_restarts() {
    let rounds = std::env::var("AMQP_NODE_ROUNDS");
    outlive(rounds.map_or(20, |text| text.parse().expect("a number")));
}

//! A cluster of three nodes on one machine, of which one after the other is killed.

mod support;

use amqp::Uri;
use amqp::client::{ConnectOptions, Connection, Consume, QueueDeclare, Topology};
use amqp::protocol::AMQPValue;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use support::fire::{self, Facts, resident_kib};
use support::node::Node;
use support::on_kernel_for;

/// How often each node is killed: `AMQP_CLUSTER_ROUNDS`, or twice.
fn rounds() -> u32 {
    let rounds = std::env::var("AMQP_CLUSTER_ROUNDS");
    rounds.map_or(2, |text| text.parse().expect("a number"))
}

fn cluster() -> Vec<Arc<Node>> {
    let first = Node::start();
    let (second, third) = std::thread::scope(|scope| {
        let second = scope.spawn(|| Node::join(&first));
        let third = Node::join(&first);
        (second.join().expect("it comes up"), third)
    });
    // Dropped in this order: the first, whose name service they share, goes last.
    [second, third, first].map(Arc::new).into()
}

fn options(node: &Node) -> ConnectOptions {
    ConnectOptions {
        heartbeat: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(20),
        publish_timeout: Duration::from_secs(20),
        ..Uri::parse(&node.url()).unwrap()
    }
}

#[test]
#[ignore = "needs RabbitMQ: tests/run --long"]
fn long_nothing_confirmed_is_lost_by_a_cluster_whose_nodes_are_killed_in_turn() {
    on_kernel_for(Duration::from_secs(600) * rounds(), async {
        let nodes = cluster();
        let hosts: Vec<_> = nodes.iter().map(|node| options(node)).collect();
        let quorum = QueueDeclare::new("fire")
            .argument("x-queue-type", AMQPValue::LongString("quorum".into()));
        let topology = Topology::new().queue(quorum).prefetch(40);
        let facts = Rc::new(Facts::default());
        let producing = fire::session(hosts.clone(), topology.clone().confirms());
        let producer = kernel::spawn(fire::produce(producing, "fire".into(), facts.clone()));
        let consuming = fire::session(hosts.clone(), topology.consume(Consume::new("fire")));
        let consumer = kernel::spawn(fire::consume(consuming, facts.clone()));
        let mut warm = 0;
        for round in 0..rounds() {
            for node in &nodes {
                facts.progress(200).await;
                for verb in ["kill", "start"] {
                    let node = Arc::clone(node);
                    let ran = kernel::run_in_thread(move || node.run(verb, &[]));
                    ran.await.unwrap();
                    // With two of three, and again with all.
                    facts.progress(200).await;
                }
                println!("round {round}: {facts}, {} KiB", resident_kib());
            }
            warm = if round == 0 { resident_kib() } else { warm };
        }
        facts.stop.set(true);
        producer.join().await.unwrap();
        consumer.join().await.unwrap();
        println!("{facts}");
        let direct = Connection::open(hosts[0].clone()).await.unwrap();
        let channel = direct.channel().await.unwrap();
        let left = channel.queue_declare(QueueDeclare::new("fire").passive());
        assert_eq!(left.await.unwrap().messages, 0);
        // Both ends keep book of each number; what leaks with each life would be more.
        let grown = resident_kib().saturating_sub(warm);
        assert!(
            grown < 64 * 1024,
            "{grown} KiB more than after the first round"
        );
    });
}

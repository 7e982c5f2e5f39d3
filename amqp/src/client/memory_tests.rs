//! With large bodies the client holds what its byte limits say, and a little more: counted by the allocator.

use super::*;
use crate::broker::{Broker, Config, MemoryStore};
use crate::testing::peak_bytes;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const BODY: usize = 512 * 1024;
const COUNT: usize = 60;

/// What the connection holds beside the limits: read buffer, names, tasks.
const SLACK: usize = 1 << 20;

const PATIENCE: Duration = Duration::from_secs(60);

/// A broker on a thread of its own, whose memory is not counted here.
fn broker() -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        kernel::run(async move {
            let config = Config::on(([127, 0, 0, 1], 0).into());
            let broker = Broker::bind(config, MemoryStore::new()).await.unwrap();
            sender.send(broker.local_addr()).unwrap();
            broker.serve().await.unwrap();
        })
        .unwrap();
    });
    receiver.recv_timeout(PATIENCE).expect("the broker starts")
}

async fn connect(address: SocketAddr, change: impl FnOnce(&mut ConnectOptions)) -> Channel {
    let mut options = ConnectOptions {
        port: address.port(),
        answer_timeout: PATIENCE,
        publish_timeout: PATIENCE,
        ..ConnectOptions::default()
    };
    change(&mut options);
    let connection = Connection::open(options).await.unwrap();
    let channel = connection.channel().await.unwrap();
    channel.queue_declare(QueueDeclare::new("q")).await.unwrap();
    channel
}

fn peak(main: impl Future<Output = ()> + 'static) -> usize {
    peak_bytes(|| kernel::run(main).expect("a kernel starts")).1
}

/// Publishes as fast as the limit of the write buffer lets it.
fn publish_all(address: SocketAddr) -> usize {
    peak(async move {
        let channel = connect(address, |options| options.write_buffer_bytes = 1 << 20).await;
        let body = vec![b'x'; BODY];
        for _ in 0..COUNT {
            let message = Publish::new("", "q", &body);
            channel.publish_unconfirmed(message).await.unwrap();
        }
        let passive = QueueDeclare::new("q").passive();
        assert_eq!(
            channel.queue_declare(passive).await.unwrap().messages,
            COUNT as u32
        );
    })
}

/// The consumer has no prefetch and takes nothing until the connection has stopped reading.
fn consume_all(address: SocketAddr, limit: usize) -> usize {
    peak(async move {
        let channel = connect(address, |options| options.read_buffer_bytes = limit).await;
        let core = Rc::clone(&channel.connection().handle.core);
        let mut consumer = channel.consume(Consume::new("q")).await.unwrap();
        while !core.is_over_full() {
            consumer.ready().await.unwrap();
            kernel::yield_now().await.unwrap();
        }
        let waiting = consumer.buffered();
        assert!(waiting < COUNT / 2, "{waiting}");
        for _ in 0..COUNT {
            let ConsumerEvent::Delivery(delivery) = consumer.next().await else {
                panic!("a delivery was due");
            };
            assert_eq!(delivery.body.len(), BODY);
            delivery.ack().unwrap();
        }
    })
}

#[test]
fn large_bodies_are_held_up_to_the_limits() {
    let address = broker();
    let published = publish_all(address);
    // Two buffers, each of which may hold one message more than its limit and have grown by doubling; and the body.
    let bound = 2 * 2 * ((1 << 20) + BODY) + BODY + SLACK;
    assert!(published < bound, "{published} bytes, not {bound}");
    let limit = 4 << 20;
    let consumed = consume_all(address, limit);
    // One message goes over the limit, one is under way, and a row of reads is taken before the limit is looked at.
    let bound = limit + 3 * BODY + SLACK;
    assert!(consumed < bound, "{consumed} bytes, not {bound}");
    assert!(BODY * COUNT > 2 * bound, "else this shows nothing");
}

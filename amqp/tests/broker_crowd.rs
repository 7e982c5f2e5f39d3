//! A crowd of publishers on one channel, against our own broker.
#![cfg(feature = "kernel")]

mod broker_support;

use amqp::client::{Connection, Publish, QueueDeclare};
use broker_support::PATIENCE;
use std::cell::Cell;
use std::rc::Rc;

/// Three thousand tasks wait for room in a small window: all come through, in the order they came.
#[test]
fn three_thousand_tasks_share_a_window_of_ten() {
    const TASKS: usize = 3000;
    let address = broker_support::start(|_| ());
    kernel::run(async move {
        let url = format!("amqp://guest:guest@{address}/%2F");
        let mut options = amqp::Uri::parse(&url).unwrap();
        options.confirm_window = 10;
        options.write_buffer_bytes = 4096;
        options.publish_timeout = PATIENCE;
        let connection = Connection::open(options).await.unwrap();
        let channel = connection.channel().await.unwrap();
        channel.queue_declare(QueueDeclare::new("q")).await.unwrap();
        channel.confirm_select().await.unwrap();
        let sent = Rc::new(Cell::new(0));
        let mut tasks = Vec::new();
        for number in 0..TASKS {
            let (channel, sent) = (channel.clone(), Rc::clone(&sent));
            tasks.push(kernel::spawn(async move {
                let message = Publish::new("", "q", b"a job");
                let confirm = channel.publish_pending(message).await.unwrap();
                assert_eq!(sent.replace(number + 1), number, "in order");
                assert!(channel.unconfirmed() <= 10);
                confirm.await.unwrap();
            }));
        }
        for task in tasks {
            task.join().await.unwrap();
        }
        let queue = QueueDeclare::new("q").passive();
        let queue = channel.queue_declare(queue).await.unwrap();
        assert_eq!(queue.messages as usize, TASKS);
    })
    .unwrap();
}

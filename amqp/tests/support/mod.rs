//! Helpers of the tests against a real broker.
#![allow(dead_code, reason = "each test file uses some of them")]

#[cfg(feature = "tls")]
pub mod certificates;
#[cfg(feature = "kernel")]
pub mod fire;
pub mod node;
pub mod proxy;

use amqp::{ConnectOptions, Uri};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The broker to test against, named by `OLIVE_TEST_AMQP_URL`; `tests/run` starts one.
pub fn options() -> ConnectOptions {
    let url = std::env::var("OLIVE_TEST_AMQP_URL")
        .expect("OLIVE_TEST_AMQP_URL names a broker; tests/run sets it");
    Uri::parse(&url).expect("OLIVE_TEST_AMQP_URL is an AMQP URI")
}

/// A name on the broker that no other run uses.
pub fn name(test: &str) -> String {
    format!("amqp-test-{test}-{}", std::process::id())
}

/// A queue of one connection, with a name of ours: not every broker gives names.
pub fn own_queue() -> amqp::QueueDeclare {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    amqp::QueueDeclare::new(name(&format!("own-{number}"))).exclusive()
}

/// A connection to the broker to test against, and a channel of it.
#[cfg(feature = "kernel")]
pub async fn connected() -> (amqp::client::Connection, amqp::client::Channel) {
    let connection = amqp::client::Connection::open(options()).await.unwrap();
    let channel = connection.channel().await.unwrap();
    (connection, channel)
}

/// Deletes a queue, over a channel of its own.
#[cfg(feature = "kernel")]
pub async fn delete_queue(connection: &amqp::client::Connection, queue: &str) {
    let channel = connection.channel().await.unwrap();
    channel.queue_delete(queue, false, false).await.unwrap();
}

/// Runs a test on a kernel, with a deadline that only a hang reaches.
#[cfg(feature = "kernel")]
pub fn on_kernel(test: impl Future<Output = ()> + 'static) {
    on_kernel_for(Duration::from_secs(60), test);
}

/// [`on_kernel`] with another deadline.
#[cfg(feature = "kernel")]
pub fn on_kernel_for(limit: Duration, test: impl Future<Output = ()> + 'static) {
    let limited = async move {
        let test = async {
            test.await;
            Ok::<(), kernel::Error>(())
        };
        kernel::timeout_after(limit, test)
            .await
            .expect("the test ends before its deadline");
    };
    kernel::run(limited).expect("a kernel starts");
}

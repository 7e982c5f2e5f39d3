//! The examples, run against a real broker.

#[path = "../examples/publisher.rs"]
mod publisher;
#[path = "../examples/recovery.rs"]
mod recovery;
#[path = "../examples/rpc.rs"]
mod rpc;
mod support;
#[path = "../examples/worker.rs"]
mod worker;

use amqp::ConnectOptions;
use std::time::Duration;
use support::proxy::before;
use support::{on_kernel, options};

fn url_of(options: &ConnectOptions) -> String {
    format!(
        "amqp://{}:{}@{}",
        options.user,
        options.password,
        options.address()
    )
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn the_publisher_and_the_worker() {
    on_kernel(async {
        let url = url_of(&options());
        assert_eq!(publisher::publish(&url, 300).await.unwrap(), 300);
        worker::work(&url, 300).await.unwrap();
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn questions_and_answers() {
    on_kernel(async {
        let answers = rpc::ask(&url_of(&options()), &["hello", "world"])
            .await
            .unwrap();
        assert_eq!(answers, ["HELLO", "WORLD"]);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_session_is_followed_over_a_loss() {
    on_kernel(async {
        let broker = options();
        let proxy = before(&broker, &[], 1, 0);
        let through = ConnectOptions {
            host: "127.0.0.1".into(),
            port: proxy.address.port(),
            ..broker
        };
        let following =
            kernel::spawn(async move { recovery::follow(&url_of(&through), 2).await.unwrap() });
        // Cuts until the second life is there, whenever the first one was.
        while !following.is_finished() {
            kernel::sleep(Duration::from_millis(300)).await.unwrap();
            proxy.cut_all();
        }
        let lines = following.join().await.unwrap();
        assert!(lines[0].contains("life 1"), "{lines:?}");
        assert!(lines[lines.len() - 2].starts_with("lost: "), "{lines:?}");
        assert!(lines[lines.len() - 1].contains("life 2"), "{lines:?}");
    });
}

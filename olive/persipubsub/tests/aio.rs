//! The asynchronous façade on the kernel.
#![cfg(feature = "kernel")]

mod support;

use std::time::Duration;

use persipubsub::{Error, aio};
use support::{again, is_role, open, store, variable};

#[test]
fn tasks_send_and_receive_while_others_run() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["a", "b"]);
    kernel::run(async move {
        let receive = |name: &str| {
            let subscriber = aio::Subscriber::new(env.new_subscriber(name).unwrap());
            kernel::spawn(async move {
                let mut received = Vec::new();
                while received.len() < 300 {
                    let message = subscriber
                        .receive(None)
                        .await
                        .unwrap()
                        .expect("more is sent");
                    received.push(String::from_utf8(message.body().to_vec()).unwrap());
                    message.ack().await.unwrap();
                }
                received
            })
        };
        let receivers = [receive("a"), receive("b")];
        let publisher = aio::Publisher::new(env.new_publisher().unwrap());
        let senders: Vec<_> = (0..3)
            .map(|sender| {
                let publisher = publisher.clone();
                kernel::spawn(async move {
                    for n in 0..100 {
                        publisher.send(format!("{sender}:{n}")).await.unwrap();
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.join().await.unwrap();
        }
        let mut orders = Vec::new();
        for receiver in receivers {
            orders.push(receiver.join().await.unwrap());
        }
        assert_eq!(orders[0], orders[1], "one order for all");
        assert_eq!(env.new_control().stat().unwrap().messages, 0);
    })
    .unwrap();
}

#[test]
fn the_time_can_be_over_and_a_message_can_fail() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    kernel::run(async move {
        let subscriber = aio::Subscriber::new(env.new_subscriber("sub").unwrap());
        assert!(
            subscriber
                .receive(Duration::from_millis(20))
                .await
                .unwrap()
                .is_none()
        );
        let publisher = aio::Publisher::new(env.new_publisher().unwrap());
        publisher.send_many(["x", "y"]).await.unwrap();
        let both = subscriber.receive_batch(5, Duration::ZERO).await.unwrap();
        assert_eq!(both.len(), 2);
        for message in both {
            message.fail(Duration::ZERO).await.unwrap();
        }
        let again = subscriber.receive(Duration::ZERO).await.unwrap().unwrap();
        assert_eq!((again.attempt(), again.body()), (2, &b"x"[..]));
        again.give_back().unwrap();
    })
    .unwrap();
}

/// The forms beyond send and receive are the blocking ones', on the same core.
#[test]
fn the_scoped_form_the_newest_and_the_late_one() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    kernel::run(async move {
        let now = Duration::ZERO;
        let blocking = env.new_publisher().unwrap().autosync(true);
        let publisher = aio::Publisher::new(blocking);
        let subscriber = aio::Subscriber::new(env.new_subscriber("sub").unwrap());
        assert_eq!(publisher.send_many(["1", "2", "3"]).await.unwrap(), 1..4);
        let failed = subscriber.receive_with(now, async |_| Err::<(), _>(Error::Forked));
        assert!(matches!(failed.await, Err(Error::Forked)));
        let seen = subscriber.receive_with(now, async |message| {
            kernel::yield_now().await?;
            Ok::<_, Error>((message.attempt(), message.body().to_vec()))
        });
        assert_eq!(seen.await.unwrap(), Some((2, b"1".to_vec())));
        let newest = subscriber.receive_to_top(now).await.unwrap().unwrap();
        assert_eq!(newest.body(), b"3");
        newest.ack().await.unwrap();
        let late = persipubsub::SendOptions {
            delay: Duration::from_secs(3600),
            ..Default::default()
        };
        assert_eq!(publisher.send_with("later", late).await.unwrap(), 4);
        assert!(subscriber.receive(now).await.unwrap().is_none());
        let stat = env.new_control().stat().unwrap();
        assert_eq!((stat.messages, stat.subscribers[0].delayed), (1, 1));
    })
    .unwrap();
}

/// A wait that is cancelled takes nothing, and a timeout from outside is an error of its own.
#[test]
fn a_wait_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    kernel::run(async move {
        let subscriber = aio::Subscriber::new(env.new_subscriber("sub").unwrap());
        let waiting = subscriber.clone();
        let task = kernel::spawn(async move { waiting.receive(None).await.map(|_| ()) });
        kernel::yield_now().await.unwrap();
        task.cancel().await.unwrap();
        let outside = kernel::timeout_after(Duration::from_millis(20), subscriber.receive(None));
        assert!(matches!(
            outside.await,
            Err(Error::Kernel(kernel::Error::TaskTimeout))
        ));
        env.new_publisher().unwrap().send("still there").unwrap();
        let message = subscriber.receive(None).await.unwrap().unwrap();
        assert_eq!(message.body(), b"still there");
        message.ack().await.unwrap();
    })
    .unwrap();
}

#[test]
fn another_process() {
    if is_role("another_process") {
        let publisher = open(variable("DIR").as_ref(), 64 << 20)
            .new_publisher()
            .unwrap();
        publisher.send("from afar").unwrap();
    }
}

#[test]
fn a_commit_of_another_process_wakes_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let path = dir.path().to_str().unwrap().to_owned();
    kernel::run(async move {
        let subscriber = aio::Subscriber::new(env.new_subscriber("sub").unwrap());
        let task = kernel::spawn(async move {
            let message = subscriber.receive(None).await.unwrap().unwrap();
            let body = message.body().to_vec();
            message.ack().await.unwrap();
            body
        });
        let child = move || again("another_process", &[("DIR", &path)]).wait().unwrap();
        assert!(kernel::run_in_thread(child).await.unwrap().success());
        assert_eq!(task.join().await.unwrap(), b"from afar");
    })
    .unwrap();
}

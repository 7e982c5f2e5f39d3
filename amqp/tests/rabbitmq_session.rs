//! What a session promises, each on a real broker: publishes sent again, consumers that resume, old handles that stay
//! old, hosts in turn.

mod support;

use amqp::client::{
    Backoff, ConnectOptions, Consume, ConsumerEvent, Publish, Publisher, QueueDeclare, Session,
    SessionEvent, Topology,
};
use amqp::{Error, ErrorKind, PublishError};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use support::proxy::{Proxy, before};
use support::{connected, name, on_kernel, options};

fn through(proxy: &Proxy) -> ConnectOptions {
    ConnectOptions {
        host: proxy.address.ip().to_string(),
        port: proxy.address.port(),
        ..options()
    }
}

fn quick(hosts: Vec<ConnectOptions>, topology: Topology) -> Session {
    Session::with_hosts(hosts, topology).backoff(Backoff {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(100),
    })
}

/// Follows a session until told to stop.
fn keep(mut session: Session, stop: Rc<Cell<bool>>) -> kernel::JoinHandle<u64> {
    kernel::spawn(async move {
        let mut lives = 0;
        while !stop.get() {
            if let Ok(SessionEvent::Connected(live)) = session.next().await {
                lives = live.number;
            }
        }
        lives
    })
}

/// Publishes `numbers` in order, many at once; each must be confirmed. Tells how many are.
async fn publish_all(
    publisher: Publisher,
    queue: String,
    numbers: std::ops::Range<u32>,
    confirmed: Rc<Cell<u32>>,
) {
    let mut pending = VecDeque::new();
    for number in numbers {
        let body = number.to_be_bytes();
        let message = Publish::new("", &queue, &body).mandatory();
        pending.push_back(publisher.publish_pending(message).await.unwrap());
        if pending.len() == 100 {
            pending.pop_front().unwrap().await.unwrap();
            confirmed.set(confirmed.get() + 1);
        }
    }
    for pending in pending {
        pending.await.unwrap();
        confirmed.set(confirmed.get() + 1);
    }
}

async fn drain(queue: &str) -> Vec<u32> {
    let (_connection, channel) = connected().await;
    let mut numbers = Vec::new();
    while let Some(delivery) = channel.get_no_ack(queue).await.unwrap() {
        numbers.push(u32::from_be_bytes(delivery.body[..].try_into().unwrap()));
    }
    channel.queue_delete(queue, false, false).await.unwrap();
    numbers
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn what_was_not_confirmed_is_sent_again_in_order() {
    const COUNT: u32 = 3000;
    on_kernel(async {
        let proxy = before(&options(), &[], 1, 0);
        let queue = name("resend");
        let topology = Topology::new().queue(QueueDeclare::new(&queue));
        let session = quick(vec![through(&proxy)], topology).resend(1 << 20);
        let (publisher, stop, confirmed) = (
            session.publisher(),
            Rc::new(Cell::new(false)),
            Rc::new(Cell::new(0)),
        );
        let lives = keep(session, stop.clone());
        let publishing = kernel::spawn(publish_all(
            publisher.clone(),
            queue.clone(),
            0..COUNT,
            confirmed.clone(),
        ));
        // A cut at each of these counts, in the middle of what is on its way.
        for cut_at in [100, 700, 1500, 2200] {
            while confirmed.get() < cut_at {
                kernel::sleep(Duration::from_millis(1)).await.unwrap();
            }
            proxy.cut_all();
        }
        publishing.join().await.unwrap();
        assert_eq!(publisher.unconfirmed(), 0);
        stop.set(true);
        proxy.cut_all();
        let lives = lives.join().await.unwrap();
        assert!(lives >= 4, "{lives} lives");

        let numbers = drain(&queue).await;
        let mut next = 0;
        for number in &numbers {
            assert!(*number <= next, "{number} came where {next} was due");
            next = next.max(number + 1);
        }
        assert_eq!(next, COUNT);
        println!("{} twice, {lives} lives", numbers.len() - COUNT as usize);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn what_a_server_refuses_is_not_sent_again() {
    on_kernel(async {
        let queue = name("refused");
        let topology = Topology::new().queue(QueueDeclare::new(&queue));
        let session = quick(vec![options()], topology).resend(1 << 20);
        let publisher = session.publisher();
        let stop = Rc::new(Cell::new(false));
        let lives = keep(session, stop.clone());
        let message = Publish::new("", &queue, b"good");
        publisher.publish(message).await.unwrap();
        let nowhere = Publish::new("", "no-such-queue", b"back").mandatory();
        let error = publisher.publish(nowhere).await.unwrap_err();
        assert!(matches!(error, PublishError::Unroutable(_)), "{error}");
        // It ends the channel, and with it a life; but only one.
        let wrong = Publish::new("no-such-exchange", "k", b"bad");
        let error = publisher.publish(wrong).await.unwrap_err();
        assert!(
            matches!(&error, PublishError::Closed(Error::ChannelClosed(reason)) if reason.code == 404),
            "{error}"
        );
        publisher.publish(message).await.unwrap();
        let long = "k".repeat(256);
        let error = publisher.publish(Publish::new("", &long, b"")).await;
        assert!(matches!(error, Err(PublishError::Invalid(_))), "{error:?}");
        stop.set(true);
        publisher.publish(wrong).await.unwrap_err();
        assert_eq!(lives.join().await.unwrap(), 2);
        drain_count(&queue, 2).await;
    });
}

async fn drain_count(queue: &str, count: u32) {
    let (_connection, channel) = connected().await;
    assert_eq!(channel.queue_purge(queue).await.unwrap(), count);
    channel.queue_delete(queue, false, false).await.unwrap();
}

#[test]
fn an_outbox_is_bounded_and_ends_with_its_session() {
    on_kernel(async {
        let nobody = ConnectOptions {
            port: 1,
            publish_timeout: Duration::from_millis(200),
            ..ConnectOptions::default()
        };
        let session = quick(vec![nobody], Topology::new()).resend(10_000);
        let publisher = session.publisher();
        let body = [0; 4000];
        let publish = || publisher.publish_pending(Publish::new("", "q", &body));
        let waiting = [publish().await.unwrap(), publish().await.unwrap()];
        let third = publish().await.unwrap();
        // No more room. Nobody connects, so there will be none, and what waits runs out of time too.
        let error = publish().await.unwrap_err();
        assert_eq!(error, PublishError::Deadline(Duration::from_millis(200)));
        assert_eq!(publisher.unconfirmed(), 3);
        for pending in waiting {
            let error = pending.await.unwrap_err();
            assert!(matches!(error, PublishError::Deadline(_)), "{error}");
        }
        drop(third);
        assert_eq!(publisher.unconfirmed(), 0);

        let session = quick(vec![ConnectOptions::default()], Topology::new()).resend(10_000);
        let message = Publish::new("", "q", b"x");
        let last = session.publisher().publish_pending(message).await.unwrap();
        drop(session);
        let error = last.await.unwrap_err();
        assert_eq!(error, PublishError::Closed(Error::ClosedByUs));
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn consumers_resume_and_old_handles_stay_old() {
    on_kernel(async {
        let proxy = before(&options(), &[], 1, 0);
        let queue = name("resume");
        let topology = Topology::new()
            .queue(QueueDeclare::new(&queue))
            .prefetch(10)
            .confirms()
            .consume(Consume::new(&queue));
        let mut session = quick(vec![through(&proxy)], topology);
        let mut old = session.connect().await.unwrap();
        let message = Publish::new("", &queue, b"kept");
        old.channel.publish(message).await.unwrap();
        let ConsumerEvent::Delivery(held) = old.consumers[0].next().await else {
            panic!("a delivery was due")
        };
        proxy.cut_all();
        let Ok(SessionEvent::Lost(cause)) = session.next().await else {
            panic!("it must be lost")
        };
        assert_eq!(cause.kind(), ErrorKind::Retry, "{cause}");
        let mut live = session.connect().await.unwrap();

        // The new consumer gets it again; the old delivery cannot settle it, and no old handle works.
        let ConsumerEvent::Delivery(again) = live.consumers[0].next().await else {
            panic!("a delivery was due")
        };
        assert!(again.redelivered);
        assert_eq!(held.ack(), Err(cause.clone()));
        assert_eq!(old.channel.is_closed(), Some(cause.clone()));
        assert_eq!(old.channel.qos(1).await, Err(cause.clone()));
        let published = old.channel.publish(message).await;
        assert_eq!(published, Err(PublishError::Closed(cause.clone())));
        let ConsumerEvent::Closed(seen) = old.consumers[0].next().await else {
            panic!("the old consumer must be over")
        };
        assert_eq!(seen, cause);
        again.ack().unwrap();
        assert_eq!(live.channel.unsettled(), 0);
        live.channel
            .queue_delete(&queue, false, false)
            .await
            .unwrap();
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn hosts_are_taken_in_turn() {
    on_kernel(async {
        let proxies = [before(&options(), &[], 1, 0), before(&options(), &[], 1, 0)];
        let hosts: Vec<_> = proxies.iter().map(through).collect();
        let mut session = quick(hosts, Topology::new());
        let mut seen = Vec::new();
        for _ in 0..4 {
            let live = session.connect().await.unwrap();
            seen.extend(proxies.iter().position(|proxy| proxy.open() > 0));
            proxies.iter().for_each(Proxy::cut_all);
            live.connection.closed().await;
            assert!(matches!(session.next().await, Ok(SessionEvent::Lost(_))));
        }
        assert_eq!(seen, [0, 1, 0, 1]);
    });
}

//! Sessions under fire: a proxy that misbehaves between us and a real broker.
//!
//! In two phases: first faults, while producers with confirms and consumers with acks run; then the proxy heals, and
//! everything must finish. Faults that must be survived: connections cut at any byte, half-open connections,
//! delays. A corrupted byte can make a confirm name another message, and then nothing is promised but that every
//! wait ends and the session comes back. `AMQP_FIRE_SEED` and `AMQP_FIRE_SECONDS` repeat or prolong a run.

mod support;

use amqp::Error;
use amqp::client::{
    ConnectOptions, Consume, Publish, QueueDeclare, Session, SessionEvent, Topology,
};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use support::fire::{self, Facts};
use support::proxy::{Fault, Proxy, before};
use support::{delete_queue, name, on_kernel_for, options};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
}

fn through(proxy: &Proxy) -> ConnectOptions {
    ConnectOptions {
        host: proxy.address.ip().to_string(),
        port: proxy.address.port(),
        heartbeat: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(3),
        answer_timeout: Duration::from_secs(3),
        publish_timeout: Duration::from_secs(5),
        ..options()
    }
}

fn proxy(faults: &[Fault], distance: u64, seed: u64) -> Proxy {
    before(&options(), faults, distance, seed)
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn nothing_confirmed_is_lost_under_fire() {
    let seconds = number("AMQP_FIRE_SECONDS").unwrap_or(6);
    on_kernel_for(Duration::from_secs(seconds + 60), async move {
        let seed = number("AMQP_FIRE_SEED").unwrap_or(1);
        let proxy = proxy(
            &[Fault::Cut, Fault::Cut, Fault::Stall, Fault::Delay],
            60_000,
            seed,
        );
        let queue = name(&format!("fire-{seed}"));
        let topology = Topology::new()
            .queue(QueueDeclare::new(&queue))
            .prefetch(40);
        let facts = Rc::new(Facts::default());
        let producing = topology.clone().confirms();
        let producer = kernel::spawn(fire::produce(
            fire::session(vec![through(&proxy)], producing),
            queue.clone(),
            facts.clone(),
        ));
        let consuming = topology.consume(Consume::new(&queue));
        let consumer = kernel::spawn(fire::consume(
            fire::session(vec![through(&proxy)], consuming),
            facts.clone(),
        ));
        kernel::sleep(Duration::from_secs(seconds)).await.unwrap();
        proxy.heal();
        facts.stop.set(true);
        producer.join().await.unwrap();
        consumer.join().await.unwrap();
        println!("seed {seed}: {} faults, {facts}", proxy.injected());
        assert!(
            proxy.injected() > 3 && facts.lives.get() > 3,
            "there was no fire"
        );
        let direct = amqp::client::Connection::open(options()).await.unwrap();
        delete_queue(&direct, &queue).await;
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn sessions_survive_corruption() {
    let seconds = number("AMQP_FIRE_SECONDS").unwrap_or(4);
    on_kernel_for(Duration::from_secs(seconds + 60), async move {
        let seed = number("AMQP_FIRE_SEED").unwrap_or(2);
        let proxy = proxy(&[Fault::Corrupt], 3_000, seed);
        let queue = name(&format!("corrupt-{seed}"));
        let topology = Topology::new()
            .queue(QueueDeclare::new("").exclusive())
            .prefetch(40)
            .confirms();
        let done = Rc::new(Cell::new(false));
        // A damaged size makes one end wait for the rest of a frame: that takes a deadline to find.
        let options = ConnectOptions {
            publish_timeout: Duration::from_millis(300),
            ..through(&proxy)
        };
        let working = {
            let (done, mut session) = (done.clone(), fire::session(vec![options], topology));
            kernel::spawn(async move {
                let mut lives = 0;
                while !done.get() {
                    // A damaged login or declaration may look like a mistake of ours; it is not.
                    let Ok(live) = session.connect().await else {
                        continue;
                    };
                    lives += 1;
                    let channel = live.channel;
                    while !done.get()
                        && channel
                            .publish(Publish::new("", &queue, &[7; 500]))
                            .await
                            .is_ok()
                    {}
                }
                lives
            })
        };
        kernel::sleep(Duration::from_secs(seconds)).await.unwrap();
        proxy.heal();
        done.set(true);
        let lives = working.join().await.unwrap();
        println!(
            "seed {seed}: {} bits flipped, {lives} lives",
            proxy.injected()
        );
        assert!(proxy.injected() > 3 && lives > 1);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn a_half_open_connection_is_found_by_heartbeats() {
    on_kernel_for(Duration::from_secs(30), async {
        let proxy = proxy(&[Fault::Stall], 2_000, 3);
        let topology = Topology::new().queue(QueueDeclare::new("").exclusive());
        let mut session = fire::session(vec![through(&proxy)], topology);
        let Ok(SessionEvent::Connected(live)) = session.next().await else {
            panic!("it connects first")
        };
        // Drive it into the stall, then wait for the end without saying anything.
        for _ in 0..100 {
            let _ = live
                .channel
                .publish_unconfirmed(Publish::new("", "nowhere", &[0; 100]))
                .await;
        }
        let Ok(SessionEvent::Lost(error)) = session.next().await else {
            panic!("it must be lost")
        };
        assert!(
            matches!(
                error,
                Error::PeerSilent(_) | Error::Lost { .. } | Error::ConnectionClosed(_)
            ),
            "{error:?}"
        );
        assert!(error.is_retryable());
        // What the old life gave out stays dead, with the cause.
        assert_eq!(live.channel.qos(1).await, Err(error));
        proxy.heal();
        let Ok(SessionEvent::Connected(again)) = session.next().await else {
            panic!("it connects again")
        };
        assert_eq!(again.number, live.number + 1);
    });
}

#[test]
#[ignore = "needs RabbitMQ: tests/run"]
fn what_trying_again_cannot_change_is_told_at_once() {
    on_kernel_for(Duration::from_secs(30), async {
        let queue = name("config");
        let direct = amqp::client::Connection::open(options()).await.unwrap();
        let channel = direct.channel().await.unwrap();
        channel
            .queue_declare(QueueDeclare::new(&queue))
            .await
            .unwrap();
        let other = Topology::new().queue(QueueDeclare::new(&queue).argument("x-max-length", 5));
        let error = Session::new(options(), other).connect().await.unwrap_err();
        assert_eq!(
            error.close_reason().map(|reason| reason.code),
            Some(406),
            "{error}"
        );
        channel.queue_delete(&queue, false, false).await.unwrap();
        let wrong = ConnectOptions {
            password: "wrong".into(),
            ..options()
        };
        let error = Session::new(wrong, Topology::new())
            .connect()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::LoginRefused(_)), "{error}");
        // A dead host first: the session goes on to the next one by itself.
        let dead = ConnectOptions {
            port: 1,
            ..options()
        };
        let mut session = Session::with_hosts(vec![dead, options()], Topology::new());
        assert_eq!(session.connect().await.unwrap().number, 1);
    });
}

//! Handshake, heartbeats, limits on connections, and the stop.

#![cfg(feature = "kernel")]

mod broker_support;

use amqp::broker::{BindError, Broker, Config, MemoryStore, Stopped, User};
use amqp::protocol::{AMQPClass, PROTOCOL_HEADER, connection, queue};
use broker_support::{Got, PATIENCE, Raw, Scope, start, start_ok};
use std::io::Read;
use std::time::{Duration, Instant};

#[test]
fn another_protocol_is_told_ours() {
    let mut raw = Raw::connect(start(|_| ()));
    raw.send(b"GET / HTTP/1.1\r\n\r\n");
    let mut answer = Vec::new();
    raw.socket.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, PROTOCOL_HEADER);
}

#[test]
fn both_mechanisms_log_in_and_a_wrong_password_does_not() {
    let address = start(|_| ());
    let amqplain = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest";
    let cases: [(&str, &[u8], Option<u16>); 5] = [
        ("PLAIN", b"\0guest\0guest", None),
        ("AMQPLAIN", amqplain, None),
        ("PLAIN", b"\0guest\0wrong", Some(403)),
        ("PLAIN", b"guest", Some(502)),
        ("EXTERNAL", b"", Some(530)),
    ];
    for (mechanism, response, refused) in cases {
        let mut raw = Raw::connect(address);
        raw.send(&PROTOCOL_HEADER);
        raw.next();
        raw.method(0, start_ok(mechanism, response));
        match refused {
            Some(code) => assert_eq!(raw.next_close(), Some((Scope::Connection, code))),
            None => assert!(matches!(
                raw.next(),
                Some(Got::Method(
                    0,
                    AMQPClass::Connection(connection::AMQPMethod::Tune(_))
                ))
            )),
        }
    }
}

#[test]
fn another_vhost_is_not_there() {
    let mut raw = Raw::connect(start(|_| ()));
    raw.log_in("PLAIN", b"\0guest\0guest", 0);
    let open = connection::Open {
        virtual_host: "other".into(),
    };
    raw.method(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
    assert_eq!(raw.next_close(), Some((Scope::Connection, 530)));
}

/// What is offered in Tune cannot be exceeded.
#[test]
fn tuning_has_limits() {
    let address = start(|config| config.frame_max = 8192);
    for (channel_max, frame_max) in [(0, 8193), (0, 4095), (2048, 0)] {
        let mut raw = Raw::connect(address);
        raw.send(&PROTOCOL_HEADER);
        raw.next();
        raw.method(0, start_ok("PLAIN", b"\0guest\0guest"));
        raw.next();
        let tune_ok = connection::TuneOk {
            channel_max,
            frame_max,
            heartbeat: 0,
        };
        raw.method(
            0,
            AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok)),
        );
        assert_eq!(raw.next_close(), Some((Scope::Connection, 530)));
    }
}

/// A client that does not get on with the handshake is dropped, and so is one beyond the number allowed.
#[test]
fn idle_and_surplus_connections_are_dropped() {
    let address = start(|config| {
        config.handshake_timeout = Duration::from_millis(200);
        config.connections_max = 2;
    });
    let one = Raw::open(address);
    let mut idle = Raw::connect(address);
    idle.send(b"AMQP");
    let mut surplus = Raw::connect(address);
    assert_eq!(surplus.next(), None);
    assert_eq!(idle.next(), None);
    drop(one);
    // The place is free again as soon as the broker has noticed.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut raw = Raw::connect(address);
        raw.send(&PROTOCOL_HEADER);
        if raw.next().is_some() {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}

/// Heartbeats come while we are silent, and two intervals of our silence end the connection.
#[test]
fn heartbeats_both_ways() {
    let address = start(|_| ());
    let mut raw = Raw::connect(address);
    raw.log_in("PLAIN", b"\0guest\0guest", 1);
    let open = connection::Open {
        virtual_host: "/".into(),
    };
    raw.call(0, AMQPClass::Connection(connection::AMQPMethod::Open(open)));
    let since = Instant::now();
    assert_eq!(raw.next(), Some(Got::Heartbeat));
    while let Some(got) = raw.next() {
        assert_eq!(got, Got::Heartbeat);
    }
    assert!(
        since.elapsed() >= Duration::from_millis(1500),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn other_addresses_than_loopback_need_a_user() {
    kernel::run(async {
        let open = Config::on(([0, 0, 0, 0], 0).into());
        let refused = Broker::bind(open.clone(), MemoryStore::new()).await;
        assert!(matches!(refused, Err(BindError::NoUsers { .. })));
        let users = vec![User {
            name: "ann".into(),
            password: "secret".into(),
        }];
        let config = Config { users, ..open };
        let broker = Broker::bind(config, MemoryStore::new()).await.unwrap();
        let taken = Config::on(([127, 0, 0, 1], broker.local_addr().port()).into());
        let error = Broker::bind(taken, MemoryStore::new()).await.err().unwrap();
        let BindError::Io { source, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    })
    .unwrap();
}

/// A stop closes every connection with 320, ends `serve`, and says how many messages go with it.
#[test]
fn a_stop_is_announced_and_counts_what_it_drops() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let client = std::thread::spawn(move || {
        let address = receiver.recv_timeout(PATIENCE).unwrap();
        let mut raw = Raw::open(address);
        let declare = queue::Declare {
            queue: "q".into(),
            ..queue::Declare::default()
        };
        raw.call(1, AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
        let publish = amqp::codec::Publish {
            routing_key: "q",
            ..Default::default()
        };
        let mut bytes = Vec::new();
        for _ in 0..3 {
            amqp::codec::encode::publish(&mut bytes, 1, &publish, &[0, 0], b"x", 4096);
        }
        raw.send(&bytes);
        assert_eq!(raw.next_close(), Some((Scope::Connection, 320)));
        let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
        raw.method(0, AMQPClass::Connection(ok));
        assert_eq!(raw.next(), None);
    });
    kernel::run(async move {
        let config = Config::on(([127, 0, 0, 1], 0).into());
        let broker = Broker::bind(config, MemoryStore::new()).await.unwrap();
        let stopper = broker.stopper();
        sender.send(broker.local_addr()).unwrap();
        let serving = kernel::spawn(async move { broker.serve().await });
        while stopper.message_count() < 3 {
            kernel::yield_now().await.unwrap();
        }
        let stopped = stopper.stop().await.unwrap();
        assert_eq!(
            stopped,
            Stopped {
                messages_dropped: 3
            }
        );
        serving.join().await.unwrap().unwrap();
    })
    .unwrap();
    client.join().unwrap();
}

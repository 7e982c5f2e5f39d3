//! The original's scenarios of live use, rebuilt: publishers and subscribers as threads of one
//! environment and as processes. `docs/src/persipubsub/original.md` maps each of its tests to one here.

mod support;

use std::time::Duration;

use persipubsub::Environment;
use support::{again, is_role, open, store, variable};

fn send(env: &Environment, many: u64) {
    let publisher = env.new_publisher().unwrap();
    for _ in 0..many {
        publisher.send("hello subscriber").unwrap();
    }
}

fn receive(env: &Environment, name: &str, many: u64) {
    let subscriber = env.new_subscriber(name).unwrap();
    for _ in 0..many {
        let message = subscriber
            .receive(Duration::from_secs(60))
            .unwrap()
            .expect("one is sent");
        assert_eq!(&message[..], b"hello subscriber");
        message.ack().unwrap();
    }
    assert!(subscriber.receive(Duration::ZERO).unwrap().is_none());
}

/// So many publishers sending so many each, every subscriber receiving all, in threads.
fn in_threads(publishers: u64, subscribers: &[&str], each: u64) {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), subscribers);
    std::thread::scope(|scope| {
        for _ in 0..publishers {
            scope.spawn(|| send(&env, each));
        }
        for name in subscribers {
            scope.spawn(|| receive(&env, name, publishers * each));
        }
    });
    assert_eq!(env.new_control().stat().unwrap().messages, 0);
}

/// The same, each in a process of its own.
fn in_processes(publishers: u64, subscribers: &[&str], each: u64) {
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path(), subscribers));
    let path = dir.path().to_str().unwrap();
    let many = |count: u64| count.to_string();
    let senders =
        (0..publishers).map(|_| again("sending", &[("DIR", path), ("MANY", &many(each))]));
    let mut children: Vec<_> = senders.collect();
    for name in subscribers {
        let variables = [
            ("DIR", path),
            ("NAME", name),
            ("MANY", &many(publishers * each)),
        ];
        children.push(again("receiving", &variables));
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn sending() {
    if is_role("sending") {
        send(
            &open(variable("DIR").as_ref(), 64 << 20),
            variable("MANY").parse().unwrap(),
        );
    }
}

#[test]
fn receiving() {
    if is_role("receiving") {
        let env = open(variable("DIR").as_ref(), 64 << 20);
        receive(&env, &variable("NAME"), variable("MANY").parse().unwrap());
    }
}

#[test]
fn threads_one_publisher_one_subscriber() {
    in_threads(1, &["sub"], 1000);
}

#[test]
fn threads_two_publishers_two_subscribers() {
    in_threads(2, &["sub1", "sub2"], 1000);
}

#[test]
fn processes_one_publisher_one_subscriber() {
    in_processes(1, &["sub"], 1000);
}

#[test]
fn processes_two_publishers_two_subscribers() {
    in_processes(2, &["sub1", "sub2"], 300);
}

/// 50 publishers x 50 messages in threads of one environment: all are there.
#[test]
fn a_race_of_fifty_publishing_threads() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    std::thread::scope(|scope| (0..50).for_each(|_| _ = scope.spawn(|| send(&env, 50))));
    let stat = env.new_control().stat().unwrap();
    assert_eq!(
        (stat.messages, stat.subscribers[0].depth, stat.next_sequence),
        (2500, 2500, 2501)
    );
}

/// 50 publishers x 50 messages in processes, while this process has the store open too.
#[test]
fn a_race_of_fifty_publishing_processes() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let path = dir.path().to_str().unwrap();
    let children = (0..50).map(|_| again("sending", &[("DIR", path), ("MANY", "50")]));
    for mut child in children.collect::<Vec<_>>() {
        assert!(child.wait().unwrap().success());
    }
    let stat = env.new_control().stat().unwrap();
    assert_eq!(
        (stat.messages, stat.subscribers[0].depth, stat.next_sequence),
        (2500, 2500, 2501)
    );
}

/// A subscriber at work on a message does not hold another one up.
#[test]
fn two_subscribers_do_not_block_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub1", "sub2"]);
    env.new_publisher()
        .unwrap()
        .send("message for two subscribers")
        .unwrap();
    let slow = env
        .new_subscriber("sub1")
        .unwrap()
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap();
    let quick = env
        .new_subscriber("sub2")
        .unwrap()
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap();
    quick.ack().unwrap();
    slow.ack().unwrap();
}

#[test]
fn competing() {
    if is_role("competing") {
        let env = open(variable("DIR").as_ref(), 64 << 20);
        let subscriber = env.new_subscriber("sub").unwrap();
        while let Some(message) = subscriber.receive(Duration::ZERO).unwrap() {
            println!("\ngot {}", message.seq());
            message.ack().unwrap();
        }
    }
}

/// Three processes receive as one subscriber: each message goes to one of them.
#[test]
fn processes_of_one_subscriber_share_its_messages() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    env.new_publisher()
        .unwrap()
        .send_many(vec!["x"; 600])
        .unwrap();
    let path = dir.path().to_str().unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| again("competing", &[("DIR", path)]))
        .collect();
    let mut got = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        got.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("got ")?.parse::<u64>().ok()),
        );
    }
    got.sort_unstable();
    assert_eq!(got, (1..=600).collect::<Vec<u64>>());
}

#[test]
fn holding() {
    if is_role("holding") {
        let env = open(variable("DIR").as_ref(), 64 << 20);
        let message = env
            .new_subscriber("sub")
            .unwrap()
            .receive(None)
            .unwrap()
            .unwrap();
        println!("\nholding {}", message.seq());
        loop {
            std::thread::park();
        }
    }
}

/// A process that has the first message in hand.
fn holder(dir: &std::path::Path) -> std::process::Child {
    let mut child = again("holding", &[("DIR", dir.to_str().unwrap())]);
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.map(Result::unwrap).any(|line| line == "holding 1"));
    child
}

/// A lease of five minutes does not hold up for five minutes what a killed process had in hand.
#[test]
fn a_killed_receivers_message_comes_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    env.new_publisher().unwrap().send("in hand").unwrap();
    let mut child = holder(dir.path());
    let subscriber = env.new_subscriber("sub").unwrap();
    assert!(
        subscriber.receive(Duration::ZERO).unwrap().is_none(),
        "it is in other hands"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let message = subscriber
        .receive(Duration::from_secs(60))
        .unwrap()
        .expect("it comes back");
    assert_eq!(message.attempt(), 2);
    message.ack().unwrap();
}

/// Nor where the queue is never empty: leases of the dead were looked for by those who wait only.
#[test]
fn a_killed_receivers_message_comes_to_one_that_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let publisher = env.new_publisher().unwrap();
    publisher.send("in hand").unwrap();
    let mut child = holder(dir.path());
    let subscriber = env.new_subscriber("sub").unwrap();
    publisher.send("another").unwrap();
    subscriber
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap()
        .ack()
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    support::until("it comes back", || {
        publisher.send("more").unwrap();
        let message = subscriber.receive(Duration::ZERO).unwrap().unwrap();
        let back = message.seq() == 1 && message.attempt() == 2;
        message.ack().unwrap();
        back
    });
}

//! What a receiver is promised: what it gets, when, how often, and how it settles it.

mod support;

use std::time::{Duration, Instant};

use persipubsub::{Error, SendOptions, Setup};
use support::{drain, open, store};

const NOW: Duration = Duration::ZERO;

#[test]
fn the_front_is_shown_without_being_taken() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let sub = env.new_subscriber("sub").unwrap();
    assert!(sub.front().unwrap().is_none());
    env.new_publisher()
        .unwrap()
        .send_many(["one", "two"])
        .unwrap();
    assert_eq!(sub.front().unwrap().unwrap().body, b"one");
    assert_eq!(sub.front().unwrap().unwrap().body, b"one");
    let one = sub.receive(NOW).unwrap().unwrap();
    assert_eq!(sub.front().unwrap().unwrap().body, b"two");
    one.ack().unwrap();
}

/// The front looked at the store's timeout only, and showed what no receiver would get.
#[test]
fn a_message_with_a_time_of_its_own_is_gone_when_that_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let brief = SendOptions {
        time_to_live: Some(NOW),
        ..SendOptions::default()
    };
    let publisher = env.new_publisher().unwrap();
    publisher.send_with("gone", brief).unwrap();
    publisher.send("stays").unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    assert_eq!(sub.front().unwrap().unwrap().body, b"stays");
    assert_eq!(drain(&env, "sub"), ["stays"]);
    assert_eq!(env.new_control().stat().unwrap().messages, 0);
}

/// The one who buried a message holds another one while it is revived elsewhere: the attempts must
/// not be remembered.
#[test]
fn a_dead_letter_revived_by_another_process_has_its_attempts_again() {
    const ROLE: &str = "a_dead_letter_revived_by_another_process_has_its_attempts_again";
    if support::is_role(ROLE) {
        let env = open(support::variable("DIR").as_ref(), 64 << 20);
        assert_eq!(env.new_control().revive_dead_letters("sub").unwrap(), 1);
        println!("\nreceived {:?}", drain(&env, "sub"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    env.new_control().set_max_attempts("sub", 1).unwrap();
    env.new_publisher()
        .unwrap()
        .send_many(["one", "two"])
        .unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    drop(sub.receive(NOW).unwrap());
    let two = sub.receive(NOW).unwrap().unwrap();
    assert_eq!(two.body(), b"two");
    let child = support::again(ROLE, &[("DIR", dir.path().to_str().unwrap())]);
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("received [\"one\"]"));
    two.ack().unwrap();
}

#[test]
fn receiving_from_an_empty_queue_gives_none_when_the_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let begin = Instant::now();
    assert!(
        env.new_subscriber("sub")
            .unwrap()
            .receive(Duration::from_millis(30))
            .unwrap()
            .is_none()
    );
    assert!(begin.elapsed() >= Duration::from_millis(30));
    assert!(matches!(
        env.new_subscriber("nobody"),
        Err(Error::UnknownSubscriber(_))
    ));
}

/// The original's `with sub.receive() as msg`: taken on success, comes again if the body failed.
#[test]
fn the_scoped_form_settles_by_the_outcome_of_its_body() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    env.new_publisher().unwrap().send("work").unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    let failed = sub.receive_with(NOW, |_| Err::<(), Error>(Error::Config("no".to_owned())));
    assert!(failed.is_err());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        sub.receive_with(NOW, |message| -> persipubsub::Result<()> {
            panic!("{}", message.attempt())
        })
    }));
    assert!(panicked.is_err());
    let attempt = sub
        .receive_with(NOW, |message| Ok::<_, Error>(message.attempt()))
        .unwrap();
    assert_eq!(attempt, Some(3));
    assert!(
        sub.receive_with(NOW, |_| Ok::<_, Error>(()))
            .unwrap()
            .is_none()
    );
}

#[test]
fn receive_to_top_takes_the_latest_and_leaves_other_subscribers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub", "other"]);
    env.new_publisher()
        .unwrap()
        .send_many(["1", "2", "3"])
        .unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    let latest = sub.receive_to_top(NOW).unwrap().unwrap();
    assert_eq!(&latest[..], b"3");
    latest.ack().unwrap();
    assert!(sub.receive_to_top(NOW).unwrap().is_none());
    assert_eq!(drain(&env, "other"), ["1", "2", "3"]);
}

#[test]
fn a_delayed_message_comes_when_it_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let publisher = env.new_publisher().unwrap();
    let later = |delay| SendOptions {
        delay,
        ..SendOptions::default()
    };
    let (hour, soon) = (Duration::from_secs(3600), Duration::from_millis(60));
    publisher.send_with("in an hour", later(hour)).unwrap();
    publisher.send("now").unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    let first = sub.receive(NOW).unwrap().unwrap();
    assert_eq!(&first[..], b"now");
    first.fail(hour).unwrap();
    assert!(sub.receive(NOW).unwrap().is_none());
    assert_eq!(env.new_control().stat().unwrap().subscribers[0].delayed, 2);
    let begin = Instant::now();
    publisher.send_with("soon", later(soon)).unwrap();
    let second = sub.receive(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((&second[..], second.attempt()), (&b"soon"[..], 1));
    assert!(begin.elapsed() >= soon);
    let begin = Instant::now();
    second.fail(soon).unwrap();
    let third = sub.receive(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((&third[..], third.attempt()), (&b"soon"[..], 2));
    assert!(begin.elapsed() >= soon);
    third.ack().unwrap();
}

#[test]
fn a_lease_that_is_over_lets_another_have_it_and_renewing_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    env.new_publisher().unwrap().send("x").unwrap();
    let (hasty, patient) = (
        env.new_subscriber("sub").unwrap().lease(NOW),
        env.new_subscriber("sub").unwrap(),
    );
    let lost = hasty.receive(NOW).unwrap().unwrap();
    let held = patient.receive(NOW).unwrap().unwrap();
    assert_eq!((lost.attempt(), held.attempt()), (1, 2));
    assert!(!lost.renew(Duration::from_secs(9)).unwrap());
    assert!(held.renew(Duration::from_secs(9)).unwrap());
    // What the late one says about it no longer counts …
    lost.fail(NOW).unwrap();
    assert!(patient.receive(NOW).unwrap().is_none());
    // … and the one that holds it settles it.
    held.ack().unwrap();
    assert_eq!(env.new_control().stat().unwrap().messages, 0);
}

#[test]
fn a_batch_is_settled_whole_or_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    env.new_publisher()
        .unwrap()
        .send_many((0..10).map(|n| n.to_string()))
        .unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    let batch = sub.receive_batch(4, NOW).unwrap();
    assert_eq!(batch.len(), 4);
    assert_eq!(env.new_control().stat().unwrap().subscribers[0].leased, 4);
    batch.ack().unwrap();
    for message in sub.receive_batch(4, NOW).unwrap() {
        if &message[..] == b"5" {
            message.give_back().unwrap()
        } else {
            message.ack().unwrap()
        }
    }
    drop(sub.receive_batch(2, NOW).unwrap());
    assert_eq!(drain(&env, "sub"), ["5", "8", "9"]);
}

/// Whoever asks for many must not get all of a deep queue of large bodies into memory at once.
#[test]
fn a_batch_ends_when_its_bodies_are_many_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 64 << 20);
    env.new_control().initialize(&Setup::new(["sub"])).unwrap();
    let large = vec![0; persipubsub::BATCH_BYTES as usize / 2 + 1];
    let publisher = env.new_publisher().unwrap();
    (0..3).for_each(|_| _ = publisher.send(large.clone()).unwrap());
    let sub = env.new_subscriber("sub").unwrap();
    let batches: Vec<_> = (0..2)
        .map(|_| sub.receive_batch(100, NOW).unwrap())
        .collect();
    assert_eq!((batches[0].len(), batches[1].len()), (2, 1));
    assert!(sub.receive(NOW).unwrap().is_none());
}

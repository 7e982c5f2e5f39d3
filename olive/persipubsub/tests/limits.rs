//! What the high-water mark and its strategies promise to a publisher.

mod support;

use std::time::Duration;

use persipubsub::{Error, HighWaterMark, SendOptions, Setup, Strategy};
use support::{bodies, limits, open, until};

const NOW: Duration = Duration::ZERO;

#[test]
fn a_limit_of_one_keeps_the_latest_only() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 16 << 20);
    env.new_control()
        .initialize(&limits(1, Strategy::PruneFirst))
        .unwrap();
    for n in 0..5 {
        env.new_publisher().unwrap().send(n.to_string()).unwrap();
        assert_eq!(bodies(&env, "sub"), [n.to_string()]);
    }
}

#[test]
fn prune_first_drops_the_oldest_half_and_prune_last_the_newest() {
    for (strategy, expected) in [
        (Strategy::PruneFirst, ["5", "6", "7", "8", "9", "10"]),
        (Strategy::PruneLast, ["0", "1", "2", "3", "4", "10"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let env = open(dir.path(), 16 << 20);
        env.new_control().initialize(&limits(10, strategy)).unwrap();
        let publisher = env.new_publisher().unwrap();
        (0..=10).for_each(|n| _ = publisher.send(n.to_string()).unwrap());
        assert_eq!(bodies(&env, "sub"), expected, "{strategy:?}");
    }
}

#[test]
fn the_limit_of_bytes_is_exact_too() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 16 << 20);
    let high_water_mark = HighWaterMark {
        max_bytes: 1000,
        ..HighWaterMark::default()
    };
    env.new_control()
        .initialize(&Setup {
            high_water_mark,
            ..Setup::new(["sub"])
        })
        .unwrap();
    let publisher = env.new_publisher().unwrap();
    for _ in 0..100 {
        publisher.send(vec![b'x'; 130]).unwrap();
        assert!(env.new_control().stat().unwrap().bytes <= 1000);
    }
    assert!(matches!(
        publisher.send(vec![b'x'; 1001]),
        Err(Error::TooLarge {
            len: 1001,
            max: 1000
        })
    ));
}

#[test]
fn autosync_commits_each_message_on_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 16 << 20);
    env.new_control()
        .initialize(&limits(2, Strategy::Reject))
        .unwrap();
    let publisher = env.new_publisher().unwrap();
    assert!(publisher.send_many(["1", "2", "3"]).is_err());
    assert!(bodies(&env, "sub").is_empty());
    assert!(publisher.autosync(true).send_many(["1", "2", "3"]).is_err());
    assert_eq!(bodies(&env, "sub"), ["1", "2"]);
}

/// A refusal remembers when the next message expires; those that came after it count too.
#[test]
fn a_full_store_has_room_again_as_soon_as_something_expires() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 16 << 20);
    env.new_control()
        .initialize(&limits(2, Strategy::Reject))
        .unwrap();
    let publisher = env.new_publisher().unwrap();
    publisher.send_many(["1", "2"]).unwrap();
    for _ in 0..2 {
        assert!(matches!(publisher.send("3"), Err(Error::Full(_))));
    }
    let sub = env.new_subscriber("sub").unwrap();
    sub.receive(NOW).unwrap().unwrap().ack().unwrap();
    let short = SendOptions {
        time_to_live: Some(Duration::from_millis(200)),
        ..SendOptions::default()
    };
    publisher.send_with("4", short).unwrap();
    until("the short one to expire", || publisher.send("5").is_ok());
    assert!(matches!(publisher.send("6"), Err(Error::Full(_))));
    assert_eq!(bodies(&env, "sub"), ["2", "5"]);
}

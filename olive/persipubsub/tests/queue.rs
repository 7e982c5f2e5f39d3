//! What the façade promises, one claim each. Many of them are the original's own unit tests, rebuilt.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use persipubsub::{
    Backlog, Control, Deployment, Error, HighWaterMark, Options, SendOptions, Setup, Strategy,
};
use support::{bodies, drain, limits, open, store, until};

const NOW: Duration = Duration::ZERO;

#[test]
fn initialising_twice_changes_nothing_and_reinitialising_adds() {
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path(), 16 << 20);
    let control = env.new_control();
    assert!(!control.is_initialized().unwrap());
    assert!(control.initialize(&limits(7, Strategy::Reject)).unwrap());
    assert!(control.is_initialized().unwrap());
    env.new_publisher().unwrap().send("stays").unwrap();
    assert!(!control.initialize(&Setup::new(["other"])).unwrap());
    assert_eq!(control.subscribers().unwrap(), ["sub"]);
    control
        .reinitialize(&Setup {
            strategy: Strategy::PruneLast,
            ..Setup::new(["other"])
        })
        .unwrap();
    assert_eq!(control.subscribers().unwrap(), ["sub", "other"]);
    assert_eq!(control.stat().unwrap().strategy, Strategy::PruneLast);
    assert_eq!(bodies(&env, "sub"), ["stays"]);
}

#[test]
fn the_defaults_are_the_originals() {
    let hwm = HighWaterMark::default();
    assert_eq!(
        (
            hwm.message_timeout.as_secs(),
            hwm.max_messages,
            hwm.max_bytes
        ),
        (500, 65_536, 30 << 30)
    );
    assert_eq!(Setup::default().strategy, Strategy::PruneFirst);
    assert_eq!(
        (Options::default().map_size, Options::default().max_readers),
        (None, 1024)
    );
    assert_eq!(persipubsub::RECEIVE_TIMEOUT, Duration::from_secs(60));
}

#[test]
fn a_message_for_several_subscribers_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["a", "b", "c"]);
    env.new_publisher()
        .unwrap()
        .send_many([vec![b'x'; 10], vec![b'y'; 100_000]])
        .unwrap();
    let stat = env.new_control().stat().unwrap();
    assert_eq!((stat.messages, stat.bytes), (2, 100_010));
    assert!(stat.used_bytes < 200_000);
    for name in ["a", "b", "c"] {
        assert_eq!(env.new_control().stat().unwrap().messages, 2);
        assert_eq!(drain(&env, name)[1].len(), 100_000);
    }
    assert_eq!(env.new_control().stat().unwrap().messages, 0);
}

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
fn a_new_subscriber_begins_now_or_with_the_oldest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["first"]);
    env.new_publisher().unwrap().send_many(["1", "2"]).unwrap();
    env.new_control()
        .add_subscriber("now", Backlog::Now)
        .unwrap();
    env.new_control()
        .add_subscriber("oldest", Backlog::Oldest)
        .unwrap();
    env.new_publisher().unwrap().send("3").unwrap();
    assert_eq!(drain(&env, "first"), ["1", "2", "3"]);
    assert_eq!(drain(&env, "now"), ["3"]);
    assert_eq!(drain(&env, "oldest"), ["1", "2", "3"]);
}

#[test]
fn removing_a_subscriber_frees_what_only_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["a", "b"]);
    env.new_publisher().unwrap().send("x").unwrap();
    drain(&env, "b");
    assert!(env.new_control().remove_subscriber("a").unwrap());
    assert!(!env.new_control().remove_subscriber("a").unwrap());
    assert_eq!(env.new_control().stat().unwrap().messages, 0);
}

#[test]
fn dangling_messages_are_pruned_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let publisher = env.new_publisher().unwrap();
    let short = SendOptions {
        time_to_live: Some(NOW),
        ..SendOptions::default()
    };
    publisher.send("valid").unwrap();
    publisher.send_with("dangling", short).unwrap();
    assert_eq!(env.new_control().stat().unwrap().messages, 2);
    assert_eq!(env.new_control().prune_dangling_messages().unwrap(), 1);
    assert_eq!(drain(&env, "sub"), ["valid"]);
}

#[test]
fn pruning_all_of_one_subscriber_leaves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["a", "b"]);
    env.new_publisher().unwrap().send_many(["1", "2"]).unwrap();
    let control = env.new_control();
    assert_eq!(control.prune_all_messages_for("a").unwrap(), 2);
    assert!(matches!(
        control.prune_all_messages_for("c"),
        Err(Error::UnknownSubscriber(_))
    ));
    assert!(bodies(&env, "a").is_empty());
    assert_eq!(drain(&env, "b"), ["1", "2"]);
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

#[test]
fn statistics_tell_depth_lag_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["slow", "quick"]);
    env.new_publisher()
        .unwrap()
        .send_many(["1", "22", "333"])
        .unwrap();
    drain(&env, "quick");
    let stat = env.new_control().stat().unwrap();
    assert_eq!((stat.messages, stat.bytes, stat.next_sequence), (3, 6, 4));
    let (slow, quick) = (&stat.subscribers[0], &stat.subscribers[1]);
    assert_eq!((slow.depth, slow.lag, slow.bytes), (3, 3, 6));
    assert_eq!(
        (quick.depth, quick.lag, quick.oldest_age_seconds),
        (0, 0, None)
    );
    assert!(slow.oldest_age_seconds.unwrap() < 60.0);
    assert!(stat.file_bytes >= stat.used_bytes && stat.map_bytes == 64 << 20);
}

#[test]
fn compacting_shrinks_the_file_and_keeps_the_messages() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let publisher = env.new_publisher().unwrap();
    publisher.send_many(vec![vec![b'x'; 900]; 10_000]).unwrap();
    publisher.send("kept").unwrap();
    let sub = env.new_subscriber("sub").unwrap();
    sub.receive_batch(10_000, NOW).unwrap().ack().unwrap();
    let before = env.new_control().stat().unwrap().file_bytes;
    let options = Options {
        map_size: Some(64 << 20),
        ..Options::default()
    };
    assert!(matches!(
        Control::compact(dir.path(), options),
        Err(Error::AlreadyOpen(_))
    ));
    drop((publisher, sub, env));
    Control::compact(dir.path(), options).unwrap();
    let env = open(dir.path(), 64 << 20);
    // The reserve for draining is all it has beside its messages.
    assert!(env.new_control().stat().unwrap().file_bytes < before / 2);
    let mode = std::fs::metadata(dir.path().join("data.mdb")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    env.new_publisher().unwrap().send("new").unwrap();
    assert_eq!(drain(&env, "sub"), ["kept", "new"]);
}

#[test]
fn compacting_is_refused_while_another_process_has_the_store() {
    const ROLE: &str = "compacting_is_refused_while_another_process_has_the_store";
    let options = Options {
        map_size: Some(64 << 20),
        ..Options::default()
    };
    if support::is_role(ROLE) {
        let busy = Control::compact(support::variable("DIR"), options);
        println!("\nbusy {}", matches!(busy, Err(Error::Busy(_))));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _env = store(dir.path(), &["sub"]);
    let child = support::again(ROLE, &[("DIR", dir.path().to_str().unwrap())]);
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("busy true"));
}

#[test]
fn a_store_of_another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data.mdb"), vec![b'?'; 8192]).unwrap();
    assert!(matches!(
        persipubsub::Environment::open(dir.path()),
        Err(Error::Format(_))
    ));
}

#[test]
fn a_deployment_file_makes_the_store_and_brings_it_in_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deploy.json");
    std::fs::write(
        &file,
        r#"{"path": "queue", "subscribers": ["a"], "lmdb": {"map_size": 1048576}}"#,
    )
    .unwrap();
    let env = Deployment::load(&file).unwrap().deploy().unwrap();
    assert_eq!(env.path(), dir.path().join("queue").canonicalize().unwrap());
    env.new_publisher().unwrap().send("x").unwrap();
    drop(env);
    std::fs::write(
        &file,
        r#"{"path": "queue", "subscribers": ["a", "b"], "strategy": "reject", "max_attempts": 3}"#,
    )
    .unwrap();
    let env = Deployment::load(&file).unwrap().deploy().unwrap();
    assert_eq!(env.new_control().subscribers().unwrap(), ["a", "b"]);
    let stat = env.new_control().stat().unwrap();
    assert!(stat.subscribers.iter().all(|one| one.max_attempts == 3));
    assert_eq!(drain(&env, "a"), ["x"]);
}

#[test]
fn submitted_batches_are_answered_in_order_and_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let publish = |n: u64| {
        let publish = persipubsub::Publish {
            bodies: vec![n.to_string().into()],
            ..Default::default()
        };
        vec![persipubsub::Op::Publish(publish)]
    };
    let tickets: Vec<_> = (0..200).map(|n| env.submit(publish(n))).collect();
    for (n, ticket) in (1..).zip(tickets) {
        assert_eq!(
            ticket.wait()[0].as_ref().unwrap(),
            &persipubsub::Done::Sequences(n..n + 1)
        );
    }
    assert_eq!(
        drain(&env, "sub"),
        (0..200).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}

#[test]
fn a_store_in_other_durabilities_works_the_same() {
    for durability in [
        persipubsub::Durability::Interval(Duration::from_millis(5)),
        persipubsub::Durability::None,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            durability,
            map_size: Some(16 << 20),
            ..Options::default()
        };
        let env = persipubsub::Environment::open_with(dir.path(), options).unwrap();
        env.new_control().initialize(&Setup::new(["sub"])).unwrap();
        env.new_publisher().unwrap().send("x").unwrap();
        drop(env);
        assert_eq!(drain(&open(dir.path(), 16 << 20), "sub"), ["x"]);
    }
}

#[test]
fn handles_are_shared_among_threads() {
    fn shared<T: Send + Sync + Clone>() {}
    fn sent<T: Send>() {}
    shared::<persipubsub::Environment>();
    shared::<persipubsub::Publisher>();
    shared::<persipubsub::Subscriber>();
    shared::<Control>();
    sent::<persipubsub::Received>();
    sent::<persipubsub::Ticket>();
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

#[test]
fn errors_name_what_they_are_about() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "{").unwrap();
    let text = |error: Error| error.to_string();
    let options = Options {
        map_size: Some(1 << 20),
        ..Options::default()
    };
    let created = |name: &str| {
        let made = persipubsub::Environment::create(at(name), options);
        text(made.unwrap_err())
    };
    assert!(created("file").contains("file: Not a directory"));
    assert!(created("file/below").contains("file/below: Not a directory"));
    let missing = persipubsub::Environment::open(at("none")).unwrap_err();
    assert!(text(missing).contains("none: No such file"));
    std::fs::create_dir_all(at("odd/locks")).unwrap();
    assert!(created("odd").contains("odd/locks: Is a directory"));
    std::fs::create_dir(at("alien")).unwrap();
    std::fs::write(at("alien/data.mdb"), [7; 16384]).unwrap();
    assert!(created("alien").contains("alien: data.mdb"));
    let load = |name: &str| text(Deployment::load(at(name)).unwrap_err());
    assert!(load("none.json").contains("none.json: No such file"));
    assert!(load("file").contains("file: EOF"));
    let none = Options {
        max_readers: 0,
        ..options
    };
    let refused = persipubsub::Environment::create(at("q"), none).unwrap_err();
    assert!(text(refused).contains("max_readers"));
    let env = store(&at("q"), &["a"]);
    let target = env.new_control().compact_to(at("file")).unwrap_err();
    assert!(text(target).contains("file: File exists"));
    let sub = env.new_subscriber("a").unwrap();
    env.new_control().remove_subscriber("a").unwrap();
    assert!(text(sub.receive(NOW).unwrap_err()).contains("\"a\""));
}

/// What a broker stands on: queues that are no subscribers, a message for some of them, settled in
/// any order, its own records, and all of it found again after a restart.
#[test]
fn a_broker_finds_what_it_needs() {
    use persipubsub::{Done, Op, Publish, Target};
    let dir = tempfile::tempdir().unwrap();
    let env = store(dir.path(), &["sub"]);
    let declare = |name: &str| Op::AddQueue {
        name: name.to_owned(),
        subscribed: false,
        max_attempts: 0,
        backlog: Backlog::Now,
    };
    let put = |key: &str, value: Option<&str>| Op::PutUser {
        key: key.into(),
        value: value.map(Into::into),
    };
    let records = [
        put("x/b", Some("2")),
        put("x/a", Some("1")),
        put("y", Some("3")),
    ];
    env.submit([&[declare("one"), declare("two")], &records[..]].concat())
        .wait()
        .into_iter()
        .for_each(|answer| _ = answer.unwrap());
    let (one, two) = (env.queue("one").unwrap(), env.queue("two").unwrap());
    let publish = |target: Vec<_>, body: &str| {
        Op::Publish(Publish {
            bodies: vec![body.into()],
            target: Target::Queues(target),
            ..Publish::default()
        })
    };
    let tickets = [
        env.submit(vec![
            publish(vec![one, two], "both"),
            publish(vec![one], "one"),
        ]),
        env.submit(vec![publish(vec![two], "two"), put("x/b", None)]),
    ];
    let done: Vec<_> = tickets
        .into_iter()
        .flat_map(|ticket| ticket.wait())
        .collect();
    assert_eq!(done[2].as_ref().unwrap(), &Done::Sequences(3..4));
    let ack = |queue, seqs: &[u64]| Op::Ack {
        queue,
        seqs: seqs.to_vec(),
    };
    // Out of order, and twice.
    assert_eq!(env.perform(ack(one, &[2])).unwrap().count(), 1);
    assert_eq!(env.perform(ack(one, &[1, 2])).unwrap().count(), 1);
    drop(env);
    let env = open(dir.path(), 64 << 20);
    let names: Vec<String> = env
        .queues()
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["sub", "one", "two"]);
    assert_eq!(bodies(&env, "one"), [""; 0]);
    assert_eq!(bodies(&env, "two"), ["both", "two"]);
    assert!(bodies(&env, "sub").is_empty(), "it was not meant for all");
    assert_eq!(
        env.user_records(b"x/").unwrap(),
        [(b"x/a".to_vec(), b"1".to_vec())]
    );
    assert_eq!(env.user_records(b"").unwrap().len(), 2);
    assert_eq!(env.user_record(b"y").unwrap().unwrap(), b"3");
    assert_eq!(env.new_control().stat().unwrap().messages, 2);
}

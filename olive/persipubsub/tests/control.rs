//! What `Control` promises: making a store, its subscribers, pruning, figures, compacting, deployment.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use persipubsub::{
    Backlog, Control, Deployment, Error, HighWaterMark, Options, SendOptions, Setup, Strategy,
};
use support::{bodies, drain, limits, open, store};

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

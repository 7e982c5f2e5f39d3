//! What the façade promises as a whole. Of its parts: `control.rs`, `receiving.rs`, `limits.rs`. Many of these tests are the
//! original's own unit tests, rebuilt.

mod support;

use std::time::Duration;

use persipubsub::{Backlog, Control, Deployment, Error, Options, Setup};
use support::{bodies, drain, open, store};

const NOW: Duration = Duration::ZERO;

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

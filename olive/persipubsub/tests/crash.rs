//! Processes killed with SIGKILL at random moments: 4 publishers and 4 subscribers, each in a
//! process of its own, on one store.
//!
//! Nothing that `send` returned for is lost, a killed receiver costs at most one duplicate, the
//! order of each publisher is kept, and the store always opens. `PERSIPUBSUB_SEED` (1) is taken from
//! the environment.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use persipubsub::Environment;
use support::{Random, again, is_role, open, store, variable};

const PUBLISHERS: usize = 4;
const SUBSCRIBERS: usize = 4;

fn log(path: &Path) -> File {
    File::options()
        .append(true)
        .create(true)
        .open(path)
        .unwrap()
}

/// Sends "number:count" for ever and logs each count that `send` returned for.
#[test]
fn publishing() {
    if !is_role("publishing") {
        return;
    }
    let number = variable("NUMBER");
    let mut returned = log(variable("LOG").as_ref());
    let publisher = open(variable("DIR").as_ref(), 256 << 20)
        .new_publisher()
        .unwrap();
    for count in variable("FROM").parse::<u64>().unwrap().. {
        publisher.send(format!("{number}:{count}")).unwrap();
        // One write, so a kill leaves a whole line or none.
        returned.write_all(format!("{count}\n").as_bytes()).unwrap();
    }
}

/// Receives for ever: logs, then settles. An empty queue with `UNTIL_EMPTY` set ends it.
#[test]
fn subscribing() {
    if !is_role("subscribing") {
        return;
    }
    let mut received = log(variable("LOG").as_ref());
    let env = open(variable("DIR").as_ref(), 256 << 20);
    let subscriber = env.new_subscriber(&variable("NUMBER")).unwrap();
    let until_empty = std::env::var_os("UNTIL_EMPTY").is_some();
    let patience = if until_empty {
        Duration::ZERO
    } else {
        Duration::from_secs(60)
    };
    while let Some(message) = subscriber.receive(patience).unwrap() {
        // One write, so a kill leaves a whole line or none.
        received.write_all(&[&message[..], b"\n"].concat()).unwrap();
        message.ack().unwrap();
    }
    assert!(until_empty, "publishers were sending all the time");
}

struct Member {
    role: &'static str,
    number: usize,
    child: Child,
    kills: usize,
}

impl Drop for Member {
    /// A test that fails leaves nobody behind who goes on for ever.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Play {
    dir: PathBuf,
}

impl Play {
    fn log(&self, role: &str, number: usize) -> PathBuf {
        self.dir.join(format!("{role}-{number}.log"))
    }

    fn lines(&self, role: &str, number: usize) -> Vec<String> {
        let text = std::fs::read_to_string(self.log(role, number)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts one that was killed so often. What a publisher was sending when it was killed may be stored
    /// or not, and must not be sent again: so it leaves a gap behind its last returned message, and a
    /// wider one each time, since it may be killed again before another one returns.
    fn start(
        &self,
        role: &'static str,
        number: usize,
        kills: usize,
        more: &[(&str, &str)],
    ) -> Child {
        let last = self
            .lines(role, number)
            .last()
            .and_then(|line| line.parse::<u64>().ok());
        let from = (last.map_or(0, |last| last + 1) + kills as u64).to_string();
        let (queue, log) = (self.dir.join("queue"), self.log(role, number));
        let number = number.to_string();
        let variables = [
            ("DIR", queue.to_str().unwrap()),
            ("LOG", log.to_str().unwrap()),
            ("NUMBER", &number),
            ("FROM", &from),
        ];
        again(role, &[&variables[..], more].concat())
    }
}

#[test]
fn killed_processes_lose_nothing_and_repeat_at_most_once() {
    kill_rounds(30);
}

#[test]
#[ignore = "long: tests/run --long"]
fn long_five_hundred_rounds_of_kills() {
    kill_rounds(500);
}

fn kill_rounds(rounds: u32) {
    let seed = std::env::var("PERSIPUBSUB_SEED").map_or(1, |text| text.parse().unwrap());
    println!("seed {seed}, {rounds} rounds");
    let dir = tempfile::tempdir().unwrap();
    let play = Play {
        dir: dir.path().to_owned(),
    };
    std::fs::create_dir(play.dir.join("queue")).unwrap();
    let names: Vec<String> = (0..SUBSCRIBERS).map(|number| number.to_string()).collect();
    drop(store(
        &play.dir.join("queue"),
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    ));

    let mut random = Random::new(seed);
    let member = |role, number| Member {
        role,
        number,
        child: play.start(role, number, 0, &[]),
        kills: 0,
    };
    let publishers = (0..PUBLISHERS).map(|number| member("publishing", number));
    let subscribers = (0..SUBSCRIBERS).map(|number| member("subscribing", number));
    let mut members: Vec<Member> = publishers.chain(subscribers).collect();
    for _ in 0..rounds {
        let victim = random.below(members.len() as u64) as usize;
        std::thread::sleep(Duration::from_micros(random.below(30_000)));
        let victim = &mut members[victim];
        assert!(
            victim.child.try_wait().unwrap().is_none(),
            "{} {} ended by itself",
            victim.role,
            victim.number
        );
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        victim.kills += 1;
        victim.child = play.start(victim.role, victim.number, victim.kills, &[]);
    }
    for member in &mut members {
        member.child.kill().unwrap();
        member.child.wait().unwrap();
        member.kills += 1;
    }
    // The phase of healing: everything that was sent comes out.
    for number in 0..SUBSCRIBERS {
        assert!(
            play.start("subscribing", number, 0, &[("UNTIL_EMPTY", "1")])
                .wait()
                .unwrap()
                .success()
        );
    }
    let mut total = 0;
    for member in members.iter().filter(|member| member.role == "subscribing") {
        total += check(&play, member);
    }
    println!("{total} messages received");
    assert!(total > 0);
    let env = Environment::open(play.dir.join("queue")).unwrap();
    assert_eq!(env.new_control().stat().unwrap().messages, 0);
}

/// Checks what one subscriber received; answers how many.
fn check(play: &Play, member: &Member) -> usize {
    let mut last: BTreeMap<usize, u64> = BTreeMap::new();
    let mut seen: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    let mut duplicates = Vec::new();
    let lines = play.lines("subscribing", member.number);
    for line in &lines {
        let (publisher, count) = line.split_once(':').expect("a whole line");
        let (publisher, count): (usize, u64) = (publisher.parse().unwrap(), count.parse().unwrap());
        if let Some(before) = last.insert(publisher, count) {
            assert!(
                before <= count,
                "order of publisher {publisher}: {before} before {count}"
            );
        }
        if !seen.entry(publisher).or_default().insert(count) {
            duplicates.push(line);
        }
    }
    assert!(
        duplicates.len() <= member.kills,
        "{} duplicates after {} kills: {duplicates:?}",
        duplicates.len(),
        member.kills
    );
    for publisher in 0..PUBLISHERS {
        let got = seen.remove(&publisher).unwrap_or_default();
        for count in play.lines("publishing", publisher) {
            assert!(
                got.contains(&count.parse().unwrap()),
                "{publisher}:{count} was returned for, and lost"
            );
        }
    }
    lines.len()
}

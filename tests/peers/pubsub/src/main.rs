//! `tests/bench pubsub`: see the script `run` beside this crate.

mod bare;
mod ours;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bare::Bare;
use common::{Bound, Measured, Row, interleave, quick, ratio};
use persipubsub::Environment;

/// Operations a second.
fn rate(many: u64, work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    many as f64 / begin.elapsed().as_secs_f64()
}

struct Bench {
    dir: tempfile::TempDir,
    rounds: usize,
    /// Lone sends in a round.
    lone: u64,
    python: Option<PathBuf>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--waiter", path] => return ours::wait(path),
        ["--memory", path, depth] => return memory_at(Path::new(path), depth.parse().unwrap()),
        _ => {}
    }
    // Many short rounds: what else the machine does comes in waves, and a wave should hit a pair alike.
    let (rounds, lone) = if quick() { (11, 100) } else { (41, 300) };
    let python = std::env::var_os("PUBSUB_PYTHON").map(PathBuf::from);
    // On the disk that the project is on: /tmp may be memory, where a sync costs nothing.
    let base = std::env::var_os("PUBSUB_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).unwrap();
    let bench = Bench {
        dir,
        rounds,
        lone,
        python,
    };
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let rows: [(&str, fn(&Bench)); 8] = [
        ("send", Bench::send),
        ("depth", Bench::depth),
        ("many", Bench::many),
        ("receive", Bench::receive),
        ("threads", Bench::threads),
        ("wake", Bench::wake),
        ("memory", Bench::memory),
        ("peers", Bench::peers),
    ];
    for (name, row) in rows {
        if only.is_empty() || only.iter().any(|only| only == name) {
            row(&bench);
        }
    }
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn pair(&self, unit: &str, ours: Measured, bare: Measured) -> f64 {
        let rows = interleave(self.rounds, vec![ours, bare]);
        Row::print_table(unit, &rows);
        rows[0].median_ratio(&rows[1])
    }

    /// Lone durable sends, at a depth.
    fn lone(&self, name: &str, depth: u64, target: f64) {
        let env = ours::open(&self.path(&format!("{name}-ours")), 1);
        let mut bare = Bare::open(&self.path(&format!("{name}-bare")), 1);
        let publisher = env.new_publisher().unwrap();
        for from in (0..depth).step_by(10_000) {
            let bodies = ours::bodies(from, 10_000.min(depth - from));
            bare.send(&bodies);
            publisher.send_many(bodies).unwrap();
        }
        let lone = self.lone;
        let value = self.pair(
            "sends/s, each durable",
            (
                &format!("{name}, persipubsub"),
                Box::new(|| {
                    let bodies = ours::bodies(depth, lone);
                    rate(lone, || {
                        bodies
                            .into_iter()
                            .for_each(|body| _ = publisher.send(body).unwrap())
                    })
                }),
            ),
            (
                &format!("{name}, bare LMDB"),
                Box::new(|| {
                    let bodies = ours::bodies(depth, lone);
                    rate(lone, || {
                        bodies.into_iter().for_each(|body| bare.send(&[body]))
                    })
                }),
            ),
        );
        ratio(name, value, Bound::AtLeast, target);
    }

    fn send(&self) {
        self.lone("send", 0, 0.85);
    }

    fn depth(&self) {
        self.lone("send-depth-10k", 10_000, 0.8);
        self.lone("send-depth-1m", 1_000_000, 0.8);
    }

    fn many(&self) {
        let env = ours::open(&self.path("many-ours"), 4);
        let mut bare = Bare::open(&self.path("many-bare"), 4);
        let publisher = env.new_publisher().unwrap();
        let batches = || {
            (0..20)
                .map(|n| ours::bodies(n * 1000, 1000))
                .collect::<Vec<_>>()
        };
        let value = self.pair(
            "messages/s, in durable batches of 1000",
            (
                "send-many-4subs, persipubsub",
                Box::new(|| {
                    let batches = batches();
                    rate(20_000, || {
                        batches
                            .into_iter()
                            .for_each(|batch| _ = publisher.send_many(batch).unwrap())
                    })
                }),
            ),
            (
                "send-many-4subs, bare LMDB",
                Box::new(|| {
                    let batches = batches();
                    rate(20_000, || {
                        batches.into_iter().for_each(|batch| bare.send(&batch))
                    })
                }),
            ),
        );
        ratio("send-many-4subs", value, Bound::AtLeast, 0.7);
    }

    fn receive(&self) {
        let env = ours::open(&self.path("receive-ours"), 1);
        let mut bare = Bare::open(&self.path("receive-bare"), 1);
        let (publisher, subscriber) = (
            env.new_publisher().unwrap(),
            env.new_subscriber("sub0").unwrap(),
        );
        let all_inversions = std::cell::Cell::new(0);
        let value = self.pair(
            "messages/s, received and settled by 100",
            (
                "receive-batch-100, persipubsub",
                Box::new(|| {
                    publisher.send_many(ours::bodies(0, 20_000)).unwrap();
                    rate(20_000, || {
                        let (count, inversions) = ours::drain(&subscriber, 100);
                        assert_eq!(count, 20_000);
                        all_inversions.set(all_inversions.get() + inversions);
                    })
                }),
            ),
            (
                "receive-batch-100, bare LMDB",
                Box::new(|| {
                    bare.send(&ours::bodies(0, 20_000));
                    rate(20_000, || {
                        for n in 0..200 {
                            let bodies = bare.receive(100);
                            assert_eq!((bodies.len(), ours::number(&bodies[0])), (100, n * 100));
                        }
                    })
                }),
            ),
        );
        ratio("receive-batch-100", value, Bound::AtLeast, 0.65);
        ratio(
            "order-inversions",
            all_inversions.get() as f64,
            Bound::AtMost,
            0.0,
        );
    }

    fn threads(&self) {
        let env = ours::open(&self.path("threads"), 1);
        let publisher = env.new_publisher().unwrap();
        let lone = self.lone;
        let value = self.pair(
            "sends/s, each durable",
            (
                "send, 16 threads",
                Box::new(|| rate(16 * lone, || ours::send_from(16, lone, &publisher))),
            ),
            (
                "send, 1 thread",
                Box::new(|| rate(lone, || ours::send_from(1, lone, &publisher))),
            ),
        );
        ratio("send-16-threads", value, Bound::AtLeast, 8.0);
    }

    fn wake(&self) {
        let path = self.path("wake");
        let env = ours::open(&path, 1);
        let mut bare = Bare::open(&self.path("wake-bare"), 1);
        let publisher = env.new_publisher().unwrap();
        let mut waiter = ours::Waiter::start(&path);
        let rows = interleave(
            if quick() { 500 } else { 2000 },
            vec![
                (
                    "send to received in another process",
                    Box::new(|| waiter.wake_us(&publisher)),
                ),
                (
                    "one commit of bare LMDB",
                    Box::new(|| {
                        let body = ours::bodies(0, 1);
                        // As rested as the other: a pause costs the caches of whoever wakes from it.
                        std::thread::sleep(ours::REST);
                        1e6 / rate(1, || bare.send(&body))
                    }),
                ),
            ],
        );
        waiter.end();
        Row::print_table("us", &rows);
        ratio(
            "wake-us",
            rows[0].median(),
            Bound::AtMost,
            // To a tenth, as the value is printed: whole numbers would move the target by up to half a microsecond.
            ((rows[1].median() + 50.0) * 10.0).round() / 10.0,
        );
    }

    /// Each depth in a process of its own: what one leaves in the allocator must not count for the other.
    fn memory(&self) {
        let resident = |depth: u64| -> f64 {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .arg("--memory")
                .arg(self.path(&format!("memory-{depth}")))
                .arg(depth.to_string());
            let output = command.output().unwrap();
            assert!(output.status.success());
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse()
                .unwrap()
        };
        let (small, large) = (resident(20_000), resident(1_000_000));
        println!(
            "own memory (RssAnon): {small} KiB at depth 20,000, {large} KiB at depth 1,000,000"
        );
        ratio("memory-depth-1m", large / small, Bound::AtMost, 1.1);
    }

    /// The peers in Python and yaque, beside the same work of ours.
    fn peers(&self) {
        let sends = self.lone.max(300);
        let lone_sends = |env: &Environment| {
            let publisher = env.new_publisher().unwrap();
            let bodies = ours::bodies(0, sends);
            rate(sends, || {
                bodies
                    .into_iter()
                    .for_each(|body| _ = publisher.send(body).unwrap())
            })
        };
        self.table(
            "lone sends, depth 0",
            "send",
            sends,
            0,
            &lone_sends,
        );
        let deep = self.table(
            "lone sends, depth 10,000",
            "send",
            sends.min(300),
            10_000,
            &lone_sends,
        );
        let drained = self.table(
            "10,000 received and settled (ours and yaque by 100)",
            "receive",
            10_000,
            10_000,
            &|env| {
                let subscriber = env.new_subscriber("sub0").unwrap();
                rate(10_000, || {
                    assert_eq!(ours::drain(&subscriber, 100), (10_000, 0))
                })
            },
        );
        self.table(
            "10,000 received and settled one by one",
            "receive",
            2_000,
            10_000,
            &|env| {
                let subscriber = env.new_subscriber("sub0").unwrap();
                rate(2_000, || {
                    (0..2_000).for_each(|_| {
                        subscriber
                            .receive(std::time::Duration::ZERO)
                            .unwrap()
                            .unwrap()
                            .ack()
                            .unwrap();
                    })
                })
            },
        );
        if let Some(original) = deep {
            ratio("send-vs-original-10k", original, Bound::AtLeast, 15.0);
        }
        if let Some(original) = drained {
            ratio("receive-vs-original", original, Bound::AtLeast, 10.0);
        }
    }

    /// One table of all peers; answers ours over the original's.
    fn table(
        &self,
        title: &str,
        shape: &str,
        many: u64,
        depth: u64,
        ours: &dyn Fn(&Environment) -> f64,
    ) -> Option<f64> {
        let mut measured: Vec<Measured> = vec![(
            "persipubsub",
            Box::new(|| {
                let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
                let env = ours::open(dir.path(), 1);
                env.new_publisher()
                    .unwrap()
                    .send_many(ours::bodies(0, depth))
                    .unwrap();
                ours(&env)
            }),
        )];
        measured.push((
            "yaque (never syncs)",
            Box::new(|| {
                let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
                yaque_rate(&dir.path().join("q"), shape, many, depth)
            }),
        ));
        // Some fill their queue one durable put at a time: not deep in the short form.
        let patient =
            |peer: &&str| !quick() || depth < 10_000 || ["original", "litequeue"].contains(peer);
        for peer in self.python_peers().into_iter().filter(patient) {
            measured.push((
                peer,
                Box::new(move || self.python_rate(peer, shape, many, depth)),
            ));
        }
        let rows = interleave(if quick() { 3 } else { 5 }, measured);
        println!("\n{title}");
        Row::print_table("messages/s", &rows);
        let original = rows.iter().find(|row| row.name == "original")?;
        Some(rows[0].median_ratio(original))
    }

    fn python_peers(&self) -> Vec<&'static str> {
        let mut peers = Vec::new();
        if self.python.is_some() {
            peers.extend(["persist-queue", "huey", "litequeue"]);
            if std::env::var_os("PERSIPUBSUB_CHECKOUT").is_some() {
                peers.push("original");
            }
        }
        peers
    }

    fn python_rate(&self, peer: &str, shape: &str, many: u64, depth: u64) -> f64 {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers.py");
        let mut command = Command::new(self.python.as_ref().expect("asked only with Python"));
        command
            .arg(script)
            .args([peer, shape, &many.to_string(), &depth.to_string()])
            .arg(dir.path());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{peer}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{peer} answered {text:?}"))
    }
}

fn yaque_rate(path: &Path, shape: &str, many: u64, depth: u64) -> f64 {
    let (mut sender, mut receiver) = yaque::channel(path).unwrap();
    for body in ours::bodies(0, depth) {
        futures::executor::block_on(sender.send(&body)).unwrap();
    }
    if shape == "send" {
        let bodies = ours::bodies(0, many);
        return rate(many, || {
            bodies
                .iter()
                .for_each(|body| futures::executor::block_on(sender.send(body)).unwrap())
        });
    }
    rate(many, || {
        for _ in 0..many / 100 {
            let batch = futures::executor::block_on(receiver.recv_batch(100)).unwrap();
            assert_eq!(batch.len(), 100);
            batch.commit().unwrap();
        }
    })
}

/// The other process of the memory row: fills a queue, takes from it, and says what it holds.
fn memory_at(path: &Path, depth: u64) {
    let env = ours::open(path, 1);
    let publisher = env.new_publisher().unwrap();
    for from in (0..depth).step_by(10_000) {
        publisher.send_many(ours::bodies(from, 10_000)).unwrap();
    }
    let subscriber = env.new_subscriber("sub0").unwrap();
    for _ in 0..100 {
        subscriber
            .receive_batch(100, std::time::Duration::ZERO)
            .unwrap()
            .ack()
            .unwrap();
    }
    println!("{}", own_memory_kib());
}

/// Memory that is neither a file's nor shared: the map is the page cache's.
fn own_memory_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

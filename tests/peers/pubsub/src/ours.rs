//! persipubsub, and the process that waits in the wake-up row.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use persipubsub::{Durability, Environment, HighWaterMark, Options, Publisher, Setup, Subscriber};

pub fn open(path: &Path, subscribers: u32) -> Environment {
    open_with(path, subscribers, Durability::Sync)
}

pub fn open_with(path: &Path, subscribers: u32, durability: Durability) -> Environment {
    let options = Options {
        map_size: Some(8 << 30),
        durability,
        ..Options::default()
    };
    let env = Environment::open_with(path, options).unwrap();
    let high_water_mark = HighWaterMark {
        max_messages: 1 << 40,
        ..HighWaterMark::default()
    };
    let names = (0..subscribers).map(|n| format!("sub{n}"));
    env.new_control()
        .initialize(&Setup {
            high_water_mark,
            ..Setup::new(names)
        })
        .unwrap();
    env
}

/// Bodies that say their number, to check order.
pub fn bodies(from: u64, many: u64) -> Vec<Vec<u8>> {
    let body = |n: u64| {
        let mut body = vec![0; 64];
        body[..8].copy_from_slice(&n.to_be_bytes());
        body
    };
    (from..from + many).map(body).collect()
}

pub fn number(body: &[u8]) -> u64 {
    u64::from_be_bytes(body[..8].try_into().unwrap())
}

/// Sends from many threads at once, `many` messages each.
pub fn send_from(threads: u64, many: u64, publisher: &Publisher) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                bodies(thread * many, many)
                    .into_iter()
                    .for_each(|body| _ = publisher.send(body).unwrap())
            });
        }
    });
}

/// Empties the queue in batches, counting inversions of order.
pub fn drain(subscriber: &Subscriber, batch: usize) -> (u64, u64) {
    let (mut count, mut inversions, mut last) = (0, 0, 0);
    loop {
        let batch = subscriber.receive_batch(batch, Duration::ZERO).unwrap();
        if batch.is_empty() {
            return (count, inversions);
        }
        for body in batch.bodies() {
            count += 1;
            inversions += u64::from(number(body) < last);
            last = number(body);
        }
        batch.ack().unwrap();
    }
}

pub fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Long enough for the other process to fall asleep.
pub const REST: Duration = Duration::from_millis(2);

/// This program again, receiving: it answers each message with the moment it had it.
pub struct Waiter {
    child: Child,
    stdin: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl Waiter {
    pub fn start(path: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("--waiter")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Waiter {
            child,
            stdin,
            answers,
        }
    }

    /// Microseconds from before the send until the other process had the message.
    pub fn wake_us(&mut self, publisher: &Publisher) -> f64 {
        writeln!(self.stdin).unwrap();
        assert_eq!(self.line(), "waiting");
        // It goes to sleep right after it said so.
        std::thread::sleep(REST);
        let begin = now_ns();
        publisher.send([7; 64]).unwrap();
        (self.line().parse::<u64>().unwrap() - begin) as f64 / 1e3
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn end(mut self) {
        drop(self.stdin);
        self.child.wait().unwrap();
    }
}

/// The other process.
pub fn wait(path: &str) {
    let env = Environment::open_with(
        path,
        Options {
            map_size: Some(8 << 30),
            ..Options::default()
        },
    )
    .unwrap();
    let subscriber = env.new_subscriber("sub0").unwrap();
    for _ in std::io::stdin().lines() {
        println!("waiting");
        let received = subscriber
            .receive(Duration::from_secs(10))
            .unwrap()
            .expect("a message comes");
        let now = now_ns();
        received.ack().unwrap();
        println!("{now}");
    }
}

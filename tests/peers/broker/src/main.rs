//! The suite `broker` of tests/bench.
//!
//! Three brokers run side by side; a bare loop, in a process of its own, drives one after the other through each row.
//! What counts is the broker's own CPU a message (all of its processes and threads), the rate, and the round trip.

mod brokers;
mod process;

use amqp::{ConnectOptions, QueueDeclare, blocking};
use bare::measure::Job;
use brokers::Broker;
use common::{Bound, Row, interleave, quick, ratio};
use std::cell::RefCell;
use std::process::{Command, Stdio};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["client", ..] => bare::run(Job::from_arguments(&arguments[1..])),
        ["bench", olive, url, pid, ..] => {
            let port = amqp::Uri::parse(url).expect("RabbitMQ's URL").port;
            let pid = pid.parse().expect("RabbitMQ's process");
            bench(&[
                brokers::olive(olive),
                brokers::rabbitmq(port, pid),
                brokers::garagemq(),
            ]);
        }
        _ => panic!("usage: broker-bench bench OLIVE RABBITMQ-URL RABBITMQ-PID [--quick]"),
    }
}

const QUEUE: &str = "broker-bench";

/// What one run of a row gave.
#[derive(Clone, Copy)]
struct Figures {
    /// The broker's CPU a message, in microseconds.
    cpu: f64,
    /// Messages a second.
    rate: f64,
    /// Round trips: their median, in microseconds.
    trip: f64,
}

/// Opens a channel for one operation: a connection that idled between the rounds would miss its heartbeats.
fn manage<T>(
    broker: &Broker,
    work: impl FnOnce(&blocking::Channel) -> Result<T, amqp::Error>,
) -> T {
    let options = ConnectOptions {
        port: broker.port,
        ..ConnectOptions::default()
    };
    let connection = blocking::Connection::open(options).expect(broker.name);
    let channel = connection.channel().expect(broker.name);
    let answer = work(&channel).expect(broker.name);
    connection.close();
    answer
}

impl Broker {
    fn drive(&self, scenario: &str, count: usize) -> Figures {
        manage(self, |channel| {
            channel.queue_declare(QueueDeclare::new(QUEUE))
        });
        if scenario.starts_with("consume") {
            self.client("confirm", count);
        }
        let before = process::cpu_seconds(self.pid);
        let (first, rate) = self.client(scenario, count);
        let cpu = (process::cpu_seconds(self.pid) - before) / count as f64 * 1e6;
        // Deleted, not purged: garagemq delivers nothing any more from a queue that was.
        let left = manage(self, |channel| channel.queue_delete(QUEUE, false, false));
        let expected = match scenario {
            "publish" | "confirm" | "confirm-persistent" | "confirm-one" => count as u32,
            _ => 0,
        };
        assert_eq!(left, expected, "{} after {scenario}", self.name);
        Figures {
            cpu,
            rate,
            trip: first,
        }
    }

    fn client(&self, scenario: &str, count: usize) -> (f64, f64) {
        let job = Job {
            scenario: scenario.into(),
            size: 16,
            count,
            host: "127.0.0.1".into(),
            port: self.port,
            queue: QUEUE.into(),
        };
        let output = Command::new(std::env::current_exe().expect("this program has a path"))
            .arg("client")
            .args(job.arguments())
            .stderr(Stdio::inherit())
            .output()
            .expect("it runs");
        let name = self.name;
        assert!(output.status.success(), "{name} failed at {scenario}");
        let text = String::from_utf8(output.stdout).expect("figures");
        let mut numbers = text
            .split_whitespace()
            .map(|word| word.parse().expect("a figure"));
        (numbers.next().expect("cost"), numbers.next().expect("rate"))
    }
}

fn bench(brokers: &[Broker; 3]) {
    let (rounds, scale) = if quick() { (3, 1) } else { (7, 4) };
    for (name, count) in [
        ("publish", 50_000),
        ("confirm", 50_000),
        ("consume-80", 50_000),
        ("consume-1000", 50_000),
    ] {
        let [cpu, rate] = rows(brokers, rounds, name, count * scale);
        versus(name, "cpu", &cpu, Bound::AtMost, [0.5, 1.0]);
        versus(name, "rate", &rate, Bound::AtLeast, [1.0, 1.0]);
    }
    // garagemq confirms on a tick of 20 ms: one at a time would measure its clock.
    let [cpu, rate] = rows(&brokers[..2], rounds, "confirm-one", 2_000 * scale);
    versus("confirm-one", "cpu", &cpu, Bound::AtMost, [0.5]);
    versus("confirm-one", "rate", &rate, Bound::AtLeast, [1.0]);
    pingpong(brokers, rounds, 2_000 * scale);
    // For the picture only, without a comparison: olive's broker has them in memory, the others on disk.
    rows(brokers, rounds, "confirm-persistent", 20_000 * scale);
    let peaks = brokers.each_ref().map(|broker| {
        let peak = process::peak_rss_mib(broker.pid);
        println!("peak RSS of {}: {peak:.0} MiB", broker.name);
        peak
    });
    ratio(
        "peak-rss-vs-rabbitmq",
        peaks[0] / peaks[1],
        Bound::AtMost,
        1.0,
    );
    ratio(
        "peak-rss-vs-garagemq",
        peaks[0] / peaks[2],
        Bound::AtMost,
        1.0,
    );
}

/// A row's tables of CPU and of rate.
fn rows(brokers: &[Broker], rounds: usize, scenario: &str, count: usize) -> [Vec<Row>; 2] {
    let rates: Vec<_> = brokers.iter().map(|_| RefCell::new(Vec::new())).collect();
    let measured = brokers.iter().zip(&rates).map(|(broker, rates)| {
        let run: Box<dyn FnMut() -> f64> = Box::new(move || {
            let figures = broker.drive(scenario, count);
            rates.borrow_mut().push(figures.rate);
            figures.cpu
        });
        (broker.name, run)
    });
    let cpu = interleave(rounds, measured.collect());
    let rate = brokers.iter().zip(rates).map(|(broker, rates)| Row {
        name: broker.name.into(),
        samples: rates.into_inner(),
    });
    let rate: Vec<Row> = rate.collect();
    println!("\n{scenario}, 16 bytes, {count} messages");
    Row::print_table("us of the broker's CPU a message", &cpu);
    Row::print_table("messages a second", &rate);
    [cpu, rate]
}

fn pingpong(brokers: &[Broker; 3], rounds: usize, count: usize) {
    let measured = brokers.iter().map(|broker| {
        let run: Box<dyn FnMut() -> f64> = Box::new(move || broker.drive("pingpong", count).trip);
        (broker.name, run)
    });
    let trips = interleave(rounds, measured.collect());
    println!("\npingpong, 16 bytes, {count} round trips");
    Row::print_table("us a round trip, median", &trips);
    versus("pingpong", "us", &trips, Bound::AtMost, [1.0, 1.0]);
}

/// Ours against each of the others, in their order.
fn versus<const N: usize>(name: &str, what: &str, rows: &[Row], bound: Bound, targets: [f64; N]) {
    let (ours, others) = rows.split_first().expect("ours is the first");
    for (other, target) in others.iter().zip(targets) {
        let value = ours.median_ratio(other);
        ratio(
            &format!("{name}-{what}-vs-{}", other.name),
            value,
            bound,
            target,
        );
    }
}

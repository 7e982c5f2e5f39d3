//! The suite `amqp` of tests/bench.
//!
//! Every measurement is a process of its own (`client LIBRARY …`), so that CPU time and peak memory are that client's
//! alone; against the scripted sink (a process too) and against RabbitMQ. The parent interleaves them and compares.

mod against_rabbit;
mod against_sink;
mod amiquip_peer;
mod amqprs_peer;
mod lapin_peer;
mod ours;
mod rows;
mod sink;

use bare::measure::Job;
use common::quick;
use rows::{Rows, SINK};
use std::process::{Child, Command, Stdio};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sink"] => sink::run(),
        ["client", library, ..] => {
            let job = Job::from_arguments(&arguments[2..]);
            match library {
                "ours" => ours::run(job),
                "raw" => bare::run(job),
                "lapin" => lapin_peer::run(job, false),
                "lapin-awaited" => lapin_peer::run(job, true),
                "amqprs" => amqprs_peer::run(job),
                "amiquip" => amiquip_peer::run(job),
                _ => panic!("unknown library {library}"),
            }
        }
        ["needs", ..] => println!(
            "{}",
            if asked(&arguments).need_rabbit() {
                "rabbit"
            } else {
                ""
            }
        ),
        ["bench", url, ..] => bench(url, &asked(&arguments)),
        _ => {
            refuse("usage: amqp-bench bench URL [--quick] [--rows NAMES], or needs [--rows NAMES]")
        }
    }
}

/// Ends the program: a wrong command line is no crash.
fn refuse(text: &str) -> ! {
    eprintln!("tests/bench amqp: {text}");
    std::process::exit(2)
}

fn asked(arguments: &[String]) -> Rows {
    Rows::from_arguments(arguments).unwrap_or_else(|text| refuse(&text))
}

fn bench(url: &str, rows: &Rows) {
    let rounds = if quick() { 3 } else { 11 };
    let scale = if quick() { 1 } else { 4 };
    if SINK.iter().any(|row| rows.has(row.name)) {
        against_sink::bench(rows, rounds, scale);
    }
    if rows.need_rabbit() {
        against_rabbit::bench(url, rows, rounds, scale);
    }
}

const PEERS: [&str; 4] = ["lapin", "lapin-awaited", "amqprs", "amiquip"];

/// What a client process said of itself.
#[derive(Clone, Copy)]
struct Figures {
    /// Microseconds of CPU a message; for ping-pong, of a round trip.
    cost: f64,
    rate: f64,
    rss: f64,
}

/// The program built from `rabbitmq_c.c`; `run` names it.
const RABBITMQ_C: &str = "rabbitmq-c";

fn client(library: &str, job: &Job) -> Figures {
    let mut command = if library == RABBITMQ_C {
        Command::new(std::env::var("AMQP_BENCH_RABBITMQ_C").expect("run builds and names it"))
    } else {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["client", library]);
        command
    };
    let output = command
        .args(job.arguments())
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{library} failed at {job:?}");
    let text = String::from_utf8(output.stdout).expect("figures");
    let mut numbers = text
        .split_whitespace()
        .map(|number| number.parse().expect("a figure"));
    let mut next = || numbers.next().expect("three figures");
    Figures {
        cost: next(),
        rate: next(),
        rss: next(),
    }
}

/// A child that ends with us.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

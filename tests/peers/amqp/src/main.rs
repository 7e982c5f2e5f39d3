//! The suite `amqp` of tests/bench.
//!
//! Every measurement is a process of its own (`client LIBRARY …`), so that CPU time and peak memory are that client's
//! alone; against the scripted sink (a process too) and against RabbitMQ. The parent interleaves them and compares.

mod amiquip_peer;
mod amqprs_peer;
mod lapin_peer;
mod ours;
mod sink;

use amqp::blocking;
use amqp::{QueueDeclare, Uri};
use bare::measure::Job;
use common::{Bound, Row, interleave, quick, ratio};
use std::io::{BufRead, BufReader};
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
        ["bench", url, ..] => bench(url),
        _ => panic!("usage: amqp-bench bench URL [--quick]"),
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

fn start_sink() -> (Kept, u16) {
    let me = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(me)
        .arg("sink")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sink runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("its port");
    (Kept(child), line.trim().parse().expect("a port"))
}

fn bench(url: &str) {
    let (_sink, port) = start_sink();
    let rounds = if quick() { 3 } else { 11 };
    let scale = if quick() { 1 } else { 4 };
    let mut peak_small = 0.0_f64;
    let mut peak_large = 0.0_f64;
    // name, size, messages, target against the best Rust peer
    for (name, scenario, size, count, target) in [
        ("publish", "publish", 16, 100_000, 0.2),
        ("confirm", "confirm", 16, 100_000, 0.2),
        ("consume-80", "consume-80", 16, 60_000, 0.25),
        ("consume-1000", "consume-1000", 16, 60_000, 0.25),
        ("consume-batch", "consume-batch", 16, 60_000, 0.3),
        ("publish-1k", "publish", 1024, 60_000, 0.4),
        ("consume-1k", "consume-80", 1024, 60_000, 0.4),
        ("publish-64k", "publish", 65_536, 5_000, 0.8),
        ("consume-64k", "consume-80", 65_536, 5_000, 0.8),
    ] {
        let count = count * scale;
        let job = Job {
            scenario: scenario.into(),
            size,
            count,
            host: "127.0.0.1".into(),
            port,
            queue: format!("blast-{count}-{size}"),
        };
        let rows = sink_rows(name, &job, rounds);
        let (ours, peers) = rows.split_first().expect("we run too");
        let peak = if size > 1024 {
            &mut peak_large
        } else {
            &mut peak_small
        };
        *peak = peak.max(ours.1);
        let best = peers
            .iter()
            .filter(|(row, _)| PEERS.contains(&row.name.as_str()))
            .min_by(|a, b| a.0.median().total_cmp(&b.0.median()))
            .expect("there are peers");
        let in_c = peers
            .iter()
            .find(|(row, _)| row.name == RABBITMQ_C)
            .expect("it runs too");
        ratio(
            &format!("{name}-vs-rabbitmq-c"),
            ours.0.median_ratio(&in_c.0),
            Bound::AtMost,
            1.0,
        );
        // 1 KiB has no target of its own against the peers in Rust; it is printed for the picture.
        if !name.ends_with("-1k") {
            ratio(name, ours.0.median_ratio(&best.0), Bound::AtMost, target);
        }
    }
    ratio("peak-rss-small-mib", peak_small, Bound::AtMost, 10.0);
    ratio("peak-rss-64k-mib", peak_large, Bound::AtMost, 32.0);
    rabbit(url, rounds, scale);
}

fn sink_rows(name: &str, job: &Job, rounds: usize) -> Vec<(Row, f64)> {
    let peaks: Vec<_> = (0..3 + PEERS.len())
        .map(|_| std::cell::Cell::new((0.0_f64, 0.0_f64)))
        .collect();
    let libraries: Vec<&str> = ["ours"]
        .into_iter()
        .chain(PEERS)
        .chain([RABBITMQ_C, "raw"])
        .collect();
    let measured = libraries.iter().zip(&peaks).map(|(library, peak)| {
        let run: Box<dyn FnMut() -> f64> = Box::new(move || {
            let figures = client(library, job);
            let (rate, rss) = peak.get();
            peak.set((rate.max(figures.rate), rss.max(figures.rss)));
            figures.cost
        });
        (*library, run)
    });
    let rows = interleave(rounds, measured.collect());
    println!(
        "\n{name}, {} bytes, {} messages, scripted sink",
        job.size, job.count
    );
    Row::print_table("us of client CPU a message", &rows);
    for (library, peak) in libraries.iter().zip(&peaks) {
        let (rate, rss) = peak.get();
        println!("  {library:<16} {rate:>10.0} msg/s at best, peak RSS {rss:.1} MiB");
    }
    rows.into_iter()
        .zip(peaks)
        .map(|(row, peak)| (row, peak.get().1))
        .collect()
}

fn rabbit(url: &str, rounds: usize, scale: usize) {
    let mut options = Uri::parse(url).expect("the broker's URL");
    // It idles between the rounds, and a blocking connection sends nothing then.
    options.heartbeat = std::time::Duration::ZERO;
    let connection = blocking::Connection::open(options.clone()).expect("the broker");
    let channel = connection.channel().expect("a channel");
    let queue = format!("amqp-bench-{}", std::process::id());
    channel
        .queue_declare(QueueDeclare::new(&queue))
        .expect("declared");
    let job = |scenario: &str, count: usize| Job {
        scenario: scenario.into(),
        size: 16,
        count,
        host: options.host.clone(),
        port: options.port,
        queue: queue.clone(),
    };
    let libraries = ["ours", "raw", "lapin", "amqprs", "amiquip"];
    let compare = |rounds: usize, title: &str, unit: &str, run: &dyn Fn(&str) -> f64| {
        let measured = libraries.iter().map(|&library| {
            let each: Box<dyn FnMut() -> f64> = Box::new(move || run(library));
            (library, each)
        });
        let rows = interleave(rounds, measured.collect());
        println!("\n{title}, 16 bytes, RabbitMQ");
        Row::print_table(unit, &rows);
        rows
    };
    let ahead = |name: &str, rows: &[Row]| {
        let best = rows[2..]
            .iter()
            .max_by(|a, b| a.median().total_cmp(&b.median()))
            .expect("there are peers");
        ratio(name, rows[0].median_ratio(best), Bound::AtLeast, 1.0);
    };

    let confirm = job("confirm", 30_000 * scale);
    let rows = compare(
        rounds,
        "publish with confirms",
        "messages a second",
        &|library| {
            let rate = client(library, &confirm).rate;
            channel.queue_purge(&queue).expect("purged");
            rate
        },
    );
    ratio(
        "rabbit-confirm-rate",
        rows[0].median_ratio(&rows[1]),
        Bound::AtLeast,
        0.95,
    );
    ahead("rabbit-confirm-vs-peers", &rows);

    let consume = job("consume-80", 30_000 * scale);
    let preload = job("confirm", consume.count);
    let rows = compare(
        rounds,
        "consume, ack each, prefetch 80",
        "messages a second",
        &|library| {
            client("raw", &preload);
            client(library, &consume).rate
        },
    );
    ratio(
        "rabbit-consume-rate",
        rows[0].median_ratio(&rows[1]),
        Bound::AtLeast,
        0.95,
    );
    ahead("rabbit-consume-vs-peers", &rows);

    let pingpong = job("pingpong", 3_000 * scale);
    // Where the system places two ends that wait for each other differs from run to run more than the clients do.
    let rows = compare(
        3 * rounds,
        "ping-pong",
        "us a round trip, median",
        &|library| client(library, &pingpong).cost,
    );
    ratio(
        "rabbit-pingpong",
        rows[0].median_ratio(&rows[1]),
        Bound::AtMost,
        1.15,
    );
    channel.queue_delete(&queue, false, false).expect("deleted");
    connection.close();
}

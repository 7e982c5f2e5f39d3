//! The rows against the scripted sink: what a message costs the client, and how much memory it takes.

use crate::rows::{Rows, SINK, SinkRow};
use crate::{Kept, PEERS, RABBITMQ_C, client};
use bare::measure::Job;
use common::{Bound, Row, interleave, ratio};
use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

pub fn bench(rows: &Rows, rounds: usize, scale: usize) {
    let (_sink, port) = start_sink();
    let (mut peak_small, mut peak_large) = (None, None);
    for row in SINK.iter().filter(|row| rows.has(row.name)) {
        let peak = bench_row(row, port, rounds, scale);
        let peaks = match row.size > 1024 {
            true => &mut peak_large,
            false => &mut peak_small,
        };
        *peaks = Some(peaks.unwrap_or(0.0_f64).max(peak));
    }
    for (name, peak, limit) in [
        ("peak-rss-small-mib", peak_small, 10.0),
        ("peak-rss-64k-mib", peak_large, 32.0),
    ] {
        if let Some(peak) = peak {
            ratio(name, peak, Bound::AtMost, limit);
        }
    }
}

/// Runs a row and compares; our peak memory in MiB.
fn bench_row(row: &SinkRow, port: u16, rounds: usize, scale: usize) -> f64 {
    let (name, count) = (row.name, row.count * scale);
    let job = Job {
        scenario: row.scenario.into(),
        size: row.size,
        count,
        host: "127.0.0.1".into(),
        port,
        queue: format!("blast-{count}-{}", row.size),
    };
    let measured = measure(name, &job, rounds);
    let (ours, peers) = measured.split_first().expect("we run too");
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
    if let Some(target) = row.target {
        ratio(name, ours.0.median_ratio(&best.0), Bound::AtMost, target);
    }
    ours.1
}

/// Each library's costs, and its peak memory in MiB; ours first.
fn measure(name: &str, job: &Job, rounds: usize) -> Vec<(Row, f64)> {
    let libraries: Vec<&str> = ["ours"]
        .into_iter()
        .chain(PEERS)
        .chain([RABBITMQ_C, "raw"])
        .collect();
    let peaks = vec![Cell::new((0.0_f64, 0.0_f64)); libraries.len()];
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

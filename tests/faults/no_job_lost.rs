//! 10,000 persistent jobs, each appending its number to a file, and something breaks in the middle.
//!
//! To be survived: kill -9 of the worker; all connections closed by the broker; the broker stopped and started. No job
//! may be lost. Only jobs that were running, or whose ack was on its way, may run twice; how many did is printed.

use rustix::process::Signal;
use serde_json::json;
use std::io::Write as _;
use support::{Broker, Folder, RabbitNode, Site, Worker, on_both_brokers};

const JOBS: usize = 10_000;
/// The prefetch: no more than these are ever with the worker.
const HELD: usize = 80;

on_both_brokers! { the_worker_is_killed }

/// Jobs in the queue, and a worker that has run a third of them.
fn in_the_middle(site: &Site, folder: &Folder) -> Worker {
    let path = folder.text("trace");
    site.preload((0..JOBS).map(|n| json!({"func": "myapp.tasks.append", "args": [path, n]})));
    let worker = start(site);
    folder.wait_for_lines("trace", JOBS / 3);
    worker
}

fn start(site: &Site) -> Worker {
    let worker = site
        .worker()
        .python("myapp.tasks")
        .arg("--qos")
        .arg(HELD.to_string());
    worker.arg("--workers").arg("8").start()
}

/// Waits until every job has left its trace, and counts those that left more than one.
fn assert_none_lost(folder: &Folder, fault: &str) {
    let seen = support::eventually("all jobs", || {
        let mut seen = vec![0_usize; JOBS];
        for line in folder.lines("trace") {
            seen[line.parse::<usize>().expect("one write makes a whole line")] += 1;
        }
        (!seen.contains(&0)).then_some(seen)
    });
    let twice = seen.iter().filter(|&&count| count > 1).count();
    // Past the capture of the test's output: a figure to be seen, not only on failure.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{fault}: {JOBS} jobs, none lost, {twice} ran twice");
    assert!(
        seen.iter().all(|&count| count <= 2),
        "one fault, one more run at most"
    );
    assert!(
        twice <= HELD,
        "{twice} ran twice, of at most {HELD} that were unsettled"
    );
}

fn the_worker_is_killed(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    let first = in_the_middle(&site, &folder);
    first.signal(Signal::KILL);
    assert_eq!(first.finish().code(), None);
    let done = folder.lines("trace").len();
    assert!(done < JOBS, "it was killed in the middle: {done}");
    let second = start(&site);
    assert_none_lost(&folder, "worker killed -9");
    second.drain();
    site.assert_settled();
}

/// Breaks the node in the middle; the worker must come back by itself.
fn the_node_breaks(fault: &str, break_it: impl FnOnce(&RabbitNode)) {
    let node = RabbitNode::start();
    let (site, folder) = (Site::new(node.broker()), Folder::new());
    let worker = in_the_middle(&site, &folder);
    break_it(&node);
    assert_none_lost(&folder, fault);
    worker.drain();
    site.reopened().assert_settled();
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn all_connections_are_closed() {
    the_node_breaks("all connections closed", RabbitNode::close_all_connections);
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn the_broker_is_stopped_and_started() {
    the_node_breaks("broker stopped and started", RabbitNode::restart);
}

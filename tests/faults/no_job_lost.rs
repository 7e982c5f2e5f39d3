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
    preload(site, folder);
    let worker = start(site);
    folder.wait_for_lines("trace", JOBS / 3);
    worker
}

fn preload(site: &Site, folder: &Folder) {
    let path = folder.text("trace");
    site.preload((0..JOBS).map(|n| json!({"func": "myapp.tasks.append", "args": [path, n]})));
}

fn start(site: &Site) -> Worker {
    let worker = site
        .worker()
        .python("myapp.tasks")
        .arg("--qos")
        .arg(HELD.to_string());
    worker.workers(8).start()
}

/// Waits until every job has left its trace, and counts those that left more than one.
fn assert_none_lost(folder: &Folder, fault: &str, faults: usize) {
    let seen = support::eventually("all jobs", || {
        let mut seen = vec![0_usize; JOBS];
        for line in folder.lines("trace") {
            seen[line.parse::<usize>().expect("one write makes a whole line")] += 1;
        }
        (!seen.contains(&0)).then_some(seen)
    });
    let again = seen.iter().sum::<usize>() - JOBS;
    // Past the capture of the test's output: a figure to be seen, not only on failure.
    let mut out = std::io::stdout();
    let _ = writeln!(
        out,
        "{fault}: {JOBS} jobs, none lost, {again} ran once more"
    );
    assert!(
        seen.iter().all(|&count| count <= 1 + faults),
        "a fault costs a job one more run at most"
    );
    assert!(
        again <= faults * HELD,
        "{again} ran again, of at most {HELD} unsettled at each fault"
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
    assert_none_lost(&folder, "worker killed -9", 1);
    second.drain();
    site.assert_settled();
}

/// Killed about every hundred jobs, the distance drawn from a seed that is printed.
fn a_hundred_kills(broker: &Broker) {
    let (site, folder) = (Site::new(broker), Folder::new());
    preload(&site, &folder);
    let mut random = u64::from(std::process::id());
    let seed = random;
    let mut kills = 0;
    while kills < 100 {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let next = folder.lines("trace").len() + 1 + (random >> 33) as usize % (JOBS / 100);
        if next >= JOBS {
            break;
        }
        let worker = start(&site);
        folder.wait_for_lines("trace", next);
        worker.signal(Signal::KILL);
        worker.finish();
        kills += 1;
    }
    let worker = start(&site);
    let fault = format!("worker killed -9 {kills} times, seed {seed}");
    assert_none_lost(&folder, &fault, kills);
    worker.drain();
    site.assert_settled();
}

#[test]
#[ignore = "takes minutes: run tests/run --long"]
fn long_a_hundred_kills_on_the_embedded_broker() {
    a_hundred_kills(&Broker::embedded());
}

#[test]
#[ignore = "takes minutes: run tests/run --long"]
fn long_a_hundred_kills_on_rabbitmq() {
    a_hundred_kills(&Broker::rabbitmq());
}

/// Breaks the node in the middle; the worker must come back by itself.
fn the_node_breaks(fault: &str, break_it: impl FnOnce(&RabbitNode)) {
    let node = RabbitNode::start();
    let (site, folder) = (Site::new(node.broker()), Folder::new());
    let worker = in_the_middle(&site, &folder);
    break_it(&node);
    assert_none_lost(&folder, fault, 1);
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

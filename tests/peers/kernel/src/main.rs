//! `tests/bench kernel`: the kernel against other single-threaded runtimes.
//!
//! Each measurement is a process of its own (this program, started with `one ROW RUNTIME`), so that no
//! runtime finds the heap, the threads or the descriptors of another; the parent interleaves them.

mod echo_mio;
#[macro_use]
mod rows;
mod runtimes;

use std::process::Command;

use common::{Bound, Row, interleave, quick, ratio};

/// A row of the table: its name, what it is measured against, and the target for ours over the best of them.
struct Plan {
    name: &'static str,
    unit: &'static str,
    target: f64,
    peers: &'static [&'static str],
}

const ALL: &[&str] = &["tokio", "smol", "glommio", "monoio", "futures"];
const TIMED: &[&str] = &["tokio", "smol", "glommio", "monoio"];

const PLANS: &[Plan] = &[
    Plan {
        name: "yield-2",
        unit: "ns CPU a switch",
        target: 0.4,
        peers: ALL,
    },
    Plan {
        name: "yield-10k",
        unit: "ns CPU a switch",
        target: 0.4,
        peers: ALL,
    },
    Plan {
        name: "spawn-join",
        unit: "ns CPU a task",
        target: 0.9,
        peers: ALL,
    },
    Plan {
        name: "spawn-1m",
        unit: "ns CPU a task",
        target: 1.0,
        peers: ALL,
    },
    Plan {
        name: "parked-bytes",
        unit: "resident bytes a task",
        target: 1.4,
        peers: ALL,
    },
    Plan {
        name: "sleep-1m",
        unit: "CPU s",
        target: 0.4,
        peers: TIMED,
    },
    Plan {
        name: "timeout-churn",
        unit: "ns CPU a timeout",
        target: 0.4,
        peers: TIMED,
    },
    Plan {
        name: "channel-unbounded",
        unit: "ns CPU a message",
        target: 1.0,
        peers: ALL,
    },
    Plan {
        name: "channel-bounded",
        unit: "ns CPU a message",
        target: 0.5,
        peers: ALL,
    },
    Plan {
        name: "waker",
        unit: "ns CPU a wake",
        target: 0.8,
        peers: ALL,
    },
    Plan {
        name: "echo-1",
        unit: "us CPU a round trip",
        target: 1.05,
        peers: &["mio"],
    },
    Plan {
        name: "echo-1000",
        unit: "us CPU a round trip",
        target: 1.1,
        peers: TIMED,
    },
    Plan {
        name: "offload-seq",
        unit: "us a call",
        target: 1.0,
        // Without glommio: it stood still for ever in one of our runs.
        peers: &["tokio", "smol", "monoio"],
    },
    Plan {
        name: "offload-80",
        unit: "us a call",
        target: 1.0,
        peers: &["tokio"],
    },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [one, row, runtime, ..] = args.as_slice()
        && one == "one"
    {
        println!("{}", runtimes::measure(row, runtime));
        return;
    }
    let only: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    for plan in PLANS {
        if only.is_empty() || only.iter().any(|name| *name == plan.name) {
            run(plan);
        }
    }
}

fn run(plan: &Plan) {
    let rounds = if quick() { 3 } else { 11 };
    let names = std::iter::once("kernel").chain(plan.peers.iter().copied());
    let rows = interleave(
        rounds,
        names
            .map(|runtime| {
                (
                    runtime,
                    Box::new(move || once(plan.name, runtime)) as Box<dyn FnMut() -> f64>,
                )
            })
            .collect(),
    );
    println!("\n{}", plan.name);
    Row::print_table(plan.unit, &rows);
    let (ours, theirs) = rows.split_first().expect("ours is the first row");
    let best = theirs
        .iter()
        .min_by(|a, b| a.median().total_cmp(&b.median()));
    let best = best.expect("each row has a peer");
    ratio(
        plan.name,
        ours.median_ratio(best),
        Bound::AtMost,
        plan.target,
    );
}

/// One measurement in a process of its own.
fn once(row: &str, runtime: &str) -> f64 {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .args(["one", row, runtime])
        .output()
        .expect("this program can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{row} on {runtime} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.trim()
        .parse()
        .unwrap_or_else(|e| panic!("{row} on {runtime} printed {text:?}: {e}"))
}

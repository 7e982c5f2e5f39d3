//! What a process and its children have used.

use std::fs;

/// CPU seconds of a process and all below it, as the scheduler counts them for each thread. Threads that have ended
/// are not in it; these brokers keep theirs.
pub fn cpu_seconds(pid: u32) -> f64 {
    let own: f64 = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        })
        .sum();
    own / 1e9 + children(pid).into_iter().map(cpu_seconds).sum::<f64>()
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The most memory a process had at once, in MiB.
pub fn peak_rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the broker runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.expect("Linux tells the peak") / 1024.0
}

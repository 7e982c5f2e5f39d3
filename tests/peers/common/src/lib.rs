//! What every benchmark in Rust does alike.
//!
//! ```no_run
//! use common::{Bound, Row, cpu_seconds, interleave, quick, ratio};
//!
//! let rounds = if quick() { 3 } else { 11 };
//! let rows = interleave(
//!     rounds,
//!     vec![
//!         ("ours", Box::new(|| cpu_seconds(|| { /* work, answer checked */ }))),
//!         ("theirs", Box::new(|| cpu_seconds(|| { /* the same work */ }))),
//!     ],
//! );
//! Row::print_table("CPU seconds", &rows);
//! ratio("cpu-vs-theirs", rows[0].median_ratio(&rows[1]), Bound::AtMost, 0.5);
//! ```

use std::fmt;
use std::time::Instant;

/// Whether `tests/bench SUITE --quick` asked for the short form.
pub fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// One measured thing: a name and one figure per round.
pub struct Row {
    /// As it stands in the table.
    pub name: String,
    /// One figure a round, in the order measured.
    pub samples: Vec<f64>,
}

impl Row {
    /// The middle one of the samples (the mean of the middle two).
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }

    /// The median of the rounds' own ratios, ours to `other`'s: the noise of a shared machine comes in waves,
    /// and a wave hits both halves of a pair alike.
    pub fn median_ratio(&self, other: &Row) -> f64 {
        assert_eq!(
            self.samples.len(),
            other.samples.len(),
            "rows measured in the same rounds"
        );
        let ratios: Vec<f64> = self
            .samples
            .iter()
            .zip(&other.samples)
            .map(|(a, b)| a / b)
            .collect();
        median(&ratios)
    }

    /// Prints rows with median, least and greatest, in `unit`.
    pub fn print_table(unit: &str, rows: &[Row]) {
        println!(
            "{:<40} {:>12} {:>12} {:>12}   {unit}",
            "", "median", "least", "greatest"
        );
        for row in rows {
            println!("{row}");
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self
            .samples
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        write!(
            f,
            "{:<40} {:>12.4} {least:>12.4} {greatest:>12.4}",
            self.name,
            self.median()
        )
    }
}

/// A named measurement: runs the work once, checks its answer, returns the figure of this round.
pub type Measured<'a> = (&'a str, Box<dyn FnMut() -> f64 + 'a>);

/// Runs every measurement once a round, one after the other, the order turning by one each round, so that
/// none always runs first or after the same neighbour. Rows come back in the order given.
pub fn interleave(rounds: usize, mut measured: Vec<Measured<'_>>) -> Vec<Row> {
    let mut rows: Vec<Row> = measured
        .iter()
        .map(|(name, _)| Row {
            name: name.to_string(),
            samples: vec![0.0; rounds],
        })
        .collect();
    let count = measured.len();
    for round in 0..rounds {
        for step in 0..count {
            let index = (round + step) % count;
            rows[index].samples[round] = measured[index].1();
        }
    }
    rows
}

/// User and system CPU seconds of this process (all threads) spent in `work`.
pub fn cpu_seconds(work: impl FnOnce()) -> f64 {
    let before = process_cpu();
    work();
    process_cpu() - before
}

/// Wall-clock seconds spent in `work`.
pub fn wall_seconds(work: impl FnOnce()) -> f64 {
    let before = Instant::now();
    work();
    before.elapsed().as_secs_f64()
}

/// User and system CPU seconds of this process (all threads) until now.
pub fn process_cpu() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "Linux has CLOCK_PROCESS_CPUTIME_ID");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Which side of its target a figure is wanted on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
}

/// Prints the closing line of one figure, in the form that `tests/bench` reads.
pub fn ratio(name: &str, value: f64, bound: Bound, target: f64) {
    let (sign, met) = match bound {
        Bound::AtMost => ("<=", value <= target),
        Bound::AtLeast => (">=", value >= target),
    };
    println!(
        "RATIO {name} {value:.4} {sign} {target} {}",
        if met { "ok" } else { "SHORT" }
    );
}

fn median(samples: &[f64]) -> f64 {
    assert!(!samples.is_empty(), "at least one round");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn rounds_are_interleaved_and_rows_keep_their_order() {
        let log = std::cell::RefCell::new(String::new());
        let measure = |letter: char, value: f64| {
            let log = &log;
            move || {
                log.borrow_mut().push(letter);
                value
            }
        };
        let rows = interleave(
            2,
            vec![
                ("a", Box::new(measure('a', 1.0))),
                ("b", Box::new(measure('b', 2.0))),
            ],
        );
        assert_eq!(*log.borrow(), "abba");
        assert_eq!(rows[1].samples, [2.0, 2.0]);
        assert_eq!(rows[0].median_ratio(&rows[1]), 0.5);
    }
}

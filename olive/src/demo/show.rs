//! What the demo prints: a bar on a terminal, lines elsewhere, and the closing table.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::plan::Group;
use super::tally::Row;

/// Progress of a known number of jobs.
pub(super) struct Show {
    total: usize,
    /// `None` where nobody watches: lines then.
    bar: Option<ProgressBar>,
    /// Tenths already told in lines.
    told: usize,
}

impl Show {
    pub fn start(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{bar:40.green} {pos}/{len} jobs settled, {per_sec}, {elapsed}";
            let bar = ProgressBar::new(total as u64);
            bar.with_style(ProgressStyle::with_template(style).expect("a constant template"))
        });
        println!("{total} jobs");
        Show {
            total,
            bar,
            told: 0,
        }
    }

    pub fn at(&mut self, settled: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(settled as u64),
            None => {
                let tenths = settled * 10 / self.total.max(1);
                if tenths > self.told {
                    self.told = tenths;
                    println!("{settled} of {} jobs settled", self.total);
                }
            }
        }
    }

    pub fn end(&mut self, took: Duration) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        println!("{} jobs in {:.1} s\n", self.total, took.as_secs_f64());
    }
}

/// Prints one line a group: what was sent, what should and what did become of it.
pub(super) fn table(groups: &[Group], sent: &[bool], rows: &[Row]) {
    let titles = groups.iter().map(|g| g.title.len()).max().unwrap_or(0);
    let fates = groups.iter().map(|g| g.fate.describe().len());
    let fates = fates.max().unwrap_or(0);
    println!(
        "{:titles$}  {:>5}  {:fates$}  result",
        "jobs", "sent", "should be"
    );
    for ((group, sent), row) in groups.iter().zip(sent).zip(rows) {
        let fate = group.fate.describe();
        let result = match (sent, &row.wrong) {
            (false, _) => "skipped: there is no Python interpreter here".to_owned(),
            (true, None) if row.right == row.sent => "all".to_owned(),
            (true, None) => format!("only {} of {}", row.right, row.sent),
            (true, Some(wrong)) => format!("only {} of {}; one: {wrong}", row.right, row.sent),
        };
        println!(
            "{:titles$}  {:>5}  {fate:fates$}  {result}",
            group.title, row.sent
        );
    }
    println!();
}

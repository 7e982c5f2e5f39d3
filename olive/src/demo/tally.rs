//! Who has had which fate (pure): every job is waited for by name, and each fate is held against the plan.

use std::collections::HashMap;

use serde_json::Value;

use super::plan::{Fate, Group};
use crate::outcome::Status;

/// One job that was sent.
struct Sent {
    group: usize,
    value: Option<Value>,
    reply: Option<Status>,
    dead: Option<String>,
    /// Whether it counts as settled, and whether as right.
    settled: bool,
    right: bool,
}

/// One line of the closing table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Jobs sent.
    pub sent: usize,
    /// Jobs that had the fate they should.
    pub right: usize,
    /// What became of one that had not, in words.
    pub wrong: Option<String>,
}

/// The fates of all jobs.
pub struct Tally {
    fates: Vec<Fate>,
    rows: Vec<Row>,
    jobs: HashMap<String, Sent>,
    settled: usize,
}

impl Tally {
    /// A tally for these groups, nothing sent yet.
    pub fn new(groups: &[Group]) -> Self {
        let row = Row {
            sent: 0,
            right: 0,
            wrong: None,
        };
        Tally {
            fates: groups.iter().map(|g| g.fate.clone()).collect(),
            rows: vec![row; groups.len()],
            jobs: HashMap::new(),
            settled: 0,
        }
    }

    /// A job of `group` goes out under this id; its reply must carry `value`, if there is one.
    pub fn sent(&mut self, tid: String, group: usize, value: Option<Value>) {
        self.rows[group].sent += 1;
        let job = Sent {
            group,
            value,
            reply: None,
            dead: None,
            settled: false,
            right: false,
        };
        self.jobs.insert(tid, job);
    }

    /// A reply came.
    pub fn replied(&mut self, tid: &str, status: Status, value: Option<Value>) {
        let Some(job) = self.jobs.get_mut(tid) else {
            return;
        };
        let row = &mut self.rows[job.group];
        if job.reply.is_some() {
            row.wrong = Some("a second reply".to_owned());
        }
        if job.value.is_some() && job.value != value {
            row.wrong = Some(format!("a reply with the value {value:?}"));
        }
        job.reply = Some(status);
        self.settle(tid);
    }

    /// A dead letter came.
    pub fn died(&mut self, tid: &str, reason: &str) {
        let Some(job) = self.jobs.get_mut(tid) else {
            return;
        };
        if job.dead.is_some() {
            self.rows[job.group].wrong = Some("a second dead letter".to_owned());
        }
        job.dead = Some(reason.to_owned());
        self.settle(tid);
    }

    /// Counts the job once all that should come of it has come.
    fn settle(&mut self, tid: &str) {
        let job = self.jobs.get_mut(tid).expect("looked up by the caller");
        let (fate, row) = (&self.fates[job.group], &mut self.rows[job.group]);
        if job.reply == fate.reply && job.dead.as_deref() == fate.dead {
            if !job.settled {
                (job.settled, job.right) = (true, true);
                row.right += 1;
                self.settled += 1;
            }
            return;
        }
        let waits_for_more = (job.reply.is_none() || job.reply == fate.reply)
            && (job.dead.is_none() || job.dead.as_deref() == fate.dead);
        if !waits_for_more {
            row.wrong = Some(match (&job.reply, &job.dead) {
                (reply, Some(reason)) => format!("{reply:?}, dead letter: {reason}"),
                (reply, None) => format!("{reply:?}"),
            });
            if !job.settled {
                job.settled = true;
                self.settled += 1;
            }
            if std::mem::take(&mut job.right) {
                row.right -= 1; // it had its fate, and then something more came
            }
        }
    }

    /// Jobs whose fate is known.
    pub fn settled(&self) -> usize {
        self.settled
    }

    /// Jobs sent.
    pub fn total(&self) -> usize {
        self.jobs.len()
    }

    /// One row a group, in the plan's order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether every job had the fate it should, and no more than that.
    pub fn all_right(&self) -> bool {
        self.rows
            .iter()
            .all(|r| r.right == r.sent && r.wrong.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::groups;
    use super::*;

    fn tally_of(title: &str) -> Tally {
        let mut groups = groups();
        groups.retain(|g| g.title == title);
        let mut tally = Tally::new(&groups);
        let (_, value) = (groups[0].make)(1, "t");
        tally.sent("t".into(), 0, value);
        tally
    }

    #[test]
    fn done_with_its_value_is_right() {
        let mut tally = tally_of("Python: add(n, 1)");
        assert!(!tally.all_right());
        tally.replied("t", Status::Done, Some(Value::from(2)));
        assert_eq!(tally.settled(), 1);
        assert!(tally.all_right());
    }

    #[test]
    fn another_value_is_wrong() {
        let mut tally = tally_of("Python: add(n, 1)");
        tally.replied("t", Status::Done, Some(Value::from(3)));
        assert!(!tally.all_right());
    }

    #[test]
    fn a_failed_job_needs_both_reply_and_dead_letter() {
        let mut tally = tally_of("Python: raises ValueError");
        tally.died("t", "failed");
        assert_eq!(tally.settled(), 0);
        tally.replied("t", Status::Failed, None);
        assert!(tally.all_right());
    }

    #[test]
    fn a_second_reply_and_a_wrong_status_are_seen() {
        let mut tally = tally_of("Rust: do nothing");
        tally.replied("t", Status::Done, Some(Value::Null));
        tally.replied("t", Status::Done, Some(Value::Null));
        assert!(!tally.all_right());

        let mut tally = tally_of("Rust: do nothing");
        tally.replied("t", Status::Failed, None);
        assert_eq!(tally.settled(), 1);
        assert!(!tally.all_right());
    }
}

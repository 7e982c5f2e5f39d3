//! What an outcome means for the job (pure): which reply, which dead letter, or another attempt.

use std::fmt;
use std::time::Duration;

use crate::outcome::{Outcome, Status, TaskError};

/// A job whose process was killed under it this often is not tried again.
pub const MAX_DEATHS: u32 = 3;

/// Why a job is in the dead-letter queue: its `x-olive-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The body is no job.
    Malformed,
    /// Nobody here runs a task of that name.
    UnknownTask,
    /// It raised, panicked, or could not be called with these arguments.
    Failed,
    /// It ran longer than its timeout.
    Timeout,
    /// It ended the process it ran in (`os._exit`).
    WorkerExited,
    /// The process it ran in was killed, again and again.
    WorkerDied,
    /// It ended, and nobody could take its result.
    ResultUndeliverable,
}

impl Reason {
    /// The header's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::UnknownTask => "unknown-task",
            Reason::Failed => "failed",
            Reason::Timeout => "timeout",
            Reason::WorkerExited => "worker-exited",
            Reason::WorkerDied => "worker-died",
            Reason::ResultUndeliverable => "result-undeliverable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to do with a job that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done: reply with its value, ack.
    Done,
    /// It ended otherwise: reply, dead letter, ack.
    Dead {
        /// The reply's status.
        status: Status,
        /// The dead letter's reason.
        reason: Reason,
        /// What both say.
        error: TaskError,
    },
    /// Its process was killed: back into the queue for another attempt.
    Again,
}

/// The error that a job of an unknown task is answered with.
pub fn unknown_task(func: &str, why: &str) -> TaskError {
    TaskError::new("UnknownTask", format!("{func:?} is no task here: {why}"))
}

/// Judges an outcome of the task `func`; `deaths` counts the processes killed under this job, this one included.
pub fn judge(func: &str, outcome: &Outcome, timeout: Option<Duration>, deaths: u32) -> Verdict {
    let dead = |status, reason, error| Verdict::Dead {
        status,
        reason,
        error,
    };
    match outcome {
        Outcome::Done { .. } => Verdict::Done,
        Outcome::Unknown { reason } => dead(
            Status::Rejected,
            Reason::UnknownTask,
            unknown_task(func, reason),
        ),
        Outcome::Failed { error } => dead(Status::Failed, Reason::Failed, error.clone()),
        Outcome::TimedOut => {
            let limit = timeout.unwrap_or_default().as_secs_f64();
            let text = format!("killed after its timeout of {limit} s");
            dead(
                Status::Timeout,
                Reason::Timeout,
                TaskError::new("Timeout", text),
            )
        }
        Outcome::Died { signal: None, code } => {
            let code = code.map_or("unknown".to_owned(), |code| code.to_string());
            let text = format!("the task ended its process with exit code {code}");
            dead(
                Status::Failed,
                Reason::WorkerExited,
                TaskError::new("WorkerExited", text),
            )
        }
        Outcome::Died { .. } if deaths < MAX_DEATHS => Verdict::Again,
        Outcome::Died { signal, .. } => {
            let signal = signal.unwrap_or_default();
            let text = format!("its process was killed {deaths} times, at last by signal {signal}");
            dead(
                Status::Failed,
                Reason::WorkerDied,
                TaskError::new("WorkerDied", text),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(outcome: Outcome, deaths: u32) -> Option<(Status, &'static str, String)> {
        match judge("f", &outcome, Some(Duration::from_millis(300)), deaths) {
            Verdict::Dead {
                status,
                reason,
                error,
            } => Some((status, reason.as_str(), error.to_string())),
            _ => None,
        }
    }

    fn failed(kind: &str) -> Outcome {
        Outcome::Failed {
            error: TaskError::new(kind, "x"),
        }
    }

    #[test]
    fn every_end_has_its_reason() {
        assert_eq!(
            reason(failed("ValueError"), 0),
            Some((Status::Failed, "failed", "ValueError: x".into()))
        );
        assert_eq!(
            reason(
                Outcome::Unknown {
                    reason: "imported".into()
                },
                0
            ),
            Some((
                Status::Rejected,
                "unknown-task",
                r#"UnknownTask: "f" is no task here: imported"#.into()
            ))
        );
        assert_eq!(
            reason(Outcome::TimedOut, 0),
            Some((
                Status::Timeout,
                "timeout",
                "Timeout: killed after its timeout of 0.3 s".into()
            ))
        );
        let exited = Outcome::Died {
            signal: None,
            code: Some(7),
        };
        let (status, why, text) = reason(exited, 1).unwrap();
        assert_eq!((status, why), (Status::Failed, "worker-exited"));
        assert!(text.ends_with("exit code 7"));
    }

    #[test]
    fn a_killed_process_is_not_the_jobs_fault_twice() {
        let killed = || Outcome::Died {
            signal: Some(9),
            code: None,
        };
        assert_eq!(judge("f", &killed(), None, 1), Verdict::Again);
        assert_eq!(judge("f", &killed(), None, 2), Verdict::Again);
        assert_eq!(reason(killed(), 3).unwrap().1, "worker-died");
    }
}

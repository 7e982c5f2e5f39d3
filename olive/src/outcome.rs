//! How an attempt ended, and how that is told to whoever asked.
//!
//! [`Outcome`] is what a runner (a thread, a process) hands back; [`Reply`] is the same fact in
//! wire form. What the *broker* is told (ack, dead letter, give back) is decided elsewhere, in
//! `worker::settle`.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Why a task failed, in the terms of the language it is written in.
///
/// A Rust task may return one as its own error to choose `kind` itself; any other error type gets
/// the type's name as its kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// The error's type: a Python exception class, a Rust type name, or `panic`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it says of itself.
    pub message: String,
    /// Where it was raised, when the language can tell (Python does).
    #[serde(default)]
    pub traceback: Option<String>,
}

impl TaskError {
    /// An error of type `kind` that says `message`, without a traceback.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        TaskError {
            kind: kind.into(),
            message: message.into(),
            traceback: None,
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind.is_empty(), self.message.is_empty()) {
            (true, _) => f.write_str(&self.message),
            (_, true) => f.write_str(&self.kind),
            _ => write!(f, "{}: {}", self.kind, self.message),
        }
    }
}

impl std::error::Error for TaskError {}

/// How one attempt of a job ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The task returned.
    Done {
        /// What it returned, as JSON.
        value: Box<RawValue>,
    },
    /// The task raised, returned an error or panicked, or could not be called at all.
    Failed {
        /// What it raised.
        error: TaskError,
    },
    /// The process found no task of that name, and ran nothing.
    Unknown {
        /// Why the name is no task.
        reason: String,
    },
    /// The job's own `timeout` passed; what ran it was killed.
    TimedOut,
    /// The process that ran it ended before it answered.
    Died {
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// The exit code, if it exited by itself.
        code: Option<i32>,
    },
}

/// The `status` of a [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It ran and returned.
    Done,
    /// It ran and did not return.
    Failed,
    /// It ran longer than its `timeout`.
    Timeout,
    /// It never ran: unknown task, malformed body.
    Rejected,
    /// It was cancelled before it ended.
    Cancelled,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Timeout => "timeout",
            Status::Rejected => "rejected",
            Status::Cancelled => "cancelled",
        })
    }
}

/// The result message: `value` only when done, `error` only otherwise.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply<'a> {
    /// The job's id.
    #[serde(borrow)]
    pub tid: Cow<'a, str>,
    /// How it ended.
    pub status: Status,
    /// What the task returned.
    #[serde(borrow, default, deserialize_with = "present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Cow<'a, RawValue>>,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Cow<'a, TaskError>>,
    /// Which run of the job this was, from 1.
    pub attempt: u32,
    /// How long it ran, in seconds.
    pub seconds: f64,
}

/// A value of `null` is a value: serde alone would read it as none.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'a, RawValue>>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(|value| Some(Cow::Borrowed(value)))
}

impl Reply<'_> {
    /// The wire form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a reply holds text, numbers and valid JSON only")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_holds_a_value_or_an_error() {
        let value = RawValue::from_string("[1,2]".into()).unwrap();
        let done = Reply {
            tid: "t".into(),
            status: Status::Done,
            value: Some(Cow::Borrowed(&value)),
            error: None,
            attempt: 1,
            seconds: 0.5,
        };
        assert_eq!(
            String::from_utf8(done.to_json()).unwrap(),
            r#"{"tid":"t","status":"done","value":[1,2],"attempt":1,"seconds":0.5}"#
        );
        let failed = Reply {
            status: Status::Timeout,
            value: None,
            error: Some(Cow::Owned(TaskError::new("Timeout", "too long"))),
            ..done
        };
        let text = failed.to_json();
        let back: Reply = serde_json::from_slice(&text).unwrap();
        assert_eq!(back.status, Status::Timeout);
        assert_eq!(back.error.unwrap().message, "too long");
        assert!(back.value.is_none());
        let null = br#"{"tid":"t","status":"done","value":null,"attempt":1,"seconds":0.0}"#;
        let back: Reply = serde_json::from_slice(null).unwrap();
        assert_eq!(back.value.unwrap().get(), "null");
    }

    #[test]
    fn an_error_reads_as_a_sentence() {
        assert_eq!(
            TaskError::new("ValueError", "no").to_string(),
            "ValueError: no"
        );
        assert_eq!(
            TaskError::new("KeyboardInterrupt", "").to_string(),
            "KeyboardInterrupt"
        );
        assert_eq!(TaskError::new("", "said").to_string(), "said");
    }
}

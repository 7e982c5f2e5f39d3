//! What our processes say to each other, one frame a message.
//!
//! ```text
//!            ToSupervisor →             ToWorker →
//!   main process        supervisor        main process        worker (Rust or Python)
//!            ← FromSupervisor           ← Reply
//! ```
//!
//! `shim.py` speaks the worker's half of this in Python; change both together.

use crate::outcome::TaskError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// The bound on frames between the main process and a supervisor (command lines and statuses).
pub(super) const CONTROL_FRAME_MAX: usize = 128 * 1024;

/// From the main process to a supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToSupervisor {
    /// Start this program; its standard input, output and error travel beside the frame.
    Spawn(Program),
    /// Kill the child and everything it started.
    Kill,
}

/// A program to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Program {
    pub argv: Vec<String>,
    /// Added to the inherited environment.
    pub env: Vec<(String, String)>,
}

/// From a supervisor to the main process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromSupervisor {
    Spawned {
        pid: u32,
    },
    /// `passing`: the machine was short of something, and trying again may help.
    SpawnFailed {
        message: String,
        passing: bool,
    },
    /// The child has ended and nothing that it started is left.
    Exited(Exit),
}

/// How a process ended: one of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown end"),
        }
    }
}

/// From the main process to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToWorker<'a> {
    /// Import this module (Python only). Kept apart from the call, so that a slow import does
    /// not eat the first job's time.
    Load(Cow<'a, str>),
    #[serde(borrow)]
    Call(Call<'a>),
}

/// One job. The arguments pass through as the bytes they came as.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    pub func: Cow<'a, str>,
    #[serde(borrow)]
    pub args: &'a RawValue,
    #[serde(borrow)]
    pub kwargs: &'a RawValue,
}

/// From a worker to the main process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// Started, and waiting for work.
    Ready,
    /// The module asked for is imported.
    Loaded,
    Done(Box<RawValue>),
    Failed(TaskError),
    /// There is no such task; why.
    Unknown(String),
}

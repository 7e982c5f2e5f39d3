//! olive: a task queue that a person can understand in an afternoon and trust in production.
//!
//! A **task** is a named function, a **job** one submission of it, an **attempt** one run of a
//! job. Jobs are JSON messages on AMQP 0-9-1; they run Rust functions, Python functions by import
//! path, or executables, and every job is settled exactly as promised.
//!
//! [`App`] is a worker of one's own; the `olive` binary is one with the built-in tasks only.
//! [`producer`] sends jobs from Rust; any AMQP client in any language can, see [`job`].
//!
//! Reading order: [`job`] and [`outcome`] (what goes over the wire), [`registry`], [`config`],
//! then [`worker`], where a job's life is, and [`pool`], the processes.
// One exception, a step between fork and exec: `pool/parent_death.rs`.
#![deny(unsafe_code)]

mod app;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod demo;
pub mod job;
pub mod outcome;
pub mod pool;
mod preflight;
pub mod probe;
pub mod producer;
mod queue_cli;
pub mod registry;
mod send;
pub mod worker;

pub use app::{App, EXIT_CUT_OFF, IntoConfig};
pub use config::Config;
pub use outcome::{Outcome, TaskError};
pub use registry::Registry;

//! olive: a task queue that a person can understand in an afternoon and trust in production.
//!
//! A **task** is a named function, a **job** one submission of it, an **attempt** one run of a
//! job. Jobs are JSON messages on AMQP 0-9-1; they run Rust functions, Python functions by import
//! path, or executables, and every job is settled exactly as promised.
// One exception, a step between fork and exec: `pool/parent_death.rs`.
#![deny(unsafe_code)]

pub mod outcome;
pub mod pool;
pub mod probe;
pub mod registry;

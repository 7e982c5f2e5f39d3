//! AMQP 0-9-1: codec, client, embedded broker.
//!
//! Reading order: [`codec`] (bytes ↔ frames ↔ messages) and [`heartbeat`] are pure and serve both ends.
#![forbid(unsafe_code)]

pub mod codec;
pub mod heartbeat;
pub mod protocol;

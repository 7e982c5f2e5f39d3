//! The floor: a bare blocking loop around the codec, without channels, errors, confirms' owners or heartbeats.
//!
//! The suite `amqp` compares clients with it; the suite `broker` drives brokers by it.

pub mod measure;
mod scenarios;
mod wire;

pub use scenarios::run;

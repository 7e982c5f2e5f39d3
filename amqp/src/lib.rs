//! AMQP 0-9-1: codec, client, embedded broker.
//!
//! Reading order: [`codec`] (bytes ↔ frames ↔ messages) and [`heartbeat`] are pure and serve both ends; `core` is the
//! client's side of a connection without a socket; [`client`] drives it on the kernel. [`broker`] is the other end.
//!
//! Without the feature `kernel` there are the codec, the core and the blocking façade only. The feature `tls` brings
//! `amqps://`.
// The tests count allocations, and an allocator is unsafe to write.
#![cfg_attr(not(test), forbid(unsafe_code))]

pub mod blocking;
#[cfg(feature = "kernel")]
pub mod broker;
#[cfg(feature = "kernel")]
pub mod client;
pub mod codec;
// The blocking façade uses less of the core than the kernel's client.
#[cfg_attr(not(feature = "kernel"), allow(dead_code, unused_imports))]
mod core;
mod error;
pub mod heartbeat;
mod options;
pub mod protocol;
#[cfg(test)]
mod testing;
mod tls;
mod uri;

pub use core::{
    Consume, ExchangeDeclare, Message, Negotiated, NoWait, Publish, QueueDeclare, QueueOk,
};
pub use error::{CloseReason, Error, ErrorKind, PublishError, Returned};
pub use options::{ConnectOptions, Mechanism};
pub use tls::{ServerName, TlsError, TlsOptions};
pub use uri::Uri;

//! A small AMQP 0-9-1 server for one node.
//!
//! Reading order: `node.rs` with `dispatch.rs` (bytes in, a turn, bytes out), `peer.rs` and `handshake.rs` (one connection), `call.rs`
//! and its handlers `publish.rs`, `basic.rs`, `topology.rs` (one channel's methods), `world.rs` (what connections
//! share), then the pure parts: `vhost.rs`, `exchange.rs` with `topic.rs` and `headers.rs`, `queue.rs`,
//! `ledger.rs`, `confirms.rs`. `server.rs` is the only file that knows sockets, clocks and kernel tasks.
//!
//! What it does not do is refused with 540 `NOT_IMPLEMENTED`, never half done; `docs/` lists both.

mod arena;
mod basic;
mod call;
mod channel;
mod config;
mod confirms;
mod consumer;
mod dispatch;
mod exchange;
mod fault;
mod handshake;
mod headers;
mod ledger;
mod link;
mod message;
mod node;
mod peer;
mod publish;
mod queue;
mod reply_to;
mod server;
mod store;
mod topic;
mod topology;
mod vhost;
mod wire;
mod world;

pub use config::{Config, User};
pub use message::Message;
pub use server::{BindError, Broker, Stopped, Stopper};
pub use store::{Batch, MemoryStore, Op, Origin, Outcome, Store, Ticket};

#[cfg(test)]
pub(crate) use node::hostile_tests::hostile_round;

//! A brokerless, persistent, thread- and process-safe publish/subscribe queue on LMDB.
//!
//! Many publishers, many subscribers, any number of threads and processes, one directory, no
//! broker. A message is stored once, for all subscribers; each of them receives all messages, in
//! the order in which they were committed. What [`Publisher::send`] returned for survives the
//! death of any process, and of the machine ([`Durability`] says when it may not).
//!
//! ```
//! use std::time::Duration;
//! use persipubsub::{Environment, Setup};
//!
//! # fn main() -> persipubsub::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let env = Environment::open(dir.path())?; // one for each process
//! env.new_control().initialize(&Setup::new(["indexer", "mailer"]))?;
//!
//! let publisher = env.new_publisher()?;
//! publisher.send_many(["one", "two"])?;
//!
//! let mailer = env.new_subscriber("mailer")?;
//! while let Some(message) = mailer.receive(Duration::ZERO)? {
//!     println!("{}: {:?}", message.seq(), message.body());
//!     message.ack()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Reading order, from the bottom: `record` (the layout), `tx` (what one operation does), `lease`
//! (who works on what), `space` (why deletes always succeed), `engine` and `group` (one commit for
//! many), then the four names of the façade: [`Environment`], [`Control`], [`Publisher`],
//! [`Subscriber`]. The façade is thin: a broker can stand on [`Environment::submit`],
//! [`Environment::peek`] and the operations ([`Op`]) directly.
//!
//! What it does not do: talk to other machines (LMDB needs one machine's memory; do not put the
//! directory on a network file system), or order messages of different stores.

#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "kernel")]
pub mod aio;
mod config;
mod control;
mod deploy;
mod engine;
mod environment;
mod error;
mod group;
mod lease;
mod op;
mod publisher;
mod record;
mod space;
mod subscriber;
mod sys;
mod trees;
mod tx;

pub use config::{HighWaterMark, Strategy};
pub use control::{Control, Setup, Stat, SubscriberStat};
pub use deploy::Deployment;
pub use engine::{Durability, MAP_SIZE, Options};
pub use environment::{Environment, Message};
pub use error::{Error, Resource, Result};
pub use group::{Answers, Ticket};
pub use op::{Backlog, Done, Op, Publish, Target};
pub use publisher::{Publisher, SendOptions};
pub use record::{BODY_MAX, QueueId};
pub use subscriber::{BATCH_BYTES, Batch, LEASE, RECEIVE_TIMEOUT, Received, Subscriber};

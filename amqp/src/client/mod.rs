//! The client on the kernel: connections, channels, consumers, sessions.
//!
//! ```no_run
//! use amqp::client::{Connection, Consume, ConsumerEvent, Publish, QueueDeclare};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let connection = Connection::open(amqp::Uri::parse("amqp://guest:guest@127.0.0.1:5672/%2F")?).await?;
//! let channel = connection.channel().await?;
//! channel.queue_declare(QueueDeclare::new("greetings")).await?;
//! channel.confirm_select().await?;
//! channel.publish(Publish::new("", "greetings", b"hello").mandatory()).await?; // the broker has it
//!
//! channel.qos(10).await?;
//! let mut consumer = channel.consume(Consume::new("greetings")).await?;
//! while let ConsumerEvent::Delivery(delivery) = consumer.next().await {
//!     println!("{}", String::from_utf8_lossy(&delivery.body));
//!     delivery.ack()?;
//! }
//! # Ok(()) }
//! ```
//!
//! All handles are cheap clones and belong to the kernel's thread. When a channel or connection dies, everything
//! that waits on it ends with the first cause; handles of a dead connection stay dead. [`Session`] makes new ones.
//!
//! The protocol itself is in `core`; this module only moves bytes, keeps time and waits.

mod channel;
mod connection;
mod consumer;
mod delivery;
mod inbox;
mod io;
mod outbox;
mod publish;
mod session;
mod transport;

pub use crate::core::{
    Binding, Consume, ExchangeDeclare, Message, Negotiated, NoWait, Publish, QueueDeclare, QueueOk,
    Topology,
};
pub use crate::options::{ConnectOptions, Mechanism};
pub use crate::tls::{ServerName, TlsOptions};
pub use crate::uri::Uri;
pub use channel::Channel;
pub use connection::Connection;
pub use consumer::{Consumer, ConsumerEvent};
pub use delivery::{Acker, Delivery};
pub use outbox::{Pending, Publisher};
pub use publish::Confirm;
pub use session::{Backoff, Live, Session, SessionEvent};

use std::task::{Poll, Waker};

/// Waits in a way that the kernel can cancel.
async fn wait<T>(mut poll: impl FnMut(&Waker) -> Poll<T>) -> Result<T, kernel::Error> {
    kernel::foreign(std::future::poll_fn(move |context| poll(context.waker()))).await
}

#[cfg(test)]
mod memory_tests;

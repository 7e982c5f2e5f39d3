//! The client's side of one connection, without a socket and without a clock.
//!
//! Bytes go in ([`Core::receive`]), bytes come out ([`Core::take_output`]), and what happened is found in the state:
//! an answer in its [`Call`], a delivery in its consumer's queue, a confirm in the channel's ring. Whoever waits
//! leaves a `std` [`Waker`](std::task::Waker). The kernel's client and the blocking façade are two thin drivers of
//! this; tests drive it byte by byte.
//!
//! One thread, hence `Rc` and `RefCell`; no borrow is held while user code runs.

mod call;
mod channel;
pub(crate) mod confirms;
mod connection;
mod facade;
mod frames;
pub(crate) mod handshake;
mod inbound;
pub(crate) mod ledger;
mod line;
mod message;
mod no_wait;
pub(crate) mod ops;
mod piece;
mod request;
mod room;
mod topology;
mod wakers;

pub(crate) use call::{Call, GET, GET_NO_ACK, Reply};
pub(crate) use channel::{Channel, Settle};
pub(crate) use connection::Core;
pub(crate) use facade::requests;
pub use handshake::Negotiated;
pub(crate) use line::{Line, Step};
pub use message::Message;
pub(crate) use message::{ConsumerState, Ended, Raw};
pub use no_wait::NoWait;
pub(crate) use request::short;
pub use request::{Consume, ExchangeDeclare, Publish, QueueDeclare, QueueOk};
pub(crate) use room::Room;
pub use topology::{Binding, Topology};
pub(crate) use wakers::Wakers;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
pub(crate) use hostile_tests::hostile_round;
#[cfg(test)]
mod tests;

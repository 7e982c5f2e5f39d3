//! What the broker needs of a store: take a batch, say when it is safe.
//!
//! The heart of the broker never waits. It collects what must survive a restart into a [`Batch`], one per turn;
//! the driver hands the batch to the [`Store`] and gets a [`Ticket`]; when the ticket is done, the confirms that
//! waited for the batch go out. A slow disk delays confirms and nothing else.

use super::message::Message;
use std::future::Future;
use std::pin::Pin;

/// Something that must survive a restart: a change concerning durable queues and persistent messages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Op {
    /// Keep a message for these queues; its body once, however many they are.
    Put {
        /// The message.
        message: Message,
        /// Each queue's id, and the message's position in it.
        places: Vec<(u64, u64)>,
        /// Who is to be told if it cannot be kept. Opaque to the store.
        origin: Option<Origin>,
    },
    /// The message at this place is settled.
    Settle {
        /// The queue's id.
        queue: u64,
        /// The message's position in it.
        position: u64,
    },
    /// A queue is gone with all that was in it.
    DeleteQueue {
        /// The queue's id.
        queue: u64,
    },
}

/// A publish on a confirm channel.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub(crate) peer: u64,
    pub(crate) channel: u16,
    pub(crate) publish: u64,
}

/// The operations of one turn, in their order. Never empty.
pub type Batch = Vec<Op>;

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Operations that could not be done (too large, full), given back, each with the reason. The others of the
    /// batch are safe all the same.
    pub refused: Vec<(Op, String)>,
}

/// The store's answer to [`Store::submit`].
pub enum Ticket {
    /// The batch is safe already, or its fate is known.
    Done(Outcome),
    /// The batch is on its way; the future ends when it is safe.
    Pending(Pin<Box<dyn Future<Output = Outcome>>>),
}

/// Keeps what must survive a restart.
pub trait Store: 'static {
    /// Takes a batch. Must not wait: what takes time goes into the ticket.
    ///
    /// Batches are applied in the order in which they are submitted, and a ticket is not done before those of
    /// earlier batches are.
    fn submit(&self, batch: Batch) -> Ticket;

    /// Whether messages outlive the process. The driver counts what is lost at a stop if not.
    fn is_lasting(&self) -> bool;
}

/// A store that keeps nothing: messages live in the broker's queues and end with the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryStore;

impl MemoryStore {
    /// The store that keeps nothing.
    pub const fn new() -> Self {
        MemoryStore
    }
}

impl Store for MemoryStore {
    fn submit(&self, _batch: Batch) -> Ticket {
        Ticket::Done(Outcome::default())
    }

    fn is_lasting(&self) -> bool {
        false
    }
}

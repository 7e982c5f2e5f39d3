//! The operations of the core, as values: what a batch is made of.

use std::ops::Range;

use crate::config::{HighWaterMark, Strategy};
use crate::record::QueueId;

/// Which queues a message goes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// Every registered subscriber, as registered when the message is stored. The default.
    #[default]
    All,
    /// These queues; ids that are not registered (any more) are passed over.
    Queues(Vec<QueueId>),
}

/// Messages to store, all or none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publish {
    /// The bodies, in order.
    pub bodies: Vec<Vec<u8>>,
    /// Where they go.
    pub target: Target,
    /// Not delivered before so many milliseconds have passed. Default 0.
    pub delay_ms: u64,
    /// Not delivered after so many milliseconds, if the high-water mark's timeout is not shorter.
    pub ttl_ms: Option<u64>,
}

/// Which of the messages already stored a new queue begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backlog {
    /// None: only what is sent from now on. The default.
    #[default]
    Now,
    /// All that some subscriber has still to receive.
    Oldest,
}

/// One operation. Whatever can be refused (no room, unknown name) is refused before anything is
/// changed, so a refused operation leaves the others of its batch alone.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Op {
    /// Store messages. Answers [`Done::Sequences`].
    Publish(Publish),
    /// Settle entries of a queue, in any order, any number of times. Answers how many were there.
    Ack {
        /// The queue.
        queue: QueueId,
        /// Sequences of the messages.
        seqs: Vec<u64>,
    },
    /// An attempt has failed: the message comes again, or becomes a dead letter if its queue allows
    /// no more attempts.
    Fail {
        /// The queue.
        queue: QueueId,
        /// Sequence of the message.
        seq: u64,
        /// Attempts so far, this one included.
        attempts: u32,
        /// Not delivered again before so many milliseconds have passed.
        delay_ms: u64,
    },
    /// Make entries dead letters. Answers how many were there.
    Bury {
        /// The queue.
        queue: QueueId,
        /// Sequences of the messages.
        seqs: Vec<u64>,
    },
    /// Put a queue's dead letters back into it, attempts forgotten. Answers how many.
    Revive {
        /// The queue (not its queue of dead letters).
        queue: QueueId,
    },
    /// Make deliverable whatever has come due. Answers how many.
    Promote {
        /// The queue.
        queue: QueueId,
    },
    /// Remove expired entries from the front of a queue. Answers how many.
    Expire {
        /// The queue.
        queue: QueueId,
        /// At most so many.
        limit: usize,
    },
    /// Remove all expired messages. Answers how many.
    ExpireAll,
    /// Remove all messages: of one queue, or of the whole store. Answers how many.
    Clear {
        /// The queue; `None` for all.
        queue: Option<QueueId>,
    },
    /// Register a queue; nothing happens if the name is taken. Answers [`Done::Queue`].
    AddQueue {
        /// 1 to 255 bytes.
        name: String,
        /// Whether [`Target::All`] includes it.
        subscribed: bool,
        /// Attempts before a message becomes a dead letter; 0: any number.
        max_attempts: u32,
        /// What it begins with.
        backlog: Backlog,
    },
    /// Forget a queue and all it holds. Answers 0 if there was none.
    RemoveQueue {
        /// Its name.
        name: String,
    },
    /// Change a queue's limit of attempts.
    SetMaxAttempts {
        /// Its name.
        name: String,
        /// 0: any number.
        max_attempts: u32,
    },
    /// Change the limits of the store, from the next operation on, for all processes.
    SetLimits {
        /// New limits, or the old ones.
        hwm: Option<HighWaterMark>,
        /// New strategy, or the old one.
        strategy: Option<Strategy>,
    },
    /// Store a record of the store's user (a broker's definitions, say) under a key of at most 500
    /// bytes, or remove it.
    PutUser {
        /// The key.
        key: Vec<u8>,
        /// The value; `None` removes.
        value: Option<Vec<u8>>,
    },
}

/// What an operation answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// The sequences given to the messages.
    Sequences(Range<u64>),
    /// How many were concerned.
    Count(u64),
    /// A queue's id, and whether it is new.
    Queue {
        /// The id.
        id: QueueId,
        /// Whether this operation added it.
        added: bool,
    },
}

impl Done {
    /// What a publish answers.
    pub(crate) fn sequences(self) -> Range<u64> {
        match self {
            Done::Sequences(seqs) => seqs,
            other => unreachable!("a publish answers sequences, not {other:?}"),
        }
    }

    /// The number in [`Done::Count`], else 0.
    pub fn count(&self) -> u64 {
        match self {
            Done::Count(count) => *count,
            _ => 0,
        }
    }
}

//! Limits, strategies and registered queues: what a control decides and every publisher obeys (pure).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::record::{NEVER, QueueId, le32};

/// The limits of a store.
///
/// `max_messages` and `max_bytes` hold for the messages of the whole store, each counted once
/// however many subscribers wait for it, and are exact: they are checked in the transaction that
/// inserts. Past them the [`Strategy`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HighWaterMark {
    /// How old a message may get, whoever waits for it; older ones are not delivered any more.
    /// Dead letters are kept regardless. Default 500 s; [`Duration::MAX`] means for ever.
    pub message_timeout: Duration,
    /// How many messages may be stored. Default 65,536; at least 1; 1 keeps the latest only.
    pub max_messages: u64,
    /// How many bytes their bodies may have together. Default 30 GiB.
    pub max_bytes: u64,
}

impl Default for HighWaterMark {
    fn default() -> Self {
        HighWaterMark {
            message_timeout: Duration::from_secs(500),
            max_messages: 64 * 1024,
            max_bytes: 30 << 30,
        }
    }
}

impl HighWaterMark {
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.message_timeout.as_millis().try_into().unwrap_or(NEVER)
    }
}

/// What happens to a message for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The older half of the stored messages is dropped, for all subscribers. The default.
    #[default]
    PruneFirst,
    /// The newer half of the stored messages is dropped, for all subscribers.
    PruneLast,
    /// The call fails with [`Error::Full`] and stores nothing.
    Reject,
}

/// Limits and strategy, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    pub hwm: HighWaterMark,
    pub strategy: Strategy,
}

impl Limits {
    pub(crate) fn encode(&self) -> [u8; 28] {
        let mut out = [0; 28];
        out[0..8].copy_from_slice(&self.hwm.timeout_ms().to_le_bytes());
        out[8..16].copy_from_slice(&self.hwm.max_messages.to_le_bytes());
        out[16..24].copy_from_slice(&self.hwm.max_bytes.to_le_bytes());
        out[24..28].copy_from_slice(&(self.strategy as u32).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"))
        };
        let strategy = match le32(bytes, 24) {
            0 => Strategy::PruneFirst,
            1 => Strategy::PruneLast,
            _ => Strategy::Reject,
        };
        let message_timeout = match number(0) {
            NEVER => Duration::MAX,
            ms => Duration::from_millis(ms),
        };
        let hwm = HighWaterMark {
            message_timeout,
            max_messages: number(8),
            max_bytes: number(16),
        };
        Limits { hwm, strategy }
    }
}

/// One registered queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue {
    pub id: QueueId,
    pub name: String,
    /// After so many attempts a message is a dead letter; 0: never.
    pub max_attempts: u32,
    /// Whether messages sent to all go here too.
    pub subscribed: bool,
}

impl Queue {
    pub(crate) fn encode(&self) -> [u8; 12] {
        let mut out = [0; 12];
        out[0..4].copy_from_slice(&self.id.0.to_le_bytes());
        out[4..8].copy_from_slice(&self.max_attempts.to_le_bytes());
        out[8..12].copy_from_slice(&u32::from(self.subscribed).to_le_bytes());
        out
    }

    pub(crate) fn decode(name: &[u8], bytes: &[u8]) -> Self {
        Queue {
            id: QueueId(le32(bytes, 0)),
            name: String::from_utf8_lossy(name).into_owned(),
            max_attempts: le32(bytes, 4),
            subscribed: le32(bytes, 8) != 0,
        }
    }
}

/// Everything a control can set, as one consistent copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub version: u64,
    pub limits: Limits,
    /// By id.
    pub queues: Vec<Queue>,
}

impl Config {
    pub(crate) fn queue(&self, id: QueueId) -> Option<&Queue> {
        let at = self
            .queues
            .binary_search_by_key(&id, |queue| queue.id)
            .ok()?;
        Some(&self.queues[at])
    }

    pub(crate) fn named(&self, name: &str) -> Result<&Queue> {
        let found = self.queues.iter().find(|queue| queue.name == name);
        found.ok_or_else(|| Error::UnknownSubscriber(name.to_owned()))
    }

    pub(crate) fn subscribers(&self) -> impl Iterator<Item = &Queue> {
        self.queues.iter().filter(|queue| queue.subscribed)
    }

    /// All queues that may hold messages, those of dead letters last.
    pub(crate) fn all_ids(&self) -> Vec<QueueId> {
        let ids = self.queues.iter().map(|queue| queue.id);
        ids.clone().chain(ids.map(QueueId::dead)).collect()
    }
}

/// Refuses a name that cannot be a key.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 255 {
        Err(Error::InvalidName(name.to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_back_as_they_went() {
        for strategy in [Strategy::PruneFirst, Strategy::PruneLast, Strategy::Reject] {
            let mut limits = Limits {
                strategy,
                ..Limits::default()
            };
            assert_eq!(Limits::decode(&limits.encode()), limits);
            limits.hwm.message_timeout = Duration::MAX;
            assert_eq!(Limits::decode(&limits.encode()), limits);
        }
        let queue = Queue {
            id: QueueId(3),
            name: "sub".to_owned(),
            max_attempts: 5,
            subscribed: true,
        };
        assert_eq!(Queue::decode(b"sub", &queue.encode()), queue);
    }

    #[test]
    fn names_have_bounds() {
        assert!(check_name("data_db").is_ok());
        assert!(check_name(&"n".repeat(255)).is_ok());
        assert!(check_name("").is_err());
        assert!(check_name(&"n".repeat(256)).is_err());
    }
}

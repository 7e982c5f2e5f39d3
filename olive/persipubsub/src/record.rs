//! Keys and records as bytes: the layout on disk, and nothing else (pure).
//!
//! Keys are big-endian, so that LMDB's order of bytes is the order of numbers; values are
//! little-endian. `docs/src/persipubsub/layout.md` gives the same layout as definitions.

use std::ops::Bound;

/// The format this code reads and writes; another one is refused.
pub(crate) const FORMAT: u32 = 1;
const MAGIC: u32 = 0x5053_5131; // "1QSP"

/// Bodies up to this length live in their message's record; longer ones in a tree of their own, so
/// that a change of the reference count never copies them.
pub(crate) const INLINE_MAX: usize = 1024;

/// The longest body, in bytes: 1 GiB.
pub const BODY_MAX: u64 = 1 << 30;

/// "Never", for expiry and due times.
pub(crate) const NEVER: u64 = u64::MAX;

/// The identity of one queue of the store: the messages that one subscriber has still to settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub(crate) u32);

impl QueueId {
    const DEAD: u32 = 1 << 31;

    /// The queue of this one's dead letters. It is not registered under a name, so no subscriber's
    /// name can collide with it.
    pub fn dead(self) -> QueueId {
        QueueId(self.0 | Self::DEAD)
    }

    /// The queue whose dead letters these are; a queue of living ones is its own.
    pub(crate) fn alive(self) -> QueueId {
        QueueId(self.0 & !Self::DEAD)
    }

    /// Whether this is a queue of dead letters.
    pub fn is_dead(self) -> bool {
        self.0 & Self::DEAD != 0
    }
}

/// Key of `queued` and `parked`.
pub(crate) fn entry_key(queue: QueueId, seq: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&queue.0.to_be_bytes());
    key[4..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// The sequence in an entry's key.
pub(crate) fn entry_seq(key: &[u8]) -> u64 {
    be64(&key[4..12])
}

/// Key of `due`.
pub(crate) fn due_key(queue: QueueId, due_ms: u64, seq: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&queue.0.to_be_bytes());
    key[4..12].copy_from_slice(&due_ms.to_be_bytes());
    key[12..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// Due time and sequence in a key of `due`.
pub(crate) fn due_parts(key: &[u8]) -> (u64, u64) {
    (be64(&key[4..12]), be64(&key[12..20]))
}

/// The keys from `low` to `high`, both included.
pub(crate) fn span<'k>(low: &'k [u8], high: &'k [u8]) -> (Bound<&'k [u8]>, Bound<&'k [u8]>) {
    (Bound::Included(low), Bound::Included(high))
}

pub(crate) fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("a slice of 8 bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of 8 bytes"))
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of 4 bytes"))
}

/// What a key of `state` begins with.
pub(crate) mod state {
    use super::QueueId;

    pub(crate) const GLOBAL: &[u8] = &[0];
    pub(crate) const LIMITS: &[u8] = &[3];
    pub(crate) const QUEUES: &[u8] = &[2];

    pub(crate) fn count(queue: QueueId) -> [u8; 5] {
        let id = queue.0.to_be_bytes();
        [1, id[0], id[1], id[2], id[3]]
    }

    pub(crate) fn queue(name: &str) -> Vec<u8> {
        [QUEUES, name.as_bytes()].concat()
    }

    pub(crate) fn user(key: &[u8]) -> Vec<u8> {
        [&[4], key].concat()
    }
}

/// The one record every insertion reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Global {
    /// The sequence of the next message; sequences start at 1 and are never used twice.
    pub next_seq: u64,
    /// The next queue's id.
    pub next_queue: u32,
    /// Grows whenever limits or queues change, so that cached copies know they are stale.
    pub config_version: u64,
    /// Messages stored.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Global {
    pub(crate) const LEN: usize = 48;

    pub(crate) fn new() -> Self {
        Global {
            next_seq: 1,
            next_queue: 1,
            config_version: 1,
            messages: 0,
            bytes: 0,
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&FORMAT.to_le_bytes());
        out[8..16].copy_from_slice(&self.next_seq.to_le_bytes());
        out[16..20].copy_from_slice(&self.next_queue.to_le_bytes());
        out[24..32].copy_from_slice(&self.config_version.to_le_bytes());
        out[32..40].copy_from_slice(&self.messages.to_le_bytes());
        out[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        out
    }

    /// Errs with what was found when it is not this format.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < 8 || le32(bytes, 0) != MAGIC {
            return Err("no persipubsub record in it".to_owned());
        }
        if le32(bytes, 4) != FORMAT || bytes.len() != Self::LEN {
            return Err(format!(
                "format {} found, {FORMAT} supported",
                le32(bytes, 4)
            ));
        }
        Ok(Global {
            next_seq: le64(bytes, 8),
            next_queue: le32(bytes, 16),
            config_version: le64(bytes, 24),
            messages: le64(bytes, 32),
            bytes: le64(bytes, 40),
        })
    }
}

/// A record whose fields have their places, little-endian.
macro_rules! record {
    ($(#[$about:meta])* $name:ident, $len:literal bytes {
        $($(#[$doc:meta])* $field:ident: $kind:ident at $at:literal,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl $name {
            pub(crate) const LEN: usize = $len;

            pub(crate) fn encode(&self) -> [u8; Self::LEN] {
                let mut out = [0; Self::LEN];
                $(out[$at..$at + size_of::<$kind>()].copy_from_slice(&self.$field.to_le_bytes());)*
                out
            }

            pub(crate) fn decode(bytes: &[u8]) -> Self {
                let part = |at: usize, len: usize| &bytes[at..at + len];
                $(let $field = part($at, size_of::<$kind>());)*
                $name {
                    $($field: $kind::from_le_bytes($field.try_into().expect("as long as its kind")),)*
                }
            }
        }
    };
}

record! {
    /// Counters of one queue, kept so that nothing is ever counted by a scan.
    #[derive(Default)]
    Count, 32 bytes {
        /// Entries in `queued`.
        ready: u64 at 0,
        /// Entries in `parked`.
        parked: u64 at 8,
        /// Bytes of the bodies of both.
        bytes: u64 at 16,
        /// Grows whenever an entry may have come (back) before others that are already there.
        epoch: u64 at 24,
    }
}

record! {
    /// The head of a message's record; an inline body follows it.
    Head, 24 bytes {
        /// How many queues (dead-letter queues included) still hold it.
        refs: u32 at 0,
        /// Bytes of the body.
        len: u32 at 4,
        /// When it was sent, in milliseconds of the store's clock.
        sent_ms: u64 at 8,
        /// When it expires by its own wish; [`NEVER`] if only the high-water mark's timeout counts.
        expires_ms: u64 at 16,
    }
}

impl Head {
    pub(crate) fn is_inline(&self) -> bool {
        self.len as usize <= INLINE_MAX
    }

    /// The moment of expiry when the high-water mark's timeout is `timeout_ms`.
    pub(crate) fn deadline(&self, timeout_ms: u64) -> u64 {
        self.expires_ms.min(self.sent_ms.saturating_add(timeout_ms))
    }
}

/// A parked entry: not deliverable before its due time.
pub(crate) fn parked(attempts: u32, due_ms: u64) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&attempts.to_le_bytes());
    out[4..].copy_from_slice(&due_ms.to_le_bytes());
    out
}

/// Attempts and due time of a parked entry.
pub(crate) fn parked_parts(bytes: &[u8]) -> (u32, u64) {
    (le32(bytes, 0), le64(bytes, 4))
}

record! {
    /// A lease, in the volatile environment.
    Lease, 16 bytes {
        /// Which environment holds it; 0 when nobody does and only the attempts are remembered.
        owner: u32 at 0,
        /// Attempts so far, this one included.
        attempts: u32 at 4,
        /// When it ends, in milliseconds of the store's clock.
        until_ms: u64 at 8,
    }
}

impl Lease {
    /// What is left of a lease: how often it was tried.
    pub(crate) fn ended(attempts: u32) -> Self {
        Lease {
            owner: 0,
            attempts,
            until_ms: NEVER,
        }
    }
}

record! {
    /// Where the leases of one queue stand, in the volatile environment.
    Front, 24 bytes {
        /// No entry before this sequence is both queued and free.
        next: u64 at 0,
        /// No lease ends before this.
        earliest_ms: u64 at 8,
        /// The queue's epoch for which `next` holds; in another one `next` is 0.
        epoch: u64 at 16,
    }
}

impl Front {
    /// As it is in this epoch of its queue: entries may have come back before a front of another one.
    pub(crate) fn in_epoch(self, epoch: u64) -> Self {
        let next = if self.epoch == epoch { self.next } else { 0 };
        Front {
            next,
            epoch,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_numbers_do() {
        let queue = QueueId(7);
        assert!(entry_key(queue, 255) < entry_key(queue, 256));
        assert!(entry_key(queue, NEVER) < entry_key(QueueId(8), 0));
        assert!(entry_key(QueueId(u32::MAX >> 1), NEVER) < entry_key(queue.dead(), 0));
        assert!(due_key(queue, 9, NEVER) < due_key(queue, 10, 0));
        assert_eq!(entry_seq(&entry_key(queue, 42)), 42);
        assert_eq!(due_parts(&due_key(queue, 5, 6)), (5, 6));
    }

    #[test]
    fn records_come_back_as_they_went() {
        let global = Global {
            next_seq: 3,
            next_queue: 4,
            config_version: 5,
            messages: 6,
            bytes: 7,
        };
        assert_eq!(Global::decode(&global.encode()), Ok(global));
        let count = Count {
            ready: 1,
            parked: 2,
            bytes: 3,
            epoch: 4,
        };
        assert_eq!(Count::decode(&count.encode()), count);
        let head = Head {
            refs: 1,
            len: 2,
            sent_ms: 3,
            expires_ms: NEVER,
        };
        assert_eq!(Head::decode(&head.encode()), head);
        let lease = Lease {
            owner: 1,
            attempts: 2,
            until_ms: 3,
        };
        assert_eq!(Lease::decode(&lease.encode()), lease);
        let front = Front {
            next: 1,
            earliest_ms: NEVER,
            epoch: 2,
        };
        assert_eq!(Front::decode(&front.encode()), front);
        assert_eq!(parked_parts(&parked(3, 9)), (3, 9));
    }

    #[test]
    fn another_format_is_told_apart_from_no_store() {
        let mut bytes = Global::new().encode();
        bytes[4] = 2;
        assert_eq!(
            Global::decode(&bytes),
            Err("format 2 found, 1 supported".to_owned())
        );
        assert!(
            Global::decode(b"hello")
                .unwrap_err()
                .contains("no persipubsub")
        );
    }

    #[test]
    fn the_earlier_of_two_expiries_counts() {
        let head = Head {
            refs: 1,
            len: 0,
            sent_ms: 100,
            expires_ms: 150,
        };
        assert_eq!(head.deadline(20), 120);
        assert_eq!(head.deadline(NEVER), 150);
    }
}

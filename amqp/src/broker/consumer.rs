//! One consumer: who gets the messages of a queue, and how many at once (pure).

use super::arena::Key;
use super::peer::Peer;
use super::queue::Queue;

/// One `basic.consume`.
pub(crate) struct Consumer {
    pub(crate) peer: Key<Peer>,
    pub(crate) channel: u16,
    pub(crate) queue: Key<Queue>,
    pub(crate) tag: Box<str>,
    /// Deliveries need no acknowledgement and count as settled when written.
    pub(crate) no_ack: bool,
    /// How many unsettled deliveries it may hold; 0 = no limit. Taken from the channel's qos at the consume.
    pub(crate) prefetch: u16,
    pub(crate) in_flight: u32,
    /// It stands in its queue's rotation.
    pub(crate) in_rotation: bool,
}

impl Consumer {
    /// Whether its prefetch leaves room for another delivery.
    #[inline]
    pub(crate) fn has_credit(&self) -> bool {
        self.no_ack || self.prefetch == 0 || self.in_flight < u32::from(self.prefetch)
    }
}

//! What a channel has been delivered and has not settled yet (pure).

use super::arena::Key;
use super::consumer::Consumer;
use super::queue::{Entry, Queue};
use std::collections::VecDeque;

/// One delivery that waits for its ack, nack or reject.
#[derive(Debug)]
pub(crate) struct Unacked {
    pub(crate) queue: Key<Queue>,
    /// `None`: it was fetched with `basic.get`.
    pub(crate) consumer: Option<Key<Consumer>>,
    pub(crate) entry: Entry,
}

/// Delivery tags and their deliveries, in the order of the tags.
///
/// Most acks name the oldest delivery, which is the front of the list. Others are found by bisection and leave a
/// hole; holes are removed at the front at once and elsewhere when they outnumber what is left, so a delivery that
/// is never settled does not make the list grow behind it.
#[derive(Default)]
pub(crate) struct Ledger {
    last_tag: u64,
    list: VecDeque<(u64, Option<Unacked>)>,
    live: usize,
}

impl Ledger {
    /// The tag for the next delivery, whether or not it will need an acknowledgement.
    #[inline]
    pub(crate) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// The tag that the next delivery will have, without using it up.
    pub(crate) fn upcoming_tag(&self) -> u64 {
        self.last_tag + 1
    }

    /// Records a delivery under the tag that was given out last.
    #[inline]
    pub(crate) fn record(&mut self, tag: u64, unacked: Unacked) {
        debug_assert_eq!(tag, self.last_tag);
        self.list.push_back((tag, Some(unacked)));
        self.live += 1;
    }

    /// Deliveries not yet settled.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// What the unsettled deliveries count for in memory.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        let live = self.list.iter().filter_map(|(_, unacked)| unacked.as_ref());
        live.map(|unacked| unacked.entry.message.share()).sum()
    }

    /// Settles one delivery. `None`: the tag is unknown or settled already.
    #[inline]
    pub(crate) fn take(&mut self, tag: u64) -> Option<Unacked> {
        let index = match self.list.front() {
            Some(&(first, _)) if first == tag => 0,
            _ => self.list.binary_search_by_key(&tag, |&(t, _)| t).ok()?,
        };
        let unacked = self.list[index].1.take()?;
        self.live -= 1;
        self.close_holes();
        Some(unacked)
    }

    /// Settles all deliveries up to `tag` (0: all there are), oldest first. `None`: the tag itself is unknown or
    /// settled already, and nothing happens.
    pub(crate) fn take_up_to(&mut self, tag: u64) -> Option<Vec<Unacked>> {
        let end = match tag {
            0 => self.list.len(),
            _ => {
                let index = self.list.binary_search_by_key(&tag, |&(t, _)| t).ok()?;
                self.list[index].1.as_ref()?;
                index + 1
            }
        };
        let taken: Vec<Unacked> = self.list.drain(..end).filter_map(|(_, u)| u).collect();
        self.live -= taken.len();
        self.close_holes();
        Some(taken)
    }

    #[inline]
    fn close_holes(&mut self) {
        while let Some((_, None)) = self.list.front() {
            self.list.pop_front();
        }
        if self.list.len() > 2 * self.live + 64 {
            self.list.retain(|(_, unacked)| unacked.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::message;
    use super::*;
    use crate::testing::Random;
    use std::collections::BTreeMap;

    fn unacked(position: u64) -> Unacked {
        Unacked {
            queue: Key::from_bits(0),
            consumer: None,
            entry: Entry {
                position,
                message: message("k", b""),
                redelivered: false,
                expires: super::super::queue::NEVER,
            },
        }
    }

    /// Against a map from tag to delivery, over random mixes.
    #[test]
    fn agrees_with_a_map() {
        for seed in 0..200u64 {
            let mut random = Random(seed);
            let mut next = |limit: u64| random.next() % limit;
            let (mut ledger, mut map) = (Ledger::default(), BTreeMap::new());
            for step in 0..600 {
                match next(8) {
                    0..=3 => {
                        let tag = ledger.next_tag();
                        ledger.record(tag, unacked(step));
                        map.insert(tag, step);
                    }
                    4..=6 => {
                        let tag = next(step + 2);
                        let got = ledger.take(tag).map(|u| u.entry.position);
                        assert_eq!(got, map.remove(&tag), "seed {seed}");
                    }
                    _ => {
                        let tag = next(step + 2);
                        let expected = (tag == 0 || map.contains_key(&tag)).then(|| {
                            let limit = if tag == 0 { u64::MAX } else { tag };
                            let rest = map.split_off(&limit.saturating_add(1));
                            std::mem::replace(&mut map, rest).into_values().collect()
                        });
                        let got: Option<Vec<u64>> = ledger
                            .take_up_to(tag)
                            .map(|list| list.iter().map(|u| u.entry.position).collect());
                        assert_eq!(got, expected, "seed {seed}");
                    }
                }
                assert_eq!(ledger.len(), map.len(), "seed {seed}");
                assert!(ledger.list.len() <= 2 * ledger.live + 64);
            }
        }
    }
}

//! One queue: what is ready, what came back, and who may be served (pure).

use super::arena::Key;
use super::consumer::Consumer;
use super::message::Message;
use super::peer::Peer;
use crate::protocol::FieldTable;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A message in one queue.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its place in the order of arrival; never used twice in a queue.
    pub(crate) position: u64,
    pub(crate) message: Message,
    /// It has been delivered before, so that somebody may have acted on it.
    pub(crate) redelivered: bool,
    /// After this millisecond of the node's clock it is dropped instead of delivered.
    pub(crate) expires: u64,
}

/// [`Entry::expires`] of a message that lives until it is settled.
pub(crate) const NEVER: u64 = u64::MAX;

/// What a queue was declared with; a declaration of the same name must agree (406).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueueOptions {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: FieldTable,
}

/// One queue.
///
/// A message that is given back was taken from the front, so it is older than everything in `ready`. That is why
/// two parts are enough for "back to its original position": `returned`, in order of position, is served before
/// `ready`, and neither ever needs an insertion in the middle.
pub(crate) struct Queue {
    pub(crate) name: Rc<str>,
    /// The store's name for it; never used twice.
    pub(crate) id: u64,
    pub(crate) options: QueueOptions,
    /// The connection an exclusive queue belongs to.
    pub(crate) owner: Option<Key<Peer>>,
    ready: VecDeque<Entry>,
    returned: BTreeMap<u64, Entry>,
    next_position: u64,
    /// Delivered and not yet settled, over all channels.
    pub(crate) unacked: usize,
    pub(crate) consumers: Vec<Key<Consumer>>,
    /// Consumers that can take a message now, in the order in which they are served. The others come back when
    /// they acknowledge or when their connection has written what it holds.
    pub(crate) rotation: VecDeque<Key<Consumer>>,
    /// Its one consumer asked to be alone.
    pub(crate) has_exclusive_consumer: bool,
    /// It stands in the list of queues to look at in this turn.
    pub(crate) is_scheduled: bool,
    /// `x-message-ttl`, in milliseconds.
    pub(crate) message_ttl: Option<u64>,
    /// `x-expires`, in milliseconds: how long the queue lives without a consumer, a get or a declaration.
    pub(crate) expires_after: Option<u64>,
    /// The millisecond of the last such use.
    pub(crate) last_used: u64,
    /// It stands in the list of queues that time acts on.
    pub(crate) is_timed: bool,
}

impl Queue {
    pub(crate) fn new(name: Rc<str>, id: u64, options: QueueOptions) -> Self {
        Queue {
            name,
            id,
            options,
            owner: None,
            ready: VecDeque::new(),
            returned: BTreeMap::new(),
            next_position: 0,
            unacked: 0,
            consumers: Vec::new(),
            rotation: VecDeque::new(),
            has_exclusive_consumer: false,
            is_scheduled: false,
            message_ttl: None,
            expires_after: None,
            last_used: 0,
            is_timed: false,
        }
    }

    /// Whether it survives a restart: an exclusive queue ends with its connection, so it never does.
    #[inline]
    pub(crate) fn is_lasting(&self) -> bool {
        self.options.durable && !self.options.exclusive
    }

    /// The position of the next message to come.
    pub(crate) fn next_position(&self) -> u64 {
        self.next_position
    }

    /// Messages ready for delivery.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.returned.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.returned.is_empty()
    }

    /// Takes a new message in at the end.
    #[inline]
    pub(crate) fn push(&mut self, message: Message, expires: u64) {
        self.ready.push_back(Entry {
            position: self.next_position,
            message,
            redelivered: false,
            expires,
        });
        self.next_position += 1;
    }

    /// Takes the oldest message out. Its delivery is counted with [`Queue::unacked`] by whoever keeps it.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        if !self.returned.is_empty() {
            return self.returned.pop_first().map(|(_, entry)| entry);
        }
        let entry = self.ready.pop_front();
        // A burst that has passed should not hold its memory for ever.
        if self.ready.is_empty() && self.ready.capacity() > 1 << 16 {
            self.ready = VecDeque::new();
        }
        entry
    }

    /// The oldest message, which [`Queue::pop`] would take.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<&Entry> {
        match self.returned.first_key_value() {
            Some((_, entry)) => Some(entry),
            None => self.ready.front(),
        }
    }

    /// Takes the oldest message out if its time has passed. One behind it waits until it is the oldest itself, as
    /// on RabbitMQ.
    pub(crate) fn pop_expired(&mut self, now: u64) -> Option<Entry> {
        if now > self.oldest()?.expires {
            self.pop()
        } else {
            None
        }
    }

    /// Takes a delivered message back to its original position, marked as redelivered.
    pub(crate) fn put_back(&mut self, mut entry: Entry) {
        debug_assert!(
            self.ready
                .front()
                .is_none_or(|e| entry.position < e.position)
        );
        entry.redelivered = true;
        self.returned.insert(entry.position, entry);
    }

    /// Removes one message that is still ready: the store could not take it.
    pub(crate) fn remove(&mut self, position: u64) -> Option<Entry> {
        if let Some(entry) = self.returned.remove(&position) {
            return Some(entry);
        }
        let index = self
            .ready
            .binary_search_by_key(&position, |entry| entry.position)
            .ok()?;
        self.ready.remove(index)
    }

    /// Takes out all ready messages.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> {
        let returned = std::mem::take(&mut self.returned);
        let ready = std::mem::take(&mut self.ready);
        returned.into_values().chain(ready)
    }

    /// Leaves a consumer out of everything.
    pub(crate) fn forget_consumer(&mut self, key: Key<Consumer>) {
        self.consumers.retain(|&other| other != key);
        self.rotation.retain(|&other| other != key);
        self.has_exclusive_consumer = self.has_exclusive_consumer && !self.consumers.is_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::message;
    use super::*;
    use crate::testing::Random;

    pub(crate) fn queue() -> Queue {
        let options = QueueOptions {
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
        };
        Queue::new("q".into(), 1, options)
    }

    /// The naive queue: one sorted list.
    #[derive(Default)]
    struct Naive {
        ready: Vec<(u64, bool)>,
        next: u64,
    }

    /// Any mix of push, pop, give back and remove leaves the same order as one sorted list.
    #[test]
    fn agrees_with_a_sorted_list() {
        for seed in 0..300u64 {
            let mut random = Random(seed);
            let mut next = |limit: u64| random.next() % limit;
            let (mut queue, mut naive) = (queue(), Naive::default());
            let mut out: Vec<Entry> = Vec::new();
            for _ in 0..400 {
                match next(5) {
                    0 | 1 => {
                        assert_eq!(queue.next_position(), naive.next, "seed {seed}");
                        queue.push(message("k", b""), NEVER);
                        naive.ready.push((naive.next, false));
                        naive.next += 1;
                    }
                    2 => {
                        let expected = (!naive.ready.is_empty()).then(|| naive.ready.remove(0));
                        let entry = queue.pop();
                        let got = entry.as_ref().map(|e| (e.position, e.redelivered));
                        assert_eq!(got, expected, "seed {seed}");
                        out.extend(entry);
                    }
                    3 if !out.is_empty() => {
                        let entry = out.swap_remove(next(out.len() as u64) as usize);
                        naive.ready.push((entry.position, true));
                        naive.ready.sort_unstable();
                        queue.put_back(entry);
                    }
                    _ if naive.next > 0 => {
                        let position = next(naive.next);
                        let at = naive.ready.iter().position(|e| e.0 == position);
                        let removed = queue.remove(position);
                        assert_eq!(removed.is_some(), at.is_some(), "seed {seed}");
                        at.map(|at| naive.ready.remove(at));
                    }
                    _ => {}
                }
                assert_eq!(queue.len(), naive.ready.len(), "seed {seed}");
            }
            let left: Vec<_> = queue.drain().map(|e| (e.position, e.redelivered)).collect();
            assert_eq!(left, naive.ready, "seed {seed}");
            assert!(queue.is_empty());
        }
    }
}

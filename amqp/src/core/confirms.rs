//! Which publishes of a channel are confirmed.
//!
//! Publishes are numbered from 1 (RabbitMQ's publisher confirms); the server settles them singly or, with
//! `multiple`, all up to a number. The slots stand in a ring from the oldest one that somebody may still ask about;
//! nothing is allocated per publish. A message that came back is matched to its publish by a fingerprint, because a
//! `basic.return` carries no number.

use crate::error::Returned;
use std::collections::VecDeque;
use std::hash::Hasher;
use std::task::{Poll, Waker};

/// What the server said about one publish.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has taken responsibility.
    Acked,
    /// It could not.
    Nacked,
    /// No queue took it, and it came back.
    Returned(Box<Returned>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Pending,
    Acked,
    Nacked,
}

struct Slot {
    state: State,
    /// Nobody asks about it any more.
    done: bool,
    waker: Option<Waker>,
    /// Set for mandatory publishes only.
    mandatory: Option<Box<Mandatory>>,
}

struct Mandatory {
    fingerprint: u64,
    returned: Option<Box<Returned>>,
}

/// The confirms of one channel.
#[derive(Default)]
pub struct Confirms {
    /// Number of the slot at the front of the ring.
    base: u64,
    slots: VecDeque<Slot>,
    /// All below this number are settled.
    first_pending: u64,
    pending: usize,
}

/// The server confirmed a number that was never published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownNumber(pub u64);

impl Confirms {
    /// Confirms of a channel on which nothing was published yet.
    pub fn new() -> Self {
        Confirms {
            base: 1,
            slots: VecDeque::new(),
            first_pending: 1,
            pending: 0,
        }
    }

    /// How many publishes are not settled yet.
    pub fn pending(&self) -> usize {
        self.pending
    }

    fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// A message goes out; returns its number. Mandatory ones come with their [`fingerprint`].
    #[inline]
    pub fn publish(&mut self, fingerprint: Option<u64>) -> u64 {
        let number = self.next();
        let mandatory = fingerprint.map(|fingerprint| {
            Box::new(Mandatory {
                fingerprint,
                returned: None,
            })
        });
        self.slots.push_back(Slot {
            state: State::Pending,
            done: false,
            waker: None,
            mandatory,
        });
        self.pending += 1;
        number
    }

    /// The server settled `number`, or with `multiple` all up to it (0 = all there are).
    ///
    /// # Errors
    /// [`UnknownNumber`] if it was never published. Settling one twice has no effect.
    #[inline]
    pub fn settle(
        &mut self,
        number: u64,
        multiple: bool,
        acked: bool,
    ) -> Result<(), UnknownNumber> {
        let number = if multiple && number == 0 {
            self.next() - 1
        } else {
            number
        };
        if number >= self.next() {
            return Err(UnknownNumber(number));
        }
        let first = if multiple { self.first_pending } else { number };
        for each in first..=number {
            self.settle_one(each, acked);
        }
        if first <= self.first_pending {
            self.first_pending = self.first_pending.max(number + 1);
        }
        self.drop_done();
        Ok(())
    }

    #[inline]
    fn settle_one(&mut self, number: u64, acked: bool) {
        let Some(slot) = number
            .checked_sub(self.base)
            .and_then(|at| self.slots.get_mut(at as usize))
        else {
            return; // settled and asked about before
        };
        if slot.state == State::Pending {
            slot.state = if acked { State::Acked } else { State::Nacked };
            self.pending -= 1;
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    /// A message came back. Gives it back if no pending publish has its fingerprint.
    pub fn returned(&mut self, fingerprint: u64, returned: Box<Returned>) -> Option<Box<Returned>> {
        let from = self.first_pending.saturating_sub(self.base) as usize;
        let slot = self.slots.iter_mut().skip(from).find(|slot| {
            slot.state == State::Pending
                && slot
                    .mandatory
                    .as_ref()
                    .is_some_and(|m| m.fingerprint == fingerprint && m.returned.is_none())
        });
        match slot.and_then(|slot| slot.mandatory.as_mut()) {
            Some(mandatory) => {
                mandatory.returned = Some(returned);
                None
            }
            None => Some(returned),
        }
    }

    /// Asks about a publish. Once the answer was given, its number is forgotten.
    #[inline]
    pub fn poll(&mut self, number: u64, waker: &Waker) -> Poll<Outcome> {
        match self.take(number) {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                self.slot(number).waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    /// [`Confirms::poll`] without waiting.
    #[inline]
    pub fn take(&mut self, number: u64) -> Option<Outcome> {
        let slot = self.slot(number);
        let outcome = match slot.state {
            State::Pending => return None,
            State::Nacked => Outcome::Nacked,
            State::Acked => match slot.mandatory.take().and_then(|m| m.returned) {
                Some(returned) => Outcome::Returned(returned),
                None => Outcome::Acked,
            },
        };
        slot.done = true;
        self.drop_done();
        Some(outcome)
    }

    /// Nobody will ask about this publish any more.
    pub fn abandon(&mut self, number: u64) {
        let slot = self.slot(number);
        slot.done = true;
        slot.waker = None;
        self.drop_done();
    }

    /// Wakes all that wait, for the channel is closed and they shall see it.
    pub fn wake_all(&mut self) {
        for slot in &mut self.slots {
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    fn slot(&mut self, number: u64) -> &mut Slot {
        let at = number
            .checked_sub(self.base)
            .expect("a number is asked about until it is done, not longer");
        &mut self.slots[at as usize]
    }

    #[inline]
    fn drop_done(&mut self) {
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.done && slot.state != State::Pending)
        {
            self.slots.pop_front();
            self.base += 1;
        }
        self.first_pending = self.first_pending.max(self.base);
    }
}

/// Tells one mandatory message from another. Two with the same fingerprint are, for all practical purposes, the
/// same message twice, and then it does not matter which of the two came back.
pub fn fingerprint(exchange: &str, routing_key: &str, body: &[u8]) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(exchange.as_bytes());
    hasher.write_u8(0xFF);
    hasher.write(routing_key.as_bytes());
    hasher.write_usize(body.len());
    hasher.write(body);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn ask(confirms: &mut Confirms, number: u64) -> Option<Outcome> {
        match confirms.poll(number, Waker::noop()) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    #[test]
    fn multiple_settles_all_up_to_the_number_and_no_more() {
        let mut confirms = Confirms::new();
        for number in 1..=5 {
            assert_eq!(confirms.publish(None), number);
        }
        confirms.settle(2, false, false).unwrap();
        confirms.settle(4, true, true).unwrap();
        assert_eq!(confirms.pending(), 1);
        assert_eq!(ask(&mut confirms, 1), Some(Outcome::Acked));
        assert_eq!(ask(&mut confirms, 2), Some(Outcome::Nacked));
        assert_eq!(ask(&mut confirms, 4), Some(Outcome::Acked));
        assert_eq!(ask(&mut confirms, 5), None);
        assert_eq!(confirms.settle(6, false, true), Err(UnknownNumber(6)));
        confirms.settle(0, true, true).unwrap();
        assert_eq!(ask(&mut confirms, 5), Some(Outcome::Acked));
        assert_eq!(ask(&mut confirms, 3), Some(Outcome::Acked));
        assert!(confirms.slots.is_empty());
    }

    #[test]
    fn a_returned_message_finds_its_publish() {
        let mut confirms = Confirms::new();
        let (a, b) = (fingerprint("", "a", b"x"), fingerprint("", "b", b"x"));
        confirms.publish(Some(a));
        confirms.publish(Some(b));
        let returned = || {
            Box::new(Returned {
                code: 312,
                text: "NO_ROUTE".into(),
                exchange: String::new(),
                routing_key: "b".into(),
                properties: Default::default(),
                body: b"x".to_vec(),
            })
        };
        assert_eq!(confirms.returned(b, returned()), None);
        assert!(
            confirms.returned(b, returned()).is_some(),
            "there was only one such message"
        );
        confirms.settle(2, true, true).unwrap();
        assert_eq!(ask(&mut confirms, 1), Some(Outcome::Acked));
        assert_eq!(ask(&mut confirms, 2), Some(Outcome::Returned(returned())));
    }

    #[test]
    fn abandoned_numbers_leave_nothing_behind() {
        let mut confirms = Confirms::new();
        for _ in 0..1000 {
            let number = confirms.publish(None);
            confirms.abandon(number);
        }
        assert_eq!(confirms.pending(), 1000);
        confirms.settle(1000, true, true).unwrap();
        assert!(confirms.slots.is_empty());
        assert_eq!(confirms.pending(), 0);
    }

    /// The ring against a naive map, in random orders from seeds.
    #[test]
    fn agrees_with_a_naive_version() {
        for seed in 0..200u64 {
            let mut dice = Random(seed);
            let mut random = |limit: u64| dice.next() % limit;
            let mut confirms = Confirms::new();
            let mut naive: Vec<(Option<bool>, bool)> = Vec::new(); // (settled how, asked about)
            for _ in 0..300 {
                match random(4) {
                    0 | 1 => {
                        confirms.publish(None);
                        naive.push((None, false));
                    }
                    2 if !naive.is_empty() => {
                        let number = 1 + random(naive.len() as u64);
                        let (multiple, acked) = (random(2) == 0, random(4) > 0);
                        confirms.settle(number, multiple, acked).unwrap();
                        let first = if multiple { 1 } else { number };
                        for each in first..=number {
                            naive[each as usize - 1].0.get_or_insert(acked);
                        }
                    }
                    _ => {
                        for (index, (settled, asked)) in
                            naive.iter_mut().enumerate().filter(|(_, n)| !n.1)
                        {
                            let answer = ask(&mut confirms, index as u64 + 1);
                            let expected = settled.map(|acked| {
                                if acked {
                                    Outcome::Acked
                                } else {
                                    Outcome::Nacked
                                }
                            });
                            assert_eq!(answer, expected, "seed {seed}");
                            *asked = answer.is_some();
                        }
                    }
                }
                assert_eq!(
                    confirms.pending(),
                    naive.iter().filter(|n| n.0.is_none()).count()
                );
            }
        }
    }
}

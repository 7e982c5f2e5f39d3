//! Which deliveries of a channel are settled, and how few acks say so.
//!
//! The consumer of a delivery calls ack in whatever order the work ends; the ledger notes it, and once per turn of
//! the loop [`Ledger::collect`] says which frames to send. Where the acked ones form an unbroken run from the
//! oldest unsettled delivery, one ack with `multiple` covers them. Its tag must itself be unsettled up to now, and
//! all below it settled or covered: RabbitMQ closes the channel when the top tag of a `multiple` is unknown, and a
//! `multiple` over a delivery still being worked on would lose it. All other acks go out one by one.

use crate::codec::Ack;
use std::collections::{BTreeSet, VecDeque};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unsettled,
    /// Acked by the consumer, not yet told to the server.
    Acked,
    Settled,
}

/// The deliveries of one channel.
#[derive(Default)]
pub struct Ledger {
    /// Tag of the delivery at the front of the ring.
    base: u64,
    ring: VecDeque<State>,
    /// Unsettled deliveries that became too old for the ring: one slow job must not make it grow for ever.
    old: BTreeSet<u64>,
    /// Acks not yet told, in order of the call.
    fresh: Vec<u64>,
    /// The newest delivery needed no ack.
    newest_is_free: bool,
}

/// The ring's length from which old unsettled deliveries move out of it.
const RING_MAX: usize = 4096;

/// The delivery is not outstanding on this channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOutstanding;

/// The server skipped or repeated a delivery tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfOrder {
    /// The tag that was due.
    pub expected: u64,
}

impl Ledger {
    /// The ledger of a channel without deliveries.
    pub fn new() -> Self {
        Ledger {
            base: 1,
            ..Ledger::default()
        }
    }

    /// A delivery came; `settled` if it needs no ack.
    ///
    /// # Errors
    /// [`OutOfOrder`] if its tag is not the next one.
    #[inline]
    pub fn received(&mut self, tag: u64, settled: bool) -> Result<(), OutOfOrder> {
        let mut expected = self.base + self.ring.len() as u64;
        if tag.checked_add(1) == Some(expected) && self.newest_is_free {
            // RabbitMQ sends a direct reply with the tag that the delivery after it has too.
            if self.ring.pop_back().is_none() {
                self.base -= 1;
            }
            expected = tag;
        }
        if tag != expected {
            return Err(OutOfOrder { expected });
        }
        self.newest_is_free = settled;
        if settled && self.ring.is_empty() {
            self.base += 1;
            return Ok(());
        }
        self.ring.push_back(if settled {
            State::Settled
        } else {
            State::Unsettled
        });
        if self.ring.len() > RING_MAX {
            self.retire_front();
        }
        Ok(())
    }

    fn retire_front(&mut self) {
        // Acked ones at the front are told at the end of this turn and leave the ring by themselves.
        if self.ring.front() == Some(&State::Unsettled) {
            self.old.insert(self.base);
            self.ring.pop_front();
            self.base += 1;
            self.drop_settled();
        }
    }

    fn state(&mut self, tag: u64) -> Option<&mut State> {
        let at = tag.checked_sub(self.base)?;
        self.ring.get_mut(usize::try_from(at).ok()?)
    }

    #[inline]
    fn mark(&mut self, tag: u64, as_state: State) -> Result<(), NotOutstanding> {
        if let Some(state @ State::Unsettled) = self.state(tag) {
            *state = as_state;
            return Ok(());
        }
        if self.old.remove(&tag) {
            Ok(())
        } else {
            Err(NotOutstanding)
        }
    }

    /// Notes an ack, to be told by the next [`Ledger::collect`].
    ///
    /// # Errors
    /// [`NotOutstanding`] if the delivery is settled or was never made.
    #[inline]
    pub fn ack(&mut self, tag: u64) -> Result<(), NotOutstanding> {
        self.mark(tag, State::Acked)?;
        self.fresh.push(tag);
        Ok(())
    }

    /// Notes that a delivery is being nacked or rejected right now, by a frame of its own.
    ///
    /// # Errors
    /// [`NotOutstanding`] if the delivery is settled or was never made.
    pub fn settle(&mut self, tag: u64) -> Result<(), NotOutstanding> {
        self.mark(tag, State::Settled)?;
        self.drop_settled();
        Ok(())
    }

    /// Notes that all deliveries up to `tag` are being settled by one frame with `multiple`. Acks noted and not
    /// told yet are covered by it too.
    ///
    /// # Errors
    /// [`NotOutstanding`] if `tag` itself is not: the server would close the channel.
    pub fn settle_through(&mut self, tag: u64) -> Result<(), NotOutstanding> {
        if !matches!(self.state(tag), Some(State::Unsettled)) && !self.old.contains(&tag) {
            return Err(NotOutstanding);
        }
        self.old.retain(|&old| old > tag);
        self.fresh.retain(|&fresh| fresh > tag);
        let covered = (tag + 1).saturating_sub(self.base) as usize;
        for state in self.ring.iter_mut().take(covered) {
            *state = State::Settled;
        }
        self.drop_settled();
        Ok(())
    }

    /// The server has taken all deliveries back. Acks noted and not told yet are void.
    pub fn forget_all(&mut self) {
        self.base += self.ring.len() as u64;
        self.ring.clear();
        self.old.clear();
        self.fresh.clear();
    }

    /// How many deliveries are neither settled nor acked.
    pub fn unsettled(&self) -> usize {
        self.old.len()
            + self
                .ring
                .iter()
                .filter(|&&state| state == State::Unsettled)
                .count()
    }

    /// Gives the acks to send now, as few as is correct, to `emit`.
    #[inline]
    pub fn collect(&mut self, mut emit: impl FnMut(Ack)) {
        let through = if self.fresh.len() > 1 && self.old.is_empty() {
            self.covered_run()
        } else {
            None
        };
        if let Some(top) = through {
            emit(Ack {
                delivery_tag: top,
                multiple: true,
            });
        }
        let covered = through.unwrap_or(0);
        for at in 0..self.fresh.len() {
            let tag = self.fresh[at];
            if tag > covered {
                emit(Ack {
                    delivery_tag: tag,
                    multiple: false,
                });
            }
            if let Some(state) = self.state(tag) {
                *state = State::Settled;
            }
        }
        self.fresh.clear();
        self.drop_settled();
    }

    /// The highest acked tag below which nothing is unsettled, if it stands for two acks or more.
    fn covered_run(&self) -> Option<u64> {
        let mut acked = 0;
        let mut top = 0;
        for (index, state) in self.ring.iter().enumerate() {
            match state {
                State::Unsettled => break,
                State::Settled => {}
                State::Acked => {
                    acked += 1;
                    top = self.base + index as u64;
                }
            }
        }
        (acked > 1).then_some(top)
    }

    #[inline]
    fn drop_settled(&mut self) {
        while self.ring.front() == Some(&State::Settled) {
            self.ring.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn collect(ledger: &mut Ledger) -> Vec<(u64, bool)> {
        let mut acks = Vec::new();
        ledger.collect(|ack| acks.push((ack.delivery_tag, ack.multiple)));
        acks
    }

    fn with_deliveries(count: u64) -> Ledger {
        let mut ledger = Ledger::new();
        for tag in 1..=count {
            ledger.received(tag, false).unwrap();
        }
        ledger
    }

    /// `olive send --wait` for several jobs broke on RabbitMQ 3.10: its direct replies do not use
    /// up their delivery tags.
    #[test]
    fn direct_replies_may_repeat_their_tag() {
        let mut ledger = Ledger::new();
        ledger.received(1, true).unwrap();
        ledger.received(1, true).unwrap();
        ledger.received(1, false).unwrap();
        assert_eq!(ledger.received(1, true), Err(OutOfOrder { expected: 2 }));
        ledger.received(2, true).unwrap();
        ledger.received(2, false).unwrap();
        ledger.received(3, false).unwrap();
        assert_eq!(ledger.unsettled(), 3);
        for tag in 1..=3 {
            ledger.ack(tag).unwrap();
        }
        assert_eq!(ledger.unsettled(), 0);
    }

    #[test]
    fn a_run_from_the_oldest_becomes_one_multiple() {
        let mut ledger = with_deliveries(5);
        for tag in [3, 1, 2, 5] {
            ledger.ack(tag).unwrap();
        }
        assert_eq!(collect(&mut ledger), [(3, true), (5, false)]);
        ledger.ack(4).unwrap();
        assert_eq!(collect(&mut ledger), [(4, false)]);
        assert_eq!(ledger.unsettled(), 0);
        assert!(ledger.ring.is_empty());
    }

    #[test]
    fn the_top_of_a_multiple_is_never_settled_before() {
        let mut ledger = with_deliveries(4);
        ledger.settle(3).unwrap(); // nacked
        ledger.ack(1).unwrap();
        ledger.ack(2).unwrap();
        // 3 is settled: the run ends at 2, although nothing unsettled stands before 4.
        assert_eq!(collect(&mut ledger), [(2, true)]);
        assert_eq!(ledger.ack(3), Err(NotOutstanding));
        assert_eq!(ledger.ack(2), Err(NotOutstanding));
        assert_eq!(ledger.ack(5), Err(NotOutstanding));
    }

    #[test]
    fn a_tag_out_of_order_is_noticed() {
        let mut ledger = with_deliveries(2);
        assert_eq!(ledger.received(2, false), Err(OutOfOrder { expected: 3 }));
        assert_eq!(
            ledger.received(u64::MAX, false),
            Err(OutOfOrder { expected: 3 })
        );
    }

    #[test]
    fn one_slow_job_does_not_make_the_ledger_grow() {
        let mut ledger = with_deliveries(1);
        for tag in 2..100_000 {
            ledger.received(tag, false).unwrap();
            ledger.ack(tag).unwrap();
            let acks = collect(&mut ledger);
            assert_eq!(acks, [(tag, false)]);
        }
        assert!(ledger.ring.len() <= RING_MAX + 1);
        ledger.received(100_000, false).unwrap();
        ledger.ack(100_000).unwrap();
        ledger.ack(1).unwrap();
        assert_eq!(collect(&mut ledger).len(), 2);
        assert_eq!(ledger.unsettled(), 0);
    }

    #[test]
    fn settle_through_covers_acks_not_told_yet() {
        let mut ledger = with_deliveries(4);
        ledger.ack(1).unwrap();
        ledger.settle_through(3).unwrap();
        assert_eq!(collect(&mut ledger), []);
        assert_eq!(ledger.settle_through(2), Err(NotOutstanding));
        assert_eq!(ledger.unsettled(), 1);
    }

    /// Whatever the order of completion, a server that checks strictly ends with the same deliveries settled.
    #[test]
    fn a_strict_server_agrees_in_every_order() {
        for seed in 0..500u64 {
            let mut dice = Random(seed);
            let mut random = |limit: u64| dice.next() % limit;
            let mut ledger = Ledger::new();
            let mut server: BTreeSet<u64> = BTreeSet::new(); // outstanding at the server
            let mut ours: Vec<u64> = Vec::new(); // outstanding at the consumer
            let mut next = 1;
            for _ in 0..400 {
                match random(5) {
                    0 | 1 => {
                        let no_ack = random(10) == 0;
                        ledger.received(next, no_ack).unwrap();
                        if !no_ack {
                            server.insert(next);
                            ours.push(next);
                        }
                        next += 1;
                    }
                    2 | 3 if !ours.is_empty() => {
                        let tag = ours.remove(random(ours.len() as u64) as usize);
                        if random(6) == 0 {
                            ledger.settle(tag).unwrap();
                            assert!(server.remove(&tag));
                        } else {
                            ledger.ack(tag).unwrap();
                        }
                    }
                    _ => {
                        ledger.collect(|ack| {
                            assert!(
                                server.contains(&ack.delivery_tag),
                                "seed {seed}: unknown top tag"
                            );
                            if ack.multiple {
                                server.retain(|&tag| tag > ack.delivery_tag);
                            } else {
                                server.remove(&ack.delivery_tag);
                            }
                        });
                        assert!(
                            server.iter().eq(ours.iter().collect::<BTreeSet<_>>()),
                            "seed {seed}"
                        );
                    }
                }
            }
        }
    }
}

//! Which publishes of a channel are safe, in the order in which the producer must hear of it (pure).

use std::collections::VecDeque;

/// Numbers publishes from 1 on and releases them in order, as few acks as possible.
///
/// A publish that must be stored waits for the batch it went into; one that need not waits only for those before
/// it. Runs of publishes that wait for the same batch are one element, so a burst costs no memory.
#[derive(Default)]
pub(crate) struct Confirms {
    last: u64,
    /// (last publish of the run, the batch it waits for); batches ascend.
    runs: VecDeque<(u64, u64)>,
    /// Publishes that the store could not take, ascending; none of them released yet.
    refused: Vec<u64>,
    released: u64,
}

/// What to tell the producer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All up to this publish that were not refused are safe.
    Ack { up_to: u64, multiple: bool },
    /// This one is not.
    Nack(u64),
}

impl Confirms {
    /// Counts a publish that is safe once `batch` is stored.
    #[inline]
    pub(crate) fn push(&mut self, batch: u64) -> u64 {
        self.last += 1;
        match self.runs.back_mut() {
            // It may not be released before its predecessor, so it can wait with it.
            Some((last, waits_for)) if *waits_for >= batch => *last = self.last,
            _ => self.runs.push_back((self.last, batch)),
        }
        self.last
    }

    /// The number the next publish will have.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// The store could not take this publish.
    pub(crate) fn refuse(&mut self, publish: u64) {
        if let Err(index) = self.refused.binary_search(&publish) {
            self.refused.insert(index, publish);
        }
    }

    /// Whether a publish is still unanswered.
    pub(crate) fn is_waiting(&self) -> bool {
        self.released < self.last
    }

    /// Everything that can be said now that all batches up to `stored` are done.
    pub(crate) fn release(&mut self, stored: u64, mut say: impl FnMut(Verdict)) {
        let mut safe = self.released;
        while let Some(&(last, batch)) = self.runs.front()
            && batch <= stored
        {
            safe = last;
            self.runs.pop_front();
        }
        let refused = self.refused.partition_point(|&publish| publish <= safe);
        for publish in self.refused.drain(..refused) {
            ack(&mut self.released, publish - 1, &mut say);
            say(Verdict::Nack(publish));
            self.released = publish;
        }
        ack(&mut self.released, safe, &mut say);
    }
}

fn ack(released: &mut u64, up_to: u64, say: &mut impl FnMut(Verdict)) {
    if up_to > *released {
        say(Verdict::Ack {
            up_to,
            multiple: up_to > *released + 1,
        });
        *released = up_to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(confirms: &mut Confirms, stored: u64) -> Vec<Verdict> {
        let mut said = Vec::new();
        confirms.release(stored, |verdict| said.push(verdict));
        said
    }

    fn ack(up_to: u64, multiple: bool) -> Verdict {
        Verdict::Ack { up_to, multiple }
    }

    #[test]
    fn a_burst_is_one_ack_and_one_run() {
        let mut confirms = Confirms::default();
        for _ in 0..1000 {
            confirms.push(0);
        }
        assert_eq!(confirms.runs.len(), 1);
        assert_eq!(release(&mut confirms, 0), [ack(1000, true)]);
        assert!(!confirms.is_waiting());
        confirms.push(0);
        assert_eq!(release(&mut confirms, 0), [ack(1001, false)]);
    }

    #[test]
    fn one_that_need_not_wait_stays_behind_one_that_must() {
        let mut confirms = Confirms::default();
        confirms.push(0);
        confirms.push(7);
        confirms.push(0);
        confirms.push(8);
        assert_eq!(release(&mut confirms, 6), [ack(1, false)]);
        assert_eq!(release(&mut confirms, 7), [ack(3, true)]);
        assert_eq!(release(&mut confirms, 7), []);
        assert_eq!(release(&mut confirms, 8), [ack(4, false)]);
    }

    #[test]
    fn refused_ones_are_named_one_by_one_in_their_place() {
        let mut confirms = Confirms::default();
        for _ in 0..5 {
            confirms.push(1);
        }
        confirms.refuse(4);
        confirms.refuse(2);
        assert_eq!(release(&mut confirms, 0), []);
        let expected = [
            ack(1, false),
            Verdict::Nack(2),
            ack(3, false),
            Verdict::Nack(4),
            ack(5, false),
        ];
        assert_eq!(release(&mut confirms, 1), expected);
    }
}

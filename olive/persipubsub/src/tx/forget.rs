//! Forgetting: what has expired, and whole ranges.

use super::{Soonest, Tx};
use crate::error::Result;
use crate::record::{Count, Head, QueueId, be64, entry_key, entry_seq, span};

impl Tx<'_> {
    /// Removes up to `limit` expired entries from the front of a queue.
    pub(super) fn expire(&mut self, queue: QueueId, limit: usize) -> Result<u64> {
        let timeout_ms = self.config.limits.hwm.timeout_ms();
        let mut expired = Vec::new();
        for entry in self.trees.entries(&self.txn, queue, 0)?.take(limit) {
            let (seq, _) = entry?;
            match self.trees.head(&self.txn, seq)? {
                Some(head) if head.deadline(timeout_ms) > self.now_ms => break,
                _ => expired.push(seq),
            }
        }
        self.ack(queue, &expired)
    }

    /// Removes every expired entry, wherever it stands (a message may outlive its elders).
    pub(super) fn expire_all(&mut self) -> Result<u64> {
        let timeout_ms = self.config.limits.hwm.timeout_ms();
        let mut expired = Vec::new();
        let mut deadline_ms = u64::MAX;
        for entry in self.trees.messages.iter(&self.txn)? {
            let (key, value) = entry?;
            match Head::decode(value).deadline(timeout_ms) {
                deadline if deadline <= self.now_ms => expired.push(be64(key)),
                deadline => deadline_ms = deadline_ms.min(deadline),
            }
        }
        self.soonest = Some(Soonest {
            next_seq: self.global.next_seq,
            timeout_ms,
            deadline_ms,
        });
        let before = self.global.messages;
        let queues: Vec<QueueId> = self.config.queues.iter().map(|queue| queue.id).collect();
        for queue in queues {
            self.ack(queue, &expired)?;
        }
        Ok(before - self.global.messages)
    }

    /// Whether something may have expired, as far as one can tell without looking.
    pub(super) fn may_have_expired(&self) -> bool {
        self.soonest.is_none_or(|soonest| {
            soonest.next_seq != self.global.next_seq
                || soonest.timeout_ms != self.config.limits.hwm.timeout_ms()
                || soonest.deadline_ms <= self.now_ms
        })
    }

    /// Takes note of new messages, from `first` on, all with this deadline.
    pub(super) fn note_deadline(&mut self, first: u64, deadline_ms: u64) {
        if let Some(soonest) = &mut self.soonest
            && soonest.next_seq == first
        {
            soonest.next_seq = self.global.next_seq;
            soonest.deadline_ms = soonest.deadline_ms.min(deadline_ms);
        }
    }

    pub(super) fn clear(&mut self, queue: QueueId) -> Result<u64> {
        let mut seqs = self.seqs(queue, usize::MAX)?;
        let (low, high) = (entry_key(queue, 0), entry_key(queue, u64::MAX));
        for entry in self.trees.parked.range(&self.txn, &span(&low, &high))? {
            seqs.push(entry_seq(entry?.0));
        }
        self.ack(queue, &seqs)
    }

    pub(super) fn seqs(&self, queue: QueueId, limit: usize) -> Result<Vec<u64>> {
        self.trees
            .entries(&self.txn, queue, 0)?
            .take(limit)
            .map(|entry| entry.map(|(seq, _)| seq))
            .collect()
    }

    /// Removes all messages from `low` to `high`, from all queues, by ranges.
    pub(super) fn drop_range(&mut self, low: u64, high: u64) -> Result<u64> {
        let (low_key, high_key) = (low.to_be_bytes(), high.to_be_bytes());
        let range = span(&low_key, &high_key);
        let mut lens = Vec::new();
        for entry in self.trees.messages.range(&self.txn, &range)? {
            let (key, value) = entry?;
            lens.push((be64(key), Head::decode(value).len));
        }
        for queue in self.config.clone().all_ids() {
            self.drop_entries(queue, low, high, &lens)?;
        }
        self.trees.messages.delete_range(&mut self.txn, &range)?;
        self.trees.blobs.delete_range(&mut self.txn, &range)?;
        self.global.messages -= lens.len() as u64;
        self.global.bytes -= lens.iter().map(|(_, len)| u64::from(*len)).sum::<u64>();
        Ok(lens.len() as u64)
    }

    /// The part of [`drop_range`](Self::drop_range) that concerns one queue.
    pub(super) fn drop_entries(
        &mut self,
        queue: QueueId,
        low: u64,
        high: u64,
        lens: &[(u64, u32)],
    ) -> Result<()> {
        let len = |seq: u64| {
            lens.binary_search_by_key(&seq, |entry| entry.0)
                .map_or(0, |at| u64::from(lens[at].1))
        };
        let (low, high) = (entry_key(queue, low), entry_key(queue, high));
        let range = span(&low, &high);
        let Count { ready, parked, .. } = *self.count(queue)?;
        if parked > 0 {
            let entries = self.trees.parked.range(&self.txn, &range)?;
            let seqs = entries
                .map(|e| e.map(|(key, _)| entry_seq(key)))
                .collect::<heed::Result<Vec<u64>>>()?;
            for seq in seqs {
                self.unlink(queue, seq)?;
                self.count(queue)?.bytes -= len(seq);
            }
        }
        if ready > 0 {
            let mut bytes = 0;
            for entry in self.trees.queued.range(&self.txn, &range)? {
                bytes += len(entry_seq(entry?.0));
            }
            let gone = self.trees.queued.delete_range(&mut self.txn, &range)?;
            let count = self.count(queue)?;
            count.ready -= gone as u64;
            count.bytes -= bytes;
        }
        Ok(())
    }
}

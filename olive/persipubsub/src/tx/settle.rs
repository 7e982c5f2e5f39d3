//! Settling: acks, failures, dead letters, what comes due.

use super::Tx;
use crate::error::{Error, Result};
use crate::op::Done;
use crate::record::{
    Head, NEVER, QueueId, due_key, due_parts, entry_key, le32, parked_parts, span,
};

impl Tx<'_> {
    pub(super) fn ack(&mut self, queue: QueueId, seqs: &[u64]) -> Result<u64> {
        let mut gone = 0;
        for seq in seqs {
            gone += u64::from(self.remove(queue, *seq)?);
        }
        Ok(gone)
    }

    /// Takes one entry out of its queue, and the message away with its last reference. Says whether
    /// it was there: doing it twice changes nothing.
    pub(super) fn remove(&mut self, queue: QueueId, seq: u64) -> Result<bool> {
        if self.delete(self.trees.queued, &entry_key(queue, seq))? {
            self.count(queue)?.ready -= 1;
        } else if self.unlink(queue, seq)?.is_none() {
            return Ok(false);
        }
        let len = self.release(seq)?;
        self.count(queue)?.bytes -= len;
        Ok(true)
    }

    /// Takes an entry out of `queued` or `parked`, answering its attempts.
    pub(super) fn unlink(&mut self, queue: QueueId, seq: u64) -> Result<Option<u32>> {
        let key = entry_key(queue, seq);
        if let Some(attempts) = self
            .trees
            .queued
            .get(&self.txn, &key)?
            .map(|value| le32(value, 0))
        {
            self.delete(self.trees.queued, &key)?;
            self.count(queue)?.ready -= 1;
            return Ok(Some(attempts));
        }
        if self.count(queue)?.parked == 0 {
            return Ok(None);
        }
        let Some((attempts, due_ms)) = self.trees.parked.get(&self.txn, &key)?.map(parked_parts)
        else {
            return Ok(None);
        };
        self.delete(self.trees.parked, &key)?;
        self.delete(self.trees.due, &due_key(queue, due_ms, seq))?;
        self.count(queue)?.parked -= 1;
        Ok(Some(attempts))
    }

    /// Gives one reference of a message back, answering the length of its body.
    pub(super) fn release(&mut self, seq: u64) -> Result<u64> {
        let key = seq.to_be_bytes();
        let record = self.trees.messages.get(&self.txn, &key)?;
        let record = record
            .ok_or_else(|| Error::Format(format!("message {seq} is referenced but missing")))?;
        let mut head = Head::decode(record);
        if head.refs > 1 {
            head.refs -= 1;
            let mut copy = record.to_vec();
            copy[..Head::LEN].copy_from_slice(&head.encode());
            self.put(self.trees.messages, &key, &copy)?;
        } else {
            self.delete(self.trees.messages, &key)?;
            if !head.is_inline() {
                self.delete(self.trees.blobs, &key)?;
            }
            self.global.messages -= 1;
            self.global.bytes -= u64::from(head.len);
        }
        Ok(head.len.into())
    }

    pub(super) fn fail(
        &mut self,
        queue: QueueId,
        seq: u64,
        attempts: u32,
        delay_ms: u64,
    ) -> Result<Done> {
        let max = self
            .config
            .queue(queue)
            .map_or(0, |queue| queue.max_attempts);
        if max > 0 && attempts >= max {
            return self.bury(queue, &[seq]).map(Done::Count);
        }
        if self.unlink(queue, seq)?.is_none() {
            return Ok(Done::Count(0));
        }
        if delay_ms > 0 {
            self.park(queue, seq, attempts, self.due_ms(delay_ms))?;
        } else {
            self.requeue(queue, seq, attempts)?;
        }
        self.rung.push(queue);
        Ok(Done::Count(1))
    }

    /// Queues an entry that is older than the newest: whoever has looked past its place must look anew.
    pub(super) fn requeue(&mut self, queue: QueueId, seq: u64, attempts: u32) -> Result<()> {
        self.put(
            self.trees.queued,
            &entry_key(queue, seq),
            &attempts.to_le_bytes(),
        )?;
        let count = self.count(queue)?;
        count.ready += 1;
        count.epoch += 1;
        Ok(())
    }

    /// Moves entries to the queue of dead letters; a dead letter itself is removed.
    pub(super) fn bury(&mut self, queue: QueueId, seqs: &[u64]) -> Result<u64> {
        if queue.is_dead() {
            return self.ack(queue, seqs);
        }
        let mut moved = 0;
        for seq in seqs {
            moved += u64::from(self.transfer(queue, queue.dead(), *seq, None)?);
        }
        Ok(moved)
    }

    /// Moves an entry between queues without touching its message. `attempts` replaces the count.
    pub(super) fn transfer(
        &mut self,
        from: QueueId,
        to: QueueId,
        seq: u64,
        attempts: Option<u32>,
    ) -> Result<bool> {
        let Some(had) = self.unlink(from, seq)? else {
            return Ok(false);
        };
        let len = self
            .trees
            .head(&self.txn, seq)?
            .map_or(0, |head| u64::from(head.len));
        self.requeue(to, seq, attempts.unwrap_or(had))?;
        self.count(from)?.bytes -= len;
        self.count(to)?.bytes += len;
        Ok(true)
    }

    pub(super) fn revive(&mut self, queue: QueueId) -> Result<u64> {
        let dead = self.seqs(queue.dead(), usize::MAX)?;
        for seq in &dead {
            self.transfer(queue.dead(), queue, *seq, Some(0))?;
        }
        self.rung.push(queue);
        Ok(dead.len() as u64)
    }

    pub(super) fn promote(&mut self, queue: QueueId) -> Result<u64> {
        let (low, high) = (due_key(queue, 0, 0), due_key(queue, self.now_ms, NEVER));
        let range = self.trees.due.range(&self.txn, &span(&low, &high))?;
        let seqs = range
            .map(|entry| entry.map(|(key, _)| due_parts(key).1))
            .collect::<heed::Result<Vec<u64>>>()?;
        for seq in &seqs {
            if let Some(attempts) = self.unlink(queue, *seq)? {
                self.requeue(queue, *seq, attempts)?;
            }
        }
        if !seqs.is_empty() {
            self.rung.push(queue);
        }
        Ok(seqs.len() as u64)
    }
}

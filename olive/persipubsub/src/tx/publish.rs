//! Sending.

use std::ops::Range;

use heed::PutFlags;

use super::Tx;
use crate::config::Strategy;
use crate::error::{Error, Resource, Result};
use crate::op::{Publish, Target};
use crate::record::{BODY_MAX, Global, Head, NEVER, QueueId, be64, due_key, entry_key, parked};

impl Tx<'_> {
    pub(super) fn publish(&mut self, publish: &Publish) -> Result<Range<u64>> {
        let queues: Vec<QueueId> = match &publish.target {
            Target::All => self.config.subscribers().map(|queue| queue.id).collect(),
            Target::Queues(ids) => ids
                .iter()
                .copied()
                .filter(|id| self.config.queue(*id).is_some())
                .collect(),
        };
        let strategy = self.config.limits.strategy;
        let lens = || publish.bodies.iter().map(|body| body.len() as u64);
        let first = self.global.next_seq;
        let last = first + publish.bodies.len() as u64;
        if queues.is_empty() {
            self.global.next_seq = last;
            return Ok(first..last);
        }
        for queue in &queues {
            self.expire(*queue, 2 * publish.bodies.len() + 8)?;
        }
        if strategy == Strategy::Reject {
            self.check_room(publish.bodies.len() as u64, lens().sum())?;
        }
        let mut rest = &publish.bodies[..];
        while !rest.is_empty() {
            match self.room(rest) {
                0 => self.prune_half(strategy)?,
                fit => {
                    self.insert(&rest[..fit], &queues, publish)?;
                    rest = &rest[fit..];
                }
            }
        }
        self.rung.extend(&queues);
        Ok(first..last)
    }

    /// Refuses bodies that this store could never take.
    pub(crate) fn check_lengths(&self, publish: &Publish) -> Result<()> {
        let max = BODY_MAX.min(self.config.limits.hwm.max_bytes);
        let mut lens = publish.bodies.iter().map(|body| body.len() as u64);
        match lens.find(|len| *len > max) {
            Some(len) => Err(Error::TooLarge { len, max }),
            None => Ok(()),
        }
    }

    /// Refuses when `messages` more with `bytes` would pass the high-water mark, expired ones aside.
    pub(super) fn check_room(&mut self, messages: u64, bytes: u64) -> Result<()> {
        let hwm = self.config.limits.hwm;
        let over = |global: &Global| match () {
            _ if global.messages + messages > hwm.max_messages => Some(Resource::Messages),
            _ if global.bytes.saturating_add(bytes) > hwm.max_bytes => Some(Resource::Bytes),
            _ => None,
        };
        if over(&self.global).is_some() && self.may_have_expired() {
            self.expire_all()?;
        }
        over(&self.global).map_or(Ok(()), |what| Err(Error::Full(what)))
    }

    /// How many of `bodies`, from the first on, fit without passing the high-water mark.
    pub(super) fn room(&self, bodies: &[Vec<u8>]) -> usize {
        let hwm = self.config.limits.hwm;
        let messages = hwm.max_messages.saturating_sub(self.global.messages);
        // Limits lowered meanwhile: not even an empty body fits.
        let Some(mut bytes) = hwm.max_bytes.checked_sub(self.global.bytes) else {
            return 0;
        };
        let fits = |body: &&Vec<u8>| {
            let left = bytes.checked_sub(body.len() as u64);
            bytes = left.unwrap_or(0);
            left.is_some()
        };
        bodies
            .iter()
            .take(messages.try_into().unwrap_or(usize::MAX))
            .take_while(fits)
            .count()
    }

    /// Drops the older or the newer half of the stored messages, at least one.
    pub(super) fn prune_half(&mut self, strategy: Strategy) -> Result<()> {
        let half = self.global.messages.div_ceil(2) as usize;
        let seq = |entry: Option<heed::Result<(&[u8], &[u8])>>| {
            entry.transpose().map(|e| e.map(|(key, _)| be64(key)))
        };
        let messages = &self.trees.messages;
        let (low, high) = match strategy {
            Strategy::PruneLast => (
                seq(messages.rev_iter(&self.txn)?.nth(half - 1))?,
                Some(u64::MAX),
            ),
            _ => (Some(0), seq(messages.iter(&self.txn)?.nth(half - 1))?),
        };
        // The counter says that there are so many; should it ever be wrong, everything goes.
        self.drop_range(low.unwrap_or(0), high.unwrap_or(u64::MAX))
            .map(|_| ())
    }

    pub(super) fn insert(
        &mut self,
        bodies: &[Vec<u8>],
        queues: &[QueueId],
        publish: &Publish,
    ) -> Result<()> {
        let first = self.global.next_seq;
        let expires_ms = publish
            .ttl_ms
            .map_or(NEVER, |ttl| self.now_ms.saturating_add(ttl));
        let mut head = Head {
            refs: queues.len() as u32,
            len: 0,
            sent_ms: self.now_ms,
            expires_ms,
        };
        let mut record = Vec::with_capacity(Head::LEN + 64);
        let mut bytes = 0;
        for (seq, body) in (first..).zip(bodies) {
            let len = body.len() as u32;
            head.len = len;
            record.clear();
            record.extend_from_slice(&head.encode());
            match head.is_inline() {
                true => record.extend_from_slice(body),
                false => {
                    self.append(self.trees.blobs, &seq.to_be_bytes(), body)?;
                }
            }
            self.append(self.trees.messages, &seq.to_be_bytes(), &record)?;
            bytes += u64::from(len);
        }
        let seqs = first..first + bodies.len() as u64;
        for queue in queues {
            self.enqueue(*queue, seqs.clone(), bytes, publish.delay_ms)?;
        }
        self.global.next_seq = seqs.end;
        self.global.messages += bodies.len() as u64;
        self.global.bytes += bytes;
        let timeout_ms = self.config.limits.hwm.timeout_ms();
        self.note_deadline(first, head.deadline(timeout_ms));
        Ok(())
    }

    pub(super) fn enqueue(
        &mut self,
        queue: QueueId,
        seqs: Range<u64>,
        bytes: u64,
        delay_ms: u64,
    ) -> Result<()> {
        let many = seqs.end - seqs.start;
        self.count(queue)?.bytes += bytes;
        if delay_ms > 0 {
            let due_ms = self.due_ms(delay_ms);
            return seqs
                .into_iter()
                .try_for_each(|seq| self.park(queue, seq, 0, due_ms));
        }
        // The greatest key may be appended, which fills pages instead of halving them.
        let high = entry_key(queue, u64::MAX);
        let last = self.trees.queued.last(&self.txn)?;
        let append = last.is_none_or(|(key, _)| key <= &high[..]);
        let flags = if append {
            PutFlags::APPEND
        } else {
            PutFlags::empty()
        };
        for seq in seqs {
            self.trees.queued.put_with_flags(
                &mut self.txn,
                flags,
                &entry_key(queue, seq),
                &[0; 4],
            )?;
        }
        self.count(queue)?.ready += many;
        Ok(())
    }

    pub(super) fn park(
        &mut self,
        queue: QueueId,
        seq: u64,
        attempts: u32,
        due_ms: u64,
    ) -> Result<()> {
        self.put(
            self.trees.parked,
            &entry_key(queue, seq),
            &parked(attempts, due_ms),
        )?;
        self.put(self.trees.due, &due_key(queue, due_ms, seq), &[])?;
        self.count(queue)?.parked += 1;
        Ok(())
    }
}

//! The core: what one operation does inside a write transaction.
//!
//! A message is stored once and referenced by every queue that has still to settle it:
//!
//! ```text
//! messages  sequence                 → references, length, times, the body if it is short
//! blobs     sequence                 → the body if it is long
//! queued    (queue, sequence)        → attempts        may be delivered now
//! parked    (queue, sequence)        → attempts, due   may be delivered later …
//! due       (queue, due, sequence)   → nothing         … and when
//! state     counters, limits, registered queues
//! ```
//!
//! Every operation first checks everything it can be refused for, then changes the trees: an
//! operation that fails with an error of its own has changed nothing, so the others of its group
//! commit stand. Counters and the global record are read at the beginning of the transaction and
//! written back at its end. Nothing here waits, reads a clock or knows of other processes.

use std::ops::Range;
use std::sync::Arc;

use heed::types::Bytes;
use heed::{Database, Env, PutFlags, RoTxn, RwTxn, WithoutTls};

use crate::config::{Config, Limits, Queue, Strategy};
use crate::error::{Error, Resource, Result};
use crate::op::{Backlog, Done, Op, Publish, Target};
use crate::record::{
    BODY_MAX, Count, Global, Head, NEVER, QueueId, be64, due_key, due_parts, entry_key, entry_seq,
    le32, parked, parked_parts, span, state,
};

pub(crate) type Tree = Database<Bytes, Bytes>;

/// The trees of the main environment.
#[derive(Clone, Copy)]
pub(crate) struct Trees {
    pub messages: Tree,
    pub blobs: Tree,
    pub queued: Tree,
    pub parked: Tree,
    pub due: Tree,
    pub state: Tree,
}

impl Trees {
    pub(crate) const COUNT: u32 = 6;

    /// `None` if the store was never initialised.
    pub(crate) fn open(env: &Env<WithoutTls>, txn: &RoTxn<'_, WithoutTls>) -> Result<Option<Self>> {
        let open = |name| env.open_database::<Bytes, Bytes>(txn, Some(name));
        let Some(state) = open("state")? else {
            return Ok(None);
        };
        let tree =
            |name| open(name)?.ok_or_else(|| Error::Format(format!("tree {name} is missing")));
        Ok(Some(Trees {
            messages: tree("messages")?,
            blobs: tree("blobs")?,
            queued: tree("queued")?,
            parked: tree("parked")?,
            due: tree("due")?,
            state,
        }))
    }

    /// Creates what is missing, with the global record and default limits: one transaction, so a
    /// store is either whole or not there.
    pub(crate) fn create(env: &Env<WithoutTls>, txn: &mut RwTxn<'_>) -> Result<Self> {
        let mut tree = |name| env.create_database::<Bytes, Bytes>(txn, Some(name));
        let trees = Trees {
            messages: tree("messages")?,
            blobs: tree("blobs")?,
            queued: tree("queued")?,
            parked: tree("parked")?,
            due: tree("due")?,
            state: tree("state")?,
        };
        if trees.state.get(txn, state::GLOBAL)?.is_none() {
            trees
                .state
                .put(txn, state::GLOBAL, &Global::new().encode())?;
            trees
                .state
                .put(txn, state::LIMITS, &Limits::default().encode())?;
        }
        Ok(trees)
    }

    pub(crate) fn all(&self) -> [Tree; Self::COUNT as usize] {
        [
            self.messages,
            self.blobs,
            self.queued,
            self.parked,
            self.due,
            self.state,
        ]
    }

    pub(crate) fn global(&self, txn: &RoTxn) -> Result<Global> {
        let bytes = self.state.get(txn, state::GLOBAL)?;
        Global::decode(bytes.unwrap_or_default()).map_err(Error::Format)
    }

    pub(crate) fn config(&self, txn: &RoTxn, version: u64) -> Result<Config> {
        let limits = self
            .state
            .get(txn, state::LIMITS)?
            .map(Limits::decode)
            .unwrap_or_default();
        let mut queues = Vec::new();
        for entry in self.state.prefix_iter(txn, state::QUEUES)? {
            let (key, value) = entry?;
            queues.push(Queue::decode(&key[state::QUEUES.len()..], value));
        }
        queues.sort_by_key(|queue| queue.id);
        Ok(Config {
            version,
            limits,
            queues,
        })
    }

    pub(crate) fn count(&self, txn: &RoTxn, queue: QueueId) -> Result<Count> {
        Ok(self
            .state
            .get(txn, &state::count(queue))?
            .map(Count::decode)
            .unwrap_or_default())
    }

    pub(crate) fn head(&self, txn: &RoTxn, seq: u64) -> Result<Option<Head>> {
        Ok(self
            .messages
            .get(txn, &seq.to_be_bytes())?
            .map(Head::decode))
    }

    /// Sequence and attempts of the queued entries of `queue` from `seq` on.
    pub(crate) fn entries<'t>(
        &self,
        txn: &'t RoTxn,
        queue: QueueId,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, u32)>> + use<'t>> {
        let (low, high) = (entry_key(queue, from), entry_key(queue, u64::MAX));
        let range = self.queued.range(txn, &span(&low, &high))?;
        Ok(range.map(|entry| {
            entry
                .map(|(key, value)| (entry_seq(key), le32(value, 0)))
                .map_err(Error::from)
        }))
    }

    /// When the first parked entry of `queue` comes due; [`NEVER`] if none will.
    pub(crate) fn first_due(&self, txn: &RoTxn, queue: QueueId) -> Result<u64> {
        let (low, high) = (due_key(queue, 0, 0), due_key(queue, NEVER, NEVER));
        let mut range = self.due.range(txn, &span(&low, &high))?;
        Ok(range
            .next()
            .transpose()?
            .map_or(NEVER, |(key, _)| due_parts(key).0))
    }

    /// Head and body of a message.
    pub(crate) fn message(&self, txn: &RoTxn, seq: u64) -> Result<Option<(Head, Vec<u8>)>> {
        let Some(record) = self.messages.get(txn, &seq.to_be_bytes())? else {
            return Ok(None);
        };
        let body = self.body(txn, seq, record)?;
        Ok(Some((Head::decode(record), body)))
    }

    /// The body that belongs to a message's record.
    pub(crate) fn body(&self, txn: &RoTxn, seq: u64, record: &[u8]) -> Result<Vec<u8>> {
        if Head::decode(record).is_inline() {
            return Ok(record[Head::LEN..].to_vec());
        }
        let body = self.blobs.get(txn, &seq.to_be_bytes())?;
        let missing = || Error::Format(format!("the body of message {seq} is missing"));
        body.map(<[u8]>::to_vec).ok_or_else(missing)
    }
}

/// One write transaction: any number of operations, then [`commit`](Self::commit).
pub(crate) struct Tx<'e> {
    trees: Trees,
    txn: RwTxn<'e>,
    global: Global,
    config: Arc<Config>,
    config_changed: bool,
    /// Counters of the queues touched so far.
    counts: Vec<(QueueId, Count)>,
    now_ms: u64,
    /// Queues that got something to deliver.
    pub(crate) rung: Vec<QueueId>,
}

impl<'e> Tx<'e> {
    /// `cached` is any earlier copy of the configuration; it is read anew only if it is stale.
    pub(crate) fn begin(
        trees: Trees,
        txn: RwTxn<'e>,
        cached: &Arc<Config>,
        now_ms: u64,
    ) -> Result<Self> {
        let global = trees.global(&txn)?;
        let config = match cached.version == global.config_version {
            true => cached.clone(),
            false => Arc::new(trees.config(&txn, global.config_version)?),
        };
        let (counts, rung) = (Vec::new(), Vec::new());
        Ok(Tx {
            trees,
            txn,
            global,
            config,
            config_changed: false,
            counts,
            now_ms,
            rung,
        })
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.config
    }

    pub(crate) fn txn(&self) -> &RwTxn<'e> {
        &self.txn
    }

    /// Writes the counters back and commits.
    pub(crate) fn commit(mut self) -> Result<(Arc<Config>, Vec<QueueId>)> {
        if self.config_changed {
            self.global.config_version += 1;
            self.config = Arc::new(self.trees.config(&self.txn, self.global.config_version)?);
        }
        for (queue, count) in &self.counts {
            self.trees
                .state
                .put(&mut self.txn, &state::count(*queue), &count.encode())?;
        }
        self.trees
            .state
            .put(&mut self.txn, state::GLOBAL, &self.global.encode())?;
        self.txn.commit()?;
        Ok((self.config, self.rung))
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<Done> {
        match op {
            Op::Publish(publish) => self.publish(publish).map(Done::Sequences),
            Op::Ack { queue, seqs } => self.ack(*queue, seqs).map(Done::Count),
            Op::Fail {
                queue,
                seq,
                attempts,
                delay_ms,
            } => self.fail(*queue, *seq, *attempts, *delay_ms),
            Op::Bury { queue, seqs } => self.bury(*queue, seqs).map(Done::Count),
            Op::Revive { queue } => self.revive(*queue).map(Done::Count),
            Op::Promote { queue } => self.promote(*queue).map(Done::Count),
            Op::Expire { queue, limit } => self.expire(*queue, *limit).map(Done::Count),
            Op::ExpireAll => self.expire_all().map(Done::Count),
            Op::Clear { queue: Some(queue) } => self.clear(*queue).map(Done::Count),
            Op::Clear { queue: None } => self.drop_range(0, u64::MAX).map(Done::Count),
            Op::AddQueue {
                name,
                subscribed,
                max_attempts,
                backlog,
            } => self.add_queue(name, *subscribed, *max_attempts, *backlog),
            Op::RemoveQueue { name } => self.remove_queue(name),
            Op::SetMaxAttempts { name, max_attempts } => self.set_max_attempts(name, *max_attempts),
            Op::SetLimits { hwm, strategy } => self.set_limits(*hwm, *strategy),
            Op::PutUser { key, value } => self.put_user(key, value.as_deref()),
        }
    }

    // Sending -------------------------------------------------------------------------------

    fn publish(&mut self, publish: &Publish) -> Result<Range<u64>> {
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
    fn check_room(&mut self, messages: u64, bytes: u64) -> Result<()> {
        let hwm = self.config.limits.hwm;
        let over = |global: &Global| match () {
            _ if global.messages + messages > hwm.max_messages => Some(Resource::Messages),
            _ if global.bytes.saturating_add(bytes) > hwm.max_bytes => Some(Resource::Bytes),
            _ => None,
        };
        if over(&self.global).is_some() {
            self.expire_all()?;
        }
        over(&self.global).map_or(Ok(()), |what| Err(Error::Full(what)))
    }

    /// How many of `bodies`, from the first on, fit without passing the high-water mark.
    fn room(&self, bodies: &[Vec<u8>]) -> usize {
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
    fn prune_half(&mut self, strategy: Strategy) -> Result<()> {
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

    fn insert(&mut self, bodies: &[Vec<u8>], queues: &[QueueId], publish: &Publish) -> Result<()> {
        let first = self.global.next_seq;
        let expires_ms = publish
            .ttl_ms
            .map_or(NEVER, |ttl| self.now_ms.saturating_add(ttl));
        let mut record = Vec::with_capacity(Head::LEN + 64);
        let mut bytes = 0;
        for (seq, body) in (first..).zip(bodies) {
            let len = body.len() as u32;
            let head = Head {
                refs: queues.len() as u32,
                len,
                sent_ms: self.now_ms,
                expires_ms,
            };
            record.clear();
            record.extend_from_slice(&head.encode());
            match head.is_inline() {
                true => record.extend_from_slice(body),
                false => {
                    self.trees.blobs.put_with_flags(
                        &mut self.txn,
                        PutFlags::APPEND,
                        &seq.to_be_bytes(),
                        body,
                    )?;
                }
            }
            self.trees.messages.put_with_flags(
                &mut self.txn,
                PutFlags::APPEND,
                &seq.to_be_bytes(),
                &record,
            )?;
            bytes += u64::from(len);
        }
        let seqs = first..first + bodies.len() as u64;
        for queue in queues {
            self.enqueue(*queue, seqs.clone(), bytes, publish.delay_ms)?;
        }
        self.global.next_seq = seqs.end;
        self.global.messages += bodies.len() as u64;
        self.global.bytes += bytes;
        Ok(())
    }

    fn enqueue(
        &mut self,
        queue: QueueId,
        seqs: Range<u64>,
        bytes: u64,
        delay_ms: u64,
    ) -> Result<()> {
        let many = seqs.end - seqs.start;
        self.count(queue)?.bytes += bytes;
        if delay_ms > 0 {
            let due_ms = self.now_ms.saturating_add(delay_ms);
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

    fn park(&mut self, queue: QueueId, seq: u64, attempts: u32, due_ms: u64) -> Result<()> {
        self.trees.parked.put(
            &mut self.txn,
            &entry_key(queue, seq),
            &parked(attempts, due_ms),
        )?;
        self.trees
            .due
            .put(&mut self.txn, &due_key(queue, due_ms, seq), &[])?;
        self.count(queue)?.parked += 1;
        Ok(())
    }

    // Settling ------------------------------------------------------------------------------

    fn ack(&mut self, queue: QueueId, seqs: &[u64]) -> Result<u64> {
        let mut gone = 0;
        for seq in seqs {
            gone += u64::from(self.remove(queue, *seq)?);
        }
        Ok(gone)
    }

    /// Takes one entry out of its queue, and the message away with its last reference. Says whether
    /// it was there: doing it twice changes nothing.
    fn remove(&mut self, queue: QueueId, seq: u64) -> Result<bool> {
        if self
            .trees
            .queued
            .delete(&mut self.txn, &entry_key(queue, seq))?
        {
            self.count(queue)?.ready -= 1;
        } else if self.unlink(queue, seq)?.is_none() {
            return Ok(false);
        }
        let len = self.release(seq)?;
        self.count(queue)?.bytes -= len;
        Ok(true)
    }

    /// Takes an entry out of `queued` or `parked`, answering its attempts.
    fn unlink(&mut self, queue: QueueId, seq: u64) -> Result<Option<u32>> {
        let key = entry_key(queue, seq);
        if let Some(attempts) = self
            .trees
            .queued
            .get(&self.txn, &key)?
            .map(|value| le32(value, 0))
        {
            self.trees.queued.delete(&mut self.txn, &key)?;
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
        self.trees.parked.delete(&mut self.txn, &key)?;
        self.trees
            .due
            .delete(&mut self.txn, &due_key(queue, due_ms, seq))?;
        self.count(queue)?.parked -= 1;
        Ok(Some(attempts))
    }

    /// Gives one reference of a message back, answering the length of its body.
    fn release(&mut self, seq: u64) -> Result<u64> {
        let key = seq.to_be_bytes();
        let record = self.trees.messages.get(&self.txn, &key)?;
        let record = record
            .ok_or_else(|| Error::Format(format!("message {seq} is referenced but missing")))?;
        let mut head = Head::decode(record);
        if head.refs > 1 {
            head.refs -= 1;
            let mut copy = record.to_vec();
            copy[..Head::LEN].copy_from_slice(&head.encode());
            self.trees.messages.put(&mut self.txn, &key, &copy)?;
        } else {
            self.trees.messages.delete(&mut self.txn, &key)?;
            if !head.is_inline() {
                self.trees.blobs.delete(&mut self.txn, &key)?;
            }
            self.global.messages -= 1;
            self.global.bytes -= u64::from(head.len);
        }
        Ok(head.len.into())
    }

    fn fail(&mut self, queue: QueueId, seq: u64, attempts: u32, delay_ms: u64) -> Result<Done> {
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
            self.park(queue, seq, attempts, self.now_ms.saturating_add(delay_ms))?;
        } else {
            self.requeue(queue, seq, attempts)?;
        }
        self.rung.push(queue);
        Ok(Done::Count(1))
    }

    /// Queues an entry that is older than the newest: whoever has looked past its place must look anew.
    fn requeue(&mut self, queue: QueueId, seq: u64, attempts: u32) -> Result<()> {
        self.trees.queued.put(
            &mut self.txn,
            &entry_key(queue, seq),
            &attempts.to_le_bytes(),
        )?;
        let count = self.count(queue)?;
        count.ready += 1;
        count.epoch += 1;
        Ok(())
    }

    /// Moves entries to the queue of dead letters; a dead letter itself is removed.
    fn bury(&mut self, queue: QueueId, seqs: &[u64]) -> Result<u64> {
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
    fn transfer(
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

    fn revive(&mut self, queue: QueueId) -> Result<u64> {
        let dead = self.seqs(queue.dead(), usize::MAX)?;
        for seq in &dead {
            self.transfer(queue.dead(), queue, *seq, Some(0))?;
        }
        self.rung.push(queue);
        Ok(dead.len() as u64)
    }

    fn promote(&mut self, queue: QueueId) -> Result<u64> {
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

    // Forgetting ----------------------------------------------------------------------------

    /// Removes up to `limit` expired entries from the front of a queue.
    fn expire(&mut self, queue: QueueId, limit: usize) -> Result<u64> {
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
    fn expire_all(&mut self) -> Result<u64> {
        let timeout_ms = self.config.limits.hwm.timeout_ms();
        let mut expired = Vec::new();
        for entry in self.trees.messages.iter(&self.txn)? {
            let (key, value) = entry?;
            if Head::decode(value).deadline(timeout_ms) <= self.now_ms {
                expired.push(be64(key));
            }
        }
        let before = self.global.messages;
        let queues: Vec<QueueId> = self.config.queues.iter().map(|queue| queue.id).collect();
        for queue in queues {
            self.ack(queue, &expired)?;
        }
        Ok(before - self.global.messages)
    }

    fn clear(&mut self, queue: QueueId) -> Result<u64> {
        let mut seqs = self.seqs(queue, usize::MAX)?;
        let (low, high) = (entry_key(queue, 0), entry_key(queue, u64::MAX));
        for entry in self.trees.parked.range(&self.txn, &span(&low, &high))? {
            seqs.push(entry_seq(entry?.0));
        }
        self.ack(queue, &seqs)
    }

    fn seqs(&self, queue: QueueId, limit: usize) -> Result<Vec<u64>> {
        self.trees
            .entries(&self.txn, queue, 0)?
            .take(limit)
            .map(|entry| entry.map(|(seq, _)| seq))
            .collect()
    }

    /// Removes all messages from `low` to `high`, from all queues, by ranges.
    fn drop_range(&mut self, low: u64, high: u64) -> Result<u64> {
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
    fn drop_entries(
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

    // Deciding ------------------------------------------------------------------------------

    fn add_queue(
        &mut self,
        name: &str,
        subscribed: bool,
        max_attempts: u32,
        backlog: Backlog,
    ) -> Result<Done> {
        crate::config::check_name(name)?;
        if let Ok(queue) = self.find(name) {
            return Ok(Done::Queue {
                id: queue.id,
                added: false,
            });
        }
        let id = QueueId(self.global.next_queue);
        self.global.next_queue += 1;
        if backlog == Backlog::Oldest {
            self.adopt(id)?;
        }
        let queue = Queue {
            id,
            name: name.to_owned(),
            max_attempts,
            subscribed,
        };
        self.trees
            .state
            .put(&mut self.txn, &state::queue(name), &queue.encode())?;
        self.reload()?;
        Ok(Done::Queue { id, added: true })
    }

    /// References in a new queue whatever some subscriber has still to settle.
    fn adopt(&mut self, queue: QueueId) -> Result<()> {
        let mut seqs = Vec::new();
        for subscriber in self.config.clone().subscribers() {
            seqs.extend(self.seqs(subscriber.id, usize::MAX)?);
        }
        seqs.sort_unstable();
        seqs.dedup();
        for seq in seqs {
            let key = seq.to_be_bytes();
            let Some(record) = self.trees.messages.get(&self.txn, &key)? else {
                continue;
            };
            let mut head = Head::decode(record);
            head.refs += 1;
            let mut copy = record.to_vec();
            copy[..Head::LEN].copy_from_slice(&head.encode());
            self.trees.messages.put(&mut self.txn, &key, &copy)?;
            self.enqueue(queue, seq..seq + 1, head.len.into(), 0)?;
        }
        Ok(())
    }

    fn remove_queue(&mut self, name: &str) -> Result<Done> {
        let Ok(queue) = self.find(name) else {
            return Ok(Done::Count(0));
        };
        for id in [queue.id, queue.id.dead()] {
            self.clear(id)?;
            self.counts.retain(|(other, _)| *other != id);
            self.trees.state.delete(&mut self.txn, &state::count(id))?;
        }
        self.trees
            .state
            .delete(&mut self.txn, &state::queue(name))?;
        self.reload()?;
        self.rung.push(queue.id);
        Ok(Done::Count(1))
    }

    fn set_max_attempts(&mut self, name: &str, max_attempts: u32) -> Result<Done> {
        let queue = Queue {
            max_attempts,
            ..self.find(name)?
        };
        self.trees
            .state
            .put(&mut self.txn, &state::queue(name), &queue.encode())?;
        self.reload()?;
        Ok(Done::Count(1))
    }

    fn set_limits(
        &mut self,
        hwm: Option<crate::HighWaterMark>,
        strategy: Option<Strategy>,
    ) -> Result<Done> {
        let mut limits = self.config.limits;
        limits.hwm = hwm.unwrap_or(limits.hwm);
        limits.strategy = strategy.unwrap_or(limits.strategy);
        if limits.hwm.max_messages == 0 {
            return Err(Error::Config("max_messages must be at least 1".to_owned()));
        }
        self.trees
            .state
            .put(&mut self.txn, state::LIMITS, &limits.encode())?;
        self.reload()?;
        Ok(Done::Count(1))
    }

    fn put_user(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Done> {
        let key = state::user(key);
        match value {
            Some(value) => self.trees.state.put(&mut self.txn, &key, value)?,
            None => _ = self.trees.state.delete(&mut self.txn, &key)?,
        }
        Ok(Done::Count(1))
    }

    fn find(&self, name: &str) -> Result<Queue> {
        self.config.named(name).cloned()
    }

    /// The rest of this transaction sees the new configuration, later ones notice the new version.
    fn reload(&mut self) -> Result<()> {
        self.config = Arc::new(self.trees.config(&self.txn, self.global.config_version)?);
        self.config_changed = true;
        Ok(())
    }

    fn count(&mut self, queue: QueueId) -> Result<&mut Count> {
        let at = match self.counts.iter().position(|(id, _)| *id == queue) {
            Some(at) => at,
            None => {
                self.counts
                    .push((queue, self.trees.count(&self.txn, queue)?));
                self.counts.len() - 1
            }
        };
        Ok(&mut self.counts[at].1)
    }
}

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

mod decide;
mod forget;
mod publish;
mod settle;

use std::sync::Arc;

use heed::{PutFlags, RwTxn};

use crate::config::Config;
use crate::error::Result;
use crate::op::{Done, Op};
use crate::record::{Count, Global, QueueId, state};
use crate::trees::{Tree, Trees};

/// One write transaction: any number of operations, then [`commit`](Self::commit).
pub(crate) struct Tx<'e> {
    trees: Trees,
    txn: RwTxn<'e>,
    global: Global,
    config: Arc<Config>,
    config_changed: bool,
    /// Counters of the queues touched so far, by id.
    counts: Vec<(QueueId, Count)>,
    now_ms: u64,
    soonest: Option<Soonest>,
    /// Queues that got something to deliver.
    pub(crate) rung: Vec<QueueId>,
}

/// Nothing expires before this moment: what a search through all messages found, so that a store
/// that stays full is not searched at every refusal.
///
/// It holds for the messages with sequences below `next_seq`, as long as nobody changes the
/// timeout. Messages that go away do not make it wrong, only early.
#[derive(Clone, Copy)]
pub(crate) struct Soonest {
    next_seq: u64,
    timeout_ms: u64,
    deadline_ms: u64,
}

/// What a transaction leaves behind once it is committed.
pub(crate) struct Committed {
    pub(crate) config: Arc<Config>,
    pub(crate) soonest: Option<Soonest>,
    /// Queues that got something to deliver.
    pub(crate) rung: Vec<QueueId>,
}

impl<'e> Tx<'e> {
    /// `cached` is any earlier copy of the configuration; it is read anew only if it is stale.
    pub(crate) fn begin(
        trees: Trees,
        txn: RwTxn<'e>,
        cached: &Arc<Config>,
        soonest: Option<Soonest>,
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
            soonest,
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
    pub(crate) fn commit(mut self) -> Result<Committed> {
        if self.config_changed {
            self.global.config_version += 1;
            self.config = Arc::new(self.trees.config(&self.txn, self.global.config_version)?);
        }
        for (queue, count) in std::mem::take(&mut self.counts) {
            self.put(self.trees.state, &state::count(queue), &count.encode())?;
        }
        self.put(self.trees.state, state::GLOBAL, &self.global.encode())?;
        self.txn.commit()?;
        Ok(Committed {
            config: self.config,
            soonest: self.soonest,
            rung: self.rung,
        })
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

    fn count(&mut self, queue: QueueId) -> Result<&mut Count> {
        let at = match self.counts.binary_search_by_key(&queue, |(id, _)| *id) {
            Ok(at) => at,
            Err(at) => {
                let count = self.trees.count(&self.txn, queue)?;
                self.counts.insert(at, (queue, count));
                at
            }
        };
        Ok(&mut self.counts[at].1)
    }

    /// When this delay is over for certain: the present millisecond may be nearly over already.
    fn due_ms(&self, delay_ms: u64) -> u64 {
        self.now_ms.saturating_add(delay_ms).saturating_add(1)
    }

    fn put(&mut self, tree: Tree, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(tree.put(&mut self.txn, key, value)?)
    }

    /// Puts behind the greatest key of the tree, which fills pages instead of halving them.
    fn append(&mut self, tree: Tree, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(tree.put_with_flags(&mut self.txn, PutFlags::APPEND, key, value)?)
    }

    fn delete(&mut self, tree: Tree, key: &[u8]) -> Result<bool> {
        Ok(tree.delete(&mut self.txn, key)?)
    }
}

//! Deciding: queues, limits, records of the store's user.

use std::sync::Arc;

use super::Tx;
use crate::config::{HighWaterMark, Queue, Strategy, check_name};
use crate::error::{Error, Result};
use crate::op::{Backlog, Done};
use crate::record::{Head, QueueId, state};

impl Tx<'_> {
    pub(super) fn add_queue(
        &mut self,
        name: &str,
        subscribed: bool,
        max_attempts: u32,
        backlog: Backlog,
    ) -> Result<Done> {
        check_name(name)?;
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
        self.put(self.trees.state, &state::queue(name), &queue.encode())?;
        self.reload()?;
        Ok(Done::Queue { id, added: true })
    }

    /// References in a new queue whatever some subscriber has still to settle.
    pub(super) fn adopt(&mut self, queue: QueueId) -> Result<()> {
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
            self.put(self.trees.messages, &key, &copy)?;
            self.enqueue(queue, seq..seq + 1, head.len.into(), 0)?;
        }
        Ok(())
    }

    pub(super) fn remove_queue(&mut self, name: &str) -> Result<Done> {
        let Ok(queue) = self.find(name) else {
            return Ok(Done::Count(0));
        };
        for id in [queue.id, queue.id.dead()] {
            self.clear(id)?;
            self.counts.retain(|(other, _)| *other != id);
            self.delete(self.trees.state, &state::count(id))?;
        }
        self.delete(self.trees.state, &state::queue(name))?;
        self.reload()?;
        self.rung.push(queue.id);
        Ok(Done::Count(1))
    }

    pub(super) fn set_max_attempts(&mut self, name: &str, max_attempts: u32) -> Result<Done> {
        let queue = Queue {
            max_attempts,
            ..self.find(name)?
        };
        self.put(self.trees.state, &state::queue(name), &queue.encode())?;
        self.reload()?;
        Ok(Done::Count(1))
    }

    pub(super) fn set_limits(
        &mut self,
        hwm: Option<HighWaterMark>,
        strategy: Option<Strategy>,
    ) -> Result<Done> {
        let mut limits = self.config.limits;
        limits.hwm = hwm.unwrap_or(limits.hwm);
        limits.strategy = strategy.unwrap_or(limits.strategy);
        if limits.hwm.max_messages == 0 {
            return Err(Error::Config("max_messages must be at least 1".to_owned()));
        }
        self.put(self.trees.state, state::LIMITS, &limits.encode())?;
        self.reload()?;
        Ok(Done::Count(1))
    }

    pub(super) fn put_user(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Done> {
        let key = state::user(key);
        match value {
            Some(value) => self.put(self.trees.state, &key, value)?,
            None => _ = self.delete(self.trees.state, &key)?,
        }
        Ok(Done::Count(1))
    }

    pub(super) fn find(&self, name: &str) -> Result<Queue> {
        self.config.named(name).cloned()
    }

    /// The rest of this transaction sees the new configuration, later ones notice the new version.
    pub(super) fn reload(&mut self) -> Result<()> {
        self.config = Arc::new(self.trees.config(&self.txn, self.global.config_version)?);
        self.config_changed = true;
        Ok(())
    }
}

//! The trees of the main environment, and looks into them.

use heed::types::Bytes;
use heed::{Database, Env, RoTxn, RwTxn, WithoutTls};

use crate::config::{Config, Limits, Queue};
use crate::error::{Error, Result};
use crate::record::{
    Count, Global, Head, NEVER, QueueId, due_key, due_parts, entry_key, entry_seq, le32, span,
    state,
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

//! Who is working on what: leases, in an LMDB environment of their own that never syncs.
//!
//! A lease need not survive a restart of the machine, because no holder does. So leases live in a
//! small second environment (`volatile-<boot id>/`), written without sync: taking one costs
//! microseconds instead of a commit, processes see each other's at once, and a killed process
//! leaves them whole. After a restart of the machine the directory has another name, and the old
//! one is removed.
//!
//! A lease ends when its message is settled, when its time is over, or when its holder's process
//! has died: each environment holds a byte lock with its owner number, which the kernel releases.
//!
//! Truth about *messages* is only ever in the main environment. A lease on a message that is gone
//! means nothing, and losing all leases costs repeated deliveries, never a message.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heed::types::Bytes;
use heed::{Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};

use crate::error::{Error, Resource, Result};
use crate::record::{Front, Head, Lease, NEVER, QueueId, entry_key, entry_seq, span};
use crate::subscriber::BATCH_BYTES;
use crate::sys::{self, ByteLocks, lock};
use crate::trees::{Tree, Trees};

/// The size of the volatile environment, allocated at once, so that taking a lease needs no disk
/// space: enough for about 50,000 leases at a time.
const MAP_SIZE: usize = 4 << 20;

/// Its read transactions that may be open at once, over all processes.
const MAX_READERS: u32 = 1024;

/// The byte lock of owner `n` is `OWNERS + n`.
const OWNERS: u32 = 16;

/// A message taken from a queue, and how often it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub seq: u64,
    pub attempts: u32,
    pub sent_ms: u64,
    pub body: Vec<u8>,
}

/// What a look at the front of a queue gave.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub taken: Vec<Taken>,
    /// Entries in the way that have expired: to be removed.
    pub expired: Vec<u64>,
    /// Entries in the way without an attempt left: to be buried.
    pub spent: Vec<u64>,
    /// Free entries before the newest, if only the newest was asked for: to be settled.
    pub passed: Vec<u64>,
    /// When a parked entry comes due, or a lease ends.
    pub next_ms: u64,
    /// Whether parked entries are due already: to be promoted.
    pub due: bool,
}

/// What a receiver asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub queue: QueueId,
    pub max: usize,
    /// Only the newest free entry is wanted.
    pub newest: bool,
    pub lease: Duration,
    pub max_attempts: u32,
    pub timeout_ms: u64,
    pub now_ms: u64,
}

impl Ask {
    fn is_fresh(&self, record: &[u8]) -> bool {
        self.queue.is_dead() || Head::decode(record).deadline(self.timeout_ms) > self.now_ms
    }
}

/// An entry that was free, and its message's record in the snapshot.
struct Chosen<'r> {
    seq: u64,
    attempts: u32,
    record: &'r [u8],
}

/// What becomes of the attempt when a lease is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It is remembered here, until the machine restarts.
    Counts,
    /// It is taken back.
    DoesNot,
    /// The main environment has it.
    IsStored,
}

pub(crate) struct Leases {
    env: Env<WithoutTls>,
    leases: Tree,
    fronts: Tree,
    locks: Arc<ByteLocks>,
    owner: u32,
    /// The store's clock minus the boot-time clock, in milliseconds.
    offset_ms: u64,
    /// Leases whose messages are settled, removed with the next transaction.
    settled: Mutex<Vec<(QueueId, u64)>>,
}

impl Leases {
    /// Opens the environment in `dir`, which is `volatile-<boot id>`; the caller holds the store's
    /// opening lock. `newest_ms` is the time of the newest message stored.
    pub(crate) fn open(dir: &Path, locks: Arc<ByteLocks>, newest_ms: u64) -> Result<Self> {
        sys::reserve(&dir.join("lock.mdb"), sys::lock_file_len(MAX_READERS))?;
        sys::reserve(&dir.join("data.mdb"), MAP_SIZE as u64)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        let options = options.map_size(MAP_SIZE).max_dbs(3);
        options.max_readers(MAX_READERS);
        // SAFETY: the store's own registry and locks see to it that this process opens the
        // directory once; without sync only a crash of the machine could damage the file, and it is
        // never opened after one.
        let env = unsafe {
            options
                .flags(EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP)
                .open(dir)?
        };
        let mut txn = env.write_txn()?;
        let leases = env.create_database::<Bytes, Bytes>(&mut txn, Some("leases"))?;
        let fronts = env.create_database::<Bytes, Bytes>(&mut txn, Some("fronts"))?;
        let info = env.create_database::<Bytes, Bytes>(&mut txn, Some("info"))?;
        let number = |bytes: Option<&[u8]>| {
            bytes.map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
        };
        let offset_ms = number(info.get(&txn, b"clock")?);
        let offset_ms = offset_ms.unwrap_or_else(|| {
            sys::wall_ms()
                .max(newest_ms)
                .saturating_sub(sys::boottime_ms())
        });
        let owner = number(info.get(&txn, b"owner")?).unwrap_or(0) as u32 + 1;
        info.put(&mut txn, b"clock", &offset_ms.to_le_bytes())?;
        info.put(&mut txn, b"owner", &u64::from(owner).to_le_bytes())?;
        txn.commit()?;
        locks.lock(OWNERS + owner)?;
        Ok(Leases {
            env,
            leases,
            fronts,
            locks,
            owner,
            offset_ms,
            settled: Mutex::default(),
        })
    }

    /// The store's clock: wall-clock time as it was when the store was first opened after the
    /// machine's start, advanced by a clock that never steps. All processes share it, so a step of
    /// the wall clock expires nothing.
    pub(crate) fn now_ms(&self) -> u64 {
        self.offset_ms + sys::boottime_ms()
    }

    /// Leases up to `max` of the first free entries of `queue`; `ask` says what is wanted, from the
    /// snapshot in which they are looked for.
    ///
    /// The lease is committed before a body is copied; the main snapshot is taken inside the
    /// volatile transaction, so an entry that is seen queued and free really is both. A look that
    /// changes nothing commits nothing: an idle receiver writes to no disk.
    pub(crate) fn take(
        &self,
        main: &Env<WithoutTls>,
        trees: &Trees,
        queue: QueueId,
        ask: impl FnOnce(&RoTxn<WithoutTls>) -> Result<Ask>,
    ) -> Result<Look> {
        let mut txn = self.env.write_txn()?;
        let read = main.read_txn()?;
        let ask = ask(&read)?;
        let mut changed = self.forget_settled(&mut txn)?;
        let stored = self.stored_front(&txn, queue)?;
        let mut front = stored.in_epoch(trees.count(&read, queue)?.epoch);
        if front.earliest_ms <= ask.now_ms {
            changed = true;
            self.lapse(&mut txn, (trees, &read), queue, &mut front, |lease| {
                lease.until_ms <= ask.now_ms
            })?;
        }
        let due_ms = trees.first_due(&read, queue)?;
        let mut look = Look {
            due: due_ms <= ask.now_ms,
            ..Look::default()
        };
        let chosen = self.choose(&mut txn, (trees, &read), &ask, &mut front, &mut look)?;
        look.next_ms = due_ms.min(front.earliest_ms);
        if front != stored {
            self.store_front(&mut txn, queue, &front)?;
        }
        if changed || front != stored || !chosen.is_empty() {
            commit(txn)?;
        }
        for Chosen {
            seq,
            attempts,
            record,
        } in chosen
        {
            let sent_ms = Head::decode(record).sent_ms;
            let body = trees.body(&read, seq, record)?;
            look.taken.push(Taken {
                seq,
                attempts,
                sent_ms,
                body,
            });
        }
        Ok(look)
    }

    fn choose<'r>(
        &self,
        txn: &mut RwTxn,
        (trees, read): (&Trees, &'r RoTxn<WithoutTls>),
        ask: &Ask,
        front: &mut Front,
        look: &mut Look,
    ) -> Result<Vec<Chosen<'r>>> {
        let lease_ms = ask.lease.as_millis().try_into().unwrap_or(NEVER);
        let until_ms = ask.now_ms.saturating_add(lease_ms);
        let mut chosen: Vec<Chosen> = Vec::new();
        let mut bytes = 0;
        for entry in trees.entries(read, ask.queue, front.next)? {
            if (chosen.len() == ask.max || bytes >= BATCH_BYTES) && !ask.newest {
                break;
            }
            let (seq, failed) = entry?;
            let before = self.leases.get(txn, &entry_key(ask.queue, seq))?;
            let before = before.map(Lease::decode);
            // What is in the way stays before the front until it is really gone.
            let in_the_way = !look.expired.is_empty() || !look.spent.is_empty();
            if before.is_none_or(|lease| lease.owner == 0) {
                let attempts = failed.max(before.map_or(0, |lease| lease.attempts)) + 1;
                let record = trees.messages.get(read, &seq.to_be_bytes())?;
                let Some(record) = record.filter(|record| ask.is_fresh(record)) else {
                    look.expired.push(seq);
                    continue;
                };
                if ask.max_attempts > 0 && attempts > ask.max_attempts {
                    look.spent.push(seq);
                    continue;
                }
                let one = Chosen {
                    seq,
                    attempts,
                    record,
                };
                if ask.newest {
                    look.passed.extend(chosen.pop().map(|older| older.seq));
                    chosen.push(one);
                    continue;
                }
                self.grant(txn, ask.queue, &one, until_ms, front)?;
                bytes += u64::from(Head::decode(record).len);
                chosen.push(one);
            }
            if !in_the_way && !ask.newest {
                front.next = seq + 1;
            }
        }
        if let (true, Some(newest)) = (ask.newest, chosen.first()) {
            self.grant(txn, ask.queue, newest, until_ms, front)?;
        }
        Ok(chosen)
    }

    fn grant(
        &self,
        txn: &mut RwTxn,
        queue: QueueId,
        &Chosen { seq, attempts, .. }: &Chosen,
        until_ms: u64,
        front: &mut Front,
    ) -> Result<()> {
        let lease = Lease {
            owner: self.owner,
            attempts,
            until_ms,
        };
        front.earliest_ms = front.earliest_ms.min(until_ms);
        self.leases
            .put(txn, &entry_key(queue, seq), &lease.encode())
            .map_err(full)
    }

    /// Gives leases up; `attempt` says what becomes of the attempt.
    pub(crate) fn give_up(&self, queue: QueueId, taken: &[Taken], attempt: Attempt) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        let mut front = self.stored_front(&txn, queue)?;
        for taken in taken {
            let key = entry_key(queue, taken.seq);
            let Some(lease) = self.held(&txn, &key, taken)? else {
                continue;
            };
            let attempts = match attempt {
                Attempt::Counts => lease.attempts,
                Attempt::DoesNot => lease.attempts - 1,
                Attempt::IsStored => 0,
            };
            match attempts {
                0 => _ = self.leases.delete(&mut txn, &key)?,
                _ => self
                    .leases
                    .put(&mut txn, &key, &Lease::ended(attempts).encode())?,
            }
            front.next = front.next.min(taken.seq);
        }
        self.store_front(&mut txn, queue, &front)?;
        commit(txn)
    }

    /// The lease behind `taken`, unless it ran out and the message is another's by now (of this
    /// environment perhaps, but then in another attempt).
    fn held(&self, txn: &RoTxn, key: &[u8], taken: &Taken) -> Result<Option<Lease>> {
        let lease = self.leases.get(txn, key)?.map(Lease::decode);
        Ok(lease.filter(|lease| lease.owner == self.owner && lease.attempts == taken.attempts))
    }

    /// Whether the lease still holds; with `prolong` it then does for so long from now.
    pub(crate) fn hold(
        &self,
        queue: QueueId,
        taken: &Taken,
        prolong: Option<Duration>,
    ) -> Result<bool> {
        let key = entry_key(queue, taken.seq);
        let mut txn = self.env.write_txn()?;
        let Some(mut lease) = self.held(&txn, &key, taken)? else {
            return Ok(false);
        };
        if let Some(time) = prolong {
            lease.until_ms = self
                .now_ms()
                .saturating_add(time.as_millis().try_into().unwrap_or(NEVER));
            self.leases.put(&mut txn, &key, &lease.encode())?;
        }
        commit(txn)?;
        Ok(true)
    }

    /// Notes that messages are settled; their leases go with the next transaction.
    pub(crate) fn settled(&self, queue: QueueId, seqs: &[u64]) {
        let mut settled = lock(&self.settled);
        settled.extend(seqs.iter().map(|seq| (queue, *seq)));
    }

    /// Removes the leases of settled messages now instead of with the next transaction.
    pub(crate) fn forget(&self) -> Result<()> {
        let mut txn = self.env.write_txn()?;
        match self.forget_settled(&mut txn)? {
            true => commit(txn),
            false => Ok(()),
        }
    }

    /// Ends the leases of holders that have died. Answers whether there were any.
    pub(crate) fn reap(
        &self,
        main: &Env<WithoutTls>,
        trees: &Trees,
        queue: QueueId,
    ) -> Result<bool> {
        let mut txn = self.env.write_txn()?;
        let read = main.read_txn()?;
        let mut front = self.stored_front(&txn, queue)?;
        let mut known: Vec<(u32, bool)> = vec![(0, false), (self.owner, false)];
        let dead = |lease: &Lease| match known.iter().find(|(owner, _)| *owner == lease.owner) {
            Some((_, dead)) => *dead,
            None => {
                let dead = !self.locks.is_held(OWNERS + lease.owner);
                known.push((lease.owner, dead));
                dead
            }
        };
        let some = self.lapse(&mut txn, (trees, &read), queue, &mut front, dead)?;
        if some {
            self.store_front(&mut txn, queue, &front)?;
            commit(txn)?;
        }
        Ok(some)
    }

    /// Whether somebody has this entry in hand.
    pub(crate) fn is_taken(&self, queue: QueueId, seq: u64) -> Result<bool> {
        let txn = self.env.read_txn()?;
        let lease = self
            .leases
            .get(&txn, &entry_key(queue, seq))?
            .map(Lease::decode);
        Ok(lease.is_some_and(|lease| lease.owner != 0 && lease.until_ms > self.now_ms()))
    }

    /// How many entries of `queue` are leased now.
    pub(crate) fn count(&self, queue: QueueId) -> Result<u64> {
        let txn = self.env.read_txn()?;
        let mut count = 0;
        for lease in self.of_queue(&txn, queue)? {
            count += u64::from(lease?.1.owner != 0);
        }
        Ok(count)
    }

    /// Forgets the owner of each lease for which `over` holds; the attempt stays counted.
    fn lapse(
        &self,
        txn: &mut RwTxn,
        (trees, read): (&Trees, &RoTxn<WithoutTls>),
        queue: QueueId,
        front: &mut Front,
        mut over: impl FnMut(&Lease) -> bool,
    ) -> Result<bool> {
        let all = self.of_queue(txn, queue)?.collect::<Result<Vec<_>>>()?;
        front.earliest_ms = NEVER;
        let mut some = false;
        for (seq, lease) in all {
            if lease.owner != 0 && !over(&lease) {
                front.earliest_ms = front.earliest_ms.min(lease.until_ms);
                continue;
            }
            let key = entry_key(queue, seq);
            if trees.queued.get(read, &key)?.is_none() {
                self.leases.delete(txn, &key)?;
            } else if lease.owner != 0 {
                let ended = Lease::ended(lease.attempts);
                self.leases.put(txn, &key, &ended.encode())?;
                front.next = front.next.min(seq);
            }
            some |= lease.owner != 0;
        }
        Ok(some)
    }

    fn of_queue<'t>(
        &self,
        txn: &'t RoTxn,
        queue: QueueId,
    ) -> Result<impl Iterator<Item = Result<(u64, Lease)>> + use<'t>> {
        let (low, high) = (entry_key(queue, 0), entry_key(queue, u64::MAX));
        let range = self.leases.range(txn, &span(&low, &high))?;
        Ok(range.map(|entry| {
            entry
                .map(|(key, value)| (entry_seq(key), Lease::decode(value)))
                .map_err(Error::from)
        }))
    }

    fn stored_front(&self, txn: &RoTxn, queue: QueueId) -> Result<Front> {
        let stored = self
            .fronts
            .get(txn, &queue.0.to_be_bytes())?
            .map(Front::decode);
        Ok(stored.unwrap_or(Front {
            next: 0,
            earliest_ms: NEVER,
            epoch: 0,
        }))
    }

    fn store_front(&self, txn: &mut RwTxn, queue: QueueId, front: &Front) -> Result<()> {
        let key = queue.0.to_be_bytes();
        self.fronts.put(txn, &key, &front.encode()).map_err(full)
    }

    /// Answers whether there was anything to forget.
    fn forget_settled(&self, txn: &mut RwTxn) -> Result<bool> {
        let settled = std::mem::take(&mut *lock(&self.settled));
        for (queue, seq) in &settled {
            self.leases.delete(txn, &entry_key(*queue, *seq))?;
        }
        Ok(!settled.is_empty())
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // Best effort: what stays behind is swept when its owner is found to have gone.
        if let Ok(mut txn) = self.env.write_txn() {
            let _ = self.forget_settled(&mut txn).and_then(|_| commit(txn));
        }
        let _ = self.locks.unlock(OWNERS + self.owner);
    }
}

fn commit(txn: RwTxn) -> Result<()> {
    txn.commit().map_err(full)
}

/// In this environment a full map means too many leases.
fn full(error: heed::Error) -> Error {
    match Error::from(error) {
        Error::Full(Resource::Map) => Error::Full(Resource::Leases),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Environment, Setup};

    /// Every receiver that waits looks once a second. If that wrote, an idle machine's disk would never rest.
    #[test]
    fn a_look_that_finds_nothing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment::open(dir.path()).unwrap();
        let control = env.new_control();
        control.initialize(&Setup::new(["sub"])).unwrap();
        let subscriber = env.new_subscriber("sub").unwrap();
        let transactions = || env.engine().leases.env.info().last_txn_id;
        // The first look stores the front, and the one after a settled message forgets its lease.
        env.new_publisher().unwrap().send("one").unwrap();
        let one = subscriber.receive(Duration::ZERO).unwrap().unwrap();
        one.ack().unwrap();
        assert!(subscriber.receive(Duration::ZERO).unwrap().is_none());
        let before = transactions();
        for _ in 0..5 {
            assert!(subscriber.receive(Duration::ZERO).unwrap().is_none());
            env.engine().reap(subscriber.queue).unwrap();
        }
        assert_eq!(transactions(), before);
    }
}

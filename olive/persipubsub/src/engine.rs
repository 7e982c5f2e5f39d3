//! The store as one process has it open: environments, locks, bell; one write transaction for many
//! operations; the look at a queue's front.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use heed::{Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};

use crate::config::Config;
use crate::error::{Error, Resource, Result};
use crate::lease::{Ask, Leases, Look};
use crate::op::{Done, Op};
use crate::record::{Head, QueueId};
use crate::space::Space;
use crate::sys::{self, Bell, ByteLocks, lock};
use crate::trees::Trees;
use crate::tx::{Soonest, Tx};

/// What a power cut may take. Whatever is chosen, a killed *process* loses nothing that was
/// answered, and breaks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Every commit is on the disk before its call returns. The default.
    #[default]
    Sync,
    /// The disk may lag behind by this time: a power cut takes the last commits with it, never the
    /// store's consistency. Saves one of the two syncs of a commit.
    Interval(Duration),
    /// The operating system writes when it likes: a power cut may leave an unreadable store. For
    /// data that can be made again.
    None,
}

/// The map of a new store, in bytes, if nobody says otherwise: 32 GiB.
pub const MAP_SIZE: usize = 32 << 30;

/// How to open a store. The defaults are the original's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Address space, and the most the file can grow to, in bytes; at least 1 MiB, at most 128 TiB, and
    /// rounded up to whole pages.
    /// `None`, the default: what the store was created with, and [`MAP_SIZE`] for a new one. The file
    /// is sparse and only grows as needed.
    pub map_size: Option<usize>,
    /// How many read transactions may be open at once, over all processes. Default 1,024, at least 1,
    /// at most 65,536.
    /// Fixed by whoever opens the store first.
    pub max_readers: u32,
    /// What a power cut may take. Default [`Durability::Sync`]. Holds for this process's commits.
    pub durability: Durability,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            map_size: None,
            max_readers: 1024,
            durability: Durability::Sync,
        }
    }
}

impl Options {
    /// Refuses sizes that cannot be, saying which. Each reader costs room on the disk, so a number that
    /// nobody can mean would fill it.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=READERS_MAX).contains(&self.max_readers) {
            return Err(format!("max_readers must be 1 to {READERS_MAX}"));
        }
        match self.map_size {
            Some(size) if size > MAP_SIZE_MAX => {
                Err(format!("map_size must be at most {MAP_SIZE_MAX}"))
            }
            _ => Ok(()),
        }
    }
}

/// The most read transactions at once: a lock file of 4 MiB.
const READERS_MAX: u32 = 1 << 16;

/// The greatest map, in bytes: what a process can address, 128 TiB.
const MAP_SIZE_MAX: usize = 1 << 47;

/// Bytes of the file `locks`; the owners' come after them.
const OPENING: u32 = 0;
const IN_USE: u32 = 1;

/// Bytes of a store that was made and not yet initialised: LMDB's two meta pages.
const NEW_FILE: u64 = 8192;

/// Between two sweeps for readers that died, in commits.
const SWEEP_EVERY: u64 = 1024;

/// The paths that are open, and in which process: this one, or the one it was forked from. LMDB's
/// locks belong to the process, so this must too.
static OPEN: Mutex<BTreeMap<PathBuf, u32>> = Mutex::new(BTreeMap::new());

pub(crate) struct Engine {
    pub(crate) env: Env<WithoutTls>,
    pub(crate) leases: Leases,
    pub(crate) bell: Bell,
    pub(crate) space: Space,
    trees: OnceLock<Trees>,
    opening: Mutex<()>,
    config: Mutex<Arc<Config>>,
    /// As of our last commit.
    soonest: Mutex<Option<Soonest>>,
    commits: AtomicU64,
    locks: Arc<ByteLocks>,
    pub(crate) path: PathBuf,
    pid: u32,
    _registered: Registered,
}

/// A path's entry in [`OPEN`]. Dropped last.
struct Registered(PathBuf);

impl Registered {
    fn new(path: &Path) -> Result<Self> {
        let mut open = lock(&OPEN);
        let pid = std::process::id();
        match open.get(path) {
            None => _ = open.insert(path.to_owned(), pid),
            Some(home) if *home == pid => return Err(Error::AlreadyOpen(path.to_owned())),
            Some(_) => return Err(Error::Forked),
        }
        Ok(Registered(path.to_owned()))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&OPEN).remove(&self.0);
    }
}

impl Engine {
    pub(crate) fn open(path: &Path, options: Options) -> Result<Self> {
        options.check().map_err(Error::Config)?;
        let whole = path.canonicalize().and_then(|whole| match whole.is_dir() {
            true => Ok(whole),
            false => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        });
        let whole = whole.map_err(|error| Error::from(error).at(path))?;
        Self::open_in(&whole, options).map_err(|error| match error {
            Error::Format(text) => Error::Format(format!("{}: {text}", whole.display())),
            other => other.at(&whole),
        })
    }

    fn open_in(path: &Path, options: Options) -> Result<Self> {
        let registered = Registered::new(path)?;
        let file = path.join("locks");
        let locks = ByteLocks::open(&file).map_err(|error| Error::from(error).at(&file))?;
        let locks = Arc::new(locks);
        // One process at a time opens: it may find a half-made volatile directory, or remove an old one.
        locks.lock(OPENING)?;
        locks.share(IN_USE)?;
        // LMDB writes to a map of its lock file, and leaves half a data file behind on a full disk.
        let readers = sys::lock_file_len(options.max_readers);
        sys::reserve(&path.join("lock.mdb"), readers)?;
        sys::reserve(&path.join("data.mdb"), NEW_FILE)?;
        let env = open_env(path, options)?;
        complete(path, &env)?;
        let swept = env.clear_stale_readers()?;
        if swept > 0 {
            log::info!(
                "persipubsub: cleared {swept} stale readers of {}",
                path.display()
            );
        }
        let trees = OnceLock::new();
        let read = env.read_txn()?;
        let newest_ms = match Trees::open(&env, &read)? {
            Some(found) => {
                found.global(&read)?;
                let newest_ms = found
                    .messages
                    .last(&read)?
                    .map_or(0, |(_, record)| Head::decode(record).sent_ms);
                _ = trees.set(found);
                newest_ms
            }
            None => 0,
        };
        // Committing keeps the handles of the trees open.
        read.commit()?;
        let volatile = volatile_dir(path)?;
        let leases = Leases::open(&volatile, locks.clone(), newest_ms)?;
        let bell = Bell::open(&volatile.join("bell"))?;
        locks.unlock(OPENING)?;
        let space = Space::new(&env)?;
        Ok(Engine {
            env,
            leases,
            bell,
            space,
            trees,
            opening: Mutex::default(),
            config: Mutex::default(),
            soonest: Mutex::default(),
            commits: AtomicU64::new(1),
            locks,
            path: path.to_owned(),
            pid: std::process::id(),
            _registered: registered,
        })
    }

    /// Whether this is the process that opened the store.
    pub(crate) fn is_home(&self) -> bool {
        std::process::id() == self.pid
    }

    /// Refuses after a fork: LMDB's locks did not come along.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_home() {
            Ok(())
        } else {
            Err(Error::Forked)
        }
    }

    /// The trees, if somebody has initialised the store.
    pub(crate) fn trees(&self) -> Result<&Trees> {
        if let Some(trees) = self.trees.get() {
            return Ok(trees);
        }
        // LMDB wants one thread at a time to open trees.
        let _alone = lock(&self.opening);
        if self.trees.get().is_none() {
            let read = self.env.read_txn()?;
            let found = Trees::open(&self.env, &read)?;
            let found = found.ok_or_else(|| Error::NotInitialized(self.path.clone()))?;
            found.global(&read)?;
            read.commit()?;
            _ = self.trees.set(found);
        }
        self.trees()
    }

    /// Creates the store and applies `ops`, in one transaction. Answers `false` and does nothing if
    /// it was there.
    pub(crate) fn initialize(&self, ops: &[Op]) -> Result<bool> {
        let _alone = lock(&self.opening);
        let mut txn = self.env.write_txn()?;
        if self.trees.get().is_some() || Trees::open(&self.env, &txn)?.is_some() {
            return Ok(false);
        }
        self.space.hold_reserve()?;
        let trees = Trees::create(&self.env, &mut txn)?;
        let mut tx = Tx::begin(trees, txn, &Arc::default(), None, self.leases.now_ms())?;
        for op in ops {
            tx.apply(op)?;
        }
        tx.commit()?;
        _ = self.trees.set(trees);
        Ok(true)
    }

    /// Applies all operations and commits once. An operation that is refused leaves the others
    /// alone; if the transaction itself fails, each operation gets one of its own.
    pub(crate) fn run<'a>(&self, ops: impl Iterator<Item = &'a Op> + Clone) -> Vec<Result<Done>> {
        let mut results = Vec::new();
        let transact = |ops: &mut dyn Iterator<Item = &'a Op>, results: &mut Vec<_>| {
            self.transact(ops, results)
                .map_err(|error| error.at(&self.path))
        };
        match transact(&mut ops.clone(), &mut results) {
            Ok(()) => results,
            // A reader that died may be what keeps free pages from being used.
            Err(Error::Full(_)) if self.env.clear_stale_readers().is_ok_and(|many| many > 0) => {
                self.run(ops)
            }
            Err(error) if results.len() <= 1 && ops.clone().count() <= 1 => vec![Err(error)],
            Err(error) => {
                log::debug!(
                    "persipubsub: a group commit failed ({error}), each operation gets its own"
                );
                ops.map(|op| {
                    let mut results = Vec::new();
                    let outcome = transact(&mut std::iter::once(op), &mut results);
                    outcome.and_then(|()| results.pop().expect("one operation, one result"))
                })
                .collect()
            }
        }
    }

    fn transact<'a>(
        &self,
        ops: impl Iterator<Item = &'a Op>,
        results: &mut Vec<Result<Done>>,
    ) -> Result<()> {
        if self
            .commits
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(SWEEP_EVERY)
        {
            self.env.clear_stale_readers()?;
        }
        let trees = *self.trees()?;
        let cached = lock(&self.config).clone();
        let txn = self.env.write_txn()?;
        let soonest = *lock(&self.soonest);
        let mut tx = Tx::begin(trees, txn, &cached, soonest, self.leases.now_ms())?;
        let mut pages = 0;
        for op in ops {
            let result = match self.admit((&trees, &tx), op, &mut pages) {
                // Too large, or no room: nothing was touched, the others go on.
                Err(error @ (Error::Full(_) | Error::TooLarge { .. })) => Err(error),
                Err(error) => return Err(error),
                Ok(()) => match tx.apply(op) {
                    Err(error) if !is_refusal(&error) => return Err(error),
                    result => result,
                },
            };
            results.push(result);
        }
        let done = tx.commit()?;
        if done.config.version != cached.version {
            *lock(&self.config) = done.config;
        }
        *lock(&self.soonest) = done.soonest;
        done.rung.iter().for_each(|queue| self.bell.ring(queue.0));
        Ok(())
    }

    fn admit(&self, (trees, tx): (&Trees, &Tx), op: &Op, pages: &mut u64) -> Result<()> {
        if let Op::Publish(publish) = op {
            tx.check_lengths(publish)?;
        }
        match self.space.need((trees, tx), op)? {
            None => Ok(()),
            Some(need) => self.space.admit(&self.env, (trees, tx.txn()), need, pages),
        }
    }

    /// The configuration as it is now, by any process.
    pub(crate) fn config(&self, txn: &RoTxn) -> Result<Arc<Config>> {
        let trees = self.trees()?;
        let version = trees.global(txn)?.config_version;
        let mut cached = lock(&self.config);
        if cached.version != version {
            *cached = Arc::new(trees.config(txn, version)?);
        }
        Ok(cached.clone())
    }

    pub(crate) fn read<T>(
        &self,
        look: impl FnOnce(&Trees, &RoTxn<WithoutTls>) -> Result<T>,
    ) -> Result<T> {
        self.check()?;
        let trees = self.trees()?;
        look(trees, &self.env.read_txn()?)
    }

    /// Leases up to `max` entries of a queue. Answers also what stood in the way.
    pub(crate) fn look(
        &self,
        queue: QueueId,
        max: usize,
        newest: bool,
        lease: Duration,
    ) -> Result<Look> {
        self.check()?;
        // Limits and entries are read in one snapshot: a woken receiver has no time to waste.
        self.leases.take(&self.env, self.trees()?, queue, |read| {
            let config = self.config(read)?;
            let registered = config.queue(queue.alive());
            let registered =
                registered.ok_or_else(|| Error::UnknownSubscriber(format!("#{}", queue.0)))?;
            Ok(Ask {
                queue,
                max,
                newest,
                lease,
                max_attempts: if queue.is_dead() {
                    0
                } else {
                    registered.max_attempts
                },
                timeout_ms: config.limits.hwm.timeout_ms(),
                now_ms: self.leases.now_ms(),
            })
        })
    }

    pub(crate) fn reap(&self, queue: QueueId) -> Result<bool> {
        self.leases.reap(&self.env, self.trees()?, queue)
    }

    /// Keeps others from opening the store; errs if somebody has it open.
    pub(crate) fn claim(&self) -> Result<()> {
        match self.locks.try_lock(IN_USE)? {
            true => Ok(()),
            false => Err(Error::Busy(self.path.clone())),
        }
    }
}

fn open_env(path: &Path, options: Options) -> Result<Env<WithoutTls>> {
    let flags = match options.durability {
        Durability::Sync => EnvFlags::empty(),
        Durability::Interval(_) => EnvFlags::NO_META_SYNC,
        Durability::None => EnvFlags::NO_SYNC,
    };
    let page = 4096;
    let mut open = EnvOpenOptions::new().read_txn_without_tls();
    // LMDB remembers the size of an existing store's map.
    let data = std::fs::metadata(path.join("data.mdb"));
    let is_new = data.map_or(true, |data| data.len() == 0);
    if let Some(size) = options.map_size.or(is_new.then_some(MAP_SIZE)) {
        open.map_size(size.max(1 << 20).next_multiple_of(page));
    }
    open.max_dbs(Trees::COUNT).max_readers(options.max_readers);
    // SAFETY: the registry refuses a second environment of this path in the process, `check` refuses
    // use after a fork, and the file is only ever changed through LMDB (or extended by `Space`,
    // under LMDB's write lock, beyond what LMDB uses).
    Ok(unsafe { open.flags(flags).open(path)? })
}

/// Makes up for a data file that was cut short: reading past its end would end the process
/// (`SIGBUS`), while LMDB answers with an error when it meets an empty page. Never shrinks the file.
fn complete(path: &Path, env: &Env<WithoutTls>) -> Result<()> {
    let file = env.try_clone_inner_file()?;
    let pages = env.info().last_page_number as u64 + 1;
    let (len, used) = (
        file.metadata()?.len(),
        pages * u64::from(env.stat().page_size),
    );
    if len < used {
        log::warn!(
            "persipubsub: {}/data.mdb has {len} bytes of {used}: was it cut short?",
            path.display()
        );
        sys::allocate(&file, used)?;
    }
    Ok(())
}

/// The directory of what ends with the machine's run; those of earlier runs are removed.
fn volatile_dir(path: &Path) -> Result<PathBuf> {
    const PREFIX: &str = "volatile-";
    let dir = path.join(format!("{PREFIX}{}", sys::boot_id()));
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && entry.path() != dir {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Whether an operation refused with this error has changed nothing.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Full(what) => matches!(what, Resource::Messages | Resource::Bytes),
        Error::TooLarge { .. }
        | Error::UnknownSubscriber(_)
        | Error::InvalidName(_)
        | Error::Config(_) => true,
        _ => false,
    }
}

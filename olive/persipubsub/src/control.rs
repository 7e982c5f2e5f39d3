//! [`Control`]: initialises, maintains, and shows.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::config::{HighWaterMark, Queue, Strategy, check_name};
use crate::engine::Options;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::op::{Backlog, Done, Op};
use crate::record::Count;
use crate::space::used_pages;

/// What a store is initialised with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// The subscribers to register.
    pub subscribers: Vec<String>,
    /// The limits.
    pub high_water_mark: HighWaterMark,
    /// What happens past them.
    pub strategy: Strategy,
    /// After so many attempts a message is a dead letter; 0, the default: never.
    pub max_attempts: u32,
}

impl Setup {
    /// These subscribers, and defaults for the rest.
    pub fn new<S: Into<String>>(subscribers: impl IntoIterator<Item = S>) -> Self {
        Setup {
            subscribers: subscribers.into_iter().map(Into::into).collect(),
            ..Setup::default()
        }
    }

    fn ops(&self) -> Result<Vec<Op>> {
        let mut ops = vec![Op::SetLimits {
            hwm: Some(self.high_water_mark),
            strategy: Some(self.strategy),
        }];
        for name in &self.subscribers {
            check_name(name)?;
            ops.push(self.registration(name));
        }
        Ok(ops)
    }

    fn registration(&self, name: &str) -> Op {
        let (name, max_attempts) = (name.to_owned(), self.max_attempts);
        Op::AddQueue {
            name,
            subscribed: true,
            max_attempts,
            backlog: Backlog::Now,
        }
    }
}

/// Initialises and maintains a store. Everything it decides holds at once for all processes.
#[derive(Debug, Clone)]
pub struct Control {
    env: Environment,
}

impl Control {
    pub(crate) fn new(env: Environment) -> Self {
        Control { env }
    }

    /// Whether the store is initialised.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        self.env.is_initialized()
    }

    /// Initialises the store, whole or not at all. If it was initialised before, nothing changes
    /// and the answer is `false`.
    ///
    /// # Errors
    /// [`InvalidName`](crate::Error::InvalidName), [`Config`](crate::Error::Config) for a `max_messages` of 0.
    pub fn initialize(&self, setup: &Setup) -> Result<bool> {
        self.env.engine().check()?;
        self.env.engine().initialize(&setup.ops()?)
    }

    /// Initialises the store, or brings it in line with `setup`: its limits and strategy hold,
    /// missing subscribers are added. Subscribers and messages that are there stay.
    ///
    /// # Errors
    /// As [`initialize`](Self::initialize).
    pub fn reinitialize(&self, setup: &Setup) -> Result<()> {
        if !self.initialize(setup)? {
            self.env.execute_all(setup.ops()?)?;
        }
        Ok(())
    }

    /// The registered subscribers, in the order in which they were added.
    ///
    /// # Errors
    /// [`NotInitialized`](crate::Error::NotInitialized).
    pub fn subscribers(&self) -> Result<Vec<String>> {
        let engine = self.env.engine();
        engine.read(|_, txn| {
            Ok(engine
                .config(txn)?
                .subscribers()
                .map(|queue| queue.name.clone())
                .collect())
        })
    }

    /// Registers a subscriber; `false` if it was. Running publishers send to it from now on.
    ///
    /// # Errors
    /// [`InvalidName`](crate::Error::InvalidName).
    pub fn add_subscriber(&self, name: &str, backlog: Backlog) -> Result<bool> {
        let op = Op::AddQueue {
            name: name.to_owned(),
            subscribed: true,
            max_attempts: 0,
            backlog,
        };
        Ok(matches!(
            self.env.perform(op)?,
            Done::Queue { added: true, .. }
        ))
    }

    /// Forgets a subscriber, its messages and its dead letters; `false` if there was none. Its
    /// running receivers get [`UnknownSubscriber`](crate::Error::UnknownSubscriber).
    ///
    /// # Errors
    /// If the commit failed.
    pub fn remove_subscriber(&self, name: &str) -> Result<bool> {
        Ok(self
            .env
            .perform(Op::RemoveQueue {
                name: name.to_owned(),
            })?
            .count()
            > 0)
    }

    /// Forgets all subscribers, and with them all messages. Answers how many there were.
    ///
    /// # Errors
    /// If the commit failed.
    pub fn clear_subscribers(&self) -> Result<usize> {
        let names = self.subscribers()?;
        let ops = names
            .iter()
            .map(|name| Op::RemoveQueue { name: name.clone() })
            .collect();
        self.env.execute_all(ops)?;
        Ok(names.len())
    }

    /// Removes all messages, dead letters included; subscribers stay. Answers how many.
    ///
    /// # Errors
    /// If the commit failed.
    pub fn clear_messages(&self) -> Result<u64> {
        Ok(self.env.perform(Op::Clear { queue: None })?.count())
    }

    /// Removes the messages whose time is over, and answers how many. Receivers never see such
    /// messages; this only frees their room early.
    ///
    /// # Errors
    /// If the commit failed.
    pub fn prune_dangling_messages(&self) -> Result<u64> {
        Ok(self.env.perform(Op::ExpireAll)?.count())
    }

    /// Removes all messages of one subscriber (not its dead letters), and answers how many.
    ///
    /// # Errors
    /// [`UnknownSubscriber`](crate::Error::UnknownSubscriber).
    pub fn prune_all_messages_for(&self, name: &str) -> Result<u64> {
        let queue = Some(self.env.queue(name)?);
        Ok(self.env.perform(Op::Clear { queue })?.count())
    }

    /// Puts a subscriber's dead letters back into its queue, attempts forgotten. Answers how many.
    ///
    /// # Errors
    /// [`UnknownSubscriber`](crate::Error::UnknownSubscriber).
    pub fn revive_dead_letters(&self, name: &str) -> Result<u64> {
        let queue = self.env.queue(name)?;
        Ok(self.env.perform(Op::Revive { queue })?.count())
    }

    /// Removes a subscriber's dead letters. Answers how many.
    ///
    /// # Errors
    /// [`UnknownSubscriber`](crate::Error::UnknownSubscriber).
    pub fn clear_dead_letters(&self, name: &str) -> Result<u64> {
        let queue = Some(self.env.queue(name)?.dead());
        Ok(self.env.perform(Op::Clear { queue })?.count())
    }

    /// Sets the limits, also for running publishers, from the next message on. Messages over a
    /// smaller limit stay until one is sent.
    ///
    /// # Errors
    /// [`Config`](crate::Error::Config) for a `max_messages` of 0.
    pub fn set_high_water_mark(&self, hwm: HighWaterMark) -> Result<()> {
        self.env
            .perform(Op::SetLimits {
                hwm: Some(hwm),
                strategy: None,
            })
            .map(|_| ())
    }

    /// Sets the strategy, also for running publishers.
    ///
    /// # Errors
    /// If the commit failed.
    pub fn set_strategy(&self, strategy: Strategy) -> Result<()> {
        self.env
            .perform(Op::SetLimits {
                hwm: None,
                strategy: Some(strategy),
            })
            .map(|_| ())
    }

    /// After how many attempts a message of this subscriber is a dead letter; 0: never.
    ///
    /// # Errors
    /// [`UnknownSubscriber`](crate::Error::UnknownSubscriber).
    pub fn set_max_attempts(&self, name: &str, max_attempts: u32) -> Result<()> {
        self.env
            .perform(Op::SetMaxAttempts {
                name: name.to_owned(),
                max_attempts,
            })
            .map(|_| ())
    }

    /// The store in numbers. Reads counters, except for leases, which it counts.
    ///
    /// # Errors
    /// [`NotInitialized`](crate::Error::NotInitialized).
    pub fn stat(&self) -> Result<Stat> {
        let engine = self.env.engine();
        engine.read(|trees, txn| {
            let (global, config) = (trees.global(txn)?, engine.config(txn)?);
            let page = u64::from(engine.env.stat().page_size);
            let info = engine.env.info();
            let used_bytes = used_pages(trees, txn)? * page;
            let end_bytes = (info.last_page_number as u64 + 1) * page;
            let subscribers = config
                .subscribers()
                .map(|queue| self.stat_of(trees, txn, queue, global.next_seq));
            Ok(Stat {
                messages: global.messages,
                bytes: global.bytes,
                next_sequence: global.next_seq,
                max_messages: config.limits.hwm.max_messages,
                max_bytes: config.limits.hwm.max_bytes,
                message_timeout_seconds: match config.limits.hwm.message_timeout {
                    Duration::MAX => None,
                    timeout => Some(seconds(timeout)),
                },
                strategy: config.limits.strategy,
                map_bytes: info.map_size as u64,
                file_bytes: engine.env.real_disk_size()?,
                used_bytes,
                free_pages: end_bytes.saturating_sub(used_bytes) / page,
                readers: info.number_of_readers,
                subscribers: subscribers.collect::<Result<_>>()?,
            })
        })
    }

    fn stat_of(
        &self,
        trees: &crate::trees::Trees,
        txn: &heed::RoTxn,
        queue: &Queue,
        next_seq: u64,
    ) -> Result<SubscriberStat> {
        let leases = &self.env.engine().leases;
        let Count {
            ready,
            parked,
            bytes,
            ..
        } = trees.count(txn, queue.id)?;
        let oldest = trees
            .entries(txn, queue.id, 0)?
            .next()
            .transpose()?
            .map(|(seq, _)| seq);
        let sent_ms = match oldest {
            Some(seq) => trees.head(txn, seq)?.map(|head| head.sent_ms),
            None => None,
        };
        Ok(SubscriberStat {
            name: queue.name.clone(),
            depth: ready,
            leased: leases.count(queue.id)?,
            delayed: parked,
            dead: trees.count(txn, queue.id.dead())?.ready,
            bytes,
            lag: oldest.map_or(0, |seq| next_seq - seq),
            oldest_age_seconds: sent_ms
                .map(|ms| seconds(Duration::from_millis(leases.now_ms().saturating_sub(ms)))),
            max_attempts: queue.max_attempts,
        })
    }

    /// Writes a compact copy of the store, as it is at this moment, to the new file `target`, while
    /// others go on. Put it into an empty directory as `data.mdb` to use it.
    ///
    /// # Errors
    /// [`Io`](crate::Error::Io) if the file exists or cannot be written.
    pub fn compact_to(&self, target: impl AsRef<Path>) -> Result<()> {
        self.env.engine().check()?;
        let target = target.as_ref();
        let at = |error: Error| error.at(target);
        let file = File::options()
            .write(true)
            .read(true)
            .create_new(true)
            // As LMDB's own: messages are nobody else's to read.
            .mode(0o600)
            .open(target);
        let mut file = file.map_err(|error| at(error.into()))?;
        let env = &self.env.engine().env;
        let copied = env
            .copy_to_file(&mut file, heed::CompactionOption::Enabled)
            .map_err(Error::from)
            .and_then(|()| Ok(file.sync_all()?));
        copied.map_err(|error| {
            // Half a copy helps nobody, least of all on a full disk.
            let _ = std::fs::remove_file(target);
            at(error)
        })
    }

    /// Replaces the store in `path` by a compact copy of itself: LMDB's file never shrinks
    /// otherwise. A crash midway leaves the old one.
    ///
    /// # Errors
    /// [`Busy`](crate::Error::Busy) if any process has it open, [`AlreadyOpen`](crate::Error::AlreadyOpen) if it is this one.
    pub fn compact(path: impl AsRef<Path>, options: Options) -> Result<()> {
        let env = Environment::open_with(&path, options)?;
        env.engine().claim()?;
        let copy = env.path().join("data.mdb.compact");
        let replace = || {
            if copy.exists() {
                std::fs::remove_file(&copy)?;
            }
            env.new_control().compact_to(&copy)?;
            // The copy has no page to spare, and a disk that is full by then would not let it be drained.
            let spare = File::options().write(true).open(&copy)?;
            env.engine().space.hold_reserve_in(&spare)?;
            spare.sync_all()?;
            // Nobody else can have it open while we hold the claim, and LMDB needs nothing of the old
            // file to close it.
            std::fs::rename(&copy, env.path().join("data.mdb"))?;
            Ok(File::open(env.path())?.sync_all()?)
        };
        replace().map_err(|error: Error| error.at(&copy))
    }

    /// The environment it was made from.
    pub fn environment(&self) -> &Environment {
        &self.env
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// The store in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stat {
    /// Messages stored, each counted once.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The sequence of the next message: one more than have ever been sent.
    pub next_sequence: u64,
    /// The high-water mark's limit of messages.
    pub max_messages: u64,
    /// The high-water mark's limit of bytes.
    pub max_bytes: u64,
    /// The high-water mark's timeout; `None`, JSON's `null`, for ever.
    pub message_timeout_seconds: Option<f64>,
    /// What happens past the limits.
    pub strategy: Strategy,
    /// The most that the file can grow to.
    pub map_bytes: u64,
    /// Bytes of `data.mdb`, those allocated ahead included.
    pub file_bytes: u64,
    /// Bytes of pages in use.
    pub used_bytes: u64,
    /// Pages of the file that are free again.
    pub free_pages: u64,
    /// Slots of LMDB's reader table ever used at once.
    pub readers: u32,
    /// Each subscriber, in the order in which they were added.
    pub subscribers: Vec<SubscriberStat>,
}

/// One subscriber in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubscriberStat {
    /// Its name.
    pub name: String,
    /// Messages to be received, those in receivers' hands included.
    pub depth: u64,
    /// Messages in receivers' hands.
    pub leased: u64,
    /// Messages that are not due yet.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Bytes of the bodies of `depth` and `delayed`.
    pub bytes: u64,
    /// How many messages were sent since the oldest it has still to settle, that one included.
    pub lag: u64,
    /// The age of that message.
    pub oldest_age_seconds: Option<f64>,
    /// Attempts before a message is a dead letter; 0: any number.
    pub max_attempts: u32,
}

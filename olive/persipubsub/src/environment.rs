//! [`Environment`]: one store, as this process has it open.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::control::Control;
use crate::engine::{Durability, Engine, Options};
use crate::error::{Error, Result};
use crate::group::{Answers, Group, Ticket};
use crate::op::{Done, Op};
use crate::publisher::Publisher;
use crate::record::{Head, QueueId, state};
use crate::subscriber::Subscriber;

/// An open store, from which controls, publishers and subscribers are made.
///
/// A process can have one environment of a path; it is cheap to clone and safe to share among
/// threads. It must not be used after a fork: everything then answers [`Error::Forked`], and so does
/// opening the path again; fork first and open then, or let the child `exec`. The store is closed
/// when the last clone, and all that was made from it, is dropped; nothing is lost if that never
/// happens.
#[derive(Clone)]
pub struct Environment(Arc<Inner>);

struct Inner {
    #[cfg(feature = "kernel")]
    ear: crate::aio::Ear,
    group: Group,
    engine: Arc<Engine>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // After a fork, closing would touch locks and reader slots that are the parent's.
        if !self.engine.is_home() {
            std::mem::forget(self.engine.clone());
        }
    }
}

impl Environment {
    /// Opens the store in the directory `path`, which must exist, with the default [`Options`].
    ///
    /// The store need not be initialised yet; whatever needs it to be says so then.
    ///
    /// # Errors
    /// [`Error::AlreadyOpen`] if this process has it open, [`Error::Format`] if the files are not
    /// ours, [`Error::Io`] if the directory is missing or not writable, [`Error::Config`] for a
    /// `max_readers` of 0.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use persipubsub::{Environment, Setup};
    ///
    /// # fn main() -> persipubsub::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path();
    /// let env = Environment::open(path)?;
    /// env.new_control().initialize(&Setup::new(["sub"]))?;
    ///
    /// env.new_publisher()?.send("Hello there!")?;
    /// let sub = env.new_subscriber("sub")?;
    /// if let Some(message) = sub.receive(Duration::from_secs(1))? {
    ///     assert_eq!(&message[..], b"Hello there!");
    ///     message.ack()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Options::default())
    }

    /// Opens the store with options of one's own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        if options.durability == Durability::None {
            log::warn!("persipubsub: durability none: a power cut may leave an unreadable store");
        }
        let engine = Arc::new(Engine::open(path.as_ref(), options)?);
        let sync_every = match options.durability {
            Durability::Interval(every) => Some(every),
            _ => None,
        };
        Ok(Environment(Arc::new(Inner {
            #[cfg(feature = "kernel")]
            ear: crate::aio::Ear::new(engine.clone()),
            group: Group::new(engine.clone(), sync_every),
            engine,
        })))
    }

    /// Creates the directory if need be, and opens the store in it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn create(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        match std::fs::create_dir_all(path.as_ref()) {
            // A file of that name is in the way: opening it says so.
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::from(error).at(path.as_ref()))
            }
            _ => Self::open_with(path, options),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.engine().path
    }

    /// Whether a control has initialised the store.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        self.engine().check()?;
        match self.engine().trees() {
            Ok(_) => Ok(true),
            Err(Error::NotInitialized(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A control, to initialise and maintain the store.
    pub fn new_control(&self) -> Control {
        Control::new(self.clone())
    }

    /// A publisher.
    ///
    /// # Errors
    /// [`Error::NotInitialized`].
    pub fn new_publisher(&self) -> Result<Publisher> {
        self.engine().check()?;
        self.engine().trees()?;
        Ok(Publisher::new(self.clone()))
    }

    /// A receiver of the registered subscriber `name`. There may be several, in any number of
    /// threads and processes: they share the messages.
    ///
    /// # Errors
    /// [`Error::UnknownSubscriber`], [`Error::NotInitialized`].
    pub fn new_subscriber(&self, name: &str) -> Result<Subscriber> {
        Subscriber::new(self.clone(), name)
    }

    // The store below the queue ----------------------------------------------------------------

    /// Runs a batch of operations in one transaction, shared with whoever comes at the same time,
    /// and waits until it is committed. One answer for each operation; one that is refused does not
    /// fail the others.
    pub fn execute(&self, ops: Vec<Op>) -> Answers {
        self.0.group.execute(ops)
    }

    /// The same for a batch of which every operation has to succeed: answers the first error.
    pub(crate) fn execute_all(&self, ops: Vec<Op>) -> Result<()> {
        self.execute(ops)
            .into_iter()
            .try_for_each(|answer| answer.map(|_| ()))
    }

    /// Hands a batch to the store thread and returns at once. All submitted batches are carried out
    /// in the order in which they came.
    pub fn submit(&self, ops: Vec<Op>) -> Ticket {
        self.0.group.submit(ops)
    }

    /// Runs one operation and waits.
    ///
    /// # Errors
    /// The operation's.
    pub fn perform(&self, op: Op) -> Result<Done> {
        self.execute(vec![op])
            .pop()
            .expect("one operation, one answer")
    }

    /// The id of a registered queue.
    ///
    /// # Errors
    /// [`Error::UnknownSubscriber`], [`Error::NotInitialized`].
    pub fn queue(&self, name: &str) -> Result<QueueId> {
        let engine = self.engine();
        engine.read(|_, txn| Ok(engine.config(txn)?.named(name)?.id))
    }

    /// Up to `max` queued messages of a queue from sequence `from` on, leased or not, in order.
    /// Nothing is taken.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn peek(&self, queue: QueueId, from: u64, max: usize) -> Result<Vec<Message>> {
        self.engine().read(|trees, txn| {
            let mut messages = Vec::new();
            for entry in trees.entries(txn, queue, from)?.take(max) {
                let (seq, attempts) = entry?;
                if let Some((head, body)) = trees.message(txn, seq)? {
                    messages.push(Message::new(seq, attempts, head, body));
                }
            }
            Ok(messages)
        })
    }

    /// The value stored by [`Op::PutUser`] under `key`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn user_record(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.engine()
            .read(|trees, txn| Ok(trees.state.get(txn, &state::user(key))?.map(<[u8]>::to_vec)))
    }

    /// All records stored by [`Op::PutUser`] whose keys begin with `prefix`, in the order of the keys.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn user_records(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.engine().read(|trees, txn| {
            let mut records = Vec::new();
            for record in trees.state.prefix_iter(txn, &state::user(prefix))? {
                let (key, value) = record?;
                records.push((key[state::user(b"").len()..].to_vec(), value.to_vec()));
            }
            Ok(records)
        })
    }

    /// Name and id of every registered queue, those that are no subscribers too, in the order in which
    /// they were added.
    ///
    /// # Errors
    /// [`Error::NotInitialized`], or if the store cannot be read.
    pub fn queues(&self) -> Result<Vec<(String, QueueId)>> {
        let engine = self.engine();
        engine.read(|_, txn| {
            let config = engine.config(txn)?;
            let queues = config.queues.iter();
            Ok(queues.map(|queue| (queue.name.clone(), queue.id)).collect())
        })
    }

    #[cfg(feature = "kernel")]
    pub(crate) fn ear(&self) -> &crate::aio::Ear {
        &self.0.ear
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Environment").field(&self.path()).finish()
    }
}

/// A stored message, as [`Environment::peek`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its place in the store's one order.
    pub seq: u64,
    /// Attempts that have failed.
    pub attempts: u32,
    /// When it was sent, in milliseconds since 1970 by the store's clock.
    pub sent_ms: u64,
    /// The bytes sent.
    pub body: Vec<u8>,
}

impl Message {
    pub(crate) fn new(seq: u64, attempts: u32, head: Head, body: Vec<u8>) -> Self {
        Message {
            seq,
            attempts,
            sent_ms: head.sent_ms,
            body,
        }
    }
}

//! [`Subscriber`]: receives, and settles what it received.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::environment::{Environment, Message};
use crate::error::{Error, Result};
use crate::lease::{Attempt, Look, Taken};
use crate::op::Op;
use crate::record::QueueId;

/// How long `receive(None)` waits.
pub const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a received message stays with its receiver if nobody says otherwise.
pub const LEASE: Duration = Duration::from_secs(300);

/// A batch takes no further message once its bodies have so many bytes together: 16 MiB.
pub const BATCH_BYTES: u64 = 16 << 20;

/// The safety net under the bell: a sleeping receiver looks by itself so often.
pub(crate) const SLOW_POLL: Duration = Duration::from_secs(1);

/// Receives the messages of one registered subscriber.
///
/// Receivers of the same subscriber compete: each message is with one of them at a time, in the
/// order of sending. What was received must be settled ([`Received::ack`], `give_back`, `fail`);
/// what is not comes again, with its attempts counted: after a panic or an early return at once,
/// when its receiver's process dies within about a second, and otherwise when the lease is over.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub(crate) env: Environment,
    name: String,
    pub(crate) queue: QueueId,
    lease: Duration,
    /// When leases of the dead were last looked for, in milliseconds of the store's clock.
    reaped_ms: Arc<AtomicU64>,
}

impl Subscriber {
    pub(crate) fn new(env: Environment, name: &str) -> Result<Self> {
        let queue = env.queue(name)?;
        Ok(Subscriber {
            env,
            name: name.to_owned(),
            queue,
            lease: LEASE,
            reaped_ms: Arc::default(),
        })
    }

    /// Sets how long a message stays with its receiver. Default [`LEASE`] (300 s).
    pub fn lease(self, lease: Duration) -> Self {
        Subscriber { lease, ..self }
    }

    /// The same subscriber's dead letters, to be received like anything else: acking one removes it,
    /// a failed one stays a dead letter. [`Control`](crate::Control) can put them all back.
    pub fn dead_letters(&self) -> Subscriber {
        Subscriber {
            queue: self.queue.dead(),
            reaped_ms: Arc::default(),
            ..self.clone()
        }
    }

    /// The name it was registered with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The environment it was made from.
    pub fn environment(&self) -> &Environment {
        &self.env
    }

    /// The next message, waiting for it if there is none: `None` when the time is over. Without a
    /// timeout that is [`RECEIVE_TIMEOUT`]; zero does not wait.
    ///
    /// The wait sleeps until a publisher's commit rings, in whichever process.
    ///
    /// # Errors
    /// [`Error::UnknownSubscriber`](crate::Error::UnknownSubscriber) if it was removed meanwhile.
    pub fn receive(&self, timeout: impl Into<Option<Duration>>) -> Result<Option<Received>> {
        Ok(self.receive_batch(1, timeout)?.into_iter().next())
    }

    /// The next message, given to `body`, and settled by its outcome: taken on success, coming
    /// again if it failed or panicked. `None` when the time is over.
    ///
    /// # Errors
    /// The body's, or this crate's.
    pub fn receive_with<T, E: From<crate::Error>>(
        &self,
        timeout: impl Into<Option<Duration>>,
        body: impl FnOnce(&Received) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let Some(message) = self.receive(timeout)? else {
            return Ok(None);
        };
        let value = body(&message)?;
        message.ack()?;
        Ok(Some(value))
    }

    /// Up to `max` messages: waits for the first as [`receive`](Self::receive) does, and takes what
    /// is there, but ends a batch whose bodies have reached [`BATCH_BYTES`]. Empty when the time is
    /// over.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_batch(&self, max: usize, timeout: impl Into<Option<Duration>>) -> Result<Batch> {
        let taken = self.wait(max, false, timeout.into().unwrap_or(RECEIVE_TIMEOUT))?;
        Ok(Batch::new(self, taken))
    }

    /// The newest message; all older ones are settled, in one transaction, without being seen.
    /// Other subscribers keep theirs. Waits as [`receive`](Self::receive) does.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_to_top(&self, timeout: impl Into<Option<Duration>>) -> Result<Option<Received>> {
        let taken = self.wait(1, true, timeout.into().unwrap_or(RECEIVE_TIMEOUT))?;
        Ok(Batch::new(self, taken).into_iter().next())
    }

    /// The oldest message that is neither taken nor expired, without taking it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn front(&self) -> Result<Option<Message>> {
        let engine = self.env.engine();
        engine.read(|trees, txn| {
            let timeout_ms = engine.config(txn)?.limits.hwm.timeout_ms();
            let now_ms = engine.leases.now_ms();
            for entry in trees.entries(txn, self.queue, 0)? {
                let (seq, attempts) = entry?;
                let alive = trees
                    .head(txn, seq)?
                    .is_some_and(|head| self.queue.is_dead() || head.deadline(timeout_ms) > now_ms);
                if alive && !engine.leases.is_taken(self.queue, seq)? {
                    let message = trees.message(txn, seq)?;
                    return Ok(message.map(|(head, body)| Message::new(seq, attempts, head, body)));
                }
            }
            Ok(None)
        })
    }

    fn wait(&self, max: usize, newest: bool, timeout: Duration) -> Result<Vec<Taken>> {
        let engine = self.env.engine();
        // A deadline too far to be represented is none.
        let deadline = Instant::now().checked_add(timeout);
        let mut seen = None;
        loop {
            let look = self.look(max, newest)?;
            if !look.taken.is_empty() {
                return Ok(look.taken);
            }
            let left = deadline.map_or(SLOW_POLL, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(Vec::new());
            }
            // Look once more after the bell is set to ring, then sleep.
            let Some(at) = seen.take() else {
                seen = Some(engine.bell.prepare(self.queue.0));
                continue;
            };
            let pause = left.min(self.pause(&look));
            engine.bell.wait(self.queue.0, at, pause);
        }
    }

    /// Takes what is there, having cleared the way to it.
    pub(crate) fn look(&self, max: usize, newest: bool) -> Result<Look> {
        self.reap_now_and_then()?;
        loop {
            let look = self.env.engine().look(self.queue, max, newest, self.lease);
            // The store knows numbers, whoever reads the error knows the name.
            let look = look.map_err(|error| match error {
                Error::UnknownSubscriber(_) => Error::UnknownSubscriber(self.name.clone()),
                other => other,
            })?;
            if !self.clear_the_way(&look)? || !look.taken.is_empty() {
                return Ok(look);
            }
        }
    }

    /// How long to sleep at most after a look that gave nothing.
    pub(crate) fn pause(&self, look: &Look) -> Duration {
        let now_ms = self.env.engine().leases.now_ms();
        SLOW_POLL.min(Duration::from_millis(look.next_ms.saturating_sub(now_ms)))
    }

    /// Removes, buries or promotes what the look found in the way. Answers whether to look again.
    fn clear_the_way(&self, look: &Look) -> Result<bool> {
        let queue = self.queue;
        let mut ops = Vec::new();
        for seqs in [&look.expired, &look.passed]
            .into_iter()
            .filter(|seqs| !seqs.is_empty())
        {
            ops.push(Op::Ack {
                queue,
                seqs: seqs.clone(),
            });
        }
        if !look.spent.is_empty() {
            ops.push(Op::Bury {
                queue,
                seqs: look.spent.clone(),
            });
        }
        if look.due {
            ops.push(Op::Promote { queue });
        }
        let any = !ops.is_empty();
        if any {
            self.env.execute_all(ops)?;
            let gone = [&look.expired, &look.passed, &look.spent];
            gone.into_iter()
                .for_each(|seqs| self.env.engine().leases.settled(queue, seqs));
            // Revived by another process, it would otherwise still have no attempt left.
            if !look.spent.is_empty() {
                self.env.engine().leases.forget()?;
            }
        }
        Ok(any)
    }

    /// Frees what dead receivers had in hand: before the first look, so that it comes before anything
    /// newer, and then once a second, also where a full queue leaves no time to wait.
    fn reap_now_and_then(&self) -> Result<()> {
        let engine = self.env.engine();
        let (now_ms, last_ms) = (
            engine.leases.now_ms(),
            self.reaped_ms.load(Ordering::Relaxed),
        );
        if now_ms.saturating_sub(last_ms) >= SLOW_POLL.as_millis() as u64 {
            self.reaped_ms.store(now_ms, Ordering::Relaxed);
            if engine.reap(self.queue)? {
                engine.bell.ring(self.queue.0);
            }
        }
        Ok(())
    }
}

/// A message in hand. It reads as its bytes.
///
/// Settle it with [`ack`](Self::ack), [`give_back`](Self::give_back) or [`fail`](Self::fail); if it
/// is dropped instead, by a panic or an early return, it comes again at once and the attempt counts.
#[must_use = "a message that is dropped comes again"]
#[derive(Debug)]
pub struct Received {
    pub(crate) env: Environment,
    pub(crate) queue: QueueId,
    pub(crate) taken: Taken,
    pub(crate) settled: bool,
}

impl Received {
    /// Its place in the store's one order: unique, and growing with time.
    pub fn seq(&self) -> u64 {
        self.taken.seq
    }

    /// Which attempt this is; the first is 1.
    pub fn attempt(&self) -> u32 {
        self.taken.attempts
    }

    /// When it was sent, in milliseconds since 1970 by the store's clock.
    pub fn sent_ms(&self) -> u64 {
        self.taken.sent_ms
    }

    /// The bytes sent.
    pub fn body(&self) -> &[u8] {
        &self.taken.body
    }

    /// Settles it: it will not come again. Idempotent: also after its lease is over, or after a
    /// control has pruned it. Returns when that is committed.
    ///
    /// # Errors
    /// If the commit failed; the message then comes again.
    pub fn ack(mut self) -> Result<()> {
        self.env.perform(Op::Ack {
            queue: self.queue,
            seqs: vec![self.taken.seq],
        })?;
        self.settled = true;
        self.env
            .engine()
            .leases
            .settled(self.queue, &[self.taken.seq]);
        Ok(())
    }

    /// Gives it back unharmed: it comes again at once, and the attempt does not count.
    ///
    /// # Errors
    /// If the leases cannot be written.
    pub fn give_back(mut self) -> Result<()> {
        self.settled = true;
        give_up(
            &self.env,
            self.queue,
            std::slice::from_ref(&self.taken),
            Attempt::DoesNot,
        )
    }

    /// Says that the attempt has failed: the message comes again after `delay`, or becomes a dead
    /// letter if its subscriber allows no more attempts. A no-op if the lease is over and another
    /// receiver has it.
    ///
    /// # Errors
    /// If the commit failed; the message then comes again.
    pub fn fail(mut self, delay: Duration) -> Result<()> {
        let Taken { seq, attempts, .. } = self.taken;
        if self
            .env
            .engine()
            .leases
            .hold(self.queue, &self.taken, None)?
        {
            let delay_ms = delay.as_millis().try_into().unwrap_or(u64::MAX);
            self.env.perform(Op::Fail {
                queue: self.queue,
                seq,
                attempts,
                delay_ms,
            })?;
        }
        self.settled = true;
        give_up(
            &self.env,
            self.queue,
            std::slice::from_ref(&self.taken),
            Attempt::IsStored,
        )
    }

    /// Keeps it for another `lease` from now. Answers `false` if it is no longer ours.
    ///
    /// # Errors
    /// If the leases cannot be written.
    pub fn renew(&self, lease: Duration) -> Result<bool> {
        self.env
            .engine()
            .leases
            .hold(self.queue, &self.taken, Some(lease))
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.taken.body
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let taken = std::slice::from_ref(&self.taken);
        if let Err(error) = give_up(&self.env, self.queue, taken, Attempt::Counts) {
            let seq = self.taken.seq;
            log::warn!("persipubsub: message {seq} comes again only after its lease: {error}");
        }
    }
}

/// Messages in hand together, in order.
///
/// Iterate over it to settle them one by one, or settle them all in one transaction with
/// [`ack`](Self::ack). What is dropped comes again.
#[must_use = "messages that are dropped come again"]
#[derive(Debug)]
pub struct Batch {
    env: Environment,
    queue: QueueId,
    taken: Vec<Taken>,
}

impl Batch {
    pub(crate) fn new(subscriber: &Subscriber, taken: Vec<Taken>) -> Self {
        Batch {
            env: subscriber.env.clone(),
            queue: subscriber.queue,
            taken,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether the time was over before one came.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// The bodies, in order.
    pub fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.taken.iter().map(|taken| &taken.body[..])
    }

    /// Settles all of them in one transaction.
    ///
    /// # Errors
    /// If the commit failed; all of them then come again.
    pub fn ack(mut self) -> Result<()> {
        let seqs = self.seqs();
        if seqs.is_empty() {
            return Ok(());
        }
        self.env.perform(Op::Ack {
            queue: self.queue,
            seqs: seqs.clone(),
        })?;
        self.taken.clear();
        self.env.engine().leases.settled(self.queue, &seqs);
        Ok(())
    }

    fn seqs(&self) -> Vec<u64> {
        self.taken.iter().map(|taken| taken.seq).collect()
    }
}

impl IntoIterator for Batch {
    type Item = Received;
    type IntoIter = std::vec::IntoIter<Received>;

    fn into_iter(mut self) -> Self::IntoIter {
        let taken = std::mem::take(&mut self.taken);
        let own = |taken| Received {
            env: self.env.clone(),
            queue: self.queue,
            taken,
            settled: false,
        };
        taken.into_iter().map(own).collect::<Vec<_>>().into_iter()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        if let Err(error) = give_up(&self.env, self.queue, &self.taken, Attempt::Counts) {
            log::warn!("persipubsub: a batch comes again only after its lease: {error}");
        }
    }
}

fn give_up(env: &Environment, queue: QueueId, taken: &[Taken], attempt: Attempt) -> Result<()> {
    env.engine().check()?;
    env.engine().leases.give_up(queue, taken, attempt)?;
    env.engine().bell.ring(queue.0);
    Ok(())
}

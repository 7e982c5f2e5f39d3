//! The same queue for tasks of the kernel: nothing here blocks the thread that runs them.
//!
//! Commits are the store thread's work ([`Environment::submit`](crate::Environment::submit)); looks into the queue go to a
//! thread of the kernel's pool; waiting costs no thread: one listener for each environment hears
//! the bell and wakes the tasks concerned.
//!
//! ```
//! use persipubsub::{Environment, Setup, aio};
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().to_owned();
//! kernel::run(async move {
//!     let env = Environment::open(path)?;
//!     env.new_control().initialize(&Setup::new(["sub"]))?;
//!     let publisher = aio::Publisher::new(env.new_publisher()?);
//!     let subscriber = aio::Subscriber::new(env.new_subscriber("sub")?);
//!     publisher.send("Hello there!").await?;
//!     let message = subscriber.receive(None).await?.expect("it was sent");
//!     assert_eq!(message.body(), b"Hello there!");
//!     message.ack().await
//! })
//! .unwrap()
//! .unwrap();
//! ```

use std::future::Future;
use std::ops::{Deref, Range};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::Result;
use crate::op::{Done, Op, Publish};
use crate::publisher::{SendOptions, joined};
use crate::subscriber::{Batch, RECEIVE_TIMEOUT, SLOW_POLL};
use crate::sys::{ANY, lock};

/// Sends messages without blocking the kernel's thread.
#[derive(Debug, Clone)]
pub struct Publisher {
    inner: crate::Publisher,
}

impl Publisher {
    /// The asynchronous form of a publisher.
    pub fn new(publisher: crate::Publisher) -> Self {
        Publisher { inner: publisher }
    }

    /// Sends one message; see [`crate::Publisher::send`].
    ///
    /// # Cancellation
    /// The message is sent all the same, at most nobody hears its sequence.
    ///
    /// # Errors
    /// As the blocking form, and cancellation and timeouts.
    pub async fn send(&self, body: impl Into<Vec<u8>>) -> Result<u64> {
        self.send_with(body, SendOptions::default()).await
    }

    /// Sends one message that is delivered late, or not for long.
    ///
    /// # Cancellation
    /// As [`send`](Self::send).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_with(&self, body: impl Into<Vec<u8>>, options: SendOptions) -> Result<u64> {
        let publish = options.publish(vec![body.into()]);
        Ok(self.publish(publish).await?.start)
    }

    /// Sends many messages in one transaction, or in one each with
    /// [`autosync`](crate::Publisher::autosync); see [`crate::Publisher::send_many`].
    ///
    /// # Cancellation
    /// As [`send`](Self::send).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_many<B: Into<Vec<u8>>>(
        &self,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<Range<u64>> {
        let mut all = 0..0;
        for publish in self.inner.transactions(bodies) {
            all = joined(all, self.publish(publish).await?);
        }
        Ok(all)
    }

    async fn publish(&self, publish: Publish) -> Result<Range<u64>> {
        let ticket = self.inner.environment().submit(vec![Op::Publish(publish)]);
        let mut answers = kernel::foreign(ticket).await?;
        let answer = answers.pop().expect("one operation, one answer");
        answer.map(Done::sequences)
    }
}

/// Receives messages without blocking the kernel's thread.
#[derive(Debug, Clone)]
pub struct Subscriber {
    inner: crate::Subscriber,
}

impl Subscriber {
    /// The asynchronous form of a subscriber.
    pub fn new(subscriber: crate::Subscriber) -> Self {
        Subscriber { inner: subscriber }
    }

    /// The next message, waiting for it if there is none: `None` when the time is over. Without a
    /// timeout that is [`RECEIVE_TIMEOUT`]; zero does not wait.
    ///
    /// # Cancellation
    /// Safe. A message taken in that very moment comes again at once, the attempt counted.
    ///
    /// # Errors
    /// As the blocking form, and cancellation and timeouts.
    pub async fn receive(&self, timeout: impl Into<Option<Duration>>) -> Result<Option<Received>> {
        Ok(self.receive_batch(1, timeout).await?.pop())
    }

    /// Up to `max` messages, in order; see [`crate::Subscriber::receive_batch`].
    ///
    /// # Cancellation
    /// As [`receive`](Self::receive).
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn receive_batch(
        &self,
        max: usize,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Vec<Received>> {
        self.wait(max, false, timeout.into()).await
    }

    /// The newest message, all older ones settled; see [`crate::Subscriber::receive_to_top`].
    ///
    /// # Cancellation
    /// As [`receive`](Self::receive); the older ones may be settled all the same.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn receive_to_top(
        &self,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Option<Received>> {
        Ok(self.wait(1, true, timeout.into()).await?.pop())
    }

    /// The next message, given to `body` and settled by its outcome; see
    /// [`crate::Subscriber::receive_with`].
    ///
    /// # Cancellation
    /// In the body: the message comes again at once, the attempt counted.
    ///
    /// # Errors
    /// The body's, or as [`receive`](Self::receive).
    pub async fn receive_with<T, E: From<crate::Error>>(
        &self,
        timeout: impl Into<Option<Duration>>,
        body: impl AsyncFnOnce(&Received) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let Some(message) = self.receive(timeout).await? else {
            return Ok(None);
        };
        let value = body(&message).await?;
        message.ack().await?;
        Ok(Some(value))
    }

    async fn wait(
        &self,
        max: usize,
        newest: bool,
        timeout: Option<Duration>,
    ) -> Result<Vec<Received>> {
        let deadline = kernel::now().checked_add(timeout.unwrap_or(RECEIVE_TIMEOUT));
        loop {
            // Before the look: what comes after it has changed this.
            let seen = self.inner.env.engine().bell.changes(self.inner.queue.0);
            let inner = self.inner.clone();
            let look = move || {
                let look = inner.look(max, newest)?;
                let pause = inner.pause(&look);
                // A batch that nobody fetches any more gives itself back.
                Ok::<_, crate::Error>((Batch::new(&inner, look.taken), pause))
            };
            let (batch, pause) = kernel::run_in_thread(look).await??;
            if !batch.is_empty() {
                return Ok(batch.into_iter().map(|inner| Received { inner }).collect());
            }
            let left = deadline.map_or(SLOW_POLL, |deadline| {
                deadline.saturating_duration_since(kernel::now())
            });
            if left.is_zero() {
                return Ok(Vec::new());
            }
            let changed = self.inner.env.ear().changed(self.inner.queue.0, seen);
            kernel::ignore_after(left.min(pause), kernel::foreign(changed)).await?;
        }
    }
}

/// A message in hand; see [`crate::Received`]. It reads as its bytes.
#[must_use = "a message that is dropped comes again"]
#[derive(Debug)]
pub struct Received {
    inner: crate::Received,
}

impl Received {
    /// Settles it: it will not come again.
    ///
    /// # Cancellation
    /// It is settled all the same.
    ///
    /// # Errors
    /// If the commit failed, and then it comes again; cancellation and timeouts.
    pub async fn ack(mut self) -> Result<()> {
        let (env, queue) = (self.inner.env.clone(), self.inner.queue);
        let seqs = vec![self.inner.seq()];
        // Handed in: from here on it is not given back, whoever stops waiting.
        let ticket = env.submit(vec![Op::Ack {
            queue,
            seqs: seqs.clone(),
        }]);
        self.inner.settled = true;
        let answer = kernel::foreign(ticket)
            .await?
            .pop()
            .expect("one operation, one answer");
        match answer {
            Ok(_) => env.engine().leases.settled(queue, &seqs),
            Err(_) => self.inner.settled = false,
        }
        answer.map(|_| ())
    }

    /// Gives it back unharmed, at once.
    ///
    /// # Errors
    /// If the leases cannot be written.
    pub fn give_back(self) -> Result<()> {
        self.inner.give_back()
    }

    /// Says that the attempt has failed; see [`crate::Received::fail`].
    ///
    /// # Cancellation
    /// It fails all the same.
    ///
    /// # Errors
    /// As the blocking form, and cancellation and timeouts.
    pub async fn fail(self, delay: Duration) -> Result<()> {
        kernel::run_in_thread(move || self.inner.fail(delay)).await?
    }
}

impl Deref for Received {
    type Target = crate::Received;

    fn deref(&self) -> &crate::Received {
        &self.inner
    }
}

/// Hears the bell for all tasks of this process: one thread, started by the first that waits.
pub(crate) struct Ear(Arc<Shared>, Mutex<Option<JoinHandle<()>>>);

struct Shared {
    engine: Arc<Engine>,
    waiting: Mutex<Vec<Waker>>,
    closed: AtomicBool,
}

impl Ear {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let (waiting, closed) = (Mutex::default(), AtomicBool::new(false));
        Ear(
            Arc::new(Shared {
                engine,
                waiting,
                closed,
            }),
            Mutex::default(),
        )
    }

    /// Ends when `queue` was rung after `seen` was taken.
    fn changed(&self, queue: u32, seen: u32) -> Changed {
        let mut thread = lock(&self.1);
        if thread.is_none() {
            let shared = self.0.clone();
            let builder = std::thread::Builder::new().name("persipubsub-ear".to_owned());
            *thread = Some(
                builder
                    .spawn(move || shared.listen())
                    .expect("a thread can be started"),
            );
        }
        Changed {
            shared: self.0.clone(),
            queue,
            seen,
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // After a fork the thread is the parent's.
        if !self.0.engine.is_home() {
            return;
        }
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.engine.bell.ring(ANY);
        let thread = self
            .1
            .get_mut()
            .expect("no panic happens under this lock")
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        lock(&self.waiting)
    }

    fn listen(&self) {
        while !self.closed.load(Ordering::SeqCst) {
            let seen = self.engine.bell.prepare(ANY);
            let woken = std::mem::take(&mut *self.waiting());
            woken.into_iter().for_each(Waker::wake);
            if !self.closed.load(Ordering::SeqCst) {
                self.engine.bell.wait(ANY, seen, SLOW_POLL);
            }
        }
    }
}

struct Changed {
    shared: Arc<Shared>,
    queue: u32,
    seen: u32,
}

impl Future for Changed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Registered first and looked at second, so a ring between the two is not missed.
        self.shared.waiting().push(context.waker().clone());
        match self.shared.engine.bell.changes(self.queue) == self.seen {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

//! Reconnect is start-up.
//!
//! A [`Session`] holds what has to be there (hosts and [`Topology`]) and, time and again, makes it so: connect, open
//! a channel, declare, consume. After a loss nothing of the old connection survives; its handles, deliveries and
//! confirms have ended with the cause, and [`Session::next`] hands out new ones made by the same code as the first.

use super::outbox::{Outbox, Publisher};
use super::{Channel, Connection, Consumer};
use crate::core::Topology;
use crate::error::{Error, ErrorKind};
use crate::options::ConnectOptions;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::time::Duration;

/// How long to pause between attempts: doubling from `first` to `longest`, each with up to half taken off at random,
/// so that a thousand clients do not come back in the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second attempt. Default 200 ms.
    pub first: Duration,
    /// Never more than this. Default 10 s.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// The pause after so many failures in a row; `random` is any number.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << failures.saturating_sub(1).min(20));
        let full = doubled.min(self.longest);
        full.mul_f64(0.5 + (random % 1024) as f64 / 2048.0)
    }
}

/// What a session tells its user.
#[derive(Debug)]
pub enum SessionEvent {
    /// Connected, and all that was asked for is there.
    Connected(Live),
    /// The connection, or the session's channel, is over; the next call connects again.
    Lost(Error),
    /// The server blocks publishers (memory or disk alarm), for this reason.
    Blocked(String),
    /// It no longer does.
    Unblocked,
}

/// One life of a session.
#[derive(Debug)]
pub struct Live {
    /// Counts the lives from 1.
    pub number: u64,
    /// The connection.
    pub connection: Connection,
    /// The channel on which everything was declared, with confirms if the topology asks for them.
    pub channel: Channel,
    /// The topology's consumers, in its order.
    pub consumers: Vec<Consumer>,
    /// The real names of the topology's queues; they differ for those that the server names.
    pub queues: HashMap<String, String>,
}

/// Keeps a connection with all that belongs to it, see the module's text.
///
/// One line of the log for each change: connected, lost, and the first of several failed attempts.
pub struct Session {
    /// Tried in turn.
    hosts: Vec<ConnectOptions>,
    topology: Topology,
    backoff: Backoff,
    lives: u64,
    /// Which of the hosts is next; moves on with each loss and each failure.
    host: usize,
    /// Attempts in a row that failed; chooses the pause.
    failures: u32,
    /// What to watch while connected.
    live: Option<(Connection, Channel)>,
    told_blocked: bool,
    /// What its publishers have to send.
    outbox: Option<Rc<Outbox>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(outbox) = &self.outbox {
            outbox.end();
        }
    }
}

impl Session {
    /// A session with one broker; nothing is done yet.
    pub fn new(options: ConnectOptions, topology: Topology) -> Self {
        Session::with_hosts(vec![options], topology)
    }

    /// A session with the nodes of a cluster, tried in turn from the first on.
    ///
    /// # Panics
    /// If `hosts` is empty.
    pub fn with_hosts(hosts: Vec<ConnectOptions>, topology: Topology) -> Self {
        assert!(!hosts.is_empty(), "a session needs a host");
        Session {
            hosts,
            topology,
            backoff: Backoff::default(),
            lives: 0,
            host: 0,
            failures: 0,
            live: None,
            told_blocked: false,
            outbox: None,
        }
    }

    /// Sets the pauses between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What a [`Publisher`] of this session has not had confirmed when a connection breaks is sent again; confirms are
    /// switched on. Its outbox holds at most about `max_bytes` of such messages; then publishing waits.
    ///
    /// To be called before connecting: it counts from the next life on.
    pub fn resend(mut self, max_bytes: usize) -> Self {
        let timeout = self.hosts[0].publish_timeout;
        self.outbox = Some(Outbox::new(max_bytes, timeout));
        self.topology.confirms = true;
        self
    }

    /// A handle that publishes over losses, at any time and from any task; all of a session share one outbox.
    /// Reconnecting goes on while somebody awaits [`Session::next`].
    ///
    /// # Panics
    /// Without [`Session::resend`].
    pub fn publisher(&self) -> Publisher {
        let outbox = self.outbox.as_ref();
        outbox.expect("Session::resend was asked for").publisher()
    }

    /// Connects and builds the topology, as often as it takes. Gives up a connection that is there.
    ///
    /// # Cancellation
    /// Safe: nothing half-built stays behind.
    ///
    /// # Errors
    /// What trying again would not change: a wrong password, a queue that exists with other arguments, … (kind
    /// `Config` or `Bug`), and cancellation. Calling again then tries again, after a pause.
    pub async fn connect(&mut self) -> Result<Live, Error> {
        if self.live.take().is_some() {
            self.host += 1;
        }
        self.told_blocked = false;
        loop {
            if self.failures > 0 {
                kernel::sleep(self.backoff.pause(self.failures, random())).await?;
            }
            let host = &self.hosts[self.host % self.hosts.len()];
            match start(host, &self.topology, self.lives + 1).await {
                Ok(live) => {
                    self.lives += 1;
                    self.failures = 0;
                    let (address, life) = (host.address(), self.lives);
                    log::info!("{}: connected to {address} (session {life})", self.name());
                    if let Some(outbox) = &self.outbox {
                        outbox.begin(Rc::clone(live.channel.core()));
                    }
                    self.live = Some((live.connection.clone(), live.channel.clone()));
                    return Ok(live);
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.host += 1;
                    if !error.is_retryable() {
                        return Err(error);
                    }
                    if self.failures == 1 {
                        log::warn!("{}: {error}; trying again until it works", self.name());
                    }
                }
            }
        }
    }

    /// What the log calls it: the connection's name, if it was given one.
    fn name(&self) -> &str {
        let name = self.hosts[0].connection_name.as_deref();
        name.unwrap_or("amqp")
    }

    /// Waits for the next thing to know: connected, lost, blocked, unblocked.
    ///
    /// While connected it keeps the connection and the channel alive.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub async fn next(&mut self) -> Result<SessionEvent, Error> {
        let Some((connection, channel)) = &self.live else {
            return self.connect().await.map(SessionEvent::Connected);
        };
        let core = &connection.handle.core;
        let told = self.told_blocked;
        let change = super::wait(|waker| {
            if let std::task::Poll::Ready(error) = channel.core().poll_closed(waker) {
                // What ended the connection explains more than what it did to the channel.
                return std::task::Poll::Ready(Err(core.closed().unwrap_or(error)));
            }
            core.poll_blocked(told, waker)
        });
        match change.await? {
            Ok(Some(reason)) => {
                self.told_blocked = true;
                log::warn!("{}: the server blocks publishers: {reason}", self.name());
                Ok(SessionEvent::Blocked(reason))
            }
            Ok(None) => {
                self.told_blocked = false;
                log::info!("{}: the server no longer blocks publishers", self.name());
                Ok(SessionEvent::Unblocked)
            }
            Err(error) => {
                let address = core.options().address();
                log::warn!("{}: lost {address}: {error}", self.name());
                self.live = None;
                // Also the first attempt after a loss waits a moment: everybody else was lost too.
                self.failures = 1;
                self.host += 1;
                Ok(SessionEvent::Lost(error))
            }
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Session({:?}, lives: {}, connected: {})",
            self.hosts,
            self.lives,
            self.live.is_some()
        )
    }
}

/// The one way to begin, first and after every loss.
async fn start(options: &ConnectOptions, topology: &Topology, number: u64) -> Result<Live, Error> {
    let connection = Connection::open(options.clone()).await?;
    let channel = connection.channel().await?;
    for exchange in &topology.exchanges {
        channel.exchange_declare(exchange.clone()).await?;
    }
    let mut queues = HashMap::new();
    for (alias, declare) in &topology.queues {
        let queue = channel.queue_declare(declare.clone()).await?;
        queues.insert(alias.clone(), queue.name);
    }
    let real = |alias: &String| queues.get(alias).unwrap_or(alias).clone();
    for binding in &topology.bindings {
        let (queue, arguments) = (real(&binding.queue), binding.arguments.clone());
        channel
            .queue_bind_with(&queue, &binding.exchange, &binding.routing_key, arguments)
            .await?;
    }
    if let Some(prefetch) = topology.prefetch {
        channel.qos(prefetch).await?;
    }
    if topology.confirms {
        channel.confirm_select().await?;
    }
    let mut consumers = Vec::new();
    for (alias, consume) in &topology.consumers {
        let mut consume = consume.clone();
        consume.queue = real(alias);
        consumers.push(channel.consume(consume).await?);
    }
    Ok(Live {
        number,
        connection,
        channel,
        consumers,
        queues,
    })
}

/// Randomness for pauses only: std seeds its hashers anew for every process and instance.
fn random() -> u64 {
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_with_jitter() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(3),
        };
        for random in [0, 512, 1023, u64::MAX] {
            for (failures, full) in [(1, 100), (2, 200), (3, 400), (6, 3000), (1000, 3000)] {
                let pause = backoff.pause(failures, random).as_millis();
                assert!((full / 2..=full).contains(&pause), "{failures}: {pause}");
            }
        }
        assert_ne!(backoff.pause(3, 0), backoff.pause(3, 1023));
    }
}

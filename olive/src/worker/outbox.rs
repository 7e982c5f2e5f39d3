//! The second connection: results and dead letters, each confirmed by the broker.
//!
//! It is a connection of its own because RabbitMQ stops *reading* from one that publishes while
//! its memory alarm is on, and acks on it would stall with the publishes.
//!
//! Everything goes out persistent, and mandatory but for direct replies. Dead letters have a channel to
//! themselves. Results share one for each exchange, the default one included: the broker closes a channel for a
//! message it will not have (404, or over its size limit), with all that is pending there. Each of these is then
//! tried again on a channel of its own, and who closes that one too is undeliverable.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use amqp::client::{
    Channel, ConnectOptions, Connection, Publish, QueueDeclare, Session, SessionEvent, Topology,
};
use amqp::codec::RawProperties;
use amqp::protocol::reply;
use amqp::{Error, PublishError};
use kernel::sync::Event;

/// Pause before a refused or unanswered publish is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How often a *result* is offered to a queue that refuses it (full, `reject-publish`).
const RESULT_ATTEMPTS: u32 = 3;

/// Channels kept for exchanges that producers named; one more and an idle one goes.
const MAX_NAMED_CHANNELS: usize = 64;

/// The largest result: RabbitMQ 4 closes the channel over 16 MiB (from the documentation), with
/// all that is pending on it. A dead letter is as large as what the broker gave us.
const MAX_RESULT_BYTES: usize = 16 << 20;

/// How the addresses of direct replies begin. Whether somebody still listens there cannot be asked.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

/// One message to publish.
#[derive(Clone, Copy)]
pub(super) struct Letter<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub properties: &'a RawProperties,
    pub body: &'a [u8],
}

/// Why a message was not published.
#[derive(Debug)]
pub(super) enum Refused {
    /// Nobody can take it, and trying again would not change that.
    Undeliverable(String),
    /// It, or its properties, are larger than we or the broker let pass; a smaller one may arrive.
    TooLarge(String),
    /// The wait was cancelled.
    Cancelled(kernel::Error),
}

/// What became of one attempt.
enum Attempt {
    Sent,
    Refused(Refused),
    /// The queue refuses it for now.
    Nacked,
    /// Its channel was closed, by it or by another message on it.
    ChannelClosed(Error),
    Again(PublishError),
}

/// Which channel a message goes out on. The broker closes a channel for one message it will not have
/// (an exchange that is not there, a body over its limit), and with it all that is pending there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Ours, for dead letters: nothing that a producer chose goes there.
    DeadLetters,
    /// One for each exchange, for results.
    Shared,
    /// One for this message alone: was the shared one closed because of it?
    Alone,
}

/// The connection as it is now, with its channels.
struct Line {
    number: u64,
    connection: Connection,
    channel: Channel,
    named: RefCell<HashMap<String, Channel>>,
}

/// Publishes with confirms, over as many connections as it takes.
pub(super) struct Outbox {
    line: RefCell<Option<Rc<Line>>>,
    connected: Event,
}

impl Outbox {
    pub fn new() -> Rc<Self> {
        Rc::new(Outbox {
            line: RefCell::new(None),
            connected: Event::new(),
        })
    }

    /// Keeps the connection for as long as trying again can help; returns what cannot be helped.
    pub async fn keep(self: Rc<Self>, options: ConnectOptions) -> Error {
        let mut session = Session::new(options, Topology::new().confirms());
        loop {
            match session.next().await {
                Ok(SessionEvent::Connected(live)) => {
                    let line = Line {
                        number: live.number,
                        connection: live.connection,
                        channel: live.channel,
                        named: RefCell::default(),
                    };
                    *self.line.borrow_mut() = Some(Rc::new(line));
                    self.connected.set();
                }
                Ok(SessionEvent::Lost(error)) => {
                    self.connected.clear();
                    self.line.borrow_mut().take();
                    // What a producer chose has channels of its own: here our permissions are refused.
                    if error
                        .close_reason()
                        .is_some_and(|r| r.code == reply::ACCESS_REFUSED)
                    {
                        return error;
                    }
                }
                Ok(SessionEvent::Blocked(_) | SessionEvent::Unblocked) => {}
                Err(error) => return error,
            }
        }
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        let line = self.line.borrow_mut().take();
        if let Some(line) = line {
            line.connection.close().await;
        }
    }

    /// Publishes a result: gives up on a queue that keeps refusing.
    pub async fn result(&self, letter: Letter<'_>) -> Result<(), Refused> {
        let size = letter.body.len();
        if size > MAX_RESULT_BYTES {
            return Err(Refused::TooLarge(format!(
                "it has {size} bytes, at most {MAX_RESULT_BYTES} are sent"
            )));
        }
        self.publish(letter, Lane::Shared, RESULT_ATTEMPTS).await
    }

    /// Publishes a dead letter: tries until it is taken, for the job is acked only then.
    pub async fn dead_letter(&self, letter: Letter<'_>) -> Result<(), Refused> {
        self.publish(letter, Lane::DeadLetters, u32::MAX).await
    }

    /// Declares a queue again that somebody deleted.
    pub async fn declare(&self, queue: QueueDeclare) -> Result<(), Error> {
        let line = self.line().await?;
        let channel = line.connection.channel().await?;
        channel.queue_declare(queue).await?;
        channel.close().await
    }

    async fn publish(
        &self,
        letter: Letter<'_>,
        mut lane: Lane,
        patience: u32,
    ) -> Result<(), Refused> {
        let mut nacked = 0;
        loop {
            let line = self.line().await.map_err(Refused::Cancelled)?;
            match line.attempt(letter, lane).await {
                Attempt::Sent => return Ok(()),
                Attempt::Refused(refused) => return Err(refused),
                Attempt::ChannelClosed(error) if lane == Lane::Alone => {
                    return Err(blame(&error));
                }
                Attempt::ChannelClosed(_) if lane == Lane::Shared => {
                    lane = Lane::Alone;
                    continue;
                }
                Attempt::ChannelClosed(error) => {
                    log::debug!("a dead letter is tried again: {error}");
                    self.over(&line);
                }
                Attempt::Nacked => {
                    nacked += 1;
                    if nacked >= patience {
                        return Err(Refused::Undeliverable(format!(
                            "its queue refused it {nacked} times; it may be full"
                        )));
                    }
                }
                Attempt::Again(error) => {
                    log::debug!("a publish is tried again: {error}");
                    self.over(&line);
                }
            }
            drop(line);
            kernel::sleep(PAUSE).await.map_err(Refused::Cancelled)?;
        }
    }

    async fn line(&self) -> Result<Rc<Line>, kernel::Error> {
        loop {
            if let Some(line) = &*self.line.borrow() {
                return Ok(Rc::clone(line));
            }
            self.connected.wait().await?;
        }
    }

    /// Forgets a line that has ended, should `keep` not have heard of it yet.
    fn over(&self, line: &Rc<Line>) {
        let mut current = self.line.borrow_mut();
        if line.channel.is_closed().is_some()
            && current.as_ref().is_some_and(|c| c.number == line.number)
        {
            current.take();
            self.connected.clear();
        }
    }
}

impl Line {
    async fn attempt(&self, letter: Letter<'_>, lane: Lane) -> Attempt {
        let channel = match lane {
            Lane::DeadLetters => Ok(self.channel.clone()),
            Lane::Shared => self.shared(letter.exchange).await,
            Lane::Alone => self.fresh().await,
        };
        let channel = match channel {
            Ok(channel) => channel,
            Err(error) => return sort(PublishError::Closed(error)),
        };
        let mut publish = Publish::new(letter.exchange, letter.routing_key, letter.body)
            .properties(letter.properties);
        // RabbitMQ 3.10 returns a mandatory direct reply as unroutable, and delivers it all the same.
        publish.mandatory = !letter.routing_key.starts_with(DIRECT_REPLY);
        match channel.publish(publish).await {
            Ok(()) => Attempt::Sent,
            Err(error) => sort(error),
        }
    }

    async fn fresh(&self) -> Result<Channel, Error> {
        let channel = self.connection.channel().await?;
        channel.confirm_select().await?;
        Ok(channel)
    }

    async fn shared(&self, exchange: &str) -> Result<Channel, Error> {
        if let Some(channel) = self.named.borrow().get(exchange)
            && channel.is_closed().is_none()
        {
            return Ok(channel.clone());
        }
        let channel = self.fresh().await?;
        let mut named = self.named.borrow_mut();
        named.retain(|_, channel| channel.is_closed().is_none());
        if named.len() >= MAX_NAMED_CHANNELS {
            let idle = named.iter().find(|(_, channel)| channel.unconfirmed() == 0);
            if let Some(name) = idle.map(|(name, _)| name.clone()) {
                named.remove(&name);
            }
        }
        named.insert(exchange.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn sort(error: PublishError) -> Attempt {
    match error {
        PublishError::Kernel(error) | PublishError::Closed(Error::Kernel(error)) => {
            Attempt::Refused(Refused::Cancelled(error))
        }
        PublishError::Nacked => Attempt::Nacked,
        PublishError::Unroutable(_) => Attempt::Refused(Refused::Undeliverable(error.to_string())),
        PublishError::Invalid(_) => Attempt::Refused(Refused::TooLarge(error.to_string())),
        PublishError::Closed(error @ Error::ChannelClosed(_)) => Attempt::ChannelClosed(error),
        other => Attempt::Again(other),
    }
}

/// What the close of a channel says of the only message on it.
fn blame(error: &Error) -> Refused {
    match error.close_reason() {
        // RabbitMQ's `max_message_size`.
        Some(reason) if reason.code == reply::PRECONDITION_FAILED => {
            Refused::TooLarge(error.to_string())
        }
        _ => Refused::Undeliverable(error.to_string()),
    }
}

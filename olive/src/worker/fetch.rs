//! The first connection: deliveries in, acks out.
//!
//! Reconnecting is starting again: the session declares everything anew and hands us a new
//! consumer; what was taken from the old one and not started is forgotten, for the broker gives it
//! out again. What runs goes on; its ack will fail, and the job run twice.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use amqp::Error;
use amqp::client::{
    Channel, ConnectOptions, Connection, Consume, Consumer, ConsumerEvent, ExchangeDeclare,
    QueueDeclare, Session, SessionEvent, Topology,
};
use amqp::protocol::AMQPValue;
use amqp::protocol::reply;
use kernel::JoinHandle;

use super::dispatch::Dispatcher;
use crate::config::{Config, QueueType};

/// What waits unstarted for longer is given back, for a worker that has time.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Of a quorum queue: how often a job may come back before the broker dead-letters it.
const DELIVERY_LIMIT: i32 = 20;

/// Everything a worker's connection needs to be there.
fn topology(config: &Config) -> Topology {
    let queue = || config.queue.clone();
    Topology::new()
        .exchange(ExchangeDeclare::direct(config.exchange.clone()).durable())
        .queue(dead_queue(config))
        .queue(job_queue(config))
        .bind(queue(), config.exchange.clone(), config.routing_key.clone())
        .prefetch(config.qos)
        .consume(Consume::new(queue()))
}

/// Declares the same on a producer's channel: a job sent before the first worker starts waits.
///
/// # Errors
/// 406 if one exists with other arguments, 403 without the permission.
pub(crate) async fn declare(config: &Config, channel: &Channel) -> Result<(), Error> {
    let exchange = ExchangeDeclare::direct(config.exchange.clone()).durable();
    channel.exchange_declare(exchange).await?;
    channel.queue_declare(dead_queue(config)).await?;
    channel.queue_declare(job_queue(config)).await?;
    let (queue, key) = (&config.queue, &config.routing_key);
    channel.queue_bind(queue, &config.exchange, key).await
}

/// The queue that jobs are taken from.
fn job_queue(config: &Config) -> QueueDeclare {
    let queue = QueueDeclare::new(config.queue.clone()).durable();
    match config.queue_type {
        QueueType::Classic => queue,
        // With a limit and nowhere to go RabbitMQ drops what exceeds it, and without reject-publish
        // it cannot promise that a dead letter arrives.
        QueueType::Quorum => queue
            .argument("x-queue-type", text("quorum"))
            .argument("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT))
            .argument("x-dead-letter-exchange", text(""))
            .argument("x-dead-letter-routing-key", text(&config.dead_queue()))
            .argument("x-dead-letter-strategy", text("at-least-once"))
            .argument("x-overflow", text("reject-publish")),
    }
}

/// The queue for what cannot be run; nobody consumes it but people.
pub(super) fn dead_queue(config: &Config) -> QueueDeclare {
    let queue = QueueDeclare::new(config.dead_queue()).durable();
    match config.queue_type {
        QueueType::Classic => queue,
        QueueType::Quorum => queue.argument("x-queue-type", text("quorum")),
    }
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The consumer of the connection as it is now.
struct Line {
    connection: Connection,
    channel: Channel,
    fetcher: JoinHandle<()>,
    prefetch: u16,
}

/// Takes jobs from the queue for as long as it is not told to stop.
pub(super) struct Fetch {
    dispatcher: Rc<Dispatcher>,
    line: RefCell<Option<Line>>,
}

impl Fetch {
    pub fn new(dispatcher: Rc<Dispatcher>) -> Rc<Self> {
        Rc::new(Fetch {
            dispatcher,
            line: RefCell::new(None),
        })
    }

    /// Keeps the connection for as long as trying again can help; returns what cannot be helped.
    pub async fn keep(self: Rc<Self>, options: ConnectOptions) -> Error {
        let config = Rc::clone(&self.dispatcher.config);
        let mut session = Session::new(options, topology(&config));
        loop {
            match session.next().await {
                Ok(SessionEvent::Connected(mut live)) => {
                    let consumer = live.consumers.pop().expect("the topology has one consumer");
                    log::info!("taking jobs from queue {}", config.queue);
                    if !self.dispatcher.quiet.get() {
                        self.start(live.connection, live.channel, consumer, config.qos);
                    }
                }
                Ok(SessionEvent::Lost(error)) => {
                    self.line.borrow_mut().take();
                    let unstarted = self.dispatcher.take_unstarted();
                    let forgotten = self.dispatcher.give_back(unstarted);
                    if forgotten > 0 {
                        log::info!("{forgotten} jobs not started are with the broker again");
                    }
                    advise(&error);
                }
                Ok(SessionEvent::Blocked(_) | SessionEvent::Unblocked) => {}
                Err(error) => return error,
            }
        }
    }

    fn start(&self, connection: Connection, channel: Channel, consumer: Consumer, prefetch: u16) {
        let fetcher = kernel::spawn(fetch(consumer, Rc::clone(&self.dispatcher))).name("fetch");
        *self.line.borrow_mut() = Some(Line {
            connection,
            channel,
            fetcher,
            prefetch,
        });
    }

    /// Stops consuming and gives back what has not started; returns how many.
    pub async fn quiet(&self) -> usize {
        self.dispatcher.quiet.set(true);
        let mut unstarted = self.dispatcher.take_unstarted();
        let fetcher = self
            .line
            .borrow()
            .as_ref()
            .map(|line| line.fetcher.cancel());
        if let Some(cancel) = fetcher {
            // It ends by itself: the consumer's cancel is awaited in there. Only then are jobs
            // given back, or the broker would give them to us again.
            let _ = cancel.await;
        }
        unstarted.append(&mut self.dispatcher.take_unstarted());
        self.dispatcher.give_back(unstarted)
    }

    /// Closes the connection, acks first.
    pub async fn close(&self) {
        let line = self.line.borrow_mut().take();
        if let Some(line) = line {
            line.connection.close().await;
        }
    }

    /// Gives back what waits for too long and lowers the prefetch to what is needed to stay busy.
    /// Runs until cancelled.
    pub async fn watch_age(self: Rc<Self>) {
        while kernel::sleep(LOOK_EVERY).await.is_ok() {
            let now = kernel::now();
            let Some(limit) = now.checked_sub(MAX_WAIT) else {
                continue;
            };
            let count = self.dispatcher.give_back_older(limit);
            if count > 0 {
                log::info!("{count} jobs waited over {MAX_WAIT:?} and are given back");
                if let Err(error) = self.lower_prefetch().await {
                    log::debug!("the prefetch stays as it is: {error}");
                }
            }
        }
    }

    async fn lower_prefetch(&self) -> Result<(), Error> {
        let enough = enough(&self.dispatcher.config);
        let busy = |line: &&Line| line.prefetch == 0 || line.prefetch > enough;
        let stopping = (self.line.borrow().as_ref().filter(busy))
            .map(|line| (line.fetcher.cancel(), line.channel.clone()));
        let Some((stopped, channel)) = stopping else {
            return Ok(());
        };
        let _ = stopped.await;
        let again = self.consume_with(&channel, enough).await;
        if again.is_err() {
            // Without a consumer it would be a worker that waits for nothing: the session starts anew.
            let _ = channel.close().await;
        }
        again
    }

    async fn consume_with(&self, channel: &Channel, prefetch: u16) -> Result<(), Error> {
        channel.qos(prefetch).await?;
        let queue = self.dispatcher.config.queue.clone();
        let consumer = channel.consume(Consume::new(queue)).await?;
        log::info!("prefetch is {prefetch} from now on");
        if let Some(line) = &mut *self.line.borrow_mut()
            && !self.dispatcher.quiet.get()
            && channel.is_closed().is_none()
        {
            let fetching = fetch(consumer, Rc::clone(&self.dispatcher));
            line.fetcher = kernel::spawn(fetching).name("fetch");
            line.prefetch = prefetch;
        }
        Ok(())
    }
}

/// The prefetch that keeps all places busy: one more than them, so that the next job is there. A
/// quorum queue counts each time that one is given back unstarted, so there none waits.
fn enough(config: &Config) -> u16 {
    let spare = match config.queue_type {
        QueueType::Classic => 1,
        QueueType::Quorum => 0,
    };
    u16::try_from(config.num_workers + spare).unwrap_or(u16::MAX)
}

/// Says what to do about a loss that will come again. What declaring anew does not cure either ends
/// the worker: `Session::next` then fails.
fn advise(error: &Error) {
    let Some(reason) = error.close_reason() else {
        return;
    };
    if reason.code == reply::PRECONDITION_FAILED && reason.text.contains("timeout") {
        log::error!(
            "a job ran longer than the broker lets a delivery go unacked, and will run again: raise \
             consumer_timeout in rabbitmq.conf above the longest job, or give the job a timeout"
        );
    }
}

/// Hands deliveries on, as many at once as are there. Cancelled, it cancels the consumer and gives
/// back what it had not handed on.
async fn fetch(mut consumer: Consumer, dispatcher: Rc<Dispatcher>) {
    loop {
        if let Err(stop) = dispatcher.room.wait().await {
            return leave(consumer, Error::Kernel(stop)).await;
        }
        let mut event = consumer.next().await;
        let now = kernel::now();
        let end = loop {
            match event {
                ConsumerEvent::Delivery(delivery) => dispatcher.take(delivery, now),
                end => break Some(end),
            }
            if !dispatcher.room.is_set() {
                break None;
            }
            match consumer.try_next() {
                Some(next) => event = next,
                None => break None,
            }
        };
        dispatcher.dispatch();
        match end {
            None => {}
            Some(ConsumerEvent::Closed(error)) => return leave(consumer, error).await,
            Some(_) => {
                log::warn!("the broker cancelled our consumer (was the queue deleted?)");
                // The session sees its channel end, and starts again.
                let _ = consumer.channel().close().await;
                return;
            }
        }
    }
}

async fn leave(mut consumer: Consumer, why: Error) {
    if !matches!(why, Error::Kernel(_)) {
        return; // the session hears of it too
    }
    if let Err(error) = consumer.cancel().await {
        log::debug!("the consumer ended by itself: {error}");
    }
    while let Some(ConsumerEvent::Delivery(delivery)) = consumer.try_next() {
        // An error means that the broker has it back already.
        let _ = delivery.nack(true);
    }
}

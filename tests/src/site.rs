//! One test's corner of a broker: queues of its own, and an AMQP connection to send and look with.

use crate::folder::unique_name;
use crate::worker::WorkerSetup;
use crate::{Broker, PATIENCE, olive};
use amqp::blocking::{Channel, Connection, Consumer};
use amqp::codec::RawProperties;
use amqp::protocol::{AMQPValue, BasicProperties, FieldTable};
use amqp::{Consume, ExchangeDeclare, Publish, QueueDeclare, Uri};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::process::Command;
use std::time::Duration;

/// An exchange, a job queue with its dead-letter queue, and a queue for replies, all with names of their own, so that
/// tests run side by side on one broker. They are deleted with this value.
pub struct Site {
    url: String,
    name: String,
    channel: Channel,
    reply_queue: String,
    replies: RefCell<Consumer>,
    dead: RefCell<Consumer>,
    sent: Cell<u32>,
    connection: Connection,
}

/// A message to send that need not be a job.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Its body.
    pub body: Vec<u8>,
    /// Its properties.
    pub properties: BasicProperties,
}

/// What came back for a job.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its `correlation_id`.
    pub correlation_id: String,
    /// Its body.
    pub json: Value,
}

impl Reply {
    /// How the job ended; empty if the reply does not say.
    pub fn status(&self) -> &str {
        self.json["status"].as_str().unwrap_or_default()
    }

    /// `TYPE: MESSAGE` and the traceback, if the job failed.
    pub fn error(&self) -> String {
        let error = &self.json["error"];
        let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        format!(
            "{}: {}\n{}",
            part("type"),
            part("message"),
            part("traceback")
        )
    }
}

/// A message from the dead-letter queue.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its body.
    pub body: Vec<u8>,
    /// `x-olive-reason`.
    pub reason: String,
    /// `x-olive-error`.
    pub error: String,
    /// Its properties, ours and the producer's.
    pub properties: BasicProperties,
}

impl DeadLetter {
    /// A header as text; empty if there is none.
    pub fn header(&self, name: &str) -> String {
        let headers = self.properties.headers().clone().unwrap_or_default();
        match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => {
                String::from_utf8_lossy(text.as_bytes()).into_owned()
            }
            Some(other) => format!("{other:?}"),
            None => String::new(),
        }
    }
}

impl Site {
    /// Declares the queues as a producer that knows only the documentation would.
    ///
    /// # Panics
    /// If the broker refuses anything.
    pub fn new(broker: &Broker) -> Self {
        Site::named(broker, &unique_name())
    }

    /// As [`new`](Self::new), under a name of the caller's choice: `Olive` makes the default names.
    ///
    /// # Panics
    /// As `new`.
    pub fn named(broker: &Broker, name: &str) -> Self {
        let site = Site::bare(broker.url(), name);
        site.declare_jobs(QueueDeclare::new(site.queue()));
        site
    }

    /// The same corner on a new connection, once the broker has closed the old one. Replies to come are lost: their
    /// queue went with its connection.
    ///
    /// # Panics
    /// As `new`.
    pub fn reopened(self) -> Self {
        Site::bare(&self.url, &self.name)
    }

    /// As [`new`](Self::new), with a job queue of the caller's making.
    ///
    /// # Panics
    /// As `new`.
    pub fn with_queue(broker: &Broker, make: impl FnOnce(QueueDeclare) -> QueueDeclare) -> Self {
        let site = Site::bare(broker.url(), &unique_name());
        site.declare_jobs(make(QueueDeclare::new(site.queue())));
        site
    }

    fn bare(url: &str, name: &str) -> Self {
        let mut options = Uri::parse(url).expect("the broker's URL is one");
        // A test may look at a log for longer than a heartbeat's interval.
        options.heartbeat = Duration::ZERO;
        let connection = Connection::open(options.named(name)).expect("the broker is there");
        let channel = connection.channel().expect("a channel opens");
        channel.confirm_select().expect("the broker confirms");
        let declare = |queue: QueueDeclare| channel.queue_declare(queue).expect("a queue").name;
        let reply_queue = declare(QueueDeclare::new("").exclusive());
        let dead_queue = declare(QueueDeclare::new(format!("{name}.q.dead")));
        let consume = |queue: &str| {
            let consumer = channel.consume(Consume::new(queue));
            RefCell::new(consumer.expect("our own queue can be consumed from"))
        };
        Site {
            url: url.to_owned(),
            replies: consume(&reply_queue),
            dead: consume(&dead_queue),
            name: name.to_owned(),
            channel,
            reply_queue,
            sent: Cell::new(0),
            connection,
        }
    }

    fn declare_jobs(&self, queue: QueueDeclare) {
        let channel = &self.channel;
        let exchange = ExchangeDeclare::direct(self.exchange());
        channel.exchange_declare(exchange).expect("an exchange");
        channel.queue_declare(queue).expect("a queue");
        let bound = channel.queue_bind(&self.queue(), &self.exchange(), &self.routing_key());
        bound.expect("a binding");
    }

    /// Deletes the queue of jobs, as an operator might.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn delete_job_queue(&self) {
        self.delete(&self.queue());
    }

    /// Deletes the queue of dead letters, as an operator might; the next one is looked at after
    /// [`await_dead_queue`](Self::await_dead_queue).
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn delete_dead_queue(&self) {
        self.delete(&self.dead_queue());
    }

    /// Waits until somebody else has declared the queue of dead letters again, with something in it.
    ///
    /// # Panics
    /// If nobody does within [`PATIENCE`].
    pub fn await_dead_queue(&self) {
        let found = crate::eventually("a new dead-letter queue", || {
            // A channel of its own: asking for a queue that is not there closes it.
            let channel = self.connection.channel().expect("a channel opens");
            let ask = QueueDeclare::new(self.dead_queue()).passive();
            channel
                .queue_declare(ask)
                .ok()
                .filter(|queue| queue.messages > 0)
        });
        let consumer = self.channel.consume(Consume::new(found.name));
        *self.dead.borrow_mut() = consumer.expect("it can be consumed from");
    }

    fn dead_queue(&self) -> String {
        format!("{}.dead", self.queue())
    }

    fn delete(&self, queue: &str) {
        let deleted = self.channel.queue_delete(queue, false, false);
        deleted.expect("the broker deletes it");
    }

    /// The exchange for jobs.
    pub fn exchange(&self) -> String {
        format!("{}.x", self.name)
    }

    /// The queue for jobs.
    pub fn queue(&self) -> String {
        format!("{}.q", self.name)
    }

    /// The key that leads from the exchange to the queue.
    pub fn routing_key(&self) -> String {
        format!("{}.k", self.name)
    }

    /// The queue whose messages [`next_reply`](Self::next_reply) reads.
    pub fn reply_queue(&self) -> &str {
        &self.reply_queue
    }

    /// The settings that bring a program of ours here.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("olive_amqp_url", self.url.clone()),
            ("olive_amqp_exchange_name", self.exchange()),
            ("olive_amqp_queue_name", self.queue()),
            ("olive_amqp_routing_key", self.routing_key()),
        ]
    }

    /// A worker for these queues.
    pub fn worker(&self) -> WorkerSetup {
        let settings = self.settings();
        let worker = WorkerSetup::new();
        settings
            .into_iter()
            .fold(worker, |worker, (name, value)| worker.env(name, value))
    }

    /// `olive VERB ARGUMENTS…` for these queues.
    pub fn olive(&self, arguments: &[&str]) -> Command {
        let mut command = olive();
        command.args(arguments).envs(self.settings());
        command
    }

    /// Sends a body that need not be a job, asking for no reply.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub fn send_body(&self, body: impl Into<Vec<u8>>) {
        self.publish(&Message {
            body: body.into(),
            properties: BasicProperties::default(),
        });
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub fn publish(&self, message: &Message) {
        let properties = RawProperties::from(&message.properties);
        let (exchange, key) = (self.exchange(), self.routing_key());
        let publish = Publish::new(&exchange, &key, &message.body)
            .properties(&properties)
            .mandatory();
        self.channel.publish(publish).expect("the broker takes it");
    }

    /// Sends a job with a reply wanted; tells its id.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub fn send(&self, func: &str, args: Value) -> String {
        self.send_job(json!({"func": func, "args": args}))
    }

    /// Sends a job given as JSON, with a `tid` added and a reply wanted; tells its id.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub fn send_job(&self, mut job: Value) -> String {
        self.sent.set(self.sent.get() + 1);
        let tid = format!("{}-{}", self.name, self.sent.get());
        job["tid"] = json!(tid);
        self.publish(&Message {
            body: job.to_string().into_bytes(),
            properties: BasicProperties::default()
                .with_content_type("application/json".into())
                .with_delivery_mode(2)
                .with_correlation_id(tid.as_str().into())
                .with_reply_to(self.reply_queue.as_str().into()),
        });
        tid
    }

    /// Sends many persistent jobs that want no reply, and waits until all are in the queue: for a time when no worker
    /// takes them out.
    ///
    /// # Panics
    /// If they do not arrive within [`PATIENCE`].
    pub fn preload(&self, jobs: impl IntoIterator<Item = Value>) {
        // Without confirms, which on RabbitMQ are a sync of the disk each: the queue's length tells.
        let channel = self.connection.channel().expect("a channel opens");
        let properties = RawProperties::from(BasicProperties::default().with_delivery_mode(2));
        let (exchange, key) = (self.exchange(), self.routing_key());
        let mut count = 0;
        for job in jobs {
            let body = job.to_string();
            let publish = Publish::new(&exchange, &key, body.as_bytes()).properties(&properties);
            channel.publish(publish).expect("the broker takes it");
            count += 1;
        }
        crate::eventually("the preloaded jobs", || {
            (self.ready() == count).then_some(())
        });
    }

    /// How many jobs wait in the queue, not counting those that a worker holds.
    ///
    /// # Panics
    /// If the queue is gone.
    pub fn ready(&self) -> u32 {
        let ask = QueueDeclare::new(self.queue()).passive();
        let queue = self.channel.queue_declare(ask);
        queue.expect("the queue is there").messages
    }

    /// Waits for the next reply, whichever job's it is.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], or it is not JSON.
    pub fn next_reply(&self) -> Reply {
        let (body, properties) = take(&self.replies, "reply");
        let json = serde_json::from_slice(&body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&body)));
        let id = properties.correlation_id().clone().unwrap_or_default();
        Reply {
            correlation_id: id.to_string(),
            json,
        }
    }

    /// Sends a job and waits for its reply, which must be the next one.
    ///
    /// # Panics
    /// If the next reply is another job's, or none comes within [`PATIENCE`].
    pub fn call(&self, func: &str, args: Value) -> Reply {
        let tid = self.send(func, args);
        let reply = self.next_reply();
        assert_eq!(reply.correlation_id, tid, "{reply:?}");
        assert_eq!(reply.json["tid"], json!(tid), "{reply:?}");
        reply
    }

    /// Waits for the next dead letter. Checks that it says where it came from.
    ///
    /// # Panics
    /// If none comes within [`PATIENCE`], or it names another exchange or routing key than this site's.
    pub fn next_dead_letter(&self) -> DeadLetter {
        let (body, properties) = take(&self.dead, "dead letter");
        let mut letter = DeadLetter {
            body,
            reason: String::new(),
            error: String::new(),
            properties,
        };
        letter.reason = letter.header("x-olive-reason");
        letter.error = letter.header("x-olive-error");
        assert_eq!(
            letter.header("x-olive-exchange"),
            self.exchange(),
            "{letter:?}"
        );
        assert_eq!(
            letter.header("x-olive-routing-key"),
            self.routing_key(),
            "{letter:?}"
        );
        letter
    }

    /// Checks, once the worker is gone, that no job and no further dead letter is left: nothing was lost in between
    /// and nothing went round in circles.
    ///
    /// # Panics
    /// If something is left.
    pub fn assert_settled(&self) {
        assert_eq!(self.ready(), 0, "jobs left in the queue");
        // The queue keeps its order: what comes before this mark was there before it.
        let dead = self.dead_queue();
        let mark = Publish::new("", &dead, b"the end").mandatory();
        self.channel.publish(mark).expect("the broker takes it");
        let (body, properties) = take(&self.dead, "mark");
        let text = String::from_utf8_lossy(&body);
        assert_eq!(text, "the end", "one dead letter too many: {properties:?}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A test that has failed may have closed the channel: what is left then has names that nobody uses again.
        let _ = self.channel.queue_delete(&self.queue(), false, false);
        let _ = self.channel.queue_delete(&self.dead_queue(), false, false);
    }
}

/// The next message, acknowledged.
fn take(consumer: &RefCell<Consumer>, what: &str) -> (Vec<u8>, BasicProperties) {
    let next = consumer.borrow_mut().next(PATIENCE);
    let delivery = next
        .unwrap_or_else(|error| panic!("while waiting for a {what}: {error}"))
        .unwrap_or_else(|| panic!("no {what} came within {PATIENCE:?}"));
    let message = delivery.message.clone();
    delivery.ack().expect("the channel is open");
    let properties = message.properties.decode().expect("its strings are UTF-8");
    (message.body, properties)
}

/// A table with one header.
pub fn header(name: &'static str, value: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(name.into(), AMQPValue::LongString(value.into()));
    table
}

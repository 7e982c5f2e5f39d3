//! The client for scripts, and for threads that are not the kernel's: the same core, driven by blocking calls.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use amqp::blocking::Connection;
//! use amqp::{Publish, QueueDeclare, Uri};
//!
//! let connection = Connection::open(Uri::parse("amqp://127.0.0.1")?)?;
//! let channel = connection.channel()?;
//! channel.queue_declare(QueueDeclare::new("greetings"))?;
//! channel.confirm_select()?;
//! channel.publish(Publish::new("", "greetings", b"hello"))?;
//! # Ok(()) }
//! ```
//!
//! Nothing happens between calls: heartbeats are sent and answered only while a call waits. A program that pauses for
//! longer than the heartbeat interval calls [`Connection::process`] in between, or sets the interval to zero.

mod transport;

use crate::core::ops::{self, Op};
use crate::core::{self, Call, ConsumerState, Core, Ended, Reply, Room, Settle};
use crate::core::{Consume, ExchangeDeclare, Message, Negotiated, Publish, QueueDeclare, QueueOk};
use crate::error::{Error, PublishError};
use crate::heartbeat::{Action, Heartbeat};
use crate::options::ConnectOptions;
use crate::protocol::{FieldTable, reply};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use transport::Transport;

/// An open connection, for one thread. Cloning gives another handle of the same one.
#[derive(Clone)]
pub struct Connection {
    driver: Rc<Driver>,
}

/// Moves bytes between the core and the socket while a call waits.
struct Driver {
    core: Rc<Core>,
    transport: Transport,
    io: RefCell<Io>,
}

struct Io {
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    beat: Heartbeat,
}

/// How long the reason may take to arrive, once a write has failed.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Driver {
    /// Runs the connection until `poll` is ready or `deadline` has passed (`None`).
    fn drive<T>(&self, deadline: Instant, mut poll: impl FnMut(&Waker) -> Poll<T>) -> Option<T> {
        loop {
            self.core.give_back_dropped();
            if let Poll::Ready(value) = poll(Waker::noop()) {
                self.flush();
                return Some(value);
            }
            self.flush();
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            let until = self
                .keep_time(now)
                .map_or(deadline, |beat| beat.min(deadline));
            self.read(until.saturating_duration_since(now));
        }
    }

    /// Sends a heartbeat if one is due; tells when to look again.
    fn keep_time(&self, now: Instant) -> Option<Instant> {
        let action = self.io.borrow().beat.check(now);
        match action {
            Action::Off => None,
            Action::Wait(until) => Some(until),
            Action::Send => {
                self.core.write_heartbeat();
                self.flush();
                Some(now)
            }
            Action::PeerDead => {
                let interval = self
                    .core
                    .negotiated()
                    .map_or(Duration::ZERO, |agreed| agreed.heartbeat);
                self.core.fail(Error::PeerSilent(interval * 2));
                Some(now)
            }
        }
    }

    fn flush(&self) {
        if let Err(error) = self.write() {
            // A server that closes says why before it hangs up: find that first.
            let deadline = Instant::now() + LAST_WORDS;
            while !self.core.is_closed() && Instant::now() < deadline {
                self.read(LAST_WORDS);
            }
            self.core.transport_ended(Error::lost(&error));
        }
    }

    fn write(&self) -> io::Result<()> {
        let io = &mut *self.io.borrow_mut();
        self.core.take_output(&mut io.output);
        if io.output.is_empty() {
            return Ok(());
        }
        let written = self.transport.write_all(&io.output);
        io.output.clear();
        io.beat.written(Instant::now());
        written
    }

    fn read(&self, limit: Duration) {
        if self.core.is_closed() {
            return;
        }
        let io = &mut *self.io.borrow_mut();
        // The system rounds to its clock's ticks and takes zero for "for ever".
        let limit = limit.max(Duration::from_millis(1));
        let result = self.transport.read(&mut io.input[io.filled..], limit);
        match result {
            Ok(0) => {
                let text = "the server hung up without a word".to_owned();
                self.core.transport_ended(Error::Lost {
                    kind: io::ErrorKind::UnexpectedEof,
                    text,
                });
            }
            Ok(count) => {
                io.filled += count;
                io.beat.read(Instant::now());
                let taken = self.core.receive(&io.input[..io.filled]);
                io.input.copy_within(taken..io.filled, 0);
                io.filled -= taken;
                if io.filled == io.input.len() {
                    let larger = (io.input.len() * 2).min(self.core.frame_max() as usize);
                    io.input.resize(larger.max(io.filled + 1), 0);
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => {}
                _ => self.core.transport_ended(Error::lost(&error)),
            },
        }
    }

    fn answer(&self, call: &Rc<Call>) -> Result<Reply, Error> {
        let after = self.core.options().answer_timeout;
        match self.drive(Instant::now() + after, |waker| call.poll(waker)) {
            Some(answer) => answer,
            None => {
                call.abandoned.set(true);
                Err(Error::NoAnswer {
                    what: call.what,
                    after,
                })
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.core
            .close(reply::SUCCESS, "the last handle was dropped");
        self.flush();
    }
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`Error::UnknownHost`], [`Error::Connect`], [`Error::LoginRefused`], … as with the kernel's client.
    pub fn open(options: ConnectOptions) -> Result<Connection, Error> {
        let limit = options.connect_timeout;
        let deadline = Instant::now() + limit;
        let transport = Transport::connect(&options, deadline)?;
        let io = Io {
            input: vec![0; 128 * 1024],
            filled: 0,
            output: Vec::new(),
            beat: Heartbeat::new(Duration::ZERO, Instant::now()),
        };
        let driver = Driver {
            core: Core::new(options),
            transport,
            io: RefCell::new(io),
        };
        match driver.drive(deadline, |waker| driver.core.poll_open(waker)) {
            Some(opened) => opened?,
            None => {
                return Err(Error::NoAnswer {
                    what: "the attempt to connect and log in",
                    after: limit,
                });
            }
        }
        let interval = driver
            .core
            .negotiated()
            .map_or(Duration::ZERO, |agreed| agreed.heartbeat);
        driver.io.borrow_mut().beat = Heartbeat::new(interval, Instant::now());
        Ok(Connection {
            driver: Rc::new(driver),
        })
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`Error::NoFreeChannel`], or the connection's end.
    pub fn channel(&self) -> Result<Channel, Error> {
        let (core, call) = self.driver.core.open_channel()?;
        let handle = Rc::new(Handle {
            core,
            driver: Rc::clone(&self.driver),
        });
        self.driver.answer(&call)?;
        Ok(Channel { handle })
    }

    /// Keeps the connection alive for so long: heartbeats, deliveries, confirms.
    ///
    /// # Errors
    /// The connection's end.
    pub fn process(&self, time: Duration) -> Result<(), Error> {
        let core = &self.driver.core;
        self.driver
            .drive(Instant::now() + time, |waker| core.poll_closed(waker))
            .map_or(Ok(()), Err)
    }

    /// What was agreed at login.
    pub fn negotiated(&self) -> &Negotiated {
        self.driver
            .core
            .negotiated()
            .expect("a Connection is handed out once it is open")
    }

    /// Closes the connection in an orderly way, within 5 s.
    pub fn close(&self) {
        self.driver.core.close(reply::SUCCESS, "Goodbye");
        let deadline = Instant::now() + Duration::from_secs(5);
        let end = self
            .driver
            .drive(deadline, |waker| self.driver.core.poll_closed(waker));
        if end.is_none() {
            self.driver.core.fail(Error::ClosedByUs);
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Connection({:?}, closed: {:?})",
            self.driver.core.options(),
            self.driver.core.closed()
        )
    }
}

/// A channel; the calls are those of the kernel's client.
#[derive(Clone)]
pub struct Channel {
    handle: Rc<Handle>,
}

struct Handle {
    core: Rc<core::Channel>,
    driver: Rc<Driver>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.core.closed().is_none() {
            // An error means that it is closed already.
            let _ = self
                .core
                .close(reply::SUCCESS, "the last handle was dropped");
            self.driver.flush();
        }
    }
}

impl Channel {
    fn core(&self) -> &Rc<core::Channel> {
        &self.handle.core
    }

    fn run<T>(&self, op: Op<T>) -> Result<T, Error> {
        let call = self.core().call(&op.method, op.what, op.expects)?;
        match self.handle.driver.answer(&call)? {
            Reply::Method(class) => {
                Ok((op.read)(*class).expect("the channel checked which answer it is"))
            }
            Reply::Got(_) => unreachable!("only basic.get is answered by a message"),
        }
    }

    /// Declares an exchange.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`]; [`Error::Invalid`].
    pub fn exchange_declare(&self, declare: ExchangeDeclare) -> Result<(), Error> {
        self.run(ops::exchange_declare(&declare)?)
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`]; [`Error::Invalid`].
    pub fn queue_declare(&self, declare: QueueDeclare) -> Result<QueueOk, Error> {
        self.run(ops::queue_declare(&declare)?)
    }

    /// Binds a queue to an exchange.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), Error> {
        self.run(ops::queue_bind(
            queue,
            exchange,
            routing_key,
            FieldTable::default(),
        )?)
    }

    /// Drops all messages that are ready in a queue; returns how many.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_purge(&self, queue: &str) -> Result<u32, Error> {
        self.run(ops::queue_purge(queue)?)
    }

    /// Deletes a queue; returns how many messages went with it.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn queue_delete(&self, queue: &str, if_unused: bool, if_empty: bool) -> Result<u32, Error> {
        self.run(ops::queue_delete(queue, if_unused, if_empty)?)
    }

    /// How many unsettled deliveries a consumer may hold; 0 = no limit.
    ///
    /// # Errors
    /// The channel's end.
    pub fn qos(&self, prefetch: u16) -> Result<(), Error> {
        self.run(ops::qos(prefetch))
    }

    /// From now on the server confirms publishes.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn confirm_select(&self) -> Result<(), Error> {
        if self.core().has_confirms() {
            Ok(())
        } else {
            self.run(ops::confirm_select())
        }
    }

    /// Publishes a message; with [`Channel::confirm_select`] waits until the server has taken responsibility for it,
    /// else only until it was handed to the system.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(&self, message: Publish<'_>) -> Result<(), PublishError> {
        let (driver, core) = (&self.handle.driver, self.core());
        let limit = driver.core.options().publish_timeout;
        let deadline = Instant::now() + limit;
        let mut room = Room::new(core, &message);
        match driver.drive(deadline, |waker| room.poll(waker)) {
            Some(room) => room.map_err(PublishError::Closed)?,
            None => {
                return Err(driver
                    .core
                    .blocked()
                    .map_or(PublishError::Deadline(limit), PublishError::Blocked));
            }
        }
        let number = core.publish(&message)?;
        drop(room);
        let Some(number) = number else {
            driver.flush();
            return Ok(());
        };
        let answer = driver.drive(deadline, |waker| core.poll_confirm(number, waker));
        if matches!(answer, None | Some(Err(PublishError::Closed(_)))) {
            core.abandon_confirm(number);
        }
        answer.unwrap_or(Err(PublishError::Deadline(limit)))
    }

    /// Takes one message from a queue, if there is one.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn get(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        let op = ops::get(queue, false)?;
        let call = self.core().call(&op.method, op.what, op.expects)?;
        match self.handle.driver.answer(&call)? {
            Reply::Got(got) => Ok(got.map(|(raw, _left)| self.delivery(raw, false))),
            Reply::Method(_) => unreachable!("basic.get is answered by get-ok or get-empty"),
        }
    }

    fn delivery(&self, raw: core::Raw, no_ack: bool) -> Delivery {
        let channel = (!no_ack).then(|| self.clone());
        Delivery {
            message: raw.message,
            channel,
            tag: raw.tag,
        }
    }

    /// Starts a consumer.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`].
    pub fn consume(&self, consume: Consume) -> Result<Consumer, Error> {
        let (state, call) = self.core().consume(&consume)?;
        let consumer = Consumer {
            channel: self.clone(),
            state,
        };
        self.handle.driver.answer(&call)?;
        Ok(consumer)
    }

    /// Closes the channel.
    ///
    /// # Errors
    /// The reason, if it was closed before.
    pub fn close(&self) -> Result<(), Error> {
        let call = self.core().close(reply::SUCCESS, "Goodbye")?;
        self.handle.driver.answer(&call).map(drop)
    }
}

/// A message and the duty to settle it. Dropped unsettled, it is given back to its queue by the next call.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// `None`: nothing to settle (any more).
    channel: Option<Channel>,
    tag: u64,
}

impl Delivery {
    /// The work is done: the server may forget the message. Leaves with the next call that waits.
    ///
    /// # Errors
    /// The channel's end.
    pub fn ack(mut self) -> Result<(), Error> {
        self.settle(Settle::Ack)
    }

    /// Given back unharmed (`requeue`), or dropped.
    ///
    /// # Errors
    /// The channel's end.
    pub fn nack(mut self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { requeue })
    }

    /// The work failed; see the kernel's client.
    ///
    /// # Errors
    /// The channel's end.
    pub fn reject(mut self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Reject { requeue })
    }

    fn settle(&mut self, how: Settle) -> Result<(), Error> {
        self.channel
            .take()
            .map_or(Ok(()), |channel| channel.core().settle(self.tag, how))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // An error means that the channel is closed: the server gives the message back by itself.
        let _ = self.settle(Settle::Nack { requeue: true });
    }
}

/// A consumer, as an iterator with a patience.
pub struct Consumer {
    channel: Channel,
    state: Rc<ConsumerState>,
}

impl Consumer {
    /// Waits up to `patience` for the next delivery. `Ok(None)`: none came, or the consumer was cancelled.
    ///
    /// # Errors
    /// The channel's end.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Delivery>, Error> {
        let (channel, state) = (&self.channel, &self.state);
        let next = channel
            .handle
            .driver
            .drive(Instant::now() + patience, |waker| {
                if let Some(raw) = channel.core().take_delivery(state) {
                    return Poll::Ready(Ok(Some(raw)));
                }
                match &*state.ended.borrow() {
                    Some(Ended::Cancelled) => Poll::Ready(Ok(None)),
                    Some(Ended::Closed(error)) => Poll::Ready(Err(error.clone())),
                    None => {
                        state.waiting.borrow_mut().add(waker);
                        Poll::Pending
                    }
                }
            });
        Ok(next
            .transpose()?
            .flatten()
            .map(|raw| channel.delivery(raw, state.no_ack)))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.channel.core().abandon_consumer(&self.state);
    }
}

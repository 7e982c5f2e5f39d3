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

mod channel;
mod delivery;
mod transport;

use crate::core::{Call, Core, Negotiated, Reply};
use crate::error::Error;
use crate::heartbeat::{Action, Heartbeat};
use crate::options::ConnectOptions;
use crate::protocol::reply;
pub use channel::Channel;
pub use delivery::{Consumer, Delivery};
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
        // Made before the answer: dropped without one, it closes the channel.
        let channel = Channel::new(core, Rc::clone(&self.driver));
        self.driver.answer(&call)?;
        Ok(channel)
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

    /// The first cause of the end, if the connection is over.
    pub fn is_closed(&self) -> Option<Error> {
        self.driver.core.closed()
    }

    /// Why the server blocks publishers (memory or disk alarm), if it does, as far as the calls so far have learnt.
    pub fn blocked(&self) -> Option<String> {
        self.driver.core.blocked()
    }

    /// Tells the server a new secret for a login that expires (RabbitMQ's `connection.update-secret`).
    ///
    /// # Errors
    /// [`Error::NoAnswer`], or the connection's end.
    pub fn update_secret(&self, secret: &str, why: &str) -> Result<(), Error> {
        let call = self.driver.core.update_secret(secret, why)?;
        self.driver.answer(&call).map(drop)
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

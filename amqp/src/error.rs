//! Errors one can act on.
//!
//! [`Error`] is what connections and channels fail with; it is `Clone`, because everything that waits when a
//! connection dies is told the same first cause. [`PublishError`] adds the ways in which one message can fail.
//! [`Error::kind`] sorts them by what to do; the text of each says it in words.

use crate::protocol::reply;
use crate::tls::TlsError;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why the other end closed a channel or the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    /// Reply code, see [`reply`].
    pub code: u16,
    /// The peer's own words.
    pub text: String,
    /// Class and method that caused it, 0 and 0 if none did.
    pub method: (u16, u16),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = reply::name(self.code);
        // RabbitMQ's texts start with the code's name already.
        if self.text.starts_with(name) {
            write!(f, "{} {}", self.code, self.text)?;
        } else {
            write!(f, "{} {name}: {}", self.code, self.text)?;
        }
        match method_name(self.method) {
            Some(method) => write!(f, " (in answer to {method})"),
            None => Ok(()),
        }
    }
}

/// The specification's name of the client's methods, which are those that a close can be about.
fn method_name(method: (u16, u16)) -> Option<&'static str> {
    Some(match method {
        (10, 40) => "connection.open",
        (20, 10) => "channel.open",
        (40, 10) => "exchange.declare",
        (40, 20) => "exchange.delete",
        (40, 30) => "exchange.bind",
        (40, 40) => "exchange.unbind",
        (50, 10) => "queue.declare",
        (50, 20) => "queue.bind",
        (50, 30) => "queue.purge",
        (50, 40) => "queue.delete",
        (50, 50) => "queue.unbind",
        (60, 10) => "basic.qos",
        (60, 20) => "basic.consume",
        (60, 30) => "basic.cancel",
        (60, 40) => "basic.publish",
        (60, 70) => "basic.get",
        (60, 80) => "basic.ack",
        (60, 90) => "basic.reject",
        (60, 110) => "basic.recover",
        (60, 120) => "basic.nack",
        (85, 10) => "confirm.select",
        (90, 10) => "tx.select",
        (90, 20) => "tx.commit",
        (90, 30) => "tx.rollback",
        _ => return None,
    })
}

/// What a connection or a channel can fail with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The kernel task was cancelled, or a timeout around the call ran out.
    #[cfg(feature = "kernel")]
    Kernel(kernel::Error),
    /// The URI or an option does not make sense.
    Options(String),
    /// The host name could not be resolved.
    UnknownHost {
        /// The name.
        host: String,
        /// What the resolver said.
        text: String,
    },
    /// No TCP connection could be made.
    Connect {
        /// Address that was tried.
        address: String,
        /// Kind of failure: refused, unreachable, …
        kind: io::ErrorKind,
        /// The system's words.
        text: String,
    },
    /// TLS could not be agreed on, or broke.
    Tls(TlsError),
    /// The other end does not speak AMQP 0-9-1.
    NotAmqp(String),
    /// The user name or the password is wrong, or this login is not accepted (403 at login).
    LoginRefused(CloseReason),
    /// The virtual host does not exist, or the user may not use it (530 or 402 at open).
    VhostRefused {
        /// The virtual host asked for.
        vhost: String,
        /// The server's reason.
        reason: CloseReason,
    },
    /// The server closed the connection, with its reason.
    ConnectionClosed(CloseReason),
    /// The server closed the channel, with its reason. The connection lives on.
    ChannelClosed(CloseReason),
    /// We closed it ourselves; what was asked of it afterwards, or was still waiting, is refused.
    ClosedByUs,
    /// The TCP connection broke.
    Lost {
        /// Kind of failure.
        kind: io::ErrorKind,
        /// The system's words.
        text: String,
    },
    /// Nothing was heard from the peer for this long (two heartbeat intervals).
    PeerSilent(Duration),
    /// The peer broke the protocol; we closed the connection with this code.
    Protocol {
        /// Reply code of our close.
        code: u16,
        /// What was wrong.
        text: String,
    },
    /// The peer sent a message larger than `max_message_bytes`.
    MessageTooLarge {
        /// Announced size in bytes.
        size: u64,
        /// Our limit in bytes.
        limit: u64,
    },
    /// The server did not answer in time.
    NoAnswer {
        /// What was asked.
        what: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// A name is longer than the 255 bytes that AMQP allows, or a table holds what AMQP cannot carry.
    Invalid(String),
    /// All channels of the connection are in use.
    NoFreeChannel {
        /// How many the connection may have.
        channel_max: u16,
    },
    /// The delivery was settled before.
    AlreadySettled,
}

/// What to do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Try again, with back-off: the network, a server that restarts.
    Retry,
    /// Trying again changes nothing: the configuration or the request is wrong.
    Config,
    /// We closed it ourselves.
    Closed,
    /// The kernel task was cancelled or ran out of time; nothing is wrong with the connection.
    Cancelled,
    /// One of the two programs is wrong.
    Bug,
}

impl Error {
    /// Sorts the error by what to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            #[cfg(feature = "kernel")]
            Error::Kernel(_) => ErrorKind::Cancelled,
            Error::Options(_)
            | Error::Tls(_)
            | Error::NotAmqp(_)
            | Error::LoginRefused(_)
            | Error::VhostRefused { .. }
            | Error::Invalid(_)
            | Error::NoFreeChannel { .. }
            | Error::MessageTooLarge { .. } => ErrorKind::Config,
            Error::UnknownHost { .. }
            | Error::Connect { .. }
            | Error::Lost { .. }
            | Error::PeerSilent(_)
            | Error::NoAnswer { .. } => ErrorKind::Retry,
            Error::ConnectionClosed(reason) => match reason.code {
                reply::SUCCESS
                | reply::CONNECTION_FORCED
                | reply::RESOURCE_ERROR
                | reply::INTERNAL_ERROR => ErrorKind::Retry,
                reply::NOT_ALLOWED
                | reply::INVALID_PATH
                | reply::ACCESS_REFUSED
                | reply::NOT_IMPLEMENTED => ErrorKind::Config,
                _ => ErrorKind::Bug,
            },
            Error::ChannelClosed(reason) => match reason.code {
                reply::RESOURCE_LOCKED | reply::RESOURCE_ERROR => ErrorKind::Retry,
                _ => ErrorKind::Config,
            },
            Error::ClosedByUs => ErrorKind::Closed,
            Error::Protocol { .. } | Error::AlreadySettled => ErrorKind::Bug,
        }
    }

    /// Whether trying again later may help.
    ///
    /// An unknown host counts: names come and go with the network. Whoever starts a program by hand wants to see
    /// the text of the first failure in any case.
    pub fn is_retryable(&self) -> bool {
        self.kind() == ErrorKind::Retry
    }

    /// The server's reason, where it gave one.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        match self {
            Error::LoginRefused(reason)
            | Error::VhostRefused { reason, .. }
            | Error::ConnectionClosed(reason)
            | Error::ChannelClosed(reason) => Some(reason),
            _ => None,
        }
    }

    pub(crate) fn protocol(code: u16, text: impl fmt::Display) -> Self {
        Error::Protocol {
            code,
            text: text.to_string(),
        }
    }

    /// The connection broke while it was in use.
    #[cfg(feature = "kernel")]
    pub(crate) fn from_io(error: &io::Error) -> Self {
        match kernel::Error::in_io(error) {
            Some(cancelled) => Error::Kernel(cancelled),
            None => Error::lost(error),
        }
    }

    pub(crate) fn lost(error: &io::Error) -> Self {
        match TlsError::in_io(error) {
            Some(tls) => Error::Tls(tls.clone()),
            None => Error::Lost {
                kind: error.kind(),
                text: error.to_string(),
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "kernel")]
            Error::Kernel(error) => error.fmt(f),
            Error::Options(text) | Error::Invalid(text) => f.write_str(text),
            Error::UnknownHost { host, text } => {
                write!(
                    f,
                    "host {host:?} cannot be resolved ({text}): check its spelling and the name service"
                )
            }
            Error::Connect {
                address,
                kind: io::ErrorKind::ConnectionRefused,
                ..
            } => {
                write!(
                    f,
                    "nothing listens on {address} (connection refused): start the broker, or correct host and port"
                )
            }
            Error::Connect { address, text, .. } => {
                write!(f, "cannot connect to {address}: {text}")
            }
            Error::Tls(error) => error.fmt(f),
            Error::NotAmqp(text) => {
                write!(
                    f,
                    "the server does not speak AMQP 0-9-1: {text}; check the port (5672 is AMQP, 5671 TLS, 15672 HTTP)"
                )
            }
            Error::LoginRefused(reason) => {
                write!(
                    f,
                    "login refused: {reason}; check user name and password (guest is accepted from localhost only)"
                )
            }
            Error::VhostRefused { vhost, reason } if vhost.is_empty() => {
                write!(
                    f,
                    "the virtual host with the empty name was refused: {reason}; a URL that ends in / asks for it: \
                     leave the / off for the default one, or write %2F"
                )
            }
            Error::VhostRefused { vhost, reason } => {
                write!(
                    f,
                    "virtual host {vhost:?} refused: {reason}; check that it exists and the user has permissions for it"
                )
            }
            Error::ConnectionClosed(reason) => {
                write!(f, "the server closed the connection: {reason}")
            }
            Error::ChannelClosed(reason) => {
                write!(f, "the server closed the channel: {reason}")?;
                match reason.code {
                    reply::PRECONDITION_FAILED if reason.text.contains("inequivalent arg") => f.write_str(
                        "; it exists with other arguments: declare it with the same ones, or delete it first",
                    ),
                    reply::NOT_FOUND => f.write_str("; declare it first, or correct its name"),
                    reply::RESOURCE_LOCKED => f.write_str("; another connection holds it exclusively"),
                    reply::ACCESS_REFUSED => f.write_str("; the user lacks the permission"),
                    _ => Ok(()),
                }
            }
            Error::ClosedByUs => f.write_str("closed by this program"),
            Error::Lost { text, .. } => write!(f, "the connection broke: {text}"),
            Error::PeerSilent(after) => {
                write!(
                    f,
                    "nothing was heard from the server for {} s: the connection counts as dead",
                    after.as_secs()
                )
            }
            Error::Protocol { code, text } => {
                write!(
                    f,
                    "the server broke the protocol ({code} {}): {text}",
                    reply::name(*code)
                )
            }
            Error::MessageTooLarge { size, limit } => {
                write!(
                    f,
                    "a message of {size} bytes came, over our limit max_message_bytes = {limit}"
                )
            }
            Error::NoAnswer { what, after } => {
                write!(
                    f,
                    "the server did not answer {what} within {:.1} s",
                    after.as_secs_f64()
                )
            }
            Error::NoFreeChannel { channel_max } => {
                write!(
                    f,
                    "all {channel_max} channels of the connection are in use: close some, or open another connection"
                )
            }
            Error::AlreadySettled => f.write_str("the delivery was settled before"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(feature = "kernel")]
impl From<kernel::Error> for Error {
    fn from(error: kernel::Error) -> Self {
        Error::Kernel(error)
    }
}

/// A message that came back: no queue took it (AMQP 0-9-1, `basic.return`).
#[derive(Debug, Clone, PartialEq)]
pub struct Returned {
    /// 312 NO_ROUTE, or 313 NO_CONSUMERS.
    pub code: u16,
    /// The server's words.
    pub text: String,
    /// Where it was published.
    pub exchange: String,
    /// With which key.
    pub routing_key: String,
    /// Its properties.
    pub properties: crate::codec::RawProperties,
    /// Its body.
    pub body: Vec<u8>,
}

/// What became of a message that was not confirmed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PublishError {
    /// It was mandatory and no queue took it. It is not stored anywhere.
    Unroutable(Box<Returned>),
    /// The server could not take responsibility for it (queue full with `reject-publish`, disk error, …).
    Nacked,
    /// The server has blocked publishers (memory or disk alarm) up to the deadline. The message was not sent.
    Blocked(String),
    /// The deadline passed before the server confirmed. Whether it has the message is not known.
    Deadline(Duration),
    /// The channel or connection died before the server confirmed. Whether it has the message is not known.
    Closed(Error),
    /// The message cannot be sent as it is (a name over 255 bytes, or no confirm mode). It was not sent.
    Invalid(Error),
    /// The kernel task was cancelled, or a timeout around the call ran out.
    #[cfg(feature = "kernel")]
    Kernel(kernel::Error),
}

impl PublishError {
    /// Whether publishing the message again may help. It may then arrive twice, if the first copy was taken.
    pub fn is_retryable(&self) -> bool {
        match self {
            PublishError::Nacked | PublishError::Blocked(_) | PublishError::Deadline(_) => true,
            PublishError::Closed(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Unroutable(returned) => write!(
                f,
                "no queue takes messages for exchange {:?} with routing key {:?} ({} {}): bind one first",
                returned.exchange, returned.routing_key, returned.code, returned.text
            ),
            PublishError::Nacked => f.write_str(
                "the server refused the message (its queue may be full): try again later",
            ),
            PublishError::Blocked(reason) => {
                write!(
                    f,
                    "the server has blocked publishers ({reason}): free its memory or disk"
                )
            }
            PublishError::Deadline(after) => {
                write!(
                    f,
                    "not confirmed within {:.1} s; the server may or may not have the message",
                    after.as_secs_f64()
                )
            }
            PublishError::Closed(error) => write!(f, "not confirmed: {error}"),
            PublishError::Invalid(error) => write!(f, "not sent: {error}"),
            #[cfg(feature = "kernel")]
            PublishError::Kernel(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PublishError {}

#[cfg(feature = "kernel")]
impl From<kernel::Error> for PublishError {
    fn from(error: kernel::Error) -> Self {
        PublishError::Kernel(error)
    }
}

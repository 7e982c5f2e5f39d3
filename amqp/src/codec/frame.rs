//! Bytes → frames.
//!
//! [`parse_frame`] looks at the start of the read buffer and either says that bytes are missing or gives one
//! [`Frame`] that borrows from the buffer. Nothing is allocated for the hot methods; sizes are checked against
//! `frame_max` before a byte of payload is waited for.

use super::scan::{TableError, check_method};
use super::wire::{Cursor, Short};
use super::{RawProperties, properties};
use crate::protocol::{AMQPClass, BASIC_CLASS, FRAME_OVERHEAD, reply};
use amq_protocol::protocol::parse_class;

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
pub(super) const HEARTBEAT: u8 = 8;
pub(crate) const FRAME_END: u8 = 0xCE;

/// Bytes before a frame's payload: type, channel, size.
pub(crate) const FRAME_HEAD: usize = 7;

/// One frame, borrowed from the read buffer.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<'a> {
    /// A method on a channel (0 = the connection).
    Method(u16, Method<'a>),
    /// The header of a content.
    Header(u16, Header<'a>),
    /// A piece of a content's body.
    Body(u16, &'a [u8]),
    /// A heartbeat (always on channel 0).
    Heartbeat,
}

/// A method: the hot ones typed and borrowed, all others as amq-protocol's type.
#[derive(Debug, Clone, PartialEq)]
pub enum Method<'a> {
    /// `basic.publish`
    Publish(Publish<'a>),
    /// `basic.deliver`
    Deliver(Deliver<'a>),
    /// `basic.get-ok`
    GetOk(GetOk<'a>),
    /// `basic.ack`, in either direction
    Ack(Ack),
    /// `basic.nack`, in either direction
    Nack(Nack),
    /// `basic.reject`
    Reject(Reject),
    /// Any other method. Its tables have passed our bounds on depth and count.
    Other(Box<AMQPClass>),
}

/// `basic.publish`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publish<'a> {
    /// Exchange name; empty = the default exchange.
    pub exchange: &'a str,
    /// Routing key.
    pub routing_key: &'a str,
    /// Return the message if no queue takes it.
    pub mandatory: bool,
    /// Not supported by RabbitMQ since 3.0, nor by us (540).
    pub immediate: bool,
}

/// `basic.deliver`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deliver<'a> {
    /// The consumer this is for.
    pub consumer_tag: &'a str,
    /// Names the delivery on its channel; the first is 1.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: &'a str,
    /// With which key.
    pub routing_key: &'a str,
}

/// `basic.get-ok`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GetOk<'a> {
    /// Names the delivery on its channel.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: &'a str,
    /// With which key.
    pub routing_key: &'a str,
    /// Messages left in the queue.
    pub message_count: u32,
}

/// `basic.ack`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// The delivery, or the publish when a broker confirms.
    pub delivery_tag: u64,
    /// All up to and including the tag.
    pub multiple: bool,
}

/// `basic.nack`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nack {
    /// The delivery, or the publish when a broker refuses.
    pub delivery_tag: u64,
    /// All up to and including the tag.
    pub multiple: bool,
    /// Put it back into the queue.
    pub requeue: bool,
}

/// `basic.reject`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reject {
    /// The delivery.
    pub delivery_tag: u64,
    /// Put it back into the queue.
    pub requeue: bool,
}

/// The header of a content: how long its body is, and its properties, checked and undecoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Bytes of body to come. Not yet checked against anything: bound it before reserving.
    pub body_size: u64,
    properties: &'a [u8],
}

impl<'a> Header<'a> {
    /// The properties in wire form, borrowed: flag word and values, checked.
    #[inline]
    pub fn as_wire(&self) -> &'a [u8] {
        self.properties
    }

    /// A copy of the properties in wire form.
    pub fn properties(&self) -> RawProperties {
        RawProperties::from_checked(self.properties)
    }
}

/// Why bytes are not a frame. All of these end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The first byte is none of the four frame types.
    UnknownType(u8),
    /// The frame is larger than `frame_max`.
    TooLarge {
        /// Size of the whole frame in bytes, as its header says.
        size: u64,
        /// The limit agreed on.
        frame_max: u32,
    },
    /// The frame does not end with its end octet.
    NoEnd(u8),
    /// A heartbeat on another channel than 0, or with a payload.
    BadHeartbeat,
    /// A field in a method is malformed.
    MalformedMethod {
        /// Class id, 0 if it could not be read.
        class: u16,
        /// Method id, 0 if it could not be read.
        method: u16,
    },
    /// A content header is malformed.
    MalformedHeader,
    /// A table is nested too deep or holds too many values.
    TableBeyondBounds,
    /// No such class and method.
    UnknownMethod {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
    },
}

impl FrameError {
    /// The reply code for the close that answers it.
    pub fn reply_code(&self) -> u16 {
        match self {
            FrameError::UnknownType(_)
            | FrameError::TooLarge { .. }
            | FrameError::NoEnd(_)
            | FrameError::BadHeartbeat => reply::FRAME_ERROR,
            FrameError::MalformedMethod { .. }
            | FrameError::MalformedHeader
            | FrameError::TableBeyondBounds => reply::SYNTAX_ERROR,
            FrameError::UnknownMethod { .. } => reply::NOT_IMPLEMENTED,
        }
    }

    /// Class and method id for the close that answers it, 0 and 0 where there is none.
    pub fn method(&self) -> (u16, u16) {
        match *self {
            FrameError::MalformedMethod { class, method }
            | FrameError::UnknownMethod { class, method } => (class, method),
            _ => (0, 0),
        }
    }
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FrameError::UnknownType(byte) => write!(f, "{byte} is not a frame type"),
            FrameError::TooLarge { size, frame_max } => {
                write!(
                    f,
                    "a frame of {size} bytes exceeds the agreed frame_max of {frame_max}"
                )
            }
            FrameError::NoEnd(byte) => write!(f, "the frame ends with {byte:#04x}, not with 0xce"),
            FrameError::BadHeartbeat => write!(f, "a heartbeat must be empty and on channel 0"),
            FrameError::MalformedMethod { class, method } => {
                write!(f, "malformed arguments of method {class}.{method}")
            }
            FrameError::MalformedHeader => write!(f, "malformed content header"),
            FrameError::TableBeyondBounds => write!(
                f,
                "a table is nested deeper than {} levels or holds more than {} values",
                super::MAX_TABLE_DEPTH,
                super::MAX_TABLE_VALUES
            ),
            FrameError::UnknownMethod { class, method } => {
                write!(f, "unknown method {class}.{method}")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Parses the frame at the start of `bytes`.
///
/// `Ok(None)`: more bytes are needed. `Ok(Some((frame, len)))`: a frame that took `len` bytes. `frame_max` is
/// the limit for a whole frame in bytes, with its 8 bytes of overhead; it is checked as soon as the seven bytes
/// of the frame's header are there.
///
/// # Errors
/// [`FrameError`]; the connection is then out of step and must be closed.
#[inline]
pub fn parse_frame(bytes: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(&kind) = bytes.first() else {
        return Ok(None);
    };
    if !matches!(kind, METHOD | HEADER | BODY | HEARTBEAT) {
        return Err(FrameError::UnknownType(kind));
    }
    let Some((head, _)) = bytes.split_first_chunk::<FRAME_HEAD>() else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([head[1], head[2]]);
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let total = u64::from(size) + FRAME_OVERHEAD as u64;
    if total > u64::from(frame_max) {
        return Err(FrameError::TooLarge {
            size: total,
            frame_max,
        });
    }
    let total = total as usize;
    if bytes.len() < total {
        return Ok(None);
    }
    let payload = &bytes[7..total - 1];
    if bytes[total - 1] != FRAME_END {
        return Err(FrameError::NoEnd(bytes[total - 1]));
    }
    let frame = match kind {
        METHOD => Frame::Method(channel, parse_method(payload)?),
        HEADER => Frame::Header(channel, parse_header(payload)?),
        BODY => Frame::Body(channel, payload),
        _ if channel == 0 && payload.is_empty() => Frame::Heartbeat,
        _ => return Err(FrameError::BadHeartbeat),
    };
    Ok(Some((frame, total)))
}

/// The channel and the payload's length of the body frame that starts `bytes`, if its header is there: so much can be
/// told before [`parse_frame`] has all of it, and has to have been asked first.
#[inline]
pub(crate) fn begun_body(bytes: &[u8]) -> Option<(u16, u32)> {
    let (head, _) = bytes.split_first_chunk::<FRAME_HEAD>()?;
    let channel = u16::from_be_bytes([head[1], head[2]]);
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    (head[0] == BODY).then_some((channel, size))
}

/// Parses the payload of a method frame.
///
/// # Errors
/// [`FrameError`] for unknown or malformed methods.
pub fn parse_method(payload: &[u8]) -> Result<Method<'_>, FrameError> {
    let mut cursor = Cursor::new(payload);
    let (Ok(class), Ok(method)) = (cursor.u16(), cursor.u16()) else {
        return Err(FrameError::MalformedMethod {
            class: 0,
            method: 0,
        });
    };
    let hot = match (class, method) {
        (BASIC_CLASS, 40) => publish(&mut cursor),
        (BASIC_CLASS, 60) => deliver(&mut cursor),
        (BASIC_CLASS, 71) => get_ok(&mut cursor),
        (BASIC_CLASS, 80) => ack(&mut cursor),
        (BASIC_CLASS, 90) => reject(&mut cursor),
        (BASIC_CLASS, 120) => nack(&mut cursor),
        _ => return other(class, method, payload),
    };
    match hot {
        Ok(hot) if cursor.is_empty() => Ok(hot),
        _ => Err(FrameError::MalformedMethod { class, method }),
    }
}

fn other(class: u16, method: u16, payload: &[u8]) -> Result<Method<'_>, FrameError> {
    check_method(class, method, &payload[4..]).map_err(|error| match error {
        TableError::Malformed => FrameError::MalformedMethod { class, method },
        TableError::TooDeep | TableError::TooMany => FrameError::TableBeyondBounds,
    })?;
    // Inside a whole frame amq-protocol's `Incomplete` means malformed, like any other of its errors.
    match parse_class(payload) {
        Ok(([], parsed)) => Ok(Method::Other(Box::new(parsed))),
        _ if is_known(class, method) => Err(FrameError::MalformedMethod { class, method }),
        _ => Err(FrameError::UnknownMethod { class, method }),
    }
}

/// Whether the specification, or RabbitMQ's extension of it, has this method.
fn is_known(class: u16, method: u16) -> bool {
    match class {
        10 => matches!(
            method,
            10 | 11 | 20 | 21 | 30 | 31 | 40 | 41 | 50 | 51 | 60 | 61 | 70 | 71
        ),
        20 => matches!(method, 10 | 11 | 20 | 21 | 40 | 41),
        30 => matches!(method, 10 | 11),
        40 => matches!(method, 10 | 11 | 20 | 21 | 30 | 31 | 40 | 51),
        50 => matches!(method, 10 | 11 | 20 | 21 | 30 | 31 | 40 | 41 | 50 | 51),
        60 => matches!(
            method,
            10 | 11
                | 20
                | 21
                | 30
                | 31
                | 40
                | 50
                | 60
                | 70
                | 71
                | 72
                | 80
                | 90
                | 100
                | 110
                | 111
                | 120
        ),
        85 => matches!(method, 10 | 11),
        90 => matches!(method, 10 | 11 | 20 | 21 | 30 | 31),
        _ => false,
    }
}

fn publish<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Short> {
    cursor.u16()?; // reserved
    let exchange = cursor.short_str()?;
    let routing_key = cursor.short_str()?;
    let bits = cursor.u8()?;
    Ok(Method::Publish(Publish {
        exchange,
        routing_key,
        mandatory: bits & 1 != 0,
        immediate: bits & 2 != 0,
    }))
}

fn deliver<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Short> {
    Ok(Method::Deliver(Deliver {
        consumer_tag: cursor.short_str()?,
        delivery_tag: cursor.u64()?,
        redelivered: cursor.u8()? & 1 != 0,
        exchange: cursor.short_str()?,
        routing_key: cursor.short_str()?,
    }))
}

fn get_ok<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Short> {
    Ok(Method::GetOk(GetOk {
        delivery_tag: cursor.u64()?,
        redelivered: cursor.u8()? & 1 != 0,
        exchange: cursor.short_str()?,
        routing_key: cursor.short_str()?,
        message_count: cursor.u32()?,
    }))
}

fn ack<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Short> {
    let delivery_tag = cursor.u64()?;
    let bits = cursor.u8()?;
    Ok(Method::Ack(Ack {
        delivery_tag,
        multiple: bits & 1 != 0,
    }))
}

fn nack<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Short> {
    let delivery_tag = cursor.u64()?;
    let bits = cursor.u8()?;
    Ok(Method::Nack(Nack {
        delivery_tag,
        multiple: bits & 1 != 0,
        requeue: bits & 2 != 0,
    }))
}

fn reject<'a>(cursor: &mut Cursor<'a>) -> Result<Method<'a>, Short> {
    let delivery_tag = cursor.u64()?;
    let bits = cursor.u8()?;
    Ok(Method::Reject(Reject {
        delivery_tag,
        requeue: bits & 1 != 0,
    }))
}

#[inline]
fn parse_header(payload: &[u8]) -> Result<Header<'_>, FrameError> {
    let mut cursor = Cursor::new(payload);
    let mut fixed = || -> Result<(u16, u64), Short> {
        let class = cursor.u16()?;
        cursor.u16()?; // weight: unused, any value is accepted
        Ok((class, cursor.u64()?))
    };
    let Ok((BASIC_CLASS, body_size)) = fixed() else {
        return Err(FrameError::MalformedHeader);
    };
    let properties = cursor.rest();
    // The header without properties is the hot one and needs no walk.
    if properties != [0, 0] {
        properties::walk(properties).map_err(|error| match error {
            TableError::Malformed => FrameError::MalformedHeader,
            TableError::TooDeep | TableError::TooMany => FrameError::TableBeyondBounds,
        })?;
    }
    Ok(Header {
        body_size,
        properties,
    })
}

/// What the first bytes of a connection are, on the server's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// Fewer than eight bytes, all as expected so far.
    Incomplete,
    /// `AMQP 0 0 9 1`: drop [`PROTOCOL_HEADER`](crate::protocol::PROTOCOL_HEADER)'s eight bytes and go on.
    Amqp091,
    /// Anything else: answer with the protocol header and close (AMQP 0-9-1 §4.2.2).
    Other,
}

/// Reads the protocol header a client must send first.
pub fn parse_greeting(bytes: &[u8]) -> Greeting {
    let expected = crate::protocol::PROTOCOL_HEADER;
    let seen = bytes.len().min(expected.len());
    match bytes[..seen] == expected[..seen] {
        false => Greeting::Other,
        true if seen < expected.len() => Greeting::Incomplete,
        true => Greeting::Amqp091,
    }
}

//! Our short names over the types of the `amq-protocol` crate, and the reply codes.
//!
//! Everything that is not a hot path keeps amq-protocol's own types: a method is an [`AMQPClass`], a table a
//! [`FieldTable`]. This module only gives them one address inside this crate.

pub use amq_protocol::protocol::{
    AMQPClass, BasicProperties, access, basic, channel, confirm, connection, exchange, queue, tx,
};
pub use amq_protocol::types::{
    AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
};

/// The first eight bytes a client sends (AMQP 0-9-1 §4.2.2).
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// The smallest `frame_max` a peer may ask for, in bytes (AMQP 0-9-1 §1.4.2.6, `frame-min-size`).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// Bytes of a frame that are not payload: type, channel, size and the end octet.
pub const FRAME_OVERHEAD: usize = 8;

/// Class id of `basic`, the only class that carries content.
pub const BASIC_CLASS: u16 = 60;

/// Reply codes (AMQP 0-9-1 §1.2). The first group closes a channel, the second the connection.
pub mod reply {
    /// Success: an orderly close.
    pub const SUCCESS: u16 = 200;
    /// Channel: the content is larger than the peer accepts.
    pub const CONTENT_TOO_LARGE: u16 = 311;
    /// Return: no queue is bound for the routing key.
    pub const NO_ROUTE: u16 = 312;
    /// Return: no consumer was ready for an immediate message.
    pub const NO_CONSUMERS: u16 = 313;
    /// Channel: access to the entity is refused.
    pub const ACCESS_REFUSED: u16 = 403;
    /// Channel: the entity does not exist.
    pub const NOT_FOUND: u16 = 404;
    /// Channel: the entity is locked by another connection.
    pub const RESOURCE_LOCKED: u16 = 405;
    /// Channel: the request conflicts with what exists.
    pub const PRECONDITION_FAILED: u16 = 406;
    /// Connection: an operator closed it, or the server stops.
    pub const CONNECTION_FORCED: u16 = 320;
    /// Connection: the virtual host is not valid.
    pub const INVALID_PATH: u16 = 402;
    /// Connection: a frame was malformed.
    pub const FRAME_ERROR: u16 = 501;
    /// Connection: a field in a frame was malformed.
    pub const SYNTAX_ERROR: u16 = 502;
    /// Connection: the method is not valid at this point.
    pub const COMMAND_INVALID: u16 = 503;
    /// Connection: the channel is not open, or may not be used so.
    pub const CHANNEL_ERROR: u16 = 504;
    /// Connection: a frame that does not belong here, such as a body without a header.
    pub const UNEXPECTED_FRAME: u16 = 505;
    /// Connection: the server lacks resources.
    pub const RESOURCE_ERROR: u16 = 506;
    /// Connection: the operation is not allowed (wrong virtual host, refused credentials after start).
    pub const NOT_ALLOWED: u16 = 530;
    /// Connection: the server does not do this.
    pub const NOT_IMPLEMENTED: u16 = 540;
    /// Connection: something broke inside the server.
    pub const INTERNAL_ERROR: u16 = 541;

    /// Whether the code closes only the channel (a "soft" error).
    pub fn is_channel_scope(code: u16) -> bool {
        matches!(
            code,
            CONTENT_TOO_LARGE
                | NO_ROUTE
                | NO_CONSUMERS
                | ACCESS_REFUSED
                | NOT_FOUND
                | RESOURCE_LOCKED
                | PRECONDITION_FAILED
        )
    }

    /// The specification's name of a code, such as `NOT_FOUND`; `UNKNOWN` for one it does not list.
    pub fn name(code: u16) -> &'static str {
        match code {
            SUCCESS => "SUCCESS",
            CONTENT_TOO_LARGE => "CONTENT_TOO_LARGE",
            NO_ROUTE => "NO_ROUTE",
            NO_CONSUMERS => "NO_CONSUMERS",
            ACCESS_REFUSED => "ACCESS_REFUSED",
            NOT_FOUND => "NOT_FOUND",
            RESOURCE_LOCKED => "RESOURCE_LOCKED",
            PRECONDITION_FAILED => "PRECONDITION_FAILED",
            CONNECTION_FORCED => "CONNECTION_FORCED",
            INVALID_PATH => "INVALID_PATH",
            FRAME_ERROR => "FRAME_ERROR",
            SYNTAX_ERROR => "SYNTAX_ERROR",
            COMMAND_INVALID => "COMMAND_INVALID",
            CHANNEL_ERROR => "CHANNEL_ERROR",
            UNEXPECTED_FRAME => "UNEXPECTED_FRAME",
            RESOURCE_ERROR => "RESOURCE_ERROR",
            NOT_ALLOWED => "NOT_ALLOWED",
            NOT_IMPLEMENTED => "NOT_IMPLEMENTED",
            INTERNAL_ERROR => "INTERNAL_ERROR",
            _ => "UNKNOWN",
        }
    }
}

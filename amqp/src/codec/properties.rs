//! The properties of a message, kept as the bytes they travelled in.
//!
//! amq-protocol's tables are ordered maps, so decoding and encoding a header again may change its bytes. A broker
//! that forwards a message, or a worker that dead-letters one, must not; so [`RawProperties`] keeps the bytes,
//! and decodes on demand: [`RawProperties::fields`] borrows, without allocation; [`RawProperties::decode`] builds
//! amq-protocol's [`BasicProperties`].

use super::scan::{TableError, skip_table};
use super::wire::Cursor;
use crate::protocol::BasicProperties;
use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::basic::{gen_properties, parse_properties};
use amq_protocol::types::FieldTable;
use amq_protocol::types::parsing::parse_field_table;

/// Flag word and values as they stand in a content header (AMQP 0-9-1 §4.2.6.1), checked to be well-formed.
///
/// A message without properties holds no allocation.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RawProperties {
    /// Empty stands for the flag word 0.
    bytes: Vec<u8>,
}

/// The properties of a message, borrowed from their wire form. `None` = not set.
///
/// Strings are bytes here: a peer may send any. `headers` is the table with its four bytes of length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// MIME type.
    pub content_type: Option<&'a [u8]>,
    /// MIME encoding.
    pub content_encoding: Option<&'a [u8]>,
    /// The table of headers, undecoded.
    pub headers: Option<&'a [u8]>,
    /// 1 = transient, 2 = persistent.
    pub delivery_mode: Option<u8>,
    /// Priority, 0 to 255.
    pub priority: Option<u8>,
    /// Ties a reply to its request.
    pub correlation_id: Option<&'a [u8]>,
    /// Where a reply is wanted.
    pub reply_to: Option<&'a [u8]>,
    /// Time to live in milliseconds, as decimal text.
    pub expiration: Option<&'a [u8]>,
    /// The application's id of the message.
    pub message_id: Option<&'a [u8]>,
    /// Seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// The application's name of the kind of message.
    pub kind: Option<&'a [u8]>,
    /// The user that published; brokers check it.
    pub user_id: Option<&'a [u8]>,
    /// The application that published.
    pub app_id: Option<&'a [u8]>,
    /// Deprecated.
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Reads wire bytes ([`Header::as_wire`](super::Header::as_wire)) without a copy. `None` if they are
    /// malformed or their table is beyond our bounds.
    pub fn from_wire(bytes: &'a [u8]) -> Option<Self> {
        walk(bytes).ok()
    }
}

impl RawProperties {
    /// No property set.
    pub const fn none() -> Self {
        RawProperties { bytes: Vec::new() }
    }

    /// Takes a copy of checked wire bytes. `None` if they are malformed or their table is beyond our bounds.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        walk(bytes).ok()?;
        Some(Self::from_checked(bytes))
    }

    /// As [`RawProperties::from_wire`], for bytes that a frame parser has checked already.
    pub(crate) fn from_checked(bytes: &[u8]) -> Self {
        let bytes = if bytes == [0, 0] {
            Vec::new()
        } else {
            bytes.to_vec()
        };
        RawProperties { bytes }
    }

    /// The bytes as they stand in a content header, never empty.
    pub fn as_wire(&self) -> &[u8] {
        if self.bytes.is_empty() {
            &[0, 0]
        } else {
            &self.bytes
        }
    }

    /// Whether no property is set.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All properties, borrowed, in one pass without allocation.
    pub fn fields(&self) -> Fields<'_> {
        walk(self.as_wire()).unwrap_or_default()
    }

    /// All properties as amq-protocol's type. `None` if a string in them is not UTF-8.
    pub fn decode(&self) -> Option<BasicProperties> {
        let bytes: &[u8] = self.as_wire();
        parse_properties(bytes)
            .ok()
            .map(|(_, properties)| properties)
    }

    /// The headers as a table; an empty one if there are none. `None` if they cannot be decoded.
    pub fn headers(&self) -> Option<FieldTable> {
        match self.fields().headers {
            None => Some(FieldTable::default()),
            Some(bytes) => parse_field_table(bytes).ok().map(|(_, table)| table),
        }
    }
}

impl From<&BasicProperties> for RawProperties {
    fn from(properties: &BasicProperties) -> Self {
        if properties.bitmask() == 0 {
            return RawProperties::none();
        }
        let context = gen_properties(properties)(WriteContext::from(Vec::with_capacity(64)))
            .expect("writing to a Vec does not fail");
        RawProperties {
            bytes: context.into_inner().0,
        }
    }
}

impl From<BasicProperties> for RawProperties {
    fn from(properties: BasicProperties) -> Self {
        RawProperties::from(&properties)
    }
}

impl std::fmt::Debug for RawProperties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.decode() {
            Some(properties) => properties.fmt(f),
            None => write!(f, "RawProperties({:?})", self.bytes),
        }
    }
}

/// Reads all of `bytes` as flag word and values, in the order of the flags from the highest bit down.
pub(crate) fn walk(bytes: &[u8]) -> Result<Fields<'_>, TableError> {
    let mut cursor = Cursor::new(bytes);
    let flags = cursor.u16()?;
    // Bit 1 is no property and bit 0 announces a second flag word, which `basic` does not have.
    if flags & 0b11 != 0 {
        return Err(TableError::Malformed);
    }
    let mut fields = Fields::default();
    let has = |bit: u16| flags & (1 << bit) != 0;
    macro_rules! read {
        ($bit:literal, $field:ident, $method:ident) => {
            if has($bit) {
                fields.$field = Some(cursor.$method()?);
            }
        };
    }
    read!(15, content_type, short_bytes);
    read!(14, content_encoding, short_bytes);
    if has(13) {
        let start = cursor.rest();
        skip_table(&mut cursor)?;
        fields.headers = Some(&start[..start.len() - cursor.rest().len()]);
    }
    read!(12, delivery_mode, u8);
    read!(11, priority, u8);
    read!(10, correlation_id, short_bytes);
    read!(9, reply_to, short_bytes);
    read!(8, expiration, short_bytes);
    read!(7, message_id, short_bytes);
    read!(6, timestamp, u64);
    read!(5, kind, short_bytes);
    read!(4, user_id, short_bytes);
    read!(3, app_id, short_bytes);
    read!(2, cluster_id, short_bytes);
    if cursor.is_empty() {
        Ok(fields)
    } else {
        Err(TableError::Malformed)
    }
}

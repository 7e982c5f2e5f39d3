//! One message as the broker holds it: a single block of bytes, shared by all queues that hold it.

use super::fault::Fault;
use crate::codec::{ContentError, Header};
use std::sync::Arc;

/// A message: where it was published, its properties and its body, all in wire form.
///
/// Nothing in it is decoded and encoded again on its way through, so a consumer gets the property bytes of the
/// producer unchanged. Cloning shares the bytes; whatever number of queues hold it, the body is there once.
#[derive(Clone)]
pub struct Message {
    /// Exchange and routing key (two short strings), properties, body: one allocation per message.
    bytes: Arc<[u8]>,
    routing_len: u16,
    properties_len: u32,
    persistent: bool,
    /// What one queue's hold on the message counts for against the memory mark, in bytes.
    share: u64,
}

/// What a message costs beside its bytes (its place in a queue and in a ledger), in bytes; rounded up.
const OVERHEAD: u64 = 128;

impl Message {
    /// Whether the producer asked for it to survive a restart (delivery mode 2).
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Exchange and routing key as two short strings, the way a deliver method ends.
    #[inline]
    pub(crate) fn routing(&self) -> &[u8] {
        &self.bytes[..usize::from(self.routing_len)]
    }

    /// The name of the exchange it was published to.
    pub fn exchange(&self) -> &str {
        split_routing(self.routing()).0
    }

    /// The routing key it was published with.
    pub fn routing_key(&self) -> &str {
        split_routing(self.routing()).1
    }

    /// Property flags and values, as they stand in a content header.
    #[inline]
    pub fn properties(&self) -> &[u8] {
        let start = usize::from(self.routing_len);
        &self.bytes[start..start + self.properties_len as usize]
    }

    /// The body.
    #[inline]
    pub fn body(&self) -> &[u8] {
        &self.bytes[usize::from(self.routing_len) + self.properties_len as usize..]
    }

    /// Divides the message's cost in memory among the queues that take it.
    pub(crate) fn share_among(&mut self, queues: usize) {
        self.share = self.bytes.len() as u64 / queues.max(1) as u64 + OVERHEAD;
    }

    #[inline]
    pub(crate) fn share(&self) -> u64 {
        self.share
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("persistent", &self.persistent)
            .field("body_len", &self.body().len())
            .finish_non_exhaustive()
    }
}

/// The two short strings of `routing` as text.
pub(crate) fn split_routing(routing: &[u8]) -> (&str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).expect("the parser has checked names as UTF-8");
    let exchange_len = usize::from(routing[0]);
    let (exchange, key) = routing[1..].split_at(exchange_len);
    (text(exchange), text(&key[1..]))
}

/// How far the message under way has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    /// The publish method came; the header is due.
    Method,
    /// Header came; so many bytes of body are due.
    Body(u64),
}

/// Collects publish, header and bodies of one channel into a [`Message`].
///
/// Everything is appended to one buffer that the channel keeps, so that a finished message costs one allocation
/// and one copy. A header's `body_size` reserves nothing: memory grows with what has arrived.
pub(crate) struct Assembly {
    buffer: Vec<u8>,
    stage: Stage,
    pub(crate) mandatory: bool,
    routing_len: usize,
    properties_len: usize,
}

/// A buffer that grew over this many bytes is given back after its message.
const KEEP: usize = 64 * 1024;

impl Default for Assembly {
    fn default() -> Self {
        Assembly {
            buffer: Vec::new(),
            stage: Stage::Idle,
            mandatory: false,
            routing_len: 0,
            properties_len: 0,
        }
    }
}

impl Assembly {
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Bytes held for a message whose header has come.
    #[inline]
    pub(crate) fn held(&self) -> u64 {
        match self.stage {
            Stage::Body(_) => self.buffer.len() as u64,
            _ => 0,
        }
    }

    /// A publish came.
    #[inline]
    pub(crate) fn begin(&mut self, exchange: &str, key: &str, mandatory: bool) {
        debug_assert!(self.is_idle());
        self.buffer.clear();
        crate::codec::put_short(&mut self.buffer, exchange);
        crate::codec::put_short(&mut self.buffer, key);
        self.routing_len = self.buffer.len();
        self.mandatory = mandatory;
        self.stage = Stage::Method;
    }

    /// A content header came. `properties` replaces its property bytes where the broker rewrites them.
    #[inline]
    pub(crate) fn header(
        &mut self,
        header: &Header<'_>,
        properties: &[u8],
        body_max: u64,
    ) -> Result<bool, Fault> {
        if self.stage != Stage::Method {
            return Err(ContentError::UnexpectedHeader.into());
        }
        let size = header.body_size;
        if size > body_max {
            let limit = body_max;
            return Err(ContentError::TooLarge { size, limit }.into());
        }
        self.buffer.extend_from_slice(properties);
        self.properties_len = properties.len();
        self.stage = Stage::Body(size);
        Ok(size == 0)
    }

    /// A piece of body came. `true`: it was the last.
    #[inline]
    pub(crate) fn body(&mut self, piece: &[u8]) -> Result<bool, Fault> {
        let Stage::Body(missing) = self.stage else {
            return Err(ContentError::UnexpectedBody.into());
        };
        let Some(missing) = missing.checked_sub(piece.len() as u64) else {
            return Err(ContentError::BodyTooLong.into());
        };
        self.buffer.extend_from_slice(piece);
        self.stage = Stage::Body(missing);
        Ok(missing == 0)
    }

    /// Exchange and routing key of the message under way, as two short strings.
    #[inline]
    pub(crate) fn routing(&self) -> &[u8] {
        &self.buffer[..self.routing_len]
    }

    /// Its properties.
    #[inline]
    pub(crate) fn properties(&self) -> &[u8] {
        &self.buffer[self.routing_len..][..self.properties_len]
    }

    /// Its body, as far as it has come.
    pub(crate) fn body_so_far(&self) -> &[u8] {
        &self.buffer[self.routing_len + self.properties_len..]
    }

    /// The message, for `queues` queues.
    #[inline]
    pub(crate) fn message(&self, persistent: bool, queues: usize) -> Message {
        let mut message = Message {
            bytes: Arc::from(&self.buffer[..]),
            // Two short strings are at most 512 bytes; properties fit into a frame.
            routing_len: self.routing_len as u16,
            properties_len: self.properties_len as u32,
            persistent,
            share: 0,
        };
        message.share_among(queues);
        message
    }

    /// Ready for the next publish.
    #[inline]
    pub(crate) fn finish(&mut self) {
        self.stage = Stage::Idle;
        self.buffer.clear();
        self.buffer.shrink_to(KEEP);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A transient message on the default exchange.
    pub(crate) fn message(key: &str, body: &[u8]) -> Message {
        let mut assembly = Assembly::default();
        assembly.begin("", key, false);
        assembly.buffer.extend_from_slice(&[0, 0]);
        assembly.properties_len = 2;
        assembly.buffer.extend_from_slice(body);
        assembly.message(false, 1)
    }

    #[test]
    fn the_parts_come_back() {
        let message = message("some.key", b"body");
        assert_eq!(message.exchange(), "");
        assert_eq!(message.routing_key(), "some.key");
        assert_eq!(message.properties(), [0, 0]);
        assert_eq!(message.body(), b"body");
    }

    #[test]
    fn bodies_out_of_order_are_refused() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.body(b"x").unwrap_err().code, 505);
        assembly.begin("x", "k", false);
        assert_eq!(assembly.body(b"x").unwrap_err().code, 505);
        assembly.stage = Stage::Body(1);
        assert_eq!(assembly.body(b"xy").unwrap_err().code, 501);
    }
}

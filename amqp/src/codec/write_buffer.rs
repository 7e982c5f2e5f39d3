//! The one write buffer of a connection.

/// Bytes on their way to the peer.
///
/// Whoever has something to say appends it during a turn of the loop; the connection writes the buffer once per
/// turn. After a Close was written the buffer is sealed: nothing may follow a Close (AMQP 0-9-1 §1.4.2.5), and
/// what is appended after it disappears without a trace, so that no code path has to remember.
#[derive(Default)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    written: usize,
    sealed: bool,
    /// Where appended bytes go once sealed.
    discarded: Vec<u8>,
}

/// A buffer that grew over this many bytes is given back once it is empty.
const KEEP: usize = 256 * 1024;

impl WriteBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        WriteBuffer::default()
    }

    /// Where the `encode` functions append.
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        if self.sealed {
            self.discarded.clear();
            return &mut self.discarded;
        }
        &mut self.bytes
    }

    /// From now on nothing more is accepted, except by [`WriteBuffer::out_after_seal`].
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    /// Whether [`WriteBuffer::seal`] was called.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The buffer in spite of the seal: only Close-Ok may follow a Close.
    pub fn out_after_seal(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What has not been written yet.
    #[inline]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Bytes not yet written.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether everything has been written.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that the first `count` bytes of [`WriteBuffer::pending`] went out.
    ///
    /// # Panics
    /// If `count` is more than is pending.
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.len(),
            "only pending bytes can have been written"
        );
        self.written += count;
        if self.is_empty() {
            self.written = 0;
            self.bytes.clear();
            self.bytes.shrink_to(KEEP);
        } else if self.written > KEEP && self.written >= self.len() {
            // A connection that is always a little behind never empties its buffer; what has been written must
            // go all the same. Each byte is moved at most once for each byte written.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Exchanges all pending bytes against the empty `spare`, so that they can be written while new ones are
    /// appended.
    ///
    /// # Panics
    /// If `spare` is not empty.
    pub fn swap(&mut self, spare: &mut Vec<u8>) {
        assert!(spare.is_empty(), "the spare buffer must be empty");
        if self.written > 0 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        spare.shrink_to(KEEP);
        std::mem::swap(&mut self.bytes, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_close() {
        let mut buffer = WriteBuffer::new();
        buffer.out().extend_from_slice(b"close");
        buffer.seal();
        buffer.out().extend_from_slice(b"late ack");
        assert_eq!(buffer.pending(), b"close");
        buffer.out_after_seal().extend_from_slice(b"+ok");
        assert_eq!(buffer.pending(), b"close+ok");
    }

    /// A slow connection that never catches up must not make the buffer grow.
    #[test]
    fn a_buffer_that_is_never_empty_stays_small() {
        let mut buffer = WriteBuffer::new();
        buffer.out().extend_from_slice(&[0; 1000]);
        for round in 0..10_000u32 {
            buffer.out().extend_from_slice(&[round as u8; 1000]);
            buffer.advance(1000);
            assert_eq!(buffer.pending(), [round as u8; 1000]);
        }
        assert!(buffer.bytes.capacity() < 4 * KEEP);
    }

    #[test]
    fn partial_writes_keep_the_rest() {
        let mut buffer = WriteBuffer::new();
        buffer.out().extend_from_slice(b"abcdef");
        buffer.advance(2);
        buffer.out().extend_from_slice(b"gh");
        assert_eq!(buffer.pending(), b"cdefgh");
        let mut spare = Vec::new();
        buffer.swap(&mut spare);
        assert_eq!(spare, b"cdefgh");
        assert!(buffer.is_empty());
    }
}

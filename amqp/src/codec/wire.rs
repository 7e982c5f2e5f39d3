//! Reading the elementary AMQP types from a slice: big-endian numbers, short strings, blocks.
//!
//! A [`Cursor`] never reads past its slice and never allocates; running out of bytes is [`Short`], which inside
//! a whole frame always means that the frame is malformed.

/// The bytes ended before the value did, or a short string is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// A position in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes }
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (head, tail) = self.bytes.split_at_checked(len).ok_or(Short)?;
        self.bytes = tail;
        Ok(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Short)?;
        self.bytes = tail;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_be_bytes)
    }

    /// A short string as raw bytes.
    #[inline]
    pub(crate) fn short_bytes(&mut self) -> Result<&'a [u8], Short> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A short string. Names and keys must be UTF-8, as amq-protocol requires too.
    #[inline]
    pub(crate) fn short_str(&mut self) -> Result<&'a str, Short> {
        std::str::from_utf8(self.short_bytes()?).map_err(|_| Short)
    }

    /// A block preceded by its length in four bytes: long string, table, array.
    #[inline]
    pub(crate) fn long_bytes(&mut self) -> Result<&'a [u8], Short> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

/// Appends a short string.
///
/// # Panics
/// If `text` is longer than 255 bytes: its length has one byte on the wire. Callers check user input first
/// ([`crate::codec::fits_short`]).
#[inline]
pub(crate) fn put_short(out: &mut Vec<u8>, text: &str) {
    let len =
        u8::try_from(text.len()).expect("a short string is at most 255 bytes; the caller checks");
    out.push(len);
    out.extend_from_slice(text.as_bytes());
}

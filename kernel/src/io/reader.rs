//! Reading lines and frames.

use std::io;

use super::Read;

/// The size of a new buffer, in bytes.
const FIRST: usize = 8 * 1024;

/// Reads a stream in pieces that its user names: lines, up to a byte, so and so many bytes.
///
/// What it gives is lent from its own buffer, and stays good until the next call. Nothing is
/// handed out before it is complete; that makes every method safe to cancel.
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::{io::BufReader, sim::pipe};
/// let (ours, theirs) = pipe(64);
/// ours.write_all(b"GET / HTTP/1.0\r\nHost: example\r\n\r\nrest").await?;
/// drop(ours);
/// let mut reader = BufReader::new(theirs);
/// let mut lines = Vec::new();
/// while let Some(line) = reader.read_line().await? && !line.is_empty() {
///     lines.push(line.to_owned());
/// }
/// assert_eq!(lines, ["GET / HTTP/1.0", "Host: example"]);
/// assert_eq!(reader.read_to_end().await?, b"rest");
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct BufReader<R> {
    stream: R,
    /// All of it is initialised; what was read and not taken yet is at `start..end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    limit: usize,
}

impl<R: Read> BufReader<R> {
    /// With a limit of 1 MiB.
    pub fn new(stream: R) -> BufReader<R> {
        BufReader::with_limit(stream, 1024 * 1024)
    }

    /// No piece may be longer than `limit` bytes. The buffer begins with 8 KiB and grows up to
    /// the limit as longer pieces are met.
    pub fn with_limit(stream: R, limit: usize) -> BufReader<R> {
        BufReader {
            stream,
            bytes: Vec::new(),
            start: 0,
            end: 0,
            limit,
        }
    }

    /// Reads up to and with the delimiter. Shorter only at the end of the stream: the last piece
    /// may lack the delimiter, and after it the pieces are empty.
    ///
    /// # Cancellation
    /// Safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// `InvalidData` if the delimiter does not come within the limit (the bytes stay, and
    /// [`read`](BufReader::read) gives them); else as [`Read::read`].
    pub async fn read_until(&mut self, delimiter: u8) -> io::Result<&[u8]> {
        let mut searched = 0;
        loop {
            let found = self.buffered()[searched..]
                .iter()
                .position(|byte| *byte == delimiter);
            if let Some(at) = found {
                return self.take(searched + at + 1);
            }
            searched = self.end - self.start;
            if self.fill().await? == 0 {
                return self.take(searched);
            }
        }
    }

    /// Reads a line, and gives it without its end (`\n` or `\r\n`); `None` at the end of the
    /// stream. The last line may lack its end.
    ///
    /// # Cancellation
    /// Safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// `InvalidData` if a line is longer than the limit, or is not UTF-8 (it is then taken); else
    /// as [`Read::read`].
    pub async fn read_line(&mut self) -> io::Result<Option<&str>> {
        let line = self.read_until(b'\n').await?;
        if line.is_empty() {
            return Ok(None);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        std::str::from_utf8(line)
            .map(Some)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Reads exactly so many bytes.
    ///
    /// # Cancellation
    /// Safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// `InvalidData` if that is more than the limit; `UnexpectedEof` if the stream ends before
    /// (the bytes stay); else as [`Read::read`].
    pub async fn read_exact(&mut self, len: usize) -> io::Result<&[u8]> {
        if len > self.limit {
            return Err(self.too_long());
        }
        while self.end - self.start < len {
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.take(len)
    }

    /// Reads all there is, until the end of the stream.
    ///
    /// # Cancellation
    /// Safe: what was read stays in the buffer.
    ///
    /// # Errors
    /// `InvalidData` if that is more than the limit; else as [`Read::read`].
    pub async fn read_to_end(&mut self) -> io::Result<&[u8]> {
        while self.fill().await? > 0 {}
        self.take(self.end - self.start)
    }

    /// Reads what is there, the buffered first, up to the buffer's length; 0 is the end.
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// As [`Read::read`].
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            return self.stream.read(buf).await;
        }
        let n = buf.len().min(self.end - self.start);
        buf[..n].copy_from_slice(&self.buffered()[..n]);
        self.start += n;
        Ok(n)
    }

    /// What was read and not taken yet.
    pub fn buffered(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The stream. Reading from it directly passes by what is buffered.
    pub fn get_ref(&self) -> &R {
        &self.stream
    }

    /// The stream; what was [`buffered`](BufReader::buffered) is lost.
    pub fn into_inner(self) -> R {
        self.stream
    }

    /// Reads more behind what is buffered; 0 is the end.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.end - self.start > self.limit {
            return Err(self.too_long());
        }
        self.make_room();
        let n = self.stream.read(&mut self.bytes[self.end..]).await?;
        self.end += n;
        Ok(n)
    }

    /// Sees to it that there is room behind `end`: first by moving to the front, then by growing.
    /// One byte past the limit is enough to see that something is too long.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end < self.bytes.len() {
            return;
        }
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.bytes.len() {
            let most = FIRST.max(self.limit.saturating_add(1));
            let more = most.min(FIRST.max(self.bytes.len() * 2));
            self.bytes.resize(more, 0);
        }
    }

    fn take(&mut self, len: usize) -> io::Result<&[u8]> {
        if len > self.limit {
            return Err(self.too_long());
        }
        self.start += len;
        Ok(&self.bytes[self.start - len..self.start])
    }

    fn too_long(&self) -> io::Error {
        let text = format!("longer than the limit of {} bytes", self.limit);
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

//! Gathering small writes.

use std::io;

use super::Write;

/// Gathers small writes into large ones. What is gathered leaves with
/// [`flush`](BufWriter::flush), and by itself when there is enough of it; whatever is left when
/// it is dropped is lost, for a `Drop` cannot wait.
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::{io::BufWriter, sim::pipe};
/// let (ours, theirs) = pipe(64);
/// let mut writer = BufWriter::new(ours);
/// writer.write_all(b"hello, ").await?;
/// writer.write_all(b"world").await?;
/// writer.flush().await?;
/// let mut buf = [0; 64];
/// assert_eq!(theirs.read(&mut buf).await?, 12); // both came as one
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct BufWriter<W> {
    stream: W,
    bytes: Vec<u8>,
    /// So many of `bytes` the stream has taken already.
    sent: usize,
    capacity: usize,
}

impl<W: Write> BufWriter<W> {
    /// Gathers up to 8 KiB.
    pub fn new(stream: W) -> BufWriter<W> {
        BufWriter::with_capacity(stream, 8 * 1024)
    }

    /// Gathers up to `capacity` bytes.
    pub fn with_capacity(stream: W, capacity: usize) -> BufWriter<W> {
        BufWriter {
            stream,
            bytes: Vec::new(),
            sent: 0,
            capacity,
        }
    }

    /// Takes all of these bytes; if they and what was gathered are more than the capacity, what
    /// was gathered is written first.
    ///
    /// # Cancellation
    /// Safe: if it does not come to its end it has taken none of the bytes, and what was gathered
    /// before goes on from where it was at the next call.
    ///
    /// # Errors
    /// As [`flush`](BufWriter::flush).
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.len() + bytes.len() > self.capacity {
            self.flush().await?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what was gathered.
    ///
    /// # Cancellation
    /// Safe: what the stream has not taken stays, and is written by the next call.
    ///
    /// # Errors
    /// The stream's, and cancellation and timeouts; `WriteZero` if the stream takes nothing more.
    pub async fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            match self.stream.write(&self.bytes[self.sent..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => self.sent += n,
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }

    /// Writes what was gathered and closes this way: the other side reads the end.
    ///
    /// # Cancellation
    /// Safe: see [`flush`](BufWriter::flush).
    ///
    /// # Errors
    /// As [`flush`](BufWriter::flush) and [`Write::shutdown_write`].
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown_write()
    }

    /// What was gathered and not written yet.
    pub fn buffered(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The stream. Writing to it directly overtakes what is gathered.
    pub fn get_ref(&self) -> &W {
        &self.stream
    }

    /// The stream; what was gathered and not flushed is lost.
    pub fn into_inner(self) -> W {
        self.stream
    }
}

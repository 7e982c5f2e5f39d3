//! The reader's buffer, and large bodies past it.
//!
//! One read fetches up to 128 KiB and with it many small messages. Where a body frame has begun whose rest is large,
//! that rest is read straight into the body, and only a little of what follows comes into the buffer: each byte of a
//! large body is then copied once, by the system.
//!
//! While more is there than one read brings, reading goes on up to a bound before anybody else runs: the acks of all of
//! it then leave in one write, and a write costs as much as reading 64 KiB does.

use super::transport::Transport;
use crate::core::Core;
use kernel::net::TcpStream;
use std::io;

/// Bytes asked for by one read; grows to the size of a frame that does not fit.
const SIZE: usize = 128 * 1024;

/// As [`SIZE`], of what TLS has decrypted: two of its records.
const TLS_SIZE: usize = 32 * 1024;

/// How much of what follows a large body is read with it: enough for the frames up to the next body.
const FOLLOWING: usize = 4 * 1024;

/// Bytes read in a row before others run.
const ROW: usize = 256 * 1024;

/// What was read and not yet taken by the core.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Bytes read since the stream was empty or others ran.
    in_a_row: usize,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Inbox {
            bytes: Vec::with_capacity(SIZE),
            in_a_row: 0,
        }
    }

    /// Waits for bytes, and reads them. `false`: the server has hung up.
    pub(super) async fn read(&mut self, core: &Core, transport: &Transport) -> io::Result<bool> {
        let count = match transport.as_tcp() {
            Some(stream) => self.read_tcp(core, stream).await?,
            None => self.read_tls(transport).await?,
        };
        self.in_a_row += count;
        Ok(count > 0)
    }

    async fn read_tcp(&mut self, core: &Core, stream: &TcpStream) -> io::Result<usize> {
        loop {
            let past_the_buffer = core.read_body(|body, most| {
                stream.try_read_spare([(body, most), (&mut self.bytes, FOLLOWING)])
            });
            let read = past_the_buffer.unwrap_or_else(|| {
                stream.try_read_spare([(&mut Vec::new(), 0), (&mut self.bytes, SIZE)])
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.in_a_row = 0;
                    stream.readable().await?;
                }
                read => return read,
            }
        }
    }

    /// What TLS has decrypted is copied anyway, so there is nothing to gain by reading it into a body.
    async fn read_tls(&mut self, transport: &Transport) -> io::Result<usize> {
        let filled = self.bytes.len();
        self.bytes.resize(filled + TLS_SIZE, 0);
        let count = transport.read(&mut self.bytes[filled..]).await?;
        self.bytes.truncate(filled + count);
        Ok(count)
    }

    /// Lets others run if it is their turn.
    pub(super) async fn pause(&mut self) -> Result<(), kernel::Error> {
        if self.in_a_row < ROW {
            return Ok(());
        }
        self.in_a_row = 0;
        kernel::yield_now().await
    }

    /// Hands what is there to the core.
    pub(super) fn deliver(&mut self, core: &Core) {
        let taken = core.receive(&self.bytes);
        self.bytes.drain(..taken);
        if self.bytes.len() == self.bytes.capacity() {
            // One frame is larger than the buffer; its header was checked against frame_max.
            self.bytes.reserve(SIZE);
        }
    }
}

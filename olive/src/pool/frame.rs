//! Length-prefixed frames: four bytes of length, big-endian, then so many bytes of JSON.
//!
//! Both ends of every descriptor between our processes speak them. A length is checked against
//! a bound before a byte is reserved for it. Nothing here knows what a frame means.

use serde::Serialize;
use std::io::{self, Read, Write};

const HEADER_LEN: usize = 4;
/// A buffer that grew beyond this for one large frame is given back after it.
const KEPT_LEN: usize = 1024 * 1024;

/// A frame, announced or about to be written, is longer than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge {
    pub len: usize,
    pub max: usize,
}

impl From<TooLarge> for io::Error {
    fn from(error: TooLarge) -> io::Error {
        let TooLarge { len, max } = error;
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {len} bytes, more than the {max} allowed"),
        )
    }
}

/// Encodes `message` as one frame: header and JSON in one buffer, so that one write sends it.
pub(super) fn encode(message: &impl Serialize, max: usize) -> Result<Vec<u8>, TooLarge> {
    let mut bytes = vec![0; HEADER_LEN];
    serde_json::to_writer(&mut bytes, message).expect("our messages have string keys only");
    let len = bytes.len() - HEADER_LEN;
    if len > max.min(u32::MAX as usize) {
        return Err(TooLarge { len, max });
    }
    bytes[..HEADER_LEN].copy_from_slice(&(len as u32).to_be_bytes());
    Ok(bytes)
}

/// Cuts a stream of bytes, as it arrives, into frames.
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already handed out.
    taken: usize,
    max: usize,
}

impl Decoder {
    pub fn new(max: usize) -> Decoder {
        Decoder {
            buffer: Vec::new(),
            taken: 0,
            max,
        }
    }

    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken == self.buffer.len() && self.buffer.capacity() > KEPT_LEN {
            self.buffer = Vec::new();
        } else {
            self.buffer.drain(..self.taken);
        }
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame's payload, or `None` until more bytes are there.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, TooLarge> {
        let rest = &self.buffer[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let len = checked_len(*header, self.max)?;
        let Some(payload) = rest.get(..len) else {
            return Ok(None);
        };
        self.taken += HEADER_LEN + len;
        Ok(Some(payload.to_vec()))
    }
}

/// Reads one frame from a blocking stream; `None` at its end.
pub(super) fn read(from: &mut impl Read, max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; HEADER_LEN];
    match from.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut payload = vec![0; checked_len(header, max)?];
    from.read_exact(&mut payload)?;
    Ok(Some(payload))
}

/// Writes one frame to a blocking stream.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize, max: usize) -> io::Result<()> {
    to.write_all(&encode(message, max)?)
}

fn checked_len(header: [u8; HEADER_LEN], max: usize) -> Result<usize, TooLarge> {
    let len = u32::from_be_bytes(header) as usize;
    if len > max {
        return Err(TooLarge { len, max });
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let mut bytes = encode(&"first", 100).unwrap();
        bytes.extend(encode(&vec![1, 2, 3], 100).unwrap());
        bytes.extend(encode(&"", 100).unwrap());
        for step in 1..=bytes.len() {
            let mut decoder = Decoder::new(100);
            let mut frames = Vec::new();
            for part in bytes.chunks(step) {
                decoder.push(part);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push(String::from_utf8(frame).unwrap());
                }
            }
            assert_eq!(frames, ["\"first\"", "[1,2,3]", "\"\""]);
        }
    }

    #[test]
    fn a_long_frame_is_refused_at_its_header_and_before_it_is_sent() {
        let mut decoder = Decoder::new(1000);
        decoder.push(&1001_u32.to_be_bytes());
        let refused = TooLarge {
            len: 1001,
            max: 1000,
        };
        assert_eq!(decoder.next(), Err(refused));
        let mut stream: &[u8] = &u32::MAX.to_be_bytes();
        assert!(read(&mut stream, 1000).is_err());
        let refused = TooLarge { len: 12, max: 11 };
        assert_eq!(encode(&"0123456789", 11), Err(refused));
    }

    #[test]
    fn a_blocking_stream_ends_between_frames_or_fails_within_one() {
        let bytes = encode(&"x", 10).unwrap();
        let mut whole = &bytes[..];
        assert_eq!(read(&mut whole, 10).unwrap().unwrap(), b"\"x\"");
        assert!(read(&mut whole, 10).unwrap().is_none());
        assert!(read(&mut &bytes[..5], 10).is_err());
    }
}

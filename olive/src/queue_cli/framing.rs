//! Where one message ends and the next begins, on standard input and output.

use std::io::{self, BufRead, Read, Write};

use clap::Args;

/// Where one message ends.
#[derive(Args, Clone, Copy)]
pub(super) struct Framing {
    /// A message ends with NUL instead of a line's end
    #[arg(long, short = '0', conflicts_with = "length")]
    pub(super) nul: bool,
    /// A message follows its length, 4 bytes, big-endian
    #[arg(long)]
    pub(super) length: bool,
}

impl Framing {
    /// The next message, or `None` at the end of the input. One of more than `max` bytes is refused
    /// before it is in memory.
    pub(super) fn read(self, input: &mut impl BufRead, max: u64) -> io::Result<Option<Vec<u8>>> {
        if self.length {
            return read_counted(input, max);
        }
        let end = if self.nul { 0 } else { b'\n' };
        let mut message = Vec::new();
        if input.take(max + 1).read_until(end, &mut message)? == 0 {
            return Ok(None);
        }
        if message.last() == Some(&end) {
            message.pop();
        } else if message.len() as u64 > max {
            return Err(too_long(max));
        }
        Ok(Some(message))
    }

    /// Whether these bytes begin with a whole message.
    pub(super) fn is_whole(self, bytes: &[u8]) -> bool {
        match bytes.first_chunk::<4>() {
            Some(len) if self.length => bytes.len() - 4 >= u32::from_be_bytes(*len) as usize,
            _ => !self.length && bytes.contains(if self.nul { &0 } else { &b'\n' }),
        }
    }

    pub(super) fn write(self, output: &mut impl Write, message: &[u8]) -> io::Result<()> {
        if self.length {
            let len = u32::try_from(message.len()).map_err(io::Error::other)?;
            output.write_all(&len.to_be_bytes())?;
            return output.write_all(message);
        }
        output.write_all(message)?;
        output.write_all(if self.nul { b"\0" } else { b"\n" })
    }
}

fn read_counted(input: &mut impl BufRead, max: u64) -> io::Result<Option<Vec<u8>>> {
    if input.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    if u64::from(len) > max {
        return Err(too_long(max));
    }
    // Not allocated before it has come: the length is the writer's claim.
    let mut message = Vec::new();
    input.take(len.into()).read_to_end(&mut message)?;
    if message.len() < len as usize {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the input ends inside a message",
        ));
    }
    Ok(Some(message))
}

fn too_long(max: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a message has more than {max} bytes, the most that a queue takes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_framing_reads_what_it_wrote() {
        let framings = [(false, false), (true, false), (false, true)];
        for (nul, length) in framings {
            let framing = Framing { nul, length };
            let mut bytes = Vec::new();
            let messages = [&b"one"[..], b"", b"three words long"];
            messages
                .iter()
                .for_each(|message| framing.write(&mut bytes, message).unwrap());
            let mut input = &bytes[..];
            assert!(framing.is_whole(&bytes) && !framing.is_whole(&bytes[..3]));
            for message in messages {
                assert_eq!(framing.read(&mut input, 99).unwrap().unwrap(), message);
            }
            assert_eq!(framing.read(&mut input, 99).unwrap(), None);
        }
    }

    #[test]
    fn the_last_line_needs_no_end_and_a_cut_message_is_an_error() {
        let lines = Framing {
            nul: false,
            length: false,
        };
        assert_eq!(
            lines.read(&mut &b"no end"[..], 6).unwrap().unwrap(),
            b"no end"
        );
        let counted = Framing {
            nul: false,
            length: true,
        };
        assert!(counted.read(&mut &b"\0\0\0\x05abc"[..], 5).is_err());
        assert!(counted.read(&mut &b"\0\0"[..], 5).is_err());
        assert!(counted.read(&mut &b"\xff\0\0\x05abcde"[..], 5).is_err());
        assert!(lines.read(&mut &b"longer\n"[..], 5).is_err());
        assert!(lines.read(&mut &b"fives\n"[..], 5).is_ok());
    }
}

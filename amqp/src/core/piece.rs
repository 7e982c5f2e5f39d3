//! Body frames that come in parts.
//!
//! A body may be larger than what one read brings. Its parts go to the body as they come, rather than wait in the read
//! buffer for the rest of their frame; and once a frame has begun, its rest can be read from the socket straight into
//! the body ([`Core::read_body`]). Only the frame's end makes the body's last part count.

use super::connection::Core;
use crate::codec::{FRAME_END, FRAME_HEAD, FrameError, begun_body};
use crate::error::Error;
use std::io;

/// The rest of a body frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    channel: u16,
    /// Bytes of payload.
    size: usize,
    /// Those to come.
    left: usize,
}

/// The payload that is worth a read of its own: below it, one read that fetches several frames costs less than copying.
const DIRECT_MIN: usize = 32 * 1024;

/// How much room is made for what a peer has announced and not yet sent, in bytes.
const RESERVE: usize = 128 * 1024;

impl Core {
    /// Begins a body frame that is not all there. 0: too little is there to tell, or it is another frame.
    pub(super) fn begin_piece(&self, bytes: &[u8]) -> Result<usize, Error> {
        let Some((channel, size)) = begun_body(bytes) else {
            return Ok(0);
        };
        if let Some(channel) = self.content_channel(channel)? {
            channel.on_body_begin(size)?;
        }
        let size = size as usize;
        let piece = Piece {
            channel,
            size,
            left: size,
        };
        self.piece.set(Some(piece));
        Ok(FRAME_HEAD)
    }

    /// Goes on with a body frame.
    pub(super) fn receive_piece(&self, piece: Piece, bytes: &[u8]) -> Result<usize, Error> {
        let taken = piece.left.min(bytes.len());
        let channel = self.content_channel(piece.channel)?;
        if let Some(channel) = &channel {
            channel.on_body_part(&bytes[..taken]);
        }
        let left = piece.left - taken;
        self.piece.set(Some(Piece { left, ..piece }));
        match bytes.get(taken) {
            None => Ok(taken),
            Some(&FRAME_END) => {
                self.piece.set(None);
                channel.map_or(Ok(()), |channel| channel.on_body_end())?;
                Ok(taken + 1)
            }
            Some(&byte) => {
                let error = FrameError::NoEnd(byte);
                Err(Error::protocol(error.reply_code(), error))
            }
        }
    }

    /// Lets `read` append to the body that is under way, at most so many bytes as its frame still has. `None`: none
    /// is, or its frame is so small that it is better read with what follows.
    pub(crate) fn read_body<T>(
        &self,
        read: impl FnOnce(&mut Vec<u8>, usize) -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        let piece = self.piece.get().filter(|piece| piece.size >= DIRECT_MIN)?;
        let channel = self.content_channel(piece.channel).ok().flatten()?;
        channel.with_body(|body| {
            // As much again as has come, so that a peer's word alone never takes much.
            body.reserve(piece.left.min(body.len().max(RESERVE)));
            let before = body.len();
            let result = read(body, piece.left);
            let left = piece.left - (body.len() - before);
            self.piece.set(Some(Piece { left, ..piece }));
            result
        })
    }
}

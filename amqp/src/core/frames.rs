//! What the peer sends on a connection: bytes to frames, frames to their channels, and what it says on channel 0.

use super::Reply;
use super::channel::Channel;
use super::connection::{Core, Phase};
use super::handshake::{Handshake, close_reason};
use crate::codec::{Frame, FrameError, Method, encode, parse_frame};
use crate::error::Error;
use crate::protocol::{AMQPClass, connection, reply};
use connection::AMQPMethod as Connection;
use std::rc::Rc;

impl Core {
    /// Takes the frames at the start of `bytes` and returns how many bytes they were. Call it again with the rest
    /// and more. Whether the connection survived is seen by [`Core::is_closed`].
    ///
    /// Of a body frame, which may be large, the part that is there is taken.
    pub(crate) fn receive(&self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while !self.is_closed() && at < bytes.len() {
            match self.receive_one(&bytes[at..]) {
                Ok(0) => break,
                Ok(len) => at += len,
                Err(error) => self.give_up(error),
            }
        }
        at
    }

    /// A frame, or a part of one; 0: it takes more bytes.
    #[inline]
    fn receive_one(&self, bytes: &[u8]) -> Result<usize, Error> {
        if let Some(piece) = self.piece.get() {
            return self.receive_piece(piece, bytes);
        }
        match parse_frame(bytes, self.frame_max.get()) {
            Ok(Some((frame, len))) => self.on_frame(frame).map(|()| len),
            Ok(None) => self.begin_piece(bytes),
            Err(error) => Err(self.frame_error(error, bytes)),
        }
    }

    fn frame_error(&self, error: FrameError, bytes: &[u8]) -> Error {
        if let (Phase::Handshake(Some(Handshake::Start)), FrameError::UnknownType(_)) =
            (&*self.phase.borrow(), error)
        {
            let seen = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            return Error::NotAmqp(match bytes {
                [b'A', b'M', b'Q', b'P', _, major, minor, revision, ..] => {
                    format!("it offers version {major}-{minor}-{revision} of AMQP")
                }
                // An alert of TLS, in any of its versions.
                [21, 3, ..] => "it answered in TLS: write amqps://".to_owned(),
                _ => format!("it answered {seen:?}"),
            });
        }
        Error::protocol(error.reply_code(), error)
    }

    #[inline]
    fn on_frame(&self, frame: Frame<'_>) -> Result<(), Error> {
        let (id, method) = match frame {
            Frame::Method(0, Method::Other(class)) => return self.on_connection_method(*class),
            Frame::Heartbeat => return Ok(()),
            Frame::Method(id, method) => (id, method),
            Frame::Header(id, header) => {
                return match self.content_channel(id)? {
                    Some(channel) => channel.on_header(&header),
                    None => Ok(()),
                };
            }
            Frame::Body(id, piece) => {
                return match self.content_channel(id)? {
                    Some(channel) => channel.on_body(piece),
                    None => Ok(()),
                };
            }
        };
        match self.content_channel(id)? {
            Some(channel) => channel.on_method(method),
            None => Ok(()),
        }
    }

    /// The channel a frame is for. `None`: it does not matter any more, for our Close is out.
    #[inline]
    pub(super) fn content_channel(&self, id: u16) -> Result<Option<Rc<Channel>>, Error> {
        if !matches!(*self.phase.borrow(), Phase::Open) {
            return match &*self.phase.borrow() {
                Phase::Handshake(_) => Err(Error::protocol(
                    reply::COMMAND_INVALID,
                    "a frame for a channel before the connection is open",
                )),
                _ => Ok(None),
            };
        }
        match self.channel(id) {
            Some(channel) => Ok(Some(channel)),
            None => Err(Error::protocol(
                reply::CHANNEL_ERROR,
                format!("a frame for channel {id}, which is not open"),
            )),
        }
    }

    #[inline]
    pub(super) fn channel(&self, id: u16) -> Option<Rc<Channel>> {
        self.channels.borrow().get(usize::from(id))?.clone()
    }

    fn on_connection_method(&self, class: AMQPClass) -> Result<(), Error> {
        let phase = match &mut *self.phase.borrow_mut() {
            Phase::Handshake(handshake) => handshake.take(),
            _ => None,
        };
        if let Some(handshake) = phase {
            return self.on_handshake(handshake, class);
        }
        let AMQPClass::Connection(method) = class else {
            return Err(Error::protocol(
                reply::COMMAND_INVALID,
                "a channel's method on channel 0",
            ));
        };
        match method {
            Connection::Close(close) => {
                // Where two Closes cross, ours came first.
                let closing = matches!(*self.phase.borrow(), Phase::Closing);
                self.answer_close();
                self.fail(if closing {
                    Error::ClosedByUs
                } else {
                    Error::ConnectionClosed(close_reason(&close))
                });
                Ok(())
            }
            Connection::CloseOk(_) if matches!(*self.phase.borrow(), Phase::Closing) => {
                self.fail(Error::ClosedByUs);
                Ok(())
            }
            Connection::Blocked(blocked) => {
                self.set_blocked(Some(blocked.reason.to_string()));
                Ok(())
            }
            Connection::Unblocked(_) => {
                self.set_blocked(None);
                Ok(())
            }
            method @ Connection::UpdateSecretOk(_) => match self.secret.borrow_mut().take() {
                Some(call) => {
                    call.answer(Ok(Reply::Method(Box::new(AMQPClass::Connection(method)))));
                    Ok(())
                }
                None => Err(Error::protocol(
                    reply::COMMAND_INVALID,
                    "update-secret-ok answers nothing that was asked",
                )),
            },
            _ => Err(Error::protocol(
                reply::COMMAND_INVALID,
                "a method that does not belong on channel 0 now",
            )),
        }
    }

    fn on_handshake(&self, handshake: Handshake, class: AMQPClass) -> Result<(), Error> {
        let is_close = matches!(class, AMQPClass::Connection(Connection::Close(_)));
        let step = handshake.step(class, self.options(), self.out.borrow_mut().out());
        self.writer.borrow_mut().wake();
        match step {
            Ok(Err(next)) => {
                if let Handshake::Open { negotiated } = &next {
                    self.frame_max.set(negotiated.frame_max);
                }
                *self.phase.borrow_mut() = Phase::Handshake(Some(next));
            }
            Ok(Ok(negotiated)) => {
                self.negotiated.get_or_init(|| negotiated);
                *self.phase.borrow_mut() = Phase::Open;
                self.watchers.borrow_mut().wake();
            }
            Err(error) => {
                if is_close {
                    self.answer_close();
                }
                self.fail(error);
            }
        }
        Ok(())
    }

    fn answer_close(&self) {
        let close_ok = AMQPClass::Connection(Connection::CloseOk(connection::CloseOk {}));
        let mut out = self.out.borrow_mut();
        encode::method(out.out_after_seal(), 0, &close_ok);
        out.seal();
        drop(out);
        self.writer.borrow_mut().wake();
    }

    fn set_blocked(&self, blocked: Option<String>) {
        *self.blocked.borrow_mut() = blocked;
        self.watchers.borrow_mut().wake();
        self.let_publishers_in();
    }
}

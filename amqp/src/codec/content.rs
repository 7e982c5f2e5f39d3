//! Method, header and bodies → one message.
//!
//! Pure: frames of one channel go in, whole contents come out, anything out of order is an error with its reply
//! code. A peer's `body_size` reserves nothing by itself: memory grows with what has really arrived.

use super::{Header, RawProperties};
use crate::protocol::reply;

/// How much a peer's word alone may reserve, in bytes.
const FIRST_RESERVE: u64 = 128 * 1024;

/// A complete content and the method that carried it.
#[derive(Debug, Clone, PartialEq)]
pub struct Content<M> {
    /// What stood before the header: a publish, a deliver, a get-ok, a return.
    pub method: M,
    /// The message's properties.
    pub properties: RawProperties,
    /// The message's body.
    pub body: Vec<u8>,
}

/// Why frames are not a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContentError {
    /// A method came where a header or body was due. Closes the connection.
    MethodInside,
    /// A header came without a method, or a second one. Closes the connection.
    UnexpectedHeader,
    /// A body came without a header. Closes the connection.
    UnexpectedBody,
    /// More body than the header announced. Closes the connection.
    BodyTooLong,
    /// The announced body is larger than we accept. Closes only the channel.
    TooLarge {
        /// Announced size in bytes.
        size: u64,
        /// Our limit in bytes.
        limit: u64,
    },
}

impl ContentError {
    /// The reply code for the close that answers it.
    pub fn reply_code(&self) -> u16 {
        match self {
            ContentError::TooLarge { .. } => reply::CONTENT_TOO_LARGE,
            ContentError::BodyTooLong => reply::FRAME_ERROR,
            _ => reply::UNEXPECTED_FRAME,
        }
    }
}

impl std::fmt::Display for ContentError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ContentError::MethodInside => {
                write!(f, "a method inside a content: header or body was due")
            }
            ContentError::UnexpectedHeader => {
                write!(f, "a content header without a method that carries one")
            }
            ContentError::UnexpectedBody => write!(f, "a content body without a header"),
            ContentError::BodyTooLong => write!(f, "more body than the content header announced"),
            ContentError::TooLarge { size, limit } => {
                write!(f, "a body of {size} bytes is over the limit of {limit}")
            }
        }
    }
}

impl std::error::Error for ContentError {}

enum State<M> {
    Idle,
    Method(M),
    Body { content: Content<M>, size: u64 },
}

/// Collects the contents of one channel; `M` is the method that starts one.
pub struct Assembler<M> {
    state: State<M>,
}

impl<M> Default for Assembler<M> {
    fn default() -> Self {
        Assembler { state: State::Idle }
    }
}

impl<M> Assembler<M> {
    /// An assembler that waits for a method.
    pub fn new() -> Self {
        Assembler::default()
    }

    /// Whether no content is under way, so that any method may come.
    #[inline]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// A method that carries content came.
    ///
    /// # Errors
    /// [`ContentError::MethodInside`] if one is under way already.
    #[inline]
    pub fn begin(&mut self, method: M) -> Result<(), ContentError> {
        if !self.is_idle() {
            return Err(ContentError::MethodInside);
        }
        self.state = State::Method(method);
        Ok(())
    }

    /// A header came. Returns the content if its body is empty.
    ///
    /// # Errors
    /// [`ContentError::UnexpectedHeader`]; [`ContentError::TooLarge`] if the body is over `body_max` bytes.
    #[inline]
    pub fn header(
        &mut self,
        header: &Header<'_>,
        body_max: u64,
    ) -> Result<Option<Content<M>>, ContentError> {
        let State::Method(method) = std::mem::replace(&mut self.state, State::Idle) else {
            return Err(ContentError::UnexpectedHeader);
        };
        let size = header.body_size;
        if size > body_max {
            return Err(ContentError::TooLarge {
                size,
                limit: body_max,
            });
        }
        let body = Vec::with_capacity(size.min(FIRST_RESERVE) as usize);
        let content = Content {
            method,
            properties: header.properties(),
            body,
        };
        if size == 0 {
            return Ok(Some(content));
        }
        self.state = State::Body { content, size };
        Ok(None)
    }

    /// A piece of body came. Returns the content if it was the last.
    ///
    /// # Errors
    /// [`ContentError::UnexpectedBody`] or [`ContentError::BodyTooLong`].
    #[inline]
    pub fn body(&mut self, piece: &[u8]) -> Result<Option<Content<M>>, ContentError> {
        self.expect(piece.len() as u64)?.extend_from_slice(piece);
        Ok(self.finish())
    }

    /// A piece of body of `len` bytes is about to come. Gives the body as far as it is there, to be appended to; the
    /// frames' end has to be seen before [`Assembler::finish`].
    ///
    /// # Errors
    /// As [`Assembler::body`].
    #[inline]
    pub fn expect(&mut self, len: u64) -> Result<&mut Vec<u8>, ContentError> {
        let State::Body { content, size } = &mut self.state else {
            return Err(ContentError::UnexpectedBody);
        };
        if len > *size - content.body.len() as u64 {
            return Err(ContentError::BodyTooLong);
        }
        Ok(&mut content.body)
    }

    /// The content, if all of its body is there.
    #[inline]
    pub fn finish(&mut self) -> Option<Content<M>> {
        if !matches!(&self.state, State::Body { content, size } if content.body.len() as u64 == *size)
        {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Body { content, .. } => Some(content),
            _ => unreachable!("the state was Body a moment ago"),
        }
    }
}

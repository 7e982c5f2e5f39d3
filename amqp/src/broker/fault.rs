//! What a peer did wrong, as the reply code and text of the close that answers it.

use crate::codec::{ContentError, FrameError};
use crate::protocol::reply;

/// A refused request. Handlers return it; only `peer.rs` turns it into a Close.
///
/// The scope is a property of the code (AMQP 0-9-1 §1.2 lists each as "soft" or "hard"): soft ones close the
/// channel, hard ones the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: u16,
    /// What happened, without the name of the code.
    pub(crate) text: String,
    /// Class and method that caused it, (0, 0) if none.
    pub(crate) method: (u16, u16),
}

impl Fault {
    pub(crate) fn new(code: u16, text: impl Into<String>) -> Self {
        Fault {
            code,
            text: text.into(),
            method: (0, 0),
        }
    }

    /// Says which method caused it, unless that is known already.
    pub(crate) fn in_method(mut self, class: u16, method: u16) -> Self {
        if self.method == (0, 0) {
            self.method = (class, method);
        }
        self
    }

    pub(crate) fn is_channel_scope(&self) -> bool {
        reply::is_channel_scope(self.code)
    }

    /// The reply text as RabbitMQ writes it, `NOT_FOUND - no queue 'q' in vhost '/'`, cut to what a short string
    /// holds.
    pub(crate) fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", reply::name(self.code), self.text);
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Fault::new(reply::NOT_FOUND, format!("no {what} '{name}' in vhost '/'"))
    }

    pub(crate) fn access_refused(text: impl Into<String>) -> Self {
        Fault::new(reply::ACCESS_REFUSED, text)
    }

    pub(crate) fn precondition(text: impl Into<String>) -> Self {
        Fault::new(reply::PRECONDITION_FAILED, text)
    }

    /// We do not do that; nothing is half done.
    pub(crate) fn not_implemented(what: impl std::fmt::Display) -> Self {
        Fault::new(
            reply::NOT_IMPLEMENTED,
            format!("{what} is not supported by olive's broker"),
        )
    }

    pub(crate) fn not_allowed(text: impl Into<String>) -> Self {
        Fault::new(reply::NOT_ALLOWED, text)
    }

    pub(crate) fn command_invalid(text: impl Into<String>) -> Self {
        Fault::new(reply::COMMAND_INVALID, text)
    }

    pub(crate) fn unexpected_frame(text: impl Into<String>) -> Self {
        Fault::new(reply::UNEXPECTED_FRAME, text)
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        let (class, method) = error.method();
        Fault::new(error.reply_code(), error.to_string()).in_method(class, method)
    }
}

impl From<ContentError> for Fault {
    fn from(error: ContentError) -> Self {
        Fault::new(error.reply_code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_the_scope() {
        assert!(Fault::not_found("queue", "q").is_channel_scope());
        assert!(Fault::precondition("x").is_channel_scope());
        assert!(!Fault::not_implemented("x").is_channel_scope());
        assert!(!Fault::not_allowed("x").is_channel_scope());
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = Fault::not_found("queue", &"ä".repeat(300)).reply_text();
        assert!(text.len() <= 255 && text.len() > 250);
        assert!(text.starts_with("NOT_FOUND - no queue 'ää"));
    }
}

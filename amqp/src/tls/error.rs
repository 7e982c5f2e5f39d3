//! What can go wrong with TLS, sorted by who has to do what about it.

use std::fmt;

/// Why a TLS connection could not be made, or broke. Trying again does not help: something has to be corrected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The server answered, but not in TLS: it is a plain port.
    NotTls(String),
    /// The server's certificate is not signed by an authority that we trust.
    UnknownIssuer,
    /// The server's certificate has expired.
    Expired(String),
    /// The server's certificate is not valid yet, or this machine's clock is wrong.
    NotYetValid(String),
    /// The server's certificate is made out to another name.
    WrongName {
        /// The name that we asked for.
        expected: String,
        /// The names that the certificate has.
        presented: Vec<String>,
    },
    /// The server's certificate cannot be accepted for another reason.
    BadCertificate(String),
    /// The server ended it, with this alert: our certificate is missing or refused, most likely.
    Refused(String),
    /// Both ends speak TLS, but did not understand each other.
    Failed(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::NotTls(seen) => write!(
                f,
                "the server does not speak TLS on this port ({seen}): use amqp://, or its TLS port (5671)"
            ),
            TlsError::UnknownIssuer => f.write_str(
                "the server's certificate is not signed by an authority we trust: name the right one with cacertfile",
            ),
            TlsError::Expired(text) => {
                write!(f, "the server's certificate has expired ({text}): it has to be renewed")
            }
            TlsError::NotYetValid(text) => {
                write!(f, "the server's certificate is not valid yet ({text}): check both clocks")
            }
            TlsError::WrongName {
                expected,
                presented,
            } => write!(
                f,
                "the server's certificate is not made out to {expected:?} but to {}: connect by that name, or name \
                 it with server_name_indication",
                match presented.is_empty() {
                    true => "no name".into(),
                    false => presented.join(", "),
                }
            ),
            TlsError::BadCertificate(text) => {
                write!(f, "the server's certificate cannot be accepted: {text}")
            }
            TlsError::Refused(alert) => write!(
                f,
                "the server refused the TLS connection ({alert}): check our certfile and keyfile, and which \
                 authorities it trusts"
            ),
            TlsError::Failed(text) => write!(f, "TLS failed: {text}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<TlsError> for std::io::Error {
    /// So that it passes through where only the system's errors are expected; see `TlsError::in_io`.
    fn from(error: TlsError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl TlsError {
    /// The error inside an [`std::io::Error`], if it is one.
    pub(crate) fn in_io(error: &std::io::Error) -> Option<&TlsError> {
        error.get_ref()?.downcast_ref()
    }
}

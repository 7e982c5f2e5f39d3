//! TLS for `amqps://`: what to insist on, what can go wrong, and a session without a socket.
//!
//! [`TlsOptions`] and [`TlsError`] are always there, so that a URI can be read and an error matched in any build; the
//! session over rustls only with the feature `tls`. Like the connection's core it knows no socket: ciphertext goes in
//! and out as bytes, and the kernel's client and the blocking façade are two drivers of it.

#[cfg(feature = "tls")]
mod config;
mod error;
#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod verify;

#[cfg(not(feature = "tls"))]
#[path = "absent.rs"]
mod session;

#[cfg(all(test, feature = "tls"))]
mod tests;

pub use error::TlsError;
pub(crate) use session::TlsSession;
use std::path::PathBuf;

/// What an `amqps://` connection insists on. The default: the server's certificate is signed by an authority that
/// the system trusts, and made out to the host's name.
///
/// The files are read anew for each connection, so renewed certificates are picked up by the next reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file with the authorities to trust, instead of the system's. Default none.
    pub ca_file: Option<PathBuf>,
    /// PEM file with our certificate, followed by those between it and its authority. Default none.
    pub cert_file: Option<PathBuf>,
    /// PEM file with our certificate's key, not encrypted. Default: it is in `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Whether the server has to prove who it is. Without it anybody on the way can read and change everything.
    /// Default true.
    pub verify_peer: bool,
    /// The name its certificate has to be made out to.
    pub server_name: ServerName,
}

/// The name that we ask for and that the server's certificate has to be made out to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServerName {
    /// The host we connect to.
    #[default]
    Host,
    /// This one, as when the host is an address or a tunnel's end.
    Named(String),
    /// None is asked for, and any will do, as long as we trust who signed the certificate.
    Disabled,
}

impl Default for TlsOptions {
    fn default() -> Self {
        TlsOptions {
            ca_file: None,
            cert_file: None,
            key_file: None,
            verify_peer: true,
            server_name: ServerName::Host,
        }
    }
}

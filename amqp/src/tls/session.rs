//! One TLS session over rustls, without a socket: ciphertext in and out as bytes.

use super::{ServerName, TlsError, TlsOptions, config};
use crate::error::Error;
use rustls::{CertificateError, ClientConnection, InvalidMessage};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// One session. Bytes of the server go through [`TlsSession::receive`] to [`TlsSession::read`], ours through
/// [`TlsSession::write`] to the socket.
pub(crate) struct TlsSession {
    connection: RefCell<ClientConnection>,
}

impl TlsSession {
    /// Begins a session with `host`; its first bytes wait in [`TlsSession::take_output`]. Blocks while files are read.
    pub(crate) fn new(options: &TlsOptions, host: &str) -> Result<Self, Error> {
        let config = Arc::new(config::client_config(options)?);
        let name = match &options.server_name {
            ServerName::Named(name) => name,
            ServerName::Host => host,
            // Neither sent nor compared with anything.
            ServerName::Disabled => "localhost",
        };
        let parsed = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(|_| {
            Error::Options(format!(
                "TLS: {name:?} is not a name that a certificate can have"
            ))
        })?;
        let connection = ClientConnection::new(config, parsed)
            .map_err(|error| Error::Options(format!("TLS: {error}")))?;
        Ok(TlsSession {
            connection: RefCell::new(connection),
        })
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.borrow().is_handshaking()
    }

    /// Takes ciphertext; returns how many bytes of it. The rest is taken once [`TlsSession::read`] has made room.
    pub(crate) fn receive(&self, bytes: &[u8]) -> io::Result<usize> {
        let connection = &mut *self.connection.borrow_mut();
        let was_handshaking = connection.is_handshaking();
        let taken = connection.read_tls(&mut &bytes[..])?;
        match connection.process_new_packets() {
            Ok(_) => Ok(taken),
            Err(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
                if was_handshaking =>
            {
                let seen = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]);
                Err(TlsError::NotTls(format!("it answered {seen:?}")).into())
            }
            Err(error) => Err(as_tls_error(error).into()),
        }
    }

    /// The socket's end was reached. [`TlsSession::read`] tells whether the server had said so before.
    pub(crate) fn received_end(&self) {
        // Reading nothing cannot fail.
        let _ = self.connection.borrow_mut().read_tls(&mut io::empty());
    }

    /// Plaintext that is there. `None`: more ciphertext is needed first. Zero bytes: the server has ended it.
    pub(crate) fn read(&self, plain: &mut [u8]) -> io::Result<Option<usize>> {
        match self.connection.borrow_mut().reader().read(plain) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Encrypts as much of `plain` as fits into one go, and appends the ciphertext to `out`.
    pub(crate) fn write(&self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let taken = self.connection.borrow_mut().writer().write(plain)?;
        self.take_output(out);
        Ok(taken)
    }

    /// Appends what the session itself has to say (handshake, alerts) to `out`.
    pub(crate) fn take_output(&self, out: &mut Vec<u8>) {
        let connection = &mut *self.connection.borrow_mut();
        while connection.wants_write() {
            // Writing to memory cannot fail.
            let _ = connection.write_tls(out);
        }
    }

    /// Appends the goodbye of TLS, and an alert that is due, to `out`.
    pub(crate) fn close(&self, out: &mut Vec<u8>) {
        self.connection.borrow_mut().send_close_notify();
        self.take_output(out);
    }
}

fn as_tls_error(error: rustls::Error) -> TlsError {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => TlsError::UnknownIssuer,
            Bad::Expired | Bad::ExpiredContext { .. } => TlsError::Expired(bad.to_string()),
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                TlsError::NotYetValid(bad.to_string())
            }
            Bad::NotValidForNameContext {
                expected,
                presented,
            } => TlsError::WrongName {
                expected: expected.to_str().into_owned(),
                presented,
            },
            other => TlsError::BadCertificate(other.to_string()),
        },
        rustls::Error::AlertReceived(alert) => TlsError::Refused(format!("{alert:?}")),
        other => TlsError::Failed(other.to_string()),
    }
}

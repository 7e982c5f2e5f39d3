//! The bytes' way for a blocking program: TCP, or TLS over it.

use crate::error::Error;
use crate::options::ConnectOptions;
use crate::tls::TlsSession;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A connected byte stream of one thread.
pub(super) struct Transport {
    stream: TcpStream,
    tls: Option<Tls>,
}

struct Tls {
    session: TlsSession,
    inbox: RefCell<Vec<u8>>,
    /// The part of the inbox that was not taken yet.
    untaken: Cell<(usize, usize)>,
}

/// How long one write may take before the connection counts as dead.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Ciphertext asked for by one read: two records of TLS.
const INBOX: usize = 32 * 1024;

impl Transport {
    pub(super) fn connect(options: &ConnectOptions, deadline: Instant) -> Result<Self, Error> {
        let stream = connect(options, deadline)?;
        let tls = match &options.tls {
            None => None,
            Some(tls) => Some(Tls {
                session: TlsSession::new(tls, &options.host)?,
                inbox: RefCell::new(vec![0; INBOX]),
                untaken: Cell::default(),
            }),
        };
        let transport = Transport { stream, tls };
        if let Some(tls) = &transport.tls {
            transport.handshake(tls, options.connect_timeout, deadline)?;
        }
        Ok(transport)
    }

    /// Agrees with the server on TLS.
    fn handshake(&self, tls: &Tls, after: Duration, deadline: Instant) -> Result<(), Error> {
        loop {
            let mut out = Vec::new();
            tls.session.take_output(&mut out);
            let written = (&self.stream).write_all(&out);
            written.map_err(|error| Error::lost(&error))?;
            if !tls.session.is_handshaking() {
                return Ok(());
            }
            let received = self
                .receive(tls, left(deadline))
                .map_err(|error| match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::NoAnswer {
                        what: "the attempt to agree on TLS",
                        after,
                    },
                    _ => Error::lost(&error),
                });
            if received? == 0 {
                return Err(Error::Lost {
                    kind: io::ErrorKind::UnexpectedEof,
                    text: "the server hung up before TLS was agreed on".into(),
                });
            }
        }
    }

    /// Reads some bytes; 0: the server has hung up. `WouldBlock` or `TimedOut`: none came in time.
    pub(super) fn read(&self, buf: &mut [u8], limit: Duration) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            self.stream.set_read_timeout(Some(limit))?;
            return (&self.stream).read(buf);
        };
        loop {
            if let Some(count) = tls.session.read(buf)? {
                return Ok(count);
            }
            self.receive(tls, limit)?;
        }
    }

    /// Hands ciphertext to the session, from the socket if there is none here; 0: the socket's end.
    fn receive(&self, tls: &Tls, limit: Duration) -> io::Result<usize> {
        let inbox = &mut *tls.inbox.borrow_mut();
        let (mut start, mut end) = tls.untaken.get();
        if start == end {
            self.stream.set_read_timeout(Some(limit))?;
            (start, end) = (0, (&self.stream).read(inbox)?);
            if end == 0 {
                tls.session.received_end();
                return Ok(0);
            }
        }
        let taken = tls.session.receive(&inbox[start..end]);
        if taken.is_err() {
            // The server is told what was wrong, if it still listens.
            let mut alert = Vec::new();
            tls.session.take_output(&mut alert);
            let _ = (&self.stream).write_all(&alert);
        }
        let taken = taken?;
        tls.untaken.set((start + taken, end));
        Ok(taken)
    }

    /// Writes all bytes.
    pub(super) fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return (&self.stream).write_all(bytes);
        };
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let taken = tls.session.write(bytes, &mut out)?;
            bytes = &bytes[taken..];
            (&self.stream).write_all(&out)?;
            out.clear();
        }
        Ok(())
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(tls) = &self.tls {
            let mut out = Vec::new();
            tls.session.close(&mut out);
            // The other end may be gone already.
            let _ = (&self.stream).write_all(&out);
        }
    }
}

fn left(deadline: Instant) -> Duration {
    // The system takes zero for "for ever".
    let left = deadline.saturating_duration_since(Instant::now());
    left.max(Duration::from_millis(1))
}

fn connect(options: &ConnectOptions, deadline: Instant) -> Result<TcpStream, Error> {
    let host = options.host.as_str();
    let unknown = |text: String| Error::UnknownHost {
        host: host.to_owned(),
        text,
    };
    let addresses = (host, options.port)
        .to_socket_addrs()
        .map_err(|error| unknown(error.to_string()))?;
    let mut last = unknown("it has no address".into());
    for address in addresses {
        let stream = TcpStream::connect_timeout(&address, left(deadline)).and_then(|stream| {
            stream.set_nodelay(true)?;
            stream.set_write_timeout(Some(WRITE_LIMIT))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                last = Error::Connect {
                    address: address.to_string(),
                    kind: error.kind(),
                    text: error.to_string(),
                };
            }
        }
    }
    Err(last)
}

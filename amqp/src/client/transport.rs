//! The bytes' way: TCP, or TLS over it.

use crate::error::Error;
use crate::options::ConnectOptions;
use crate::tls::{TlsOptions, TlsSession};
use kernel::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};

/// A connected byte stream. One task may read while another writes.
pub(super) struct Transport {
    stream: TcpStream,
    tls: Option<Tls>,
}

struct Tls {
    session: TlsSession,
    /// Ciphertext on its way in: the buffer, and the part of it that was not taken yet. Used by the reader only.
    inbox: RefCell<Vec<u8>>,
    untaken: Cell<(usize, usize)>,
    /// Ciphertext on its way out. Used by the writer only.
    outbox: Cell<Vec<u8>>,
}

/// Ciphertext asked for by one read: two records of TLS.
const INBOX: usize = 32 * 1024;

impl Transport {
    /// Connects to the first address of the host that answers; with TLS, agrees on it.
    pub(super) async fn connect(options: &ConnectOptions) -> Result<Transport, Error> {
        let host = options.host.as_str();
        let stream = connect(&resolve(host, options.port).await?, host).await?;
        // Acks and single publishes must not wait for the peer's delayed TCP ack. Without it all still works.
        let _ = stream.set_nodelay(true);
        let tls = match &options.tls {
            Some(tls) => Some(handshake(&stream, tls, host).await?),
            None => None,
        };
        Ok(Transport { stream, tls })
    }

    /// The socket, where nothing stands between it and the protocol.
    pub(super) fn as_tcp(&self) -> Option<&TcpStream> {
        self.tls.is_none().then_some(&self.stream)
    }

    /// Reads some bytes; 0: the server has hung up.
    pub(super) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return self.stream.read(buf).await;
        };
        loop {
            if let Some(count) = tls.session.read(buf)? {
                return Ok(count);
            }
            if !tls.feed()? {
                tls.fill(&self.stream).await?;
            }
        }
    }

    /// Writes all bytes.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            return self.stream.write_all(bytes).await;
        };
        let mut out = tls.outbox.take();
        while !bytes.is_empty() {
            let taken = tls.session.write(bytes, &mut out)?;
            bytes = &bytes[taken..];
            self.stream.write_all(&out).await?;
            out.clear();
        }
        tls.outbox.set(out);
        Ok(())
    }

    /// Says goodbye where the transport has a word for it.
    pub(super) async fn finish(&self) {
        if let Some(tls) = &self.tls {
            let mut out = Vec::new();
            tls.session.close(&mut out);
            // The other end may be gone already.
            let _ = self.stream.write_all(&out).await;
        }
    }

    pub(super) fn shutdown(&self) {
        // The socket may be gone already, and then there is nothing to shut down.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Tls {
    /// Hands ciphertext that is here to the session; false: there is none.
    fn feed(&self) -> io::Result<bool> {
        let (start, end) = self.untaken.get();
        if start == end {
            return Ok(false);
        }
        let taken = self.session.receive(&self.inbox.borrow()[start..end])?;
        self.untaken.set((start + taken, end));
        Ok(true)
    }

    /// Waits for more ciphertext.
    async fn fill(&self, stream: &TcpStream) -> io::Result<()> {
        let mut inbox = self.inbox.take();
        inbox.resize(INBOX, 0);
        let count = stream.read(&mut inbox).await?;
        *self.inbox.borrow_mut() = inbox;
        self.untaken.set((0, count));
        if count == 0 {
            self.session.received_end();
        }
        Ok(())
    }
}

/// Agrees with the server on TLS.
async fn handshake(stream: &TcpStream, options: &TlsOptions, host: &str) -> Result<Tls, Error> {
    let (options, host) = (options.clone(), host.to_owned());
    // Reads files.
    let session = kernel::run_in_thread(move || TlsSession::new(&options, &host)).await??;
    let tls = Tls {
        session,
        inbox: RefCell::default(),
        untaken: Cell::default(),
        outbox: Cell::default(),
    };
    let mut out = Vec::new();
    loop {
        tls.session.take_output(&mut out);
        stream
            .write_all(&out)
            .await
            .map_err(|e| Error::from_io(&e))?;
        out.clear();
        if !tls.session.is_handshaking() {
            return Ok(tls);
        }
        let fed = match tls.feed() {
            Ok(fed) => fed,
            Err(error) => {
                // The server is told what was wrong with its certificate, if it still listens.
                tls.session.take_output(&mut out);
                let _ = stream.write_all(&out).await;
                return Err(Error::from_io(&error));
            }
        };
        if !fed {
            let filled = tls.fill(stream).await;
            filled.map_err(|error| Error::from_io(&error))?;
            if tls.untaken.get().1 == 0 {
                return Err(Error::Lost {
                    kind: io::ErrorKind::UnexpectedEof,
                    text: "the server hung up before TLS was agreed on".into(),
                });
            }
        }
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    use std::net::ToSocketAddrs;
    let name = host.to_owned();
    let resolved =
        kernel::run_in_thread(move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter))
            .await?;
    resolved.map_err(|error| unknown_host(host, &error.to_string()))
}

async fn connect(addresses: &[SocketAddr], host: &str) -> Result<TcpStream, Error> {
    let mut last = unknown_host(host, "it has no address");
    for &address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => match kernel::Error::in_io(&error) {
                Some(cancelled) => return Err(Error::Kernel(cancelled)),
                None => {
                    last = Error::Connect {
                        address: address.to_string(),
                        kind: error.kind(),
                        text: error.to_string(),
                    };
                }
            },
        }
    }
    Err(last)
}

fn unknown_host(host: &str, text: &str) -> Error {
    Error::UnknownHost {
        host: host.to_owned(),
        text: text.to_owned(),
    }
}

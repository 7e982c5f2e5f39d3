//! TCP.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use super::listening::Listening;
use crate::{
    io::{Io, byte_stream_methods, byte_stream_traits, readiness_methods},
    trap::WRITE,
};

/// A TCP socket that accepts connections.
#[derive(Debug)]
pub struct TcpListener {
    listening: Listening<mio::net::TcpListener>,
}

impl TcpListener {
    /// Binds and listens, with `SO_REUSEADDR`; port 0 takes a free one.
    ///
    /// # Errors
    /// The system's: address in use, no such address, permission.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::from_mio(mio::net::TcpListener::bind(address)?)
    }

    /// Takes over a listening socket of the standard library.
    ///
    /// # Errors
    /// The system's.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        listener.set_nonblocking(true)?;
        TcpListener::from_mio(mio::net::TcpListener::from_std(listener))
    }

    fn from_mio(inner: mio::net::TcpListener) -> io::Result<TcpListener> {
        Ok(TcpListener {
            listening: Listening::new(inner)?,
        })
    }

    /// Waits for the next connection.
    ///
    /// A connection that was lost before it was accepted is passed over. When somebody connects and there
    /// are no descriptors or no memory left, this waits: the log is warned, once until a minute has passed
    /// without a shortage, and every 100 ms there is another try. Those who connect meanwhile are in the
    /// backlog. Only one that has a descriptor, but that epoll may not watch, is closed; the warning says so.
    ///
    /// # Cancellation
    /// Safe: a connection is never taken and lost.
    ///
    /// # Errors
    /// Cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task accepts; of the
    /// system's only those that do not pass: this is no socket that listens (any more).
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let watch = |(stream, peer)| Ok((TcpStream::from_mio(stream)?, peer));
        self.listening.accept(|l| l.accept(), watch).await
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listening.inner().local_addr()
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct TcpStream {
    io: Io<mio::net::TcpStream>,
}

impl TcpStream {
    /// Connects. `TCP_NODELAY` is left as the system has it: off.
    ///
    /// # Cancellation
    /// Safe: the attempt is given up.
    ///
    /// # Errors
    /// The system's: refused, unreachable, timed out; and cancellation and timeouts.
    pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
        crate::trap::breathe().await?;
        let inner = mio::net::TcpStream::connect(address)?;
        let stream = TcpStream {
            io: Io::new(inner, false)?,
        };
        loop {
            stream.io.ready(WRITE).await?;
            if let Some(e) = stream.io.inner.take_error()? {
                return Err(e);
            }
            match stream.io.inner.peer_addr() {
                Ok(_) => return Ok(stream),
                Err(e)
                    if e.kind() == io::ErrorKind::NotConnected
                        || e.raw_os_error() == Some(libc::EINPROGRESS) =>
                {
                    stream
                        .io
                        .attempt(WRITE, |_| Err::<(), _>(io::ErrorKind::WouldBlock.into()))
                        .ok();
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes over a connected socket of the standard library.
    ///
    /// # Errors
    /// The system's.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<TcpStream> {
        stream.set_nonblocking(true)?;
        TcpStream::from_mio(mio::net::TcpStream::from_std(stream))
    }

    fn from_mio(inner: mio::net::TcpStream) -> io::Result<TcpStream> {
        Ok(TcpStream {
            io: Io::new(inner, true)?,
        })
    }

    /// Gives the socket away; the kernel forgets it. It stays non-blocking.
    pub fn into_std(self) -> std::net::TcpStream {
        self.io.release().into()
    }

    byte_stream_methods!();
    readiness_methods!();

    /// As [`try_read`](Self::try_read), appending to two vectors: to the first at most as many bytes as stand beside it,
    /// and to the second what there is beyond. Both keep what they hold and are never made larger; their unused room
    /// need not be cleared first.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read). Without any room the answer is 0, as at the end of the stream.
    pub fn try_read_spare(&self, parts: [(&mut Vec<u8>, usize); 2]) -> io::Result<usize> {
        self.io.try_read_spare(parts)
    }

    /// Closes one or both directions. After `Shutdown::Write` the peer reads the end of the
    /// stream and can still answer.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.io.inner.shutdown(how)
    }

    /// Turns Nagle's algorithm off (true) or on.
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.io.inner.set_nodelay(on)
    }

    /// Our address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.inner.local_addr()
    }

    /// The other side's address.
    ///
    /// # Errors
    /// The system's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.io.inner.peer_addr()
    }
}

byte_stream_traits!(TcpStream, [], this => this.shutdown(Shutdown::Write));

impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.io.inner.as_raw_fd()
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.inner.as_fd()
    }
}

impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.listening.inner().as_raw_fd()
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listening.inner().as_fd()
    }
}

//! Unix datagram sockets.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::SocketAddr,
    },
    path::Path,
};

use crate::{
    error::about,
    io::{Io, readiness_methods},
    net::datagram_methods,
    trap::READ,
};

/// A Unix datagram socket: whole messages in order, between processes of one machine.
#[derive(Debug)]
pub struct UnixDatagram {
    io: Io<mio::net::UnixDatagram>,
}

impl UnixDatagram {
    /// Binds to a path, which must not exist. The file stays when it is dropped.
    ///
    /// # Errors
    /// The system's, with the path before its text.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixDatagram> {
        let path = path.as_ref();
        let inner = mio::net::UnixDatagram::bind(path).map_err(|e| about(path.display(), e))?;
        UnixDatagram::from_mio(inner)
    }

    /// A socket without a name: it can send, and nobody can answer.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn unbound() -> io::Result<UnixDatagram> {
        UnixDatagram::from_mio(mio::net::UnixDatagram::unbound()?)
    }

    /// Two sockets connected to each other.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (a, b) = mio::net::UnixDatagram::pair()?;
        Ok((UnixDatagram::from_mio(a)?, UnixDatagram::from_mio(b)?))
    }

    /// Takes over a socket of the standard library.
    ///
    /// # Errors
    /// The system's.
    pub fn from_std(socket: std::os::unix::net::UnixDatagram) -> io::Result<UnixDatagram> {
        socket.set_nonblocking(true)?;
        UnixDatagram::from_mio(mio::net::UnixDatagram::from_std(socket))
    }

    /// Gives the socket away; the kernel forgets it. It stays non-blocking.
    pub fn into_std(self) -> std::os::unix::net::UnixDatagram {
        self.io.release().into()
    }

    fn from_mio(inner: mio::net::UnixDatagram) -> io::Result<UnixDatagram> {
        Ok(UnixDatagram {
            io: Io::new(inner, true)?,
        })
    }

    /// Sets the peer that [`send`](UnixDatagram::send) sends to.
    ///
    /// # Errors
    /// The system's, with the path before its text.
    pub fn connect(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let connected = self.io.inner.connect(path);
        connected.map_err(|e| about(path.display(), e))
    }

    datagram_methods!();
    readiness_methods!();

    /// Sends one datagram to this path, without waiting: the system does not say when somebody
    /// else's queue has room again. [`connect`](UnixDatagram::connect) and `send` can wait.
    ///
    /// # Errors
    /// `WouldBlock` if the receiver's queue is full; else the system's.
    pub fn try_send_to(&self, datagram: &[u8], path: impl AsRef<Path>) -> io::Result<usize> {
        self.io.inner.send_to(datagram, path)
    }

    /// Waits for a datagram; gives its length and its sender. What does not fit is cut off.
    ///
    /// # Cancellation
    /// Safe: a datagram is never taken and lost.
    ///
    /// # Errors
    /// The system's, and cancellation and timeouts.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.io.until_done(READ, |s| s.recv_from(buf)).await
    }
}

impl AsRawFd for UnixDatagram {
    fn as_raw_fd(&self) -> RawFd {
        self.io.inner.as_raw_fd()
    }
}

impl AsFd for UnixDatagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.inner.as_fd()
    }
}

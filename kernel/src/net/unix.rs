//! Unix stream sockets.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::net::SocketAddr,
    },
    path::Path,
};

use super::listening::Listening;
use crate::{
    error::about,
    io::{Io, byte_stream_methods, byte_stream_traits, readiness_methods},
    trap::READ,
};

/// A Unix socket that accepts connections.
#[derive(Debug)]
pub struct UnixListener {
    listening: Listening<mio::net::UnixListener>,
}

impl UnixListener {
    /// Binds to a path, which must not exist, and listens. The file stays when it is dropped.
    ///
    /// # Errors
    /// The system's, with the path before its text.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<UnixListener> {
        let path = path.as_ref();
        let inner = mio::net::UnixListener::bind(path).map_err(|e| about(path.display(), e))?;
        UnixListener::from_mio(inner)
    }

    /// Takes over a listening socket of the standard library: one that was inherited, or has an
    /// abstract name.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn from_std(listener: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
        listener.set_nonblocking(true)?;
        UnixListener::from_mio(mio::net::UnixListener::from_std(listener))
    }

    fn from_mio(inner: mio::net::UnixListener) -> io::Result<UnixListener> {
        Ok(UnixListener {
            listening: Listening::new(inner)?,
        })
    }

    /// Waits for the next connection, also through shortages of descriptors and memory, as
    /// [`TcpListener::accept`](super::TcpListener::accept) does.
    ///
    /// # Cancellation
    /// Safe: a connection is never taken and lost. (One that epoll has no memory left to watch is
    /// closed.)
    ///
    /// # Errors
    /// As [`TcpListener::accept`](super::TcpListener::accept).
    pub async fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let watch = |(stream, peer)| Ok((UnixStream::from_mio(stream)?, peer));
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

/// A Unix stream connection.
#[derive(Debug)]
pub struct UnixStream {
    io: Io<mio::net::UnixStream>,
}

impl UnixStream {
    /// Connects to a path. The system does that at once, or refuses (`WouldBlock`: the
    /// listener's backlog is full).
    ///
    /// # Cancellation
    /// Safe: nothing was done if it is dropped or comes back with an error.
    ///
    /// # Errors
    /// The system's, with the path before its text; and cancellation and timeouts.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<UnixStream> {
        crate::trap::breathe().await?;
        let path = path.as_ref();
        let inner = mio::net::UnixStream::connect(path).map_err(|e| about(path.display(), e))?;
        UnixStream::from_mio(inner)
    }

    /// Two sockets connected to each other.
    ///
    /// # Errors
    /// The system's.
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (a, b) = mio::net::UnixStream::pair()?;
        Ok((UnixStream::from_mio(a)?, UnixStream::from_mio(b)?))
    }

    /// Takes over a connected socket of the standard library.
    ///
    /// # Errors
    /// The system's.
    pub fn from_std(stream: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
        stream.set_nonblocking(true)?;
        UnixStream::from_mio(mio::net::UnixStream::from_std(stream))
    }

    fn from_mio(inner: mio::net::UnixStream) -> io::Result<UnixStream> {
        let io = Io::new(inner, true)?;
        // A read stops short behind bytes that came with a descriptor, whether we want it or not.
        io.distrust_short(READ);
        Ok(UnixStream { io })
    }

    /// Gives the socket away; the kernel forgets it. It stays non-blocking.
    pub fn into_std(self) -> std::os::unix::net::UnixStream {
        self.io.release().into()
    }

    byte_stream_methods!();
    readiness_methods!();

    /// Who is at the other end, as the system knows it and no peer can forge: the process that
    /// connected, or, if we did, the one that made the socket listen (for a pair, its maker). It
    /// may have ended or given the socket to another since.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Examples
    /// ```
    /// # kernel::run(async {
    /// let (ours, _theirs) = kernel::net::UnixStream::pair()?;
    /// assert_eq!(ours.peer_credentials()?.pid, std::process::id());
    /// # std::io::Result::Ok(()) }).unwrap().unwrap();
    /// ```
    pub fn peer_credentials(&self) -> io::Result<PeerCredentials> {
        credentials(self.as_raw_fd())
    }

    /// Closes one or both directions.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.io.inner.shutdown(how)
    }
}

/// What the system knows of the process at the other end of a Unix socket, from when it connected
/// or began to listen ([`UnixStream::peer_credentials`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its number; 0 if it is in a process namespace that cannot be seen from here.
    pub pid: u32,
}

fn credentials(fd: RawFd) -> io::Result<PeerCredentials> {
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: getsockopt(2) writes at most `len` bytes to `found`, which has as many, and the number of
    // them to `len`; whatever it writes to these integers is valid. A bad descriptor is an error.
    let told = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &mut len,
        )
    };
    match told {
        0 => Ok(PeerCredentials {
            uid: found.uid,
            gid: found.gid,
            pid: found.pid.cast_unsigned(),
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

byte_stream_traits!(UnixStream, [], this => this.shutdown(Shutdown::Write));

impl AsRawFd for UnixStream {
    fn as_raw_fd(&self) -> RawFd {
        self.io.inner.as_raw_fd()
    }
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.inner.as_fd()
    }
}

impl AsRawFd for UnixListener {
    fn as_raw_fd(&self) -> RawFd {
        self.listening.inner().as_raw_fd()
    }
}

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listening.inner().as_fd()
    }
}

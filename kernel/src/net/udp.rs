//! UDP.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use crate::{
    io::{Io, readiness_methods},
    net::datagram_methods,
    trap::{READ, WRITE},
};

/// A UDP socket. Several tasks may use one through an `Rc`, but only one at a time can wait to
/// receive, and one to send.
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::net::UdpSocket;
/// let server = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// let client = UdpSocket::bind("127.0.0.1:0".parse().unwrap())?;
/// client.send_to(b"ping", server.local_addr()?).await?;
/// let mut buf = [0; 512];
/// let (n, from) = server.recv_from(&mut buf).await?;
/// assert_eq!(&buf[..n], b"ping");
/// assert_eq!(from, client.local_addr()?);
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct UdpSocket {
    io: Io<mio::net::UdpSocket>,
}

impl UdpSocket {
    /// Binds; port 0 takes a free one.
    ///
    /// # Errors
    /// The system's: address in use, no such address, permission.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::from_mio(mio::net::UdpSocket::bind(address)?)
    }

    /// Takes over a socket of the standard library, with all that was set on it.
    ///
    /// # Errors
    /// The system's.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        socket.set_nonblocking(true)?;
        UdpSocket::from_mio(mio::net::UdpSocket::from_std(socket))
    }

    /// Gives the socket away; the kernel forgets it. It stays non-blocking.
    pub fn into_std(self) -> std::net::UdpSocket {
        self.io.release().into()
    }

    fn from_mio(inner: mio::net::UdpSocket) -> io::Result<UdpSocket> {
        Ok(UdpSocket {
            io: Io::new(inner, true)?,
        })
    }

    /// Sets the one peer that [`send`](UdpSocket::send) sends to and whose datagrams
    /// [`recv`](UdpSocket::recv) gives. The system does it at once: nothing is sent.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(&self, address: SocketAddr) -> io::Result<()> {
        self.io.inner.connect(address)
    }

    datagram_methods!();
    readiness_methods!();

    /// Sends one datagram to this address; gives its length.
    ///
    /// # Cancellation
    /// Safe: nothing has been sent if it is dropped or comes back with an error.
    ///
    /// # Errors
    /// The system's (`EMSGSIZE` for one that is too long), and cancellation and timeouts.
    pub async fn send_to(&self, datagram: &[u8], address: SocketAddr) -> io::Result<usize> {
        let send = |socket: &mio::net::UdpSocket| socket.send_to(datagram, address);
        self.io.until_done(WRITE, send).await
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

    /// As [`send_to`](UdpSocket::send_to), but never waits.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; else the system's.
    pub fn try_send_to(&self, datagram: &[u8], address: SocketAddr) -> io::Result<usize> {
        self.io.attempt(WRITE, |s| s.send_to(datagram, address))
    }

    /// As [`recv_from`](UdpSocket::recv_from), but never waits. It goes by what the kernel knows:
    /// what arrived since it last looked for I/O may not show yet.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; else the system's.
    pub fn try_recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.io.attempt(READ, |s| s.recv_from(buf))
    }

    /// Our address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.inner.local_addr()
    }

    /// The peer that was set by [`connect`](UdpSocket::connect).
    ///
    /// # Errors
    /// `NotConnected` if none was.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.io.inner.peer_addr()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.io.inner.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.inner.as_fd()
    }
}

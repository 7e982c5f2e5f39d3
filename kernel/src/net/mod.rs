//! Sockets: TCP, UDP and Unix; and the names of hosts.
//!
//! # Errors
//!
//! Where the system's error does not say which path or host (or program, in `process`) it
//! is about, that stands before its text. Such an error is of the same `kind`, but has no `raw_os_error`:
//! the number is that of its source.
//!
//! ```
//! # kernel::run(async {
//! use std::{error::Error, io};
//! let error = kernel::net::UnixStream::connect("/no/such/socket").await.unwrap_err();
//! assert!(error.to_string().starts_with("/no/such/socket: "));
//! assert_eq!(error.kind(), io::ErrorKind::NotFound);
//! let system: Option<&io::Error> = error.source().and_then(|e| e.downcast_ref());
//! assert_eq!(system.and_then(|e| e.raw_os_error()), Some(libc::ENOENT));
//! # }).unwrap();
//! ```

mod eyeballs;
pub(crate) mod listening;
mod resolve;
mod tcp;
mod udp;
mod unix;
mod unix_datagram;

pub use eyeballs::happy_eyeballs;
pub use resolve::lookup_host;
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;
pub use unix::{PeerCredentials, UnixListener, UnixStream};
pub use unix_datagram::UnixDatagram;

/// What connected datagram sockets have in common.
macro_rules! datagram_methods {
    () => {
        /// Sends one datagram to the peer set by `connect`; gives its length.
        ///
        /// # Cancellation
        /// Safe: nothing has been sent if it is dropped or comes back with an error.
        ///
        /// # Errors
        /// The system's, and cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if
        /// another task waits to send.
        pub async fn send(&self, datagram: &[u8]) -> std::io::Result<usize> {
            let direction = crate::trap::WRITE;
            self.io.until_done(direction, |s| s.send(datagram)).await
        }

        /// Waits for a datagram; gives its length. What does not fit is cut off.
        ///
        /// # Cancellation
        /// Safe: a datagram is never taken and lost.
        ///
        /// # Errors
        /// The system's, and cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if
        /// another task waits to receive.
        pub async fn recv(&self, buf: &mut [u8]) -> std::io::Result<usize> {
            let direction = crate::trap::READ;
            self.io.until_done(direction, |s| s.recv(buf)).await
        }

        /// As `send`, but never waits.
        ///
        /// # Errors
        /// `WouldBlock` if there is no room; else the system's.
        pub fn try_send(&self, datagram: &[u8]) -> std::io::Result<usize> {
            self.io.attempt(crate::trap::WRITE, |s| s.send(datagram))
        }

        /// As `recv`, but never waits. It goes by what the kernel knows: what arrived since it
        /// last looked for I/O may not show yet.
        ///
        /// # Errors
        /// `WouldBlock` if nothing is there; else the system's.
        pub fn try_recv(&self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.io.attempt(crate::trap::READ, |s| s.recv(buf))
        }
    };
}
pub(crate) use datagram_methods;

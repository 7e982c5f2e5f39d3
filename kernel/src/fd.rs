//! Raw descriptors: pipes, pidfds, and whatever else epoll can watch.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsRawFd, RawFd},
};

use crate::{
    io::{Io, byte_stream_methods, byte_stream_traits, mode},
    trap::{Direction, READ, WRITE},
};

/// A descriptor that the kernel watches; what it wraps is dropped with it.
///
/// Its `read` and `write` work on byte streams (pipes, socket pairs, terminals).
/// [`readable`](AsyncFd::readable) and [`writable`](AsyncFd::writable) keep level-triggered
/// meaning, for one system call a wait: they return whenever the descriptor is ready *now*,
/// whoever reads it, and as often as they are asked. That serves descriptors that we do not read
/// ourselves: a pidfd, a library's socket.
///
/// One kernel watches a descriptor number once. To watch one that somebody else has registered
/// here, duplicate it.
#[derive(Debug)]
pub struct AsyncFd<T: AsRawFd> {
    io: Io<Raw<T>>,
}

impl<T: AsRawFd> AsyncFd<T> {
    /// Makes it non-blocking, for everybody who shares the open file, and watches it.
    ///
    /// # Errors
    /// `PermissionDenied` for what epoll refuses to watch, for it never says when it is ready: regular
    /// files, directories, and devices such as `/dev/null` (a program's standard input may be any of
    /// these). Use [`run_in_thread`](crate::run_in_thread). Else the system's.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn new(inner: T) -> io::Result<AsyncFd<T>> {
        set_nonblocking(inner.as_raw_fd())?;
        AsyncFd::watch(inner)
    }

    /// Watches it as it is: for a descriptor that belongs to somebody who may want it blocking.
    /// Only wait for it: `read` and `write` would block the kernel.
    ///
    /// # Errors
    /// As [`new`](AsyncFd::new).
    ///
    /// # Panics
    /// Outside a running kernel.
    ///
    /// # Examples
    /// ```
    /// # kernel::run(async {
    /// use std::{io::{Read, Write}, os::fd::AsFd};
    /// let (mut theirs, mut other) = std::io::pipe()?;
    /// other.write_all(b"x")?;
    /// let watched = kernel::AsyncFd::watch(theirs.as_fd())?;
    /// watched.readable().await?;
    /// drop(watched); // the pipe stays open, and blocking as it was
    /// assert_eq!(theirs.read(&mut [0; 8])?, 1);
    /// # std::io::Result::Ok(()) }).unwrap().unwrap();
    /// ```
    pub fn watch(inner: T) -> io::Result<AsyncFd<T>> {
        let number = inner.as_raw_fd();
        let mode = mode(number); // first: with an error it is closed
        let io = Io::shared(Raw(inner), mode).map_err(|e| match e.raw_os_error() {
            Some(libc::EPERM) => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "descriptor {number} is {}, which epoll refuses to watch (EPERM), for it never says when it \
                     is ready: read and write it in run_in_thread",
                    sort_of(mode)
                ),
            ),
            Some(libc::EEXIST) => io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("descriptor {number} is watched already"),
            ),
            _ => e,
        })?;
        Ok(AsyncFd { io })
    }

    byte_stream_methods!();

    /// Waits until the descriptor is readable now.
    ///
    /// # Cancellation
    /// Safe: nothing is read.
    ///
    /// # Errors
    /// The system's, and cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task waits.
    pub async fn readable(&self) -> io::Result<()> {
        self.wait_now(READ).await
    }

    /// Waits until the descriptor is writable now.
    ///
    /// # Cancellation
    /// Safe: nothing is written.
    ///
    /// # Errors
    /// The system's, and cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task waits.
    pub async fn writable(&self) -> io::Result<()> {
        self.wait_now(WRITE).await
    }

    async fn wait_now(&self, direction: Direction) -> io::Result<()> {
        self.io.rearm(direction)?;
        Ok(self.io.ready(direction).await?)
    }

    /// What it wraps.
    pub fn get_ref(&self) -> &T {
        &self.io.inner.0
    }

    /// Gives back what it wraps; the kernel watches it no more. It stays as it is otherwise:
    /// non-blocking, if [`new`](AsyncFd::new) made it so.
    pub fn into_inner(self) -> T {
        self.io.release().0
    }
}

impl<T: AsRawFd> AsRawFd for AsyncFd<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.io.inner.0.as_raw_fd()
    }
}

byte_stream_traits!(AsyncFd<T>, [T: AsRawFd], this => shutdown_write(this.as_raw_fd()));

/// A descriptor as `std::io` wants to see it.
#[derive(Debug)]
struct Raw<T>(T);

impl<T: AsRawFd> AsRawFd for Raw<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl<T: AsRawFd> Read for &Raw<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are those of a live, exclusively borrowed buffer, and
        // read(2) writes no more than that many bytes.
        let n = unsafe { libc::read(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    // All parts, or the rest of them would look like what is not there yet.
    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        // SAFETY: an `IoSliceMut` has the layout of an `iovec`, that of a live, exclusively
        // borrowed buffer; readv(2) reads no more of them than are counted here.
        let n = unsafe {
            libc::readv(
                self.0.as_raw_fd(),
                bufs.as_mut_ptr().cast(),
                count(bufs.len()),
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

impl<T: AsRawFd> Write for &Raw<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length are those of a live buffer, which write(2) only reads.
        let n = unsafe { libc::write(self.0.as_raw_fd(), buf.as_ptr().cast(), buf.len()) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: an `IoSlice` has the layout of an `iovec`, that of a live buffer, which
        // writev(2) only reads; it reads no more of them than are counted here.
        let n =
            unsafe { libc::writev(self.0.as_raw_fd(), bufs.as_ptr().cast(), count(bufs.len())) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many parts one call moves: more than the system takes would be an error.
fn count(parts: usize) -> libc::c_int {
    libc::c_int::try_from(parts).map_or(libc::UIO_MAXIOV, |parts| parts.min(libc::UIO_MAXIOV))
}

/// What sort of file that is, in words.
fn sort_of(mode: libc::mode_t) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "a regular file",
        libc::S_IFDIR => "a directory",
        libc::S_IFCHR => "a character device",
        libc::S_IFBLK => "a block device",
        _ => "of a sort",
    }
}

/// Closes the way out of a socket. Other descriptors can only be closed whole.
fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: shutdown(2) takes integers only; a bad descriptor is an error.
    match unsafe { libc::shutdown(fd, libc::SHUT_WR) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ENOTSOCK) => Err(io::ErrorKind::Unsupported.into()),
            e => Err(e),
        },
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: these two fcntl commands take and give integers only; a bad descriptor is an error.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    match unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

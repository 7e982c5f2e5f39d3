//! A descriptor that the reactor watches: try, then wait for readiness, then try again.

use std::{
    future::Future,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::{self, MaybeUninit},
    ops::ControlFlow::{self, Break, Continue},
    os::fd::{AsRawFd, RawFd},
};

use super::Doing;
use crate::{
    error::Error,
    trap::{Direction, READ, Registered, Trap, WRITE, ask, breathe},
};

/// A registered, non-blocking descriptor. All methods take `&self`, so that one task may read
/// while another writes.
#[derive(Debug)]
pub(crate) struct Io<S> {
    // Declared first, so dropped first: the descriptor is still open then.
    registration: Registration,
    pub(crate) inner: S,
}

impl<S: AsRawFd> Io<S> {
    /// Registers; `ready` is what to assume until the first event.
    pub(crate) fn new(inner: S, ready: bool) -> io::Result<Io<S>> {
        let registration = Registration {
            source: Registered::new(&inner, ready)?,
            stays_open: false,
        };
        Ok(Io {
            registration,
            inner,
        })
    }

    /// As [`new`](Io::new), for a descriptor that may stay open when this is dropped, of this [`mode`].
    pub(crate) fn shared(inner: S, mode: libc::mode_t) -> io::Result<Io<S>> {
        let mut io = Io::new(inner, true)?;
        io.registration.stays_open = true;
        if !short_means_drained(io.inner.as_raw_fd(), mode) {
            io.distrust_short(READ);
            io.distrust_short(WRITE);
        }
        Ok(io)
    }

    /// Gives the descriptor away: the kernel forgets it, and it is in epoll no more.
    pub(crate) fn release(mut self) -> S {
        self.registration.stays_open = true;
        let Io {
            registration,
            inner,
        } = self;
        drop(registration);
        inner
    }
}

/// The kernel's side of a descriptor; ends when dropped. Whoever waits for it then (in a trap
/// that outlived the stream it was made of) learns that it is closed.
#[derive(Debug)]
struct Registration {
    source: Registered,
    /// Closing the descriptor will not take it out of epoll.
    stays_open: bool,
}

impl Drop for Registration {
    fn drop(&mut self) {
        match self.stays_open {
            true => self.source.release(),
            false => self.source.forget(),
        }
    }
}

impl<S> Io<S> {
    /// Asks the system for a fresh word on readiness, whatever is remembered.
    pub(crate) fn rearm(&self, direction: Direction) -> io::Result<()> {
        self.registration.source.rearm(direction)
    }

    /// Waits until the direction is believed to be ready.
    pub(crate) async fn ready(&self, direction: Direction) -> Result<(), Error> {
        if self.registration.source.is_ready(direction) {
            return breathe().await;
        }
        ask(self.registration.source.trap(direction)).await
    }

    /// Runs an operation if the direction is believed to be ready, and learns from how it ends.
    pub(crate) fn attempt<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        if !self.registration.source.is_ready(direction) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match operation(&self.inner) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.source.clear(direction);
                    return Err(e);
                }
                result => return result,
            }
        }
    }

    /// A byte stream moved less than asked: the direction has to be waited for.
    pub(crate) fn drained(&self, direction: Direction) {
        self.registration.source.clear_after_short(direction);
    }

    /// Has [`drained`](Io::drained) mean nothing in this direction: only `WouldBlock` does.
    pub(crate) fn distrust_short(&self, direction: Direction) {
        self.registration.source.distrust_short(direction);
    }

    /// Learns from what a byte stream gave to a buffer of this length.
    fn learn(&self, n: usize, len: usize) {
        match n {
            0 => {}
            _ if n < len => self.drained(READ),
            _ => self.registration.source.filled(),
        }
    }

    /// True if a try in this direction would probably find nothing, though it may be ready.
    #[inline]
    pub(super) fn is_in_doubt(&self, direction: Direction) -> bool {
        direction == READ && self.registration.source.is_in_doubt()
    }

    pub(super) fn trap(&self, direction: Direction) -> Trap {
        self.registration.source.trap(direction)
    }

    /// Repeats an operation until it does not say `WouldBlock`.
    pub(crate) fn until_done<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> impl Future<Output = io::Result<T>> {
        Doing::new(self, direction, move |io: &Io<S>| {
            io.attempt(direction, &mut operation).map(Break)
        })
    }
}

/// One call of the system moves no more parts: what is left of others says nothing of readiness.
const MOST_PARTS: usize = libc::UIO_MAXIOV as usize;

impl<S> super::Read for Io<S>
where
    for<'a> &'a S: Read,
{
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.attempt(READ, |mut s| s.read(buf))?;
        self.learn(n, buf.len());
        Ok(n)
    }

    fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let n = self.attempt(READ, |mut s| s.read_vectored(bufs))?;
        let offered = bufs.iter().take(MOST_PARTS).map(|b| b.len()).sum();
        self.learn(n, offered);
        Ok(n)
    }

    fn when_readable(&self) -> Trap {
        self.trap(READ)
    }

    fn read(&self, buf: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        Doing::new(self, READ, |io: &Io<S>| io.try_read(buf).map(Break))
    }

    fn read_vectored(
        &self,
        bufs: &mut [IoSliceMut<'_>],
    ) -> impl Future<Output = io::Result<usize>> {
        Doing::new(self, READ, |io: &Io<S>| {
            io.try_read_vectored(bufs).map(Break)
        })
    }

    fn read_exact(&self, mut buf: &mut [u8]) -> impl Future<Output = io::Result<()>> {
        Doing::new(self, READ, move |io: &Io<S>| {
            if !buf.is_empty() {
                match io.try_read(buf)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => buf = &mut mem::take(&mut buf)[n..],
                }
            }
            Ok(done_if(buf.is_empty()))
        })
    }
}

impl<S> super::Write for Io<S>
where
    for<'a> &'a S: Write,
{
    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        let n = self.attempt(WRITE, |mut s| s.write(buf))?;
        if n < buf.len() {
            self.drained(WRITE);
        }
        Ok(n)
    }

    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.attempt(WRITE, |mut s| s.write_vectored(bufs))?;
        if n < bufs.iter().take(MOST_PARTS).map(|b| b.len()).sum() {
            self.drained(WRITE);
        }
        Ok(n)
    }

    fn when_writable(&self) -> Trap {
        self.trap(WRITE)
    }

    fn write(&self, buf: &[u8]) -> impl Future<Output = io::Result<usize>> {
        Doing::new(self, WRITE, |io: &Io<S>| io.try_write(buf).map(Break))
    }

    fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> impl Future<Output = io::Result<usize>> {
        Doing::new(self, WRITE, |io: &Io<S>| {
            io.try_write_vectored(bufs).map(Break)
        })
    }

    fn write_all(&self, mut buf: &[u8]) -> impl Future<Output = io::Result<()>> {
        Doing::new(self, WRITE, move |io: &Io<S>| {
            if !buf.is_empty() {
                match io.try_write(buf)? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => buf = &buf[n..],
                }
            }
            Ok(done_if(buf.is_empty()))
        })
    }
}

fn done_if(done: bool) -> ControlFlow<()> {
    match done {
        true => Break(()),
        false => Continue(()),
    }
}

/// True if a read of less than was asked for means that nothing is left, and a write that there is
/// no room: so for pipes, unless they keep packets apart. A terminal gives a line at a time, a
/// datagram socket a datagram, a Unix socket what came with one descriptor.
fn short_means_drained(fd: RawFd, mode: libc::mode_t) -> bool {
    // SAFETY: fcntl(2) takes integers only; the flags are asked for without further arguments.
    mode & libc::S_IFMT == libc::S_IFIFO
        && unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_DIRECT == 0
}

/// What sort of file a descriptor is of, as fstat(2) has it; 0 for a bad one.
pub(crate) fn mode(fd: RawFd) -> libc::mode_t {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat(2) fills what it is given a pointer to, or says that it did not.
    match unsafe { libc::fstat(fd, stat.as_mut_ptr()) } {
        // SAFETY: it was filled.
        0 => unsafe { stat.assume_init() }.st_mode,
        _ => 0,
    }
}

/// The methods that all byte streams have, forwarded to their `Io`.
macro_rules! byte_stream_methods {
    () => {
        /// Reads what is there, up to the buffer's length; 0 is the end of the stream.
        ///
        /// # Cancellation
        /// Safe: nothing has been read if it is dropped or comes back with an error.
        ///
        /// # Errors
        /// The system's, and cancellation and timeouts (see [`Error::in_io`](crate::Error::in_io));
        /// [`Error::Busy`](crate::Error::Busy) if another task waits to read.
        pub fn read(&self, buf: &mut [u8]) -> impl Future<Output = std::io::Result<usize>> {
            crate::io::Read::read(&self.io, buf)
        }

        /// As [`read`](Self::read), into several buffers with one system call.
        pub fn read_vectored(
            &self,
            bufs: &mut [std::io::IoSliceMut<'_>],
        ) -> impl Future<Output = std::io::Result<usize>> {
            crate::io::Read::read_vectored(&self.io, bufs)
        }

        /// Fills the buffer.
        ///
        /// # Cancellation
        /// Not safe in the middle: what was read so far is in the buffer, but not how much.
        ///
        /// # Errors
        /// As [`read`](Self::read); `UnexpectedEof` if the stream ends before the buffer is full.
        pub fn read_exact(&self, buf: &mut [u8]) -> impl Future<Output = std::io::Result<()>> {
            crate::io::Read::read_exact(&self.io, buf)
        }

        /// Writes as much as the system takes at once, and says how much that was.
        ///
        /// # Cancellation
        /// Safe: nothing has been written if it is dropped or comes back with an error.
        ///
        /// # Errors
        /// The system's, and cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if
        /// another task waits to write.
        pub fn write(&self, buf: &[u8]) -> impl Future<Output = std::io::Result<usize>> {
            crate::io::Write::write(&self.io, buf)
        }

        /// As [`write`](Self::write), from several buffers with one system call.
        pub fn write_vectored(
            &self,
            bufs: &[std::io::IoSlice<'_>],
        ) -> impl Future<Output = std::io::Result<usize>> {
            crate::io::Write::write_vectored(&self.io, bufs)
        }

        /// Writes the whole buffer.
        ///
        /// # Cancellation
        /// Not safe in the middle: a part may have been written.
        ///
        /// # Errors
        /// As [`write`](Self::write).
        pub fn write_all(&self, buf: &[u8]) -> impl Future<Output = std::io::Result<()>> {
            crate::io::Write::write_all(&self.io, buf)
        }

        /// Reads without ever waiting. It goes by what the kernel knows: what arrived since it
        /// last looked for I/O may not show yet.
        ///
        /// # Errors
        /// `WouldBlock` if nothing is there; else the system's.
        pub fn try_read(&self, buf: &mut [u8]) -> std::io::Result<usize> {
            crate::io::Read::try_read(&self.io, buf)
        }

        /// As [`try_read`](Self::try_read), into several buffers with one system call.
        ///
        /// # Errors
        /// As [`try_read`](Self::try_read).
        pub fn try_read_vectored(
            &self,
            bufs: &mut [std::io::IoSliceMut<'_>],
        ) -> std::io::Result<usize> {
            crate::io::Read::try_read_vectored(&self.io, bufs)
        }

        /// Writes without ever waiting.
        ///
        /// # Errors
        /// `WouldBlock` if there is no room; else the system's.
        pub fn try_write(&self, buf: &[u8]) -> std::io::Result<usize> {
            crate::io::Write::try_write(&self.io, buf)
        }

        /// As [`try_write`](Self::try_write), from several buffers with one system call.
        ///
        /// # Errors
        /// As [`try_write`](Self::try_write).
        pub fn try_write_vectored(&self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
            crate::io::Write::try_write_vectored(&self.io, bufs)
        }
    };
}
pub(crate) use byte_stream_methods;

/// [`Read`](crate::io::Read) and [`Write`](crate::io::Write) of a stream that keeps an `Io` in
/// its field `io`, and says how it closes its way out.
macro_rules! byte_stream_traits {
    ($stream:ty, [$($generics:tt)*], $this:ident => $shutdown:expr) => {
        impl<$($generics)*> crate::io::Read for $stream {
            fn try_read(&self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.io.try_read(buf)
            }

            fn try_read_vectored(
                &self,
                bufs: &mut [std::io::IoSliceMut<'_>],
            ) -> std::io::Result<usize> {
                self.io.try_read_vectored(bufs)
            }

            fn when_readable(&self) -> crate::Trap {
                self.io.when_readable()
            }

            fn read(&self, buf: &mut [u8]) -> impl Future<Output = std::io::Result<usize>> {
                self.io.read(buf)
            }
        }

        impl<$($generics)*> crate::io::Write for $stream {
            fn try_write(&self, buf: &[u8]) -> std::io::Result<usize> {
                self.io.try_write(buf)
            }

            fn try_write_vectored(&self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
                self.io.try_write_vectored(bufs)
            }

            fn when_writable(&self) -> crate::Trap {
                self.io.when_writable()
            }

            fn shutdown_write(&self) -> std::io::Result<()> {
                let $this = self;
                $shutdown
            }
        }
    };
}
pub(crate) use byte_stream_traits;

/// `readable` and `writable` of streams whose every read and write goes through us.
macro_rules! readiness_methods {
    () => {
        /// Waits until there is something to read, or the end of the stream.
        ///
        /// Readiness is what the kernel believes: a new stream is believed to be ready, and stays
        /// so until a read finds nothing. So try, and wait again on `WouldBlock`.
        ///
        /// # Cancellation
        /// Safe: nothing is read.
        ///
        /// # Errors
        /// Cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task waits
        /// to read.
        pub async fn readable(&self) -> Result<(), crate::Error> {
            self.io.ready(crate::trap::READ).await
        }

        /// Waits until there is room to write, as far as the kernel knows (see
        /// [`readable`](Self::readable)).
        ///
        /// # Cancellation
        /// Safe: nothing is written.
        ///
        /// # Errors
        /// Cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task waits
        /// to write.
        pub async fn writable(&self) -> Result<(), crate::Error> {
            self.io.ready(crate::trap::WRITE).await
        }
    };
}
pub(crate) use readiness_methods;

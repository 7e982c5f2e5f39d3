//! Reading and writing what the reactor watches: try, then wait for readiness, then try again.

use std::{
    io::{self, IoSlice, Read, Write},
    rc::Rc,
};

use crate::{
    error::Error,
    kernel::Core,
    reactor::{READ, Source, WRITE},
    trap::{Registered, Trap, ask, breathe},
};

/// A registered, non-blocking byte stream. All methods take `&self`, so that one task may read
/// while another writes.
#[derive(Debug)]
pub(crate) struct Io<S> {
    pub(crate) inner: S,
    source: Rc<Source>,
}

impl<S: mio::event::Source> Io<S> {
    /// Registers; `ready` is what to assume until the first event.
    pub(crate) fn new(mut inner: S, interest: mio::Interest, ready: bool) -> io::Result<Io<S>> {
        let source = Core::current_ref(|core| core.reactor.register(&mut inner, interest, ready))?;
        Ok(Io { inner, source })
    }

    /// Registers for both directions, taking both to be ready.
    pub(crate) fn stream(inner: S) -> io::Result<Io<S>> {
        Io::new(
            inner,
            mio::Interest::READABLE | mio::Interest::WRITABLE,
            true,
        )
    }
}

/// Takes a descriptor out of epoll while it is still open.
pub(crate) fn deregister(source: &mut impl mio::event::Source) {
    Core::with_current(|core| {
        if let Err(e) = core.reactor.deregister(source) {
            log::debug!("kernel: deregistering a descriptor: {e}");
        }
    });
}

impl<S> Drop for Io<S> {
    fn drop(&mut self) {
        Core::with_current(|core| core.reactor.forget(&self.source));
    }
}

impl<S> Io<S> {
    /// Asks the system for a fresh word on readiness, whatever is remembered.
    pub(crate) fn rearm(
        &self,
        inner: &mut impl mio::event::Source,
        direction: usize,
    ) -> io::Result<()> {
        self.source.clear(direction);
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
        Core::current_ref(|core| core.reactor.rearm(inner, &self.source, interest))
    }

    /// Waits until the direction is believed to be ready.
    pub(crate) async fn ready(&self, direction: usize) -> Result<(), Error> {
        if self.source.is_ready(direction) {
            return crate::trap::check();
        }
        let source = Registered(self.source.clone());
        ask(match direction {
            READ => Trap::Readable(source),
            _ => Trap::Writable(source),
        })
        .await
    }

    /// Runs an operation if the direction is believed to be ready, and learns from how it ends.
    pub(crate) fn attempt<T>(
        &self,
        direction: usize,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        if !self.source.is_ready(direction) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match operation(&self.inner) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.source.clear(direction);
                    return Err(e);
                }
                result => return result,
            }
        }
    }

    /// Repeats an operation until it does not say `WouldBlock`.
    pub(crate) async fn until_done<T>(
        &self,
        direction: usize,
        mut operation: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        breathe().await?;
        loop {
            match self.attempt(direction, &mut operation) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(direction).await?,
                result => return result,
            }
        }
    }
}

impl<S> Io<S>
where
    for<'a> &'a S: Read + Write,
{
    pub(crate) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.attempt(READ, |mut s| s.read(buf))?;
        if n > 0 && n < buf.len() {
            self.source.clear_after_short(READ);
        }
        Ok(n)
    }

    pub(crate) fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        let n = self.attempt(WRITE, |mut s| s.write(buf))?;
        if n < buf.len() {
            self.source.clear_after_short(WRITE);
        }
        Ok(n)
    }

    pub(crate) fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let n = self.attempt(WRITE, |mut s| s.write_vectored(bufs))?;
        if n < bufs.iter().map(|b| b.len()).sum() {
            self.source.clear_after_short(WRITE);
        }
        Ok(n)
    }

    pub(crate) async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(READ).await?,
                result => return result,
            }
        }
    }

    pub(crate) async fn write(&self, buf: &[u8]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(WRITE).await?,
                result => return result,
            }
        }
    }

    pub(crate) async fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_write_vectored(bufs) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.ready(WRITE).await?,
                result => return result,
            }
        }
    }

    pub(crate) async fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => buf = &mut buf[n..],
            }
        }
        Ok(())
    }

    pub(crate) async fn write_all(&self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write(buf).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => buf = &buf[n..],
            }
        }
        Ok(())
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
        pub async fn read(&self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.io.read(buf).await
        }

        /// Fills the buffer.
        ///
        /// # Cancellation
        /// Not safe in the middle: what was read so far is in the buffer, but not how much.
        ///
        /// # Errors
        /// As [`read`](Self::read); `UnexpectedEof` if the stream ends before the buffer is full.
        pub async fn read_exact(&self, buf: &mut [u8]) -> std::io::Result<()> {
            self.io.read_exact(buf).await
        }

        /// Writes as much as the system takes at once, and says how much that was.
        ///
        /// # Cancellation
        /// Safe: nothing has been written if it is dropped or comes back with an error.
        ///
        /// # Errors
        /// The system's, and cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if
        /// another task waits to write.
        pub async fn write(&self, buf: &[u8]) -> std::io::Result<usize> {
            self.io.write(buf).await
        }

        /// As [`write`](Self::write), from several buffers with one system call.
        pub async fn write_vectored(
            &self,
            bufs: &[std::io::IoSlice<'_>],
        ) -> std::io::Result<usize> {
            self.io.write_vectored(bufs).await
        }

        /// Writes the whole buffer.
        ///
        /// # Cancellation
        /// Not safe in the middle: a part may have been written.
        ///
        /// # Errors
        /// As [`write`](Self::write).
        pub async fn write_all(&self, buf: &[u8]) -> std::io::Result<()> {
            self.io.write_all(buf).await
        }

        /// Reads without ever waiting. It goes by what the kernel knows: what arrived since it
        /// last looked for I/O may not show yet.
        ///
        /// # Errors
        /// `WouldBlock` if nothing is there; else the system's.
        pub fn try_read(&self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.io.try_read(buf)
        }

        /// Writes without ever waiting.
        ///
        /// # Errors
        /// `WouldBlock` if there is no room; else the system's.
        pub fn try_write(&self, buf: &[u8]) -> std::io::Result<usize> {
            self.io.try_write(buf)
        }

        /// As [`try_write`](Self::try_write), from several buffers with one system call.
        ///
        /// # Errors
        /// As [`try_write`](Self::try_write).
        pub fn try_write_vectored(&self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
            self.io.try_write_vectored(bufs)
        }
    };
}
pub(crate) use byte_stream_methods;

/// `readable` and `writable` of streams whose every read and write goes through us.
macro_rules! readiness_methods {
    () => {
        /// Waits until there is something to read, or the end of the stream.
        ///
        /// # Errors
        /// Cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task waits
        /// to read.
        pub async fn readable(&self) -> Result<(), crate::Error> {
            self.io.ready(crate::reactor::READ).await
        }

        /// Waits until there is room to write.
        ///
        /// # Errors
        /// Cancellation and timeouts; [`Error::Busy`](crate::Error::Busy) if another task waits
        /// to write.
        pub async fn writable(&self) -> Result<(), crate::Error> {
            self.io.ready(crate::reactor::WRITE).await
        }
    };
}
pub(crate) use readiness_methods;

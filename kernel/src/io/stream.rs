//! The two traits that every byte stream has.

use std::{
    io::{self, IoSlice, IoSliceMut},
    rc::Rc,
};

use crate::trap::{Trap, ask, breathe};

/// What bytes can be read from.
///
/// Two methods make a stream: one that tries, and one that names the trap to wait in. The rest is
/// built from them.
// The futures belong to one kernel and one thread, so nobody could ask them to be `Send`.
#[allow(async_fn_in_trait)]
pub trait Read {
    /// Reads what is there, up to the buffer's length, without waiting; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there yet; else the stream's.
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// As [`try_read`](Read::try_read), into several buffers; by default into the first that is
    /// not empty.
    ///
    /// # Errors
    /// As [`try_read`](Read::try_read).
    fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let first = bufs.iter_mut().find(|buf| !buf.is_empty());
        self.try_read(first.map_or(&mut [], |buf| buf))
    }

    /// What to wait in, after `WouldBlock`, before trying again.
    fn when_readable(&self) -> Trap;

    /// Reads what is there, up to the buffer's length; waits until something is. 0 is the end.
    ///
    /// # Cancellation
    /// Safe: nothing has been read if it is dropped or comes back with an error.
    ///
    /// # Errors
    /// The stream's, and cancellation and timeouts (see [`Error::in_io`](crate::Error::in_io)).
    async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ask(self.when_readable()).await?
                }
                result => return result,
            }
        }
    }

    /// As [`read`](Read::read), into several buffers.
    async fn read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_read_vectored(bufs) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ask(self.when_readable()).await?
                }
                result => return result,
            }
        }
    }

    /// Fills the buffer.
    ///
    /// # Cancellation
    /// Not safe in the middle: what was read so far is in the buffer, but not how much.
    /// [`BufReader::read_exact`](crate::io::BufReader::read_exact) is safe.
    ///
    /// # Errors
    /// As [`read`](Read::read); `UnexpectedEof` if the stream ends before the buffer is full.
    async fn read_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read(buf).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => buf = &mut buf[n..],
            }
        }
        Ok(())
    }
}

/// What bytes can be written to.
///
/// Two methods make a stream, as with [`Read`].
#[allow(async_fn_in_trait)] // as above
pub trait Write {
    /// Writes as much as there is room for, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; else the stream's.
    fn try_write(&self, buf: &[u8]) -> io::Result<usize>;

    /// As [`try_write`](Write::try_write), from several buffers; by default from the first that
    /// is not empty.
    ///
    /// # Errors
    /// As [`try_write`](Write::try_write).
    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.try_write(first.map_or(&[], |buf| buf))
    }

    /// What to wait in, after `WouldBlock`, before trying again.
    fn when_writable(&self) -> Trap;

    /// Closes this way, so that the other side reads the end; reading goes on.
    ///
    /// # Errors
    /// `Unsupported` for streams that can only be closed whole; else the system's.
    fn shutdown_write(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Writes as much as the stream takes at once; waits until that is something.
    ///
    /// # Cancellation
    /// Safe: nothing has been written if it is dropped or comes back with an error.
    ///
    /// # Errors
    /// The stream's, and cancellation and timeouts (see [`Error::in_io`](crate::Error::in_io)).
    async fn write(&self, buf: &[u8]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ask(self.when_writable()).await?
                }
                result => return result,
            }
        }
    }

    /// As [`write`](Write::write), from several buffers.
    async fn write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        breathe().await?;
        loop {
            match self.try_write_vectored(bufs) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ask(self.when_writable()).await?
                }
                result => return result,
            }
        }
    }

    /// Writes the whole buffer.
    ///
    /// # Cancellation
    /// Not safe in the middle: a part may have been written.
    /// [`BufWriter::write_all`](crate::io::BufWriter::write_all) is safe.
    ///
    /// # Errors
    /// As [`write`](Write::write); `WriteZero` if the stream takes nothing more.
    async fn write_all(&self, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write(buf).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => buf = &buf[n..],
            }
        }
        Ok(())
    }
}

macro_rules! through_a_pointer {
    ($pointer:ty, $stream:ident) => {
        impl<$stream: Read + ?Sized> Read for $pointer {
            fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                (**self).try_read(buf)
            }

            fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (**self).try_read_vectored(bufs)
            }

            fn when_readable(&self) -> Trap {
                (**self).when_readable()
            }

            fn read(&self, buf: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
                (**self).read(buf)
            }
        }

        impl<$stream: Write + ?Sized> Write for $pointer {
            fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
                (**self).try_write(buf)
            }

            fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                (**self).try_write_vectored(bufs)
            }

            fn when_writable(&self) -> Trap {
                (**self).when_writable()
            }

            fn shutdown_write(&self) -> io::Result<()> {
                (**self).shutdown_write()
            }
        }
    };
}

through_a_pointer!(&S, S);
through_a_pointer!(Rc<S>, S);

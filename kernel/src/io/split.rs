//! A stream with two owners.

use std::{
    io::{self, IoSlice, IoSliceMut},
    rc::Rc,
};

use super::{Read, Write};
use crate::Trap;

/// Gives the two ways of a stream to two owners, usually two tasks.
///
/// An `Rc` of the stream does as well; the halves add that the other side reads the end when the
/// writing one is dropped. The stream is closed when both are.
pub fn split<S: Read + Write>(stream: S) -> (ReadHalf<S>, WriteHalf<S>) {
    let stream = Rc::new(stream);
    (
        ReadHalf {
            stream: stream.clone(),
        },
        WriteHalf { stream },
    )
}

/// The reading half of a stream; see [`split`].
#[derive(Debug)]
pub struct ReadHalf<S> {
    stream: Rc<S>,
}

/// The writing half of a stream; see [`split`]. Dropping it closes this way of the stream.
#[derive(Debug)]
pub struct WriteHalf<S: Write> {
    stream: Rc<S>,
}

impl<S: Read> Read for ReadHalf<S> {
    fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(buf)
    }

    fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.stream.try_read_vectored(bufs)
    }

    fn when_readable(&self) -> Trap {
        self.stream.when_readable()
    }

    fn read(&self, buf: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        self.stream.read(buf)
    }
}

impl<S: Write> Write for WriteHalf<S> {
    fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.stream.try_write(buf)
    }

    fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.try_write_vectored(bufs)
    }

    fn when_writable(&self) -> Trap {
        self.stream.when_writable()
    }

    fn shutdown_write(&self) -> io::Result<()> {
        self.stream.shutdown_write()
    }
}

impl<S: Write> Drop for WriteHalf<S> {
    fn drop(&mut self) {
        // It fails if the other side is gone, or if the stream can only be closed whole.
        let _ = self.stream.shutdown_write();
    }
}

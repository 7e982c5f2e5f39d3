//! `Read`, `Write` and `Executor` of `hyper::rt`.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use ::hyper::rt;

use super::Polled;
use crate::io::{Read, Write};

impl<S: Read + Unpin> rt::Read for Polled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let buf = cursor.initialize_unfilled();
        let n = ready!(self.poll_reading(cx, |stream| stream.try_read(buf)))?;
        assert!(
            n <= buf.len(),
            "a stream reads no more than there is room for"
        );
        // SAFETY: the next `n` bytes are initialised: all unfilled ones are since
        // `initialize_unfilled`, and the assertion says that `n` of them are there.
        unsafe { cursor.advance(n) };
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> rt::Write for Polled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream| stream.try_write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream| stream.try_write_vectored(bufs))
    }
}

/// Runs hyper's own futures as tasks of the running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executor;

impl<F> rt::Executor<F> for Executor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        crate::spawn(future).name("hyper").detach();
    }
}

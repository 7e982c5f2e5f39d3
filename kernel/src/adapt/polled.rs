//! A stream that is polled.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    io::{Read, Write},
    trap::{Ask, Trap, ask, check, spend},
};

/// A stream for code that polls.
///
/// Cancellation and timeouts come out of it as errors, as everywhere (see
/// [`Error::in_io`](crate::Error::in_io)). A poll that said `Pending` stays registered until the
/// next one in that direction: do not read the stream itself beside it.
#[derive(Debug)]
pub struct Polled<S> {
    // Before the stream, so that they are withdrawn before it goes.
    reading: Option<Ask>,
    writing: Option<Ask>,
    stream: S,
}

impl<S> Polled<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Polled<S> {
        Polled {
            reading: None,
            writing: None,
            stream,
        }
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream. Nothing is buffered here, so nothing is lost.
    pub fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: Read> Polled<S> {
    pub(super) fn poll_reading<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let Polled {
            stream, reading, ..
        } = self;
        poll_until_done(reading, cx, || stream.when_readable(), || read(stream))
    }
}

impl<S: Write> Polled<S> {
    pub(super) fn poll_writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let Polled {
            stream, writing, ..
        } = self;
        poll_until_done(writing, cx, || stream.when_writable(), || write(stream))
    }

    /// Half-closes; a stream that can only be closed whole is, when it is dropped.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self.stream.shutdown_write() {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()), // the other side was quicker
            result => result,
        }
    }
}

/// What an async method says with `.await`: try, else wait in a trap, then try again.
fn poll_until_done<T>(
    waiting: &mut Option<Ask>,
    cx: &mut Context<'_>,
    trap: impl Fn() -> Trap,
    mut operation: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    if waiting.is_none() {
        if !spend() {
            cx.waker().wake_by_ref(); // a stream that is always ready must not starve the rest
            return Poll::Pending;
        }
        check()?;
    }
    loop {
        if let Some(wait) = waiting {
            let answer = ready!(Pin::new(wait).poll(cx));
            *waiting = None;
            answer?;
        }
        match operation() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => *waiting = Some(ask(trap())),
            result => return Poll::Ready(result),
        }
    }
}

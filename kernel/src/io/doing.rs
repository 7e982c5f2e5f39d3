//! Reading and writing as one future: try, wait, try again.
//!
//! Written out, and not as `async fn`s around each other: those keep their arguments twice, and find at each poll
//! anew, one inside the other, how far they had come. Behind a system call, when the processor guesses badly, that
//! costs as much as all the rest.

use std::{
    future::Future,
    io,
    ops::ControlFlow::{self, Break, Continue},
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::Io;
use crate::trap::{Ask, Direction, Yield, ask, check, may_go_on, spend, yield_now};

/// Repeats an operation until it breaks off with a value. When it says `WouldBlock`, readiness is waited for.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Doing<'a, S, F> {
    io: &'a Io<S>,
    direction: Direction,
    operation: F,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The operation is to be tried, if the task may go on.
    Next,
    /// Others run first.
    Yielding(Yield),
    Waiting(Ask),
}

// Nothing in it is ever pinned.
impl<S, F> Unpin for Doing<'_, S, F> {}

impl<'a, S, F> Doing<'a, S, F> {
    pub(crate) fn new(io: &'a Io<S>, direction: Direction, operation: F) -> Self {
        Doing {
            io,
            direction,
            operation,
            stage: Stage::Next,
        }
    }
}

impl<S, F, T> Future for Doing<'_, S, F>
where
    F: FnMut(&Io<S>) -> io::Result<ControlFlow<T>>,
{
    type Output = io::Result<T>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let this = self.get_mut();
        loop {
            let told = match &mut this.stage {
                Stage::Next if may_go_on() => false,
                Stage::Next if spend() => {
                    check()?;
                    false
                }
                Stage::Next => {
                    this.stage = Stage::Yielding(yield_now());
                    continue;
                }
                Stage::Yielding(yielding) => {
                    ready!(Pin::new(yielding).poll(cx))?;
                    spend(); // the operation that goes on now
                    false
                }
                Stage::Waiting(waiting) => {
                    ready!(Pin::new(waiting).poll(cx))?;
                    true
                }
            };
            // Where there is probably nothing left, an event comes first.
            if told || !this.io.is_in_doubt(this.direction) {
                match (this.operation)(this.io) {
                    Ok(Break(value)) => return Poll::Ready(Ok(value)),
                    Ok(Continue(())) => {
                        this.stage = Stage::Next;
                        continue;
                    }
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(e)),
                    Err(_) => {}
                }
            }
            this.stage = Stage::Waiting(ask(this.io.trap(this.direction)));
        }
    }
}

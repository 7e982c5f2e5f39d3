//! A shortcut for operations that seldom have to wait.
//!
//! An `async fn` that may wait carries the code of its waits into everybody who awaits it, or, where
//! that is too much to be inlined, costs a call, a jump by its state and a result that goes through
//! memory: together a third of what a mailbox cost. Here the usual case stands alone, and is inlined;
//! the whole operation stands apart from it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{trap::may_go_on, with::With};

/// Does it at once, if the task may go on and that can be. If not, awaits the whole operation, as if
/// nothing had been tried: one that begins with [`breathe`](crate::trap::breathe), therefore.
///
/// `at_once` gives back what the operation begins with if it cannot be done.
#[inline]
pub(crate) fn shortcut<S, F: Future>(
    start: S,
    at_once: impl FnOnce(S) -> Result<F::Output, S>,
    whole: impl FnOnce(S) -> F,
) -> impl Future<Output = F::Output> {
    With::new(None, Start(Some((start, at_once, whole))))
}

/// What an operation begins with, and the two ways to do it; none once it has begun.
struct Start<S, Q, W>(Option<(S, Q, W)>);

impl<S, F, Q, W> Future for With<Option<F>, Start<S, Q, W>>
where
    F: Future,
    Q: FnOnce(S) -> Result<F::Output, S>,
    W: FnOnce(S) -> F,
{
    type Output = F::Output;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (mut operation, Start(start)) = self.split();
        if let Some((mut start, at_once, whole)) = start.take() {
            if may_go_on() {
                match at_once(start) {
                    Ok(done) => return Poll::Ready(done),
                    Err(same) => start = same,
                }
            }
            operation.set(Some(whole(start)));
        }
        poll_whole(operation, cx)
    }
}

#[cold]
#[inline(never)]
fn poll_whole<F: Future>(operation: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let operation = operation.as_pin_mut();
    operation.expect("it is not polled after its end").poll(cx)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{trap::breathe, yield_now};

    /// Takes what is even at once; the whole operation takes everything, a step later.
    async fn take(number: u32) -> (u32, &'static str) {
        shortcut(
            number,
            |number| match number % 2 {
                0 => Ok((number, "at once")),
                _ => Err(number),
            },
            |number| async move {
                breathe().await.unwrap();
                yield_now().await.unwrap();
                (number, "as a whole")
            },
        )
        .await
    }

    #[test]
    fn what_cannot_be_done_at_once_is_done_as_a_whole() {
        crate::run(async {
            assert_eq!(take(4).await, (4, "at once"));
            assert_eq!(take(5).await, (5, "as a whole"));
        })
        .unwrap();
    }

    #[test]
    fn a_task_that_has_to_breathe_takes_no_shortcut() {
        crate::run(async {
            while crate::trap::spend() {}
            assert_eq!(take(4).await, (4, "as a whole"));
            assert_eq!(take(4).await, (4, "at once"));
        })
        .unwrap();
    }
}

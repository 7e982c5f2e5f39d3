//! Waiting for a task's end, and its result.
//!
//! Usually it is the parent that joins. Then there is a shorter way than a trap: the child notes
//! that its end makes its parent ready (one bit), and the parent's next step finds it ended. No wait
//! stands in the table then, so whoever interrupts the parent has it polled, and it is found here
//! that it was. Under a timeout or shield, with a combinator's waker, or in any other task, the join
//! is a trap like any other.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::{
    error::JoinError,
    kernel::{
        Core,
        task::{JoinHandle, cell::Task},
        wait::Answer,
    },
    trap::{Ask, Trap, ask, check, spend},
};

/// The wait for a task's end and result; see [`JoinHandle::join`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Join<T> {
    handle: Option<JoinHandle<T>>,
    ended: Ended,
}

/// How the end is waited for.
enum Ended {
    /// Not yet.
    New,
    /// By the parent, of which the child knows. The number of the last interruption before that.
    Awaited(u64),
    /// By a trap.
    Asked(Ask),
}

impl<T> Join<T> {
    #[inline]
    pub(crate) fn new(handle: JoinHandle<T>) -> Join<T> {
        Join {
            handle: Some(handle),
            ended: Ended::New,
        }
    }
}

impl<T: 'static> Future for Join<T> {
    type Output = Result<T, JoinError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Join { handle, ended } = &mut *self;
        let task = handle
            .as_ref()
            .expect("not polled after its end")
            .joint
            .task();
        let usual =
            Core::with_undisturbed(|core| core.poll_parent(task, ended, cx.waker())).flatten();
        let answer = match usual {
            Some(answer) => answer,
            None => ended.poll(task, cx),
        };
        let answer = std::task::ready!(answer);
        let handle = handle.take().expect("it was there");
        Poll::Ready(match answer {
            Ok(()) => handle.into_result(),
            Err(error) => Err(JoinError::Interrupted(error)),
        })
    }
}

impl<T> Drop for Join<T> {
    #[inline]
    fn drop(&mut self) {
        if let (Some(handle), Ended::Awaited(_)) = (&self.handle, &self.ended) {
            handle.joint.task().set_awaited(false);
        }
    }
}

impl Core {
    /// The short way, in a task that is undisturbed; nothing, if it is not open.
    #[inline(always)]
    fn poll_parent(&self, child: &Task, ended: &mut Ended, waker: &Waker) -> Option<Poll<Answer>> {
        if !self.is_own_waker(waker) {
            return None;
        }
        if child.has_ended() {
            return match ended {
                Ended::Awaited(_) => Some(Poll::Ready(Ok(()))),
                // After many that need not wait the trap is asked all the same, so that others run.
                Ended::New => self.spend().then_some(Poll::Ready(Ok(()))),
                Ended::Asked(_) => None,
            };
        }
        if matches!(ended, Ended::Asked(_)) || child.record.parent != self.current_id() {
            return None;
        }
        if matches!(ended, Ended::New) {
            child.set_awaited(true);
            *ended = Ended::Awaited(self.interruptions.get());
        }
        Some(Poll::Pending)
    }
}

impl Ended {
    /// The long way.
    #[inline(never)]
    fn poll(&mut self, task: &Task, cx: &mut Context<'_>) -> Poll<Answer> {
        match self {
            Ended::Asked(end) => return Pin::new(end).poll(cx),
            Ended::New if task.has_ended() && spend() => return Poll::Ready(check()),
            Ended::New => {}
            Ended::Awaited(asked) => {
                task.set_awaited(false);
                let told = |core: &Core| core.interruption().or_else(|| core.missed(*asked));
                if let Some(error) = Core::current_ref(told) {
                    return Poll::Ready(Err(error));
                }
                if task.has_ended() {
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let mut end = ask(Trap::Join(task.record.id));
        let polled = Pin::new(&mut end).poll(cx);
        *self = Ended::Asked(end);
        polled
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ended::New => "New",
            Ended::Awaited(_) => "Awaited",
            Ended::Asked(_) => "Asked",
        })
    }
}

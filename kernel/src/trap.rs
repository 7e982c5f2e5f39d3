//! The only door between tasks and the kernel: all that a task can ask for.
//!
//! What has to wait is a [`Trap`]. [`ask`] makes the one leaf future there is: at its first poll it
//! puts the trap in front of the kernel and returns `Pending`; the kernel's loop reads it after the
//! poll, acts, and some time later answers; at its next poll the future finds the answer. What
//! can be answered at once is a function, and the task goes on.
//!
//! Tasks know nothing of the kernel behind the door. Timeouts, `sync`, `net` and `io` use only what
//! is public here, and a test holds them to it; so anybody can build such things.
//!
//! | Curio's trap | here | answered |
//! |---|---|---|
//! | `_sleep` | [`Trap::Sleep`] | when the moment has come |
//! | `_read_wait`, `_write_wait` | [`Trap::Readable`], [`Trap::Writable`] of a [`Registered`] | when it is ready |
//! | `_io_release` | [`Registered::release`], [`Registered::forget`] | at once; ends the waits with [`Error::Closed`] |
//! | `_io_waiting` | [`ps`](crate::ps()) | at once |
//! | `_scheduler_wait` | [`Trap::Wait`] in a [`WaitQueue`] | when it is woken |
//! | `_scheduler_wake` | [`WaitQueue::wake`], [`WaitQueue::fail`] | at once |
//! | `_future_wait` | [`Trap::Bell`] of a [`Bell`](crate::Bell) | when a thread rings it |
//! | (a join is a wait in the task's own line) | [`Trap::Join`] | when the task has ended |
//! | `_spawn` | [`spawn`](crate::spawn) | at once |
//! | `_cancel_task` | [`cancel`](crate::cancel) | at once, or when the task has ended: the asker chooses |
//! | `_get_current` | [`current_task`](crate::current_task) | at once |
//! | `_set_timeout` | [`Scope::after`], [`Scope::at`], [`Scope::set_deadline`] | at once |
//! | `_unset_timeout` | dropping the [`Scope`] | at once |
//! | (a flag of the task) | [`Scope::shield`] | at once |
//! | `_clock` | [`now`], [`after`] | at once |
//! | (`_sleep(0)`) | [`yield_now`] | when all that are ready have run |
//! | `_get_kernel` | [`handle`](crate::handle()), [`is_running`] | at once |
//! | - | [`check`], [`breathe`], [`may_go_on`], [`spend`] | at once: is anything due to me; have I done much without waiting? |
//! | - | [`hold_clock`] | at once |

mod at_once;
mod scope;
mod source;
pub(crate) mod unclaimed;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use crate::{
    error::Error,
    kernel::{
        Core,
        outside::bell::BellId,
        step::Left,
        task::{TaskId, cell::Task},
        wait::{Answer, WaitId, WaitQueue},
    },
};

pub(crate) use self::source::{READ, WRITE};
pub use self::{
    at_once::{
        ClockHold, after, breathe, check, hold_clock, is_running, may_go_on, now, spend, yield_now,
    },
    scope::{Ended, Scope, Verdict},
    source::{Direction, Registered},
};

/// What a task may ask the kernel to wait for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Trap {
    /// Sleep until this moment.
    Sleep(Instant),
    /// Wait until a source is ready to be read.
    Readable(Registered),
    /// Wait until a source is ready to be written.
    Writable(Registered),
    /// Stand in a line until [`WaitQueue::wake`] lets the task go on.
    Wait(WaitQueue),
    /// Wait for the end of a task.
    Join(TaskId),
    /// Wait until another thread rings the bell of this key ([`Bell::key`](crate::Bell::key)).
    Bell(BellKey),
}

/// Names a [`Bell`](crate::Bell), as long as that exists; to other kernels than its own there is none
/// of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BellKey(pub(crate) BellId);

/// Puts a trap in front of the kernel; the future gives the kernel's answer.
///
/// # Cancellation
/// Dropping the future withdraws the trap. A wait that was granted already is undone by whoever
/// built a primitive on it: see [`Ask::was_granted`]. So is one that was granted and came back with a
/// cancellation or timeout all the same, because that came before its part of the task had a turn.
///
/// # Errors
/// Cancellation and timeouts, at once if one is due; [`Error::Busy`] if another task waits for
/// the same source in the same direction; [`Error::OneSelf`] for a task that joins itself;
/// [`Error::OtherRun`] for a source of another kernel, and if the wait began in an earlier run, which
/// did not grant it.
///
/// # Panics
/// When polled outside a running kernel.
#[inline]
pub fn ask(trap: Trap) -> Ask {
    let state = State::New(trap);
    Ask { state }
}

/// Lets every task that is ready now run first; see [`yield_now`].
///
/// It needs no entry in the table of waits: being polled again is its answer.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Yield {
    /// The number of the last interruption before it was asked; 0 until then.
    asked: u64,
}

impl Yield {
    #[inline]
    pub(crate) fn new() -> Yield {
        Yield { asked: 0 }
    }
}

impl Future for Yield {
    type Output = Result<(), Error>;

    /// The usual way is a few instructions, and inlined; `ask_again` is the rest.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.asked == 0 {
            let asked = Core::with_undisturbed(|core| {
                core.is_own_waker(cx.waker()).then(|| {
                    core.left.add(Left::AGAIN);
                    core.interruptions.get()
                })
            });
            if let Some(Some(asked)) = asked {
                self.asked = asked;
                return Poll::Pending;
            }
        } else if Core::with_undisturbed(|_| ()).is_some() {
            return Poll::Ready(Ok(()));
        }
        self.ask_again(cx)
    }
}

impl Yield {
    #[cold]
    #[inline(never)]
    fn ask_again(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Core::current_ref(|core| {
            let before = std::mem::replace(&mut self.asked, core.interruptions.get());
            match (core.interruption(), before) {
                (Some(error), _) => Poll::Ready(Err(error)),
                (None, 0) => {
                    core.wake_yielded(cx.waker());
                    Poll::Pending
                }
                (None, before) => Poll::Ready(core.missed(before).map_or(Ok(()), Err)),
            }
        })
    }
}

/// The leaf future: a trap, then its answer. Made by [`ask`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Ask {
    state: State,
}

#[derive(Debug)]
enum State {
    New(Trap),
    /// The wait's index, and the run of the kernel in which it was made.
    Waiting(WaitId, u32),
    /// It was answered, and came back with an interruption all the same: if it was granted, that is still
    /// in the table, for whoever drops this to pass on.
    Missed(WaitId, u32),
    Done,
}

// Nothing in it is ever pinned.
impl Unpin for Ask {}

impl Future for Ask {
    type Output = Result<(), Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Core::with_current(
            #[inline(always)]
            |core| core.poll_ask(&mut self.state, cx.waker()),
        )
        .expect(
            "a trap was polled outside a running kernel: only tasks of `kernel::run` may wait here",
        )
    }
}

impl Ask {
    /// True if the kernel has answered with success and nobody has taken the answer: it was not polled
    /// since, or came back with an interruption instead, because there was one before it was polled.
    ///
    /// For the `Drop` of primitives: what was handed to a waiter that no longer wants it (a
    /// permit, a lock) goes to the next in line.
    pub fn was_granted(&self) -> bool {
        let (State::Waiting(id, run) | State::Missed(id, run)) = self.state else {
            return false;
        };
        Core::with_current(|core| {
            let own = core.run_number() == run;
            own.then(|| core.waits.borrow().get(id).answer() == Some(Ok(())))
        })
        .flatten()
        .unwrap_or_else(|| unclaimed::is_kept(run, id))
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if let State::Waiting(id, run) | State::Missed(id, run) = self.state {
            let own = Core::with_current(|core| {
                let own = core.run_number() == run;
                own.then(|| core.withdraw(id))
            });
            // The table of a run that is over has forgotten it already.
            if own.flatten().is_none() {
                unclaimed::claim(run, id);
            }
        }
    }
}

impl Core {
    #[inline(always)]
    fn poll_ask(&self, state: &mut State, waker: &Waker) -> Poll<Answer> {
        let polled = match state {
            State::New(_) => match self.interruption() {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    self.request(state, waker);
                    return Poll::Pending;
                }
            },
            State::Waiting(id, run) if *run == self.run_number() => {
                if let Some(error) = self.missed_by(*id) {
                    *state = State::Missed(*id, *run);
                    return Poll::Ready(Err(error));
                }
                self.look(*id, waker)
            }
            State::Waiting(id, run) => Poll::Ready(match unclaimed::claim(*run, *id) {
                true => Ok(()),
                false => Err(Error::OtherRun),
            }),
            State::Missed(..) | State::Done => panic!("a trap's future was polled after its end"),
        };
        if polled.is_ready() {
            *state = State::Done;
        }
        polled
    }

    /// Puts a request in front of the door, for the loop to read after this poll.
    #[inline(never)]
    fn request(&self, state: &mut State, waker: &Waker) {
        let State::New(trap) = state else {
            unreachable!("only a new trap is requested");
        };
        let id = self.with_current_task(|task| {
            let mut waits = self.waits.borrow_mut();
            waits.insert(trap, task, self.scope.get())
        });
        *state = State::Waiting(id, self.run_number());
        let mut door = self.door.borrow_mut();
        self.waits.borrow().get(id).set_place_at_door(door.len());
        door.push(id);
        drop(door);
        self.left.add(Left::REQUESTS);
        if !self.is_own_waker(waker) {
            self.change_waker(id, waker);
        }
    }

    /// What a wait comes back with that was answered before an interruption and is polled after it: its
    /// part of the task had no turn between the two. One that was moved here since was not interrupted.
    #[inline]
    fn missed_by(&self, id: WaitId) -> Option<Error> {
        match self.is_undisturbed() {
            true => None,
            false => self.look_for_missed(id),
        }
    }

    #[inline(never)]
    fn look_for_missed(&self, id: WaitId) -> Option<Error> {
        let answered_at = {
            let waits = self.waits.borrow();
            let wait = waits.get(id);
            let here = |task: &Task| wait.was_answered_in(task, self.scope.get());
            let answered_at = wait.answer().map(|_| wait.answered_at())?;
            let missed = answered_at != self.interruptions.get() && self.with_current_task(here);
            missed.then_some(answered_at)
        };
        self.missed(answered_at?)
    }

    /// Who yields is polled again: at once as far as a set of futures is concerned, which then stops when
    /// a few have yielded. Where every part has to have its turn in this step, only after it.
    fn wake_yielded(&self, waker: &Waker) {
        match self.is_late() {
            true if self.is_own_waker(waker) => self.left.add(Left::ROUSED),
            true => self.wake_later(waker.clone()),
            false => waker.wake_by_ref(),
        }
    }

    /// The answer, if it is there. If not, notes who is to be woken: the polling task or a
    /// combinator's own waker may have changed since the last poll.
    #[inline(never)]
    fn look(&self, id: WaitId, waker: &Waker) -> Poll<Answer> {
        let answer = self.waits.borrow().get(id).answer();
        match answer {
            Some(answer) => {
                self.forget_wait(id);
                Poll::Ready(answer)
            }
            None => {
                self.note_waker(id, waker);
                self.adopt(id);
                Poll::Pending
            }
        }
    }

    /// Notes a combinator's own waker for a wait; our own needs no note.
    #[inline]
    fn note_waker(&self, id: WaitId, waker: &Waker) {
        if !self.is_own_waker(waker) || !self.waits.borrow().get(id).is_plain() {
            self.change_waker(id, waker);
        }
    }

    #[cold]
    fn change_waker(&self, id: WaitId, waker: &Waker) {
        if self.is_own_waker(waker) {
            let old = self.waits.borrow_mut().set_waker(id, None);
            drop(old);
        } else if !self.waits.borrow().has_waker(id, waker) {
            let new = waker.clone();
            let old = self.waits.borrow_mut().set_waker(id, Some(new));
            drop(old);
        }
    }
}

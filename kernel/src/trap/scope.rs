//! Set timeout, unset timeout, shield: a scope around the future that is polled in it.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{error::Error, kernel::Core};

/// A timeout, or a shield, around whatever is polled in it.
///
/// [`timeout_after`](crate::timeout_after), [`ignore_after`](crate::ignore_after) and
/// [`shield`](crate::shield) are built of this, and so can others be. A scope stands in the one
/// in which it is polled. When its deadline passes, the waits below it come back with an error;
/// what the future makes of it is in [`Ended`]. Dropped, it is closed: a timeout is unset, and what
/// a shield held off is due at the next trap.
///
/// # Examples
/// A timeout that says only whether there was time enough:
/// ```
/// use std::{future::{Future, poll_fn}, pin::pin, time::Duration};
/// use kernel::trap::{Ended, Scope};
///
/// async fn in_time<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
///     let (mut future, mut scope) = (pin!(future), Scope::after(limit));
///     match poll_fn(|cx| scope.poll(future.as_mut(), cx)).await {
///         Ended::Value(value, None) => Some(value),
///         _ => None,
///     }
/// }
///
/// kernel::sim::Sim::new(1).run(async {
///     let second = Duration::from_secs(1);
///     assert_eq!(in_time(second * 2, kernel::sleep(second)).await, Some(Ok(())));
///     assert_eq!(in_time(second, kernel::sleep(second * 2)).await, None);
/// });
/// ```
#[derive(Debug)]
#[must_use = "a scope that is dropped is closed"]
pub struct Scope {
    id: u32,
    run: u32,
    /// It belongs to this thread: runs are numbered by each for itself.
    _here: PhantomData<*const ()>,
}

/// Whose deadline was told to something that waited in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// That of the scope itself.
    Mine,
    /// That of a scope further out.
    Outer,
}

impl Verdict {
    /// What a timeout comes back with for it.
    pub fn error(self) -> Error {
        match self {
            Verdict::Mine => Error::TaskTimeout,
            Verdict::Outer => Error::TimeoutCancellation,
        }
    }
}

/// How a future in a [`Scope`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// With a value; and whose deadline was told to something in it before, if one was.
    Value(T, Option<Verdict>),
    /// Not at all, and it is to be dropped: after this deadline it waits in no trap where it could be
    /// told, or was told and has used up the time to clean up.
    GivenUp(Verdict),
}

impl Scope {
    /// Sets a timeout that passes after this time: never before, and if it is 100 milliseconds or
    /// longer, up to 1.05 milliseconds later, for the clock need not be read then each time. A
    /// manual clock is exact.
    ///
    /// # Panics
    /// Outside a task.
    #[inline]
    pub fn after(duration: Duration) -> Scope {
        Core::current_ref(|core| {
            let scope = Scope::open(core, Some(core.end_of_timeout(duration)));
            if duration.is_zero() {
                core.let_pass(scope.id);
            }
            scope
        })
    }

    /// Sets a timeout that passes at this moment on the kernel's clock. One that has passed is told
    /// to whatever waits, or yields, at the end of the first poll.
    ///
    /// # Panics
    /// Outside a task.
    #[inline]
    pub fn at(deadline: Instant) -> Scope {
        Core::current_ref(|core| {
            let passed = deadline <= core.clock.now();
            let deadline = core.timers.borrow().ns(deadline);
            let scope = Scope::open(core, Some(deadline));
            if passed {
                core.let_pass(scope.id);
            }
            scope
        })
    }

    /// Holds cancellations and timeouts from further out off whatever is polled in it.
    ///
    /// # Panics
    /// Outside a task.
    pub fn shield() -> Scope {
        Core::current_ref(|core| Scope::open(core, None))
    }

    #[inline]
    fn open(core: &Core, deadline: Option<u64>) -> Scope {
        Scope {
            id: core.open_scope(deadline),
            run: core.run_number(),
            _here: PhantomData,
        }
    }

    /// Moves the deadline; without one, the scope has none until one is set again. Gives false, and
    /// does nothing, if it has passed and was told to what is below, or if this is a shield.
    ///
    /// # Panics
    /// Outside the run of the kernel in which the scope was opened.
    ///
    /// # Examples
    /// A timeout for silence: each sign of life moves it.
    /// ```
    /// use std::{future::poll_fn, pin::pin, time::Duration};
    /// use kernel::{Error, sleep, trap::{Ended, Scope, now}};
    ///
    /// const PATIENCE: Duration = Duration::from_secs(2);
    /// kernel::sim::Sim::new(1).run(async {
    ///     let mut talk = pin!(async {
    ///         for word in 1..=3 {
    ///             sleep(Duration::from_millis(900 * word)).await?;
    ///         }
    ///         Ok(())
    ///     });
    ///     let mut scope = Scope::after(PATIENCE);
    ///     let ended = poll_fn(|cx| {
    ///         scope.set_deadline(Some(now() + PATIENCE));
    ///         scope.poll(talk.as_mut(), cx)
    ///     });
    ///     // 0.9 and 1.8 seconds were no longer than two, 2.7 were.
    ///     assert!(matches!(ended.await, Ended::Value(Err(Error::TaskTimeout), Some(_))));
    ///     assert!(!scope.set_deadline(None), "it has passed");
    /// });
    /// ```
    pub fn set_deadline(&mut self, deadline: Option<Instant>) -> bool {
        Core::current_ref(|core| {
            self.refuse_other_run(core);
            core.move_deadline(self.id, deadline)
        })
    }

    fn refuse_other_run(&self, core: &Core) {
        assert!(
            core.run_number() == self.run,
            "this scope is of another run"
        );
    }

    /// Polls a future inside the scope; always the same one, until it has ended.
    ///
    /// # Panics
    /// Outside the run of the kernel in which the scope was opened.
    #[inline]
    pub fn poll<F: Future + ?Sized>(
        &mut self,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Ended<F::Output>> {
        Core::current_ref(|core| {
            self.refuse_other_run(core);
            core.adopt_scope(self.id);
            let polled = {
                let _inside = Inside::enter(core, self.id);
                future.poll(cx)
            };
            match polled {
                Poll::Ready(value) => {
                    let verdict = core.scopes.borrow().verdict(self.id);
                    Poll::Ready(Ended::Value(value, verdict))
                }
                Poll::Pending => match self.give_up(core, cx.waker()) {
                    None => Poll::Pending,
                    Some(verdict) => Poll::Ready(Ended::GivenUp(verdict)),
                },
            }
        })
    }

    /// The future is pending: is it to be given up? If not, notes who polls it, so that it can be
    /// polled when it is.
    #[inline]
    fn give_up(&self, core: &Core, waker: &Waker) -> Option<Verdict> {
        match core.is_own_waker(waker) {
            true => self.forget_waker(core),
            false => self.note_waker(core, waker),
        }
        if !core.scopes.borrow().has_passed(self.id) || core.expire_late(self.id, waker) {
            return None; // what is below comes first
        }
        core.scopes.borrow_mut().give_up(self.id)
    }

    /// A combinator may have polled it before.
    #[inline]
    fn forget_waker(&self, core: &Core) {
        let known = core.scopes.borrow_mut().take_waker(self.id);
        drop(known);
    }

    /// Clones and drops wakers, which may run foreign code, where nothing is borrowed.
    #[cold]
    fn note_waker(&self, core: &Core, waker: &Waker) {
        let known = core.scopes.borrow_mut().take_waker(self.id);
        let noted = match known {
            Some(known) if known.will_wake(waker) => known,
            _ => waker.clone(),
        };
        core.scopes.borrow_mut().set_waker(self.id, noted);
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        Core::with_current(|core| {
            if core.run_number() == self.run {
                core.close_scope(self.id);
            }
        });
    }
}

/// Makes a scope the current one until dropped, also by a panic.
struct Inside<'a> {
    core: &'a Core,
    before: u32,
}

impl Inside<'_> {
    #[inline]
    fn enter(core: &Core, scope: u32) -> Inside<'_> {
        let before = core.scope.replace(scope);
        core.note_disturbance();
        Inside { core, before }
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.core.scope.set(self.before);
        self.core.note_disturbance();
    }
}

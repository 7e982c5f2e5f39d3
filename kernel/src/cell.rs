//! Where a task's future lives, and afterwards its result: one allocation for both.
//!
//! The first of the crate's small unsafe modules. The kernel holds the cell as [`Runnable`], the
//! join handle holds the same cell as [`Joinable<T>`], and neither knows the future's type.

use std::{
    cell::{Cell, UnsafeCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::error::JoinError;

enum Stage<F: Future> {
    Future(F),
    Done(Result<F::Output, JoinError>),
    Empty,
}

/// A task's future, then its result.
pub(crate) struct TaskCell<F: Future> {
    /// True while the stage is borrowed by one of the methods below.
    busy: Cell<bool>,
    stage: UnsafeCell<Stage<F>>,
}

/// What the kernel's loop does with a task.
pub(crate) trait Runnable {
    /// Runs one step; keeps the result if it was the last. The future may panic.
    fn step(&self, cx: &mut Context<'_>) -> Poll<()>;
    /// Drops the future and keeps this error as the result. The future's drop may panic.
    fn end(&self, error: JoinError);
}

/// What a join handle does with a task.
pub(crate) trait Joinable<T> {
    /// Takes the result out, if the task has ended and nobody took it yet.
    fn take(&self) -> Option<Result<T, JoinError>>;
    /// True if the task has ended and its result is still there.
    fn has_result(&self) -> bool;
}

impl<F: Future> TaskCell<F> {
    pub(crate) fn new(future: F) -> Rc<TaskCell<F>> {
        Rc::new(TaskCell {
            busy: Cell::new(false),
            stage: UnsafeCell::new(Stage::Future(future)),
        })
    }

    /// Runs `f` on the stage, refusing to be entered twice.
    fn with<R>(&self, f: impl FnOnce(&mut Stage<F>) -> R) -> R {
        struct Release<'a>(&'a Cell<bool>);
        impl Drop for Release<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        assert!(
            !self.busy.replace(true),
            "a task's cell is never entered twice"
        );
        let _release = Release(&self.busy);
        // SAFETY: the cell is !Sync, `busy` was false and is true until `_release` is dropped, and
        // every access to `stage` goes through here: this is the only reference to it.
        f(unsafe { &mut *self.stage.get() })
    }
}

impl<F: Future> Runnable for TaskCell<F> {
    fn step(&self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.with(|stage| match stage {
            // SAFETY: the cell is made inside an `Rc` and never moves out of it; `Stage::Future`
            // is only ever overwritten in place, which drops the future where it stands.
            Stage::Future(future) => unsafe { Pin::new_unchecked(future) }.poll(cx),
            _ => unreachable!("the kernel runs no task that has ended"),
        });
        let Poll::Ready(value) = polled else {
            return Poll::Pending;
        };
        // The value is stored after the future is gone, so a panic of its drop leaves `Empty`.
        self.with(|stage| *stage = Stage::Empty);
        self.with(|stage| *stage = Stage::Done(Ok(value)));
        Poll::Ready(())
    }

    fn end(&self, error: JoinError) {
        let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.with(|stage| *stage = Stage::Empty)
        }));
        let result = match dropped {
            Ok(()) => Err(error),
            Err(payload) => Err(JoinError::Panicked(payload)),
        };
        self.with(|stage| *stage = Stage::Done(result));
    }
}

impl<F: Future> Joinable<F::Output> for TaskCell<F> {
    fn take(&self) -> Option<Result<F::Output, JoinError>> {
        if self.busy.get() {
            return None; // asked from inside the task's own step
        }
        self.with(|stage| match stage {
            Stage::Done(_) => match std::mem::replace(stage, Stage::Empty) {
                Stage::Done(result) => Some(result),
                _ => unreachable!("it was Done a moment ago"),
            },
            _ => None,
        })
    }

    fn has_result(&self) -> bool {
        !self.busy.get() && self.with(|stage| matches!(stage, Stage::Done(_)))
    }
}

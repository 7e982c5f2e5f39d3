//! Which task is being polled: how a leaf knows for whom it asks.
//!
//! The task is not counted here, which would be two writes a step, but borrowed from those who keep it
//! alive. One of the crate's small unsafe modules.

use std::{
    ptr::{NonNull, null_mut},
    sync::atomic::Ordering::Relaxed,
};

use crate::{
    across::AtomicPtr,
    kernel::{
        Core,
        task::{
            TaskId,
            cell::{Header, Task},
        },
    },
};

/// The task being polled, if one is. Other threads, to which foreign code may hand the lent waker, may
/// ask for its id.
pub(crate) struct Current(AtomicPtr<Header>);

impl Current {
    pub(crate) fn none() -> Current {
        Current(AtomicPtr::new(null_mut()))
    }

    /// # Safety
    /// The task is counted elsewhere until another is set, or `clear` is called.
    #[inline]
    pub(crate) unsafe fn set(&self, task: &Task) {
        self.0.store(task.cell().as_ptr(), Relaxed);
    }

    #[inline]
    pub(crate) fn clear(&self) {
        self.0.store(null_mut(), Relaxed);
    }

    /// Its id: for any thread.
    #[inline]
    pub(crate) fn id(&self) -> Option<TaskId> {
        let cell = NonNull::new(self.0.load(Relaxed))?;
        // SAFETY: it is alive, as `set` was promised, and nobody ever changes an id.
        Some(unsafe { (&raw const (*cell.as_ptr()).record.id).read() })
    }

    /// Shows the task.
    ///
    /// # Safety
    /// This is the thread of the task's kernel, and `look` neither sets another nor ends a step.
    #[inline]
    unsafe fn look<R>(&self, look: impl FnOnce(Option<&Task>) -> R) -> R {
        // SAFETY: it came from `cell`, and is alive, as `set` was promised; the rest is the caller's word.
        let task = NonNull::new(self.0.load(Relaxed)).map(|cell| unsafe { Task::uncounted(cell) });
        look(task.as_deref())
    }
}

impl Core {
    pub(crate) fn current_id(&self) -> Option<TaskId> {
        self.lent.current.id()
    }

    /// Shows the task that is being polled, if one is. Not for code that turns the loop.
    #[inline]
    pub(crate) fn look_at_current<R>(&self, look: impl FnOnce(Option<&Task>) -> R) -> R {
        // SAFETY: a core stays on its thread. Only the loop sets the current task and ends its step, and
        // that is not turned from within: `Running` refuses a run within a run.
        unsafe { self.lent.current.look(look) }
    }

    #[inline]
    pub(crate) fn is_current(&self, task: &Task) -> bool {
        self.look_at_current(|current| current.is_some_and(|current| current.is(task)))
    }

    /// The task that is being polled.
    #[inline]
    pub(crate) fn with_current_task<R>(&self, f: impl FnOnce(&Task) -> R) -> R {
        self.look_at_current(|current| {
            f(current.expect("traps are for tasks: this was polled outside of one"))
        })
    }

    /// As [`with_current_task`](Core::with_current_task), to keep.
    #[inline]
    pub(crate) fn current_task(&self) -> Task {
        self.with_current_task(Task::clone)
    }
}

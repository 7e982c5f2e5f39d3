//! Wakers: one that is lent for the length of a poll, and a real one made when it is cloned.
//!
//! Our own leaves need no waker: the kernel knows which task it polls. The waker in the
//! [`Context`](std::task::Context) is there for futures of the ecosystem. Lending it costs
//! nothing (no allocation, no reference count); the moment foreign code clones it, a real,
//! thread-safe one is made, which owns all that it touches. It is kept in the task and lent from
//! then on, so that `will_wake` says yes and nobody clones twice.

use std::{
    mem::ManuallyDrop,
    sync::{Arc, atomic::Ordering},
    task::{RawWaker, RawWakerVTable, Wake, Waker},
};

use crate::{
    across::AtomicU64,
    kernel::{
        Core,
        outside::{Flag, Note, Shared},
        task::{TaskId, current::Current},
    },
};

/// What the lent waker points to. Lives in the kernel; all of it may be read by any thread,
/// because foreign code may hand `&Waker` to another thread during the poll.
pub(crate) struct Lent {
    pub(crate) shared: Arc<Shared>,
    /// The task being polled.
    pub(crate) current: Current,
    /// The last that another thread woke through this, and whose note is in the list.
    pub(crate) noted: AtomicU64,
}

/// The real waker's own data.
pub(crate) struct TaskWaker {
    shared: Arc<Shared>,
    pub(crate) task: TaskId,
    pub(crate) noted: Flag,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !wake_here(&self.shared, self.task) && self.noted.raise() {
            self.shared.note(Note::Wake(self.clone()));
        }
    }
}

/// On the kernel's own thread the task is simply made ready. False elsewhere.
fn wake_here(shared: &Arc<Shared>, task: TaskId) -> bool {
    let here = Core::with_current(|core| {
        let ours = Arc::ptr_eq(&core.shared, shared);
        if ours {
            core.make_ready_if_alive(task);
        }
        ours
    });
    here == Some(true)
}

static LENT: RawWakerVTable = RawWakerVTable::new(lent_clone, lent_wake, lent_wake, lent_drop);

impl Lent {
    /// By what the waker is known.
    #[inline]
    pub(crate) fn data(&self) -> *const () {
        (self as *const Lent).cast()
    }

    fn task(&self) -> TaskId {
        self.current.id().expect("what is lent is used in a poll")
    }

    /// This task's note was read: the next wake is noted again.
    pub(crate) fn lower(&self, task: TaskId) {
        // Nobody else writes now: nothing is being polled, so nothing is lent.
        if self.noted.load(Ordering::Acquire) == task.to_bits() {
            self.noted.store(0, Ordering::Relaxed);
        }
    }

    /// The waker to lend for one poll. `self` must outlive every use of it; it is never dropped.
    pub(crate) fn waker(&self) -> ManuallyDrop<Waker> {
        let data = self.data();
        // SAFETY: the vtable's functions ask only that the data points to a live `Lent`, which
        // the caller's borrow of the kernel guarantees for the length of the poll; a waker that
        // is to live longer must be cloned, and the clone points elsewhere.
        ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(data, &LENT)) })
    }
}

unsafe fn lent_clone(data: *const ()) -> RawWaker {
    // SAFETY: `data` came from `Lent::waker`, and the lent waker is in use, so it is alive.
    let lent = unsafe { &*data.cast::<Lent>() };
    let task = lent.task();
    let make = || {
        Waker::from(Arc::new(TaskWaker {
            shared: lent.shared.clone(),
            task,
            noted: Flag::default(),
        }))
    };
    let kept = Core::with_current(|core| match Arc::ptr_eq(&core.shared, &lent.shared) {
        true => core.keep_waker(task, make),
        false => None,
    });
    // On another thread, or for a task that is gone, it is kept by nobody.
    let real = kept.flatten().unwrap_or_else(make);
    let real = ManuallyDrop::new(real);
    RawWaker::new(real.data(), real.vtable())
}

unsafe fn lent_wake(data: *const ()) {
    // SAFETY: as in `lent_clone`.
    let lent = unsafe { &*data.cast::<Lent>() };
    let task = lent.task();
    let bits = task.to_bits();
    if !wake_here(&lent.shared, task) && lent.noted.swap(bits, Ordering::AcqRel) != bits {
        lent.shared.note(Note::Lent(task));
    }
}

unsafe fn lent_drop(_: *const ()) {}

//! A step: one poll of one task, and what it leaves to be done.
//!
//! The usual step is a few dozen instructions, so this is written for the processor: whatever is rare
//! stands apart, behind one look for all of it. One of the crate's small unsafe modules: this is the one
//! place where tasks are polled, and they are one at a time.

use std::{
    cell::{Cell, OnceCell},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    error::{JoinError, Panic},
    kernel::{
        Core,
        clock::{Clock, soon::Stretch},
        task::{Cancellation, cell::Task},
    },
};

/// Steps in one turn before deadlines and I/O are looked at again, on a manual clock. (On a real one it is
/// the time that counts.)
const STEPS_PER_TURN: u32 = 1024;
/// Steps between two looks at the time; see `TURN_TIME`.
const STEPS_PER_LOOK: u32 = 64;
/// A turn that has taken this long ends at the next look, on a real clock.
const TURN_TIME: Duration = Duration::from_micros(100);
/// Operations that a task may do in one step without waiting.
pub(crate) const OPERATIONS_PER_STEP: u32 = 128;
/// How far ahead in the ready queue the processor fetches tasks.
const PREFETCHED: usize = 5;

impl Core {
    /// Runs ready tasks in their order, up to the bounds that keep deadlines and I/O on time.
    ///
    /// One `catch_unwind` stands around all the steps of a turn instead of around each: whose
    /// panic it was is known all the same, for the task is still the current one.
    pub(crate) fn run_ready(&self) {
        let steps = Steps {
            timed: matches!(self.clock, Clock::Real),
            trusted: self.soon.is_some(),
            looks: Cell::new(0),
            time: OnceCell::new(),
        };
        let plain = self.watch.is_none() && !self.ready.borrow().is_drawn();
        let run = || match plain {
            true => self.run_steps::<true>(&steps),
            false => self.run_steps::<false>(&steps),
        };
        while let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
            let Some(task) = self.look_at_current(|task| task.cloned()) else {
                resume_unwind(payload); // not in a task: a waker's, or the kernel's own
            };
            self.end_unusual(&task);
            self.close_last_step(&task);
            self.finish(&task, JoinError::Panicked(Panic::new(payload)));
        }
    }

    /// `PLAIN` if nobody looks on, and no dice draw the next: what every step would ask otherwise.
    #[inline(never)]
    fn run_steps<const PLAIN: bool>(&self, steps: &Steps) {
        let lent = self.lent.waker();
        let mut context = Context::from_waker(&lent);
        while !steps.are_over() {
            for _ in 0..STEPS_PER_LOOK {
                let Some(task) = self.next_ready::<PLAIN>() else {
                    return self.lent.current.clear();
                };
                self.step::<PLAIN>(task, &mut context);
                if !std::ptr::eq(context.waker(), &*lent) {
                    context = Context::from_waker(&lent); // the task has put another there
                }
            }
            self.lent.current.clear();
        }
    }

    #[inline]
    fn next_ready<const PLAIN: bool>(&self) -> Option<Task> {
        let mut ready = self.ready.borrow_mut();
        if !PLAIN {
            ready.draw();
        }
        let task = ready.pop()?;
        if let Some(later) = ready.peek(PREFETCHED) {
            later.prefetch();
        }
        Some(task)
    }

    /// Polls one task, then reads what it asked for. In the usual case the task stays the current one
    /// until the next is.
    #[inline(always)]
    fn step<const PLAIN: bool>(&self, task: Task, context: &mut Context<'_>) {
        // SAFETY: it is counted here, and, until it has ended, in the table of tasks. Once it has, nothing
        // here returns before it is the current one no more.
        unsafe { self.lent.current.set(&task) };
        if !task.is_usual() || !PLAIN && self.watch.is_some() {
            return self.step_unusual(task);
        }
        // SAFETY: it is parked. Nothing that runs in its poll polls or ends a task: the loop does, and is
        // not turned from within.
        let polled = unsafe { task.poll(context) };
        if polled.is_ready() {
            return self.end_last_step(task);
        }
        match self.left.0.get() {
            Left::NOTHING => task.leave_queue(),
            Left::AGAIN => {
                self.left.clear();
                self.ready.borrow_mut().push(task);
            }
            _ => self.end_step(task),
        }
    }

    #[inline]
    fn end_last_step(&self, task: Task) {
        self.close_last_step(&task);
        self.retire(&task);
    }

    /// The step is over, and the task will not run again.
    #[inline]
    fn close_last_step(&self, task: &Task) {
        self.left.take(Left::AGAIN | Left::ROUSED | Left::WATCHED);
        self.close_step(task);
    }

    /// Acts on what the task asked for, which goes on, and runs again if it was made ready.
    #[inline(never)]
    fn end_step(&self, task: Task) {
        let again = self.left.take(Left::AGAIN | Left::ROUSED);
        self.close_step(&task);
        if let (true, Some(watch)) = (self.left.take(Left::WATCHED), &self.watch) {
            watch.suspended(&task);
        }
        if again {
            self.make_ready(task);
        }
    }

    /// The step is over: acts on what was asked for in it.
    #[inline]
    fn close_step(&self, task: &Task) {
        self.lent.current.clear();
        if self.left.take(Left::SPENT) {
            self.operations.set(OPERATIONS_PER_STEP);
        }
        task.leave_queue();
        self.read_door();
        self.wake_foreign();
    }

    /// The step of a task that was cancelled, or has a waker of its own, or is watched. Not if it has
    /// ended, or is among the dying.
    #[cold]
    #[inline(never)]
    fn step_unusual(&self, task: Task) {
        let cancellation = task.cancellation();
        if !task.is_parked() || cancellation == Cancellation::Hard && !task.record.is_shielded() {
            task.leave_queue();
            return self.lent.current.clear();
        }
        self.cancelled
            .set(cancellation == Cancellation::Delivered || task.is_untold());
        self.note_disturbance();
        if let Some(watch) = &self.watch {
            self.left.add(Left::WATCHED);
            watch.running(&task);
        }
        let polled = self.poll_with_its_waker(&task);
        self.end_unusual(&task);
        if polled.is_ready() {
            return self.end_last_step(task);
        }
        match task.cancellation() {
            Cancellation::Pending => self.deliver_if_late(&task),
            Cancellation::Hard => self.dying.borrow_mut().push(task.clone()),
            Cancellation::None | Cancellation::Delivered => {}
        }
        self.end_step(task);
    }

    /// True while the current task may go on without waiting; see `OPERATIONS_PER_STEP`.
    #[inline]
    pub(crate) fn spend(&self) -> bool {
        self.left.add(Left::SPENT); // also if there were none left: the next step has them again
        let left = self.operations.get().checked_sub(1);
        left.map(|left| self.operations.set(left)).is_some()
    }

    /// What a poll that was not as usual has changed, and the next finds as usual again.
    fn end_unusual(&self, task: &Task) {
        self.lent_data.set(self.lent.data());
        self.cancelled.set(false);
        self.note_disturbance();
        if let Some(watch) = &self.watch {
            watch.leave(task);
        }
    }

    /// Polls with the task's real waker if it has one, else with the one that is lent.
    fn poll_with_its_waker(&self, task: &Task) -> Poll<()> {
        match task.record.rare().and_then(|rare| rare.waker.get()) {
            // SAFETY: as in `step`.
            None => unsafe { task.poll(&mut Context::from_waker(&self.lent.waker())) },
            Some(kept) => {
                self.lent_data.set(kept.data());
                // SAFETY: as in `step`.
                unsafe { task.poll(&mut Context::from_waker(kept)) }
            }
        }
    }
}

/// What a step leaves for the loop to do: one look says that there is nothing, as there usually is.
#[derive(Default)]
pub(crate) struct Left(Cell<u8>);

impl Left {
    const NOTHING: u8 = 0;
    /// Somebody stands at the door.
    pub(crate) const REQUESTS: u8 = 1;
    /// Wakers of combinators are to be called.
    pub(crate) const WAKERS: u8 = 2;
    /// The task goes to the end of the ready queue: it yielded, or was woken meanwhile.
    pub(crate) const AGAIN: u8 = 4;
    /// The same, but by a wait of its own that was answered, or by a yield while it waits to be told of an
    /// interruption: neither is a reason to tell it later.
    pub(crate) const ROUSED: u8 = 8;
    /// Somebody looks on.
    const WATCHED: u8 = 16;
    /// Operations were done without waiting, or asked for: the next step may do as many as any.
    const SPENT: u8 = 32;

    #[inline]
    pub(crate) fn add(&self, what: u8) {
        self.0.set(self.0.get() | what);
    }

    #[inline]
    pub(crate) fn has(&self, what: u8) -> bool {
        self.0.get() & what != 0
    }

    /// Nothing is left.
    #[inline]
    pub(crate) fn clear(&self) {
        self.0.set(Left::NOTHING);
    }

    /// True if this was left; it is not any more.
    #[inline]
    pub(crate) fn take(&self, what: u8) -> bool {
        let left = self.0.get();
        let found = left & what != 0;
        if found {
            self.0.set(left & !what);
        }
        found
    }
}

/// How far a turn has come.
struct Steps {
    /// Whether the turn is bounded in time; not on a manual clock, where one seed has to give one run.
    timed: bool,
    /// Whether the processor's counter is to be believed.
    trusted: bool,
    looks: Cell<u32>,
    time: OnceCell<Stretch>,
}

impl Steps {
    /// Called every `STEPS_PER_LOOK` steps: true when deadlines and I/O have to be looked at.
    fn are_over(&self) -> bool {
        let looks = self.looks.get();
        self.looks.set(looks + 1);
        if looks == 0 {
            return false; // an idle kernel wakes for a step or two: not worth a look at the clock
        }
        let time = || Stretch::begin(TURN_TIME, self.trusted);
        match self.timed {
            true => self.time.get_or_init(time).is_over(),
            false => looks * STEPS_PER_LOOK >= STEPS_PER_TURN,
        }
    }
}

//! Answering waits, withdrawing them, and letting lines of tasks go on.

use std::task::Waker;

use crate::{
    error::Error,
    kernel::Core,
    wait::{Answer, NONE, Undo, WaitId, WaitQueue},
};

impl Core {
    /// Takes a wait out of wherever it stands.
    pub(crate) fn undo(&self, wait: WaitId, undo: Undo) {
        match undo {
            Undo::Requested => self.take_from_door(wait),
            Undo::Timer(timer) => self.timers.borrow_mut().cancel(timer),
            Undo::Source(source, direction) => source.waiter[direction].set(NONE),
            Undo::Queue(queue) => self.waits.borrow_mut().leave_line(&queue, wait),
            Undo::Joiner(task) => {
                let mut tasks = self.tasks.borrow_mut();
                self.waits
                    .borrow_mut()
                    .dequeue(&mut tasks[task as usize].joiners, wait);
            }
            Undo::Bell(bell) => {
                if let Some(state) = self.bells.borrow().get(bell as usize) {
                    state.waiter.set(NONE);
                }
            }
            Undo::Answered(_) => {}
        }
    }

    /// A leaf was dropped in the same poll in which it asked.
    pub(crate) fn take_from_door(&self, wait: WaitId) {
        match self.slot.take() {
            Some((id, _)) if id == wait => {}
            other => {
                self.slot.set(other);
                self.spill.borrow_mut().retain(|(id, _)| *id != wait);
            }
        }
    }

    /// Answers a wait whose cause is gone already: the timer fired, the line was left, the
    /// readiness taken.
    pub(crate) fn answer(&self, wait: WaitId, answer: Answer) {
        let (task, waker) = {
            let mut waits = self.waits.borrow_mut();
            waits.set_undo(wait, Undo::Answered(answer));
            let task = waits.get(wait).task;
            self.with_wait_list(task, |head| waits.leave_task(wait, head));
            (task, waits.take_waker(wait))
        };
        match waker {
            Some(waker) => self.to_wake.borrow_mut().push(waker),
            None => self.make_ready(task),
        }
    }

    /// Calls the wakers of combinators whose waits were answered. Kept for a moment at which
    /// nothing is borrowed or half done: waking may run any code.
    pub(crate) fn wake_foreign(&self) {
        if !self.to_wake.borrow().is_empty() {
            self.to_wake.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Answers a wait before its cause has come: cancellation and timeouts.
    pub(crate) fn interrupt(&self, wait: WaitId, error: Error) {
        let undo = self
            .waits
            .borrow_mut()
            .set_undo(wait, Undo::Answered(Ok(())));
        self.undo(wait, undo);
        self.answer(wait, Err(error));
    }

    /// A leaf was dropped before it took its answer.
    pub(crate) fn withdraw(&self, wait: WaitId) {
        let undo = self
            .waits
            .borrow_mut()
            .set_undo(wait, Undo::Answered(Ok(())));
        if !matches!(undo, Undo::Answered(_)) {
            self.undo(wait, undo);
            let mut waits = self.waits.borrow_mut();
            let task = waits.get(wait).task;
            self.with_wait_list(task, |head| waits.leave_task(wait, head));
        }
        self.forget_wait(wait);
    }

    /// Removes a wait that stands nowhere any more.
    pub(crate) fn forget_wait(&self, wait: WaitId) {
        let waker = {
            let mut waits = self.waits.borrow_mut();
            let waker = waits.take_waker(wait);
            waits.remove(wait);
            waker
        };
        drop(waker);
    }

    /// The head of a task's list of waits; of none, for a wait whose task has ended.
    pub(crate) fn with_wait_list<R>(&self, task: u32, f: impl FnOnce(&mut WaitId) -> R) -> R {
        match self.tasks.borrow_mut().get_mut(task as usize) {
            Some(task) => f(&mut task.waits),
            None => f(&mut { NONE }),
        }
    }

    pub(crate) fn new_wait(&self) -> WaitId {
        let task = self.current_index();
        let scope = self.scope.get();
        self.with_wait_list(task, |head| {
            self.waits.borrow_mut().insert(task, head, scope)
        })
    }

    /// A wait was found in this task's poll: it belongs here now, and into this scope.
    pub(crate) fn adopt(&self, wait: WaitId) {
        let (task, scope) = (self.current_index(), self.scope.get());
        let mut waits = self.waits.borrow_mut();
        if waits.get(wait).scope != scope {
            waits.set_scope(wait, scope);
        }
        let before = waits.get(wait).task;
        if before != task {
            self.with_wait_list(before, |head| waits.leave_task(wait, head));
            self.with_wait_list(task, |head| waits.enter_task(wait, task, head));
        }
    }
}

impl WaitQueue {
    /// Lets up to `count` tasks go on, the longest waiting first. Gives how many there were.
    pub fn wake(&self, count: usize) -> usize {
        self.end(count, Ok(()))
    }

    /// Lets all tasks in line come back with this error. Gives how many there were.
    pub fn fail(&self, error: Error) -> usize {
        self.end(usize::MAX, Err(error))
    }

    /// True if a task waits that asked in this or an earlier step.
    pub fn has_waiters(&self) -> bool {
        Core::with_current(|core| core.read_door());
        !self.is_empty()
    }

    fn end(&self, count: usize, answer: Answer) -> usize {
        Core::with_current(|core| {
            // A wait asked for in this same step (by another branch of a `join!`) counts.
            core.read_door();
            let mut woken = 0;
            while woken < count && !self.is_empty() {
                let wait = self.first();
                core.waits.borrow_mut().leave_line(self, wait);
                core.answer(wait, answer);
                woken += 1;
            }
            woken
        })
        .unwrap_or(0)
    }
}

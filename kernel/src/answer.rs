//! Answering waits, withdrawing them, and letting lines of tasks go on.

use std::task::Waker;

use crate::{
    cell::Task,
    error::Error,
    kernel::Core,
    reactor::{READ, WRITE},
    turn::Left,
    wait::{Answer, NONE, Undo, WaitId, WaitQueue},
};

impl Core {
    /// Takes a wait out of wherever it stands.
    pub(crate) fn undo(&self, wait: WaitId, undo: Undo) {
        match undo {
            Undo::Requested => self.take_from_door(wait),
            Undo::Timer(timer) => self.timers.borrow_mut().cancel(timer),
            Undo::Reader(source) => source.waiter[READ].set(NONE),
            Undo::Writer(source) => source.waiter[WRITE].set(NONE),
            Undo::Queue(queue) => self.waits.borrow_mut().leave_line(&queue, wait),
            Undo::Joiner(task) => {
                let joiners = &task.record.joiners;
                self.waits.borrow_mut().dequeue(joiners, wait);
            }
            Undo::Bell(bell) => {
                if let Some(state) = self.bells.borrow().get(bell as usize) {
                    state.waiter.set(NONE);
                }
            }
            Undo::Answered(_) | Undo::Free => {}
        }
    }

    /// A leaf was dropped in the same poll in which it asked.
    pub(crate) fn take_from_door(&self, wait: WaitId) {
        let mut slot = self.slot.borrow_mut();
        match &*slot {
            Some((id, _)) if *id == wait => *slot = None,
            _ => {
                self.spill.borrow_mut().retain(|(id, _)| *id != wait);
            }
        }
    }

    /// Answers a wait whose cause is gone already: the timer fired, the line was left, the
    /// readiness taken.
    pub(crate) fn answer(&self, wait: WaitId, answer: Answer) {
        let task = self.waits.borrow_mut().answer(wait, answer);
        if self.waits.borrow().get(wait).is_plain() {
            if let Some(task) = task {
                self.make_ready(task);
            }
        } else if let Some(waker) = self.waits.borrow_mut().take_waker(wait) {
            self.wake_later(waker);
        }
    }

    /// Has a waker called as soon as nothing is borrowed.
    pub(crate) fn wake_later(&self, waker: Waker) {
        self.to_wake.borrow_mut().push(waker);
        self.left.add(Left::WAKERS);
    }

    /// Calls the wakers of combinators whose waits were answered. Kept for a moment at which
    /// nothing is borrowed or half done: waking may run any code.
    pub(crate) fn wake_foreign(&self) {
        if self.left.take(Left::WAKERS) {
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
            let task = self.waits.borrow_mut().leave_task(wait);
            drop(task);
        }
        self.forget_wait(wait);
    }

    /// Removes a wait that stands nowhere any more.
    pub(crate) fn forget_wait(&self, wait: WaitId) {
        let waker = self.waits.borrow_mut().forget(wait);
        drop(waker);
    }

    /// A task has ended; a leaf may have been moved out of it. Its wait has no task now.
    pub(crate) fn disown_waits(&self, task: &Task) {
        while task.record.waits.get() != NONE {
            let left = self.waits.borrow_mut().leave_task(task.record.waits.get());
            drop(left);
        }
    }

    /// A wait was found in this task's poll: it belongs here now, and into this scope.
    pub(crate) fn adopt(&self, wait: WaitId) {
        let scope = self.scope.get();
        let (mut waits, current) = (self.waits.borrow_mut(), self.current.borrow());
        if waits.get(wait).scope != scope {
            waits.set_scope(wait, scope);
        }
        let (before, now) = (&waits.get(wait).task, &*current);
        let same = matches!((before, now), (Some(before), Some(now)) if before.is(now));
        if let (false, Some(now)) = (same, now) {
            let _before = waits.leave_task(wait);
            waits.enter_task(wait, now.clone());
        }
    }
}

impl WaitQueue {
    /// Lets up to `count` tasks go on, the longest waiting first. Gives how many there were.
    #[inline]
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

    #[inline]
    fn end(&self, count: usize, answer: Answer) -> usize {
        Core::with_current(|core| {
            // A wait asked for in this same step (by another branch of a `join!`) counts.
            core.read_door();
            match self.is_empty() {
                true => 0,
                false => core.end_line(self, count, answer),
            }
        })
        .unwrap_or(0)
    }
}

impl Core {
    /// Answers up to `count` waits of a line; gives how many there were.
    fn end_line(&self, line: &WaitQueue, count: usize, answer: Answer) -> usize {
        let mut ended = 0;
        while ended < count {
            let first = self.waits.borrow_mut().first_of_line(line);
            let Some(wait) = first else {
                break;
            };
            self.answer(wait, answer);
            ended += 1;
        }
        ended
    }
}

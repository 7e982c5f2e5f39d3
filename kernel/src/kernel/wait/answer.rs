//! Answering waits, withdrawing them, and letting lines of tasks go on.

use std::task::Waker;

use crate::{
    error::{Error, contain},
    kernel::{
        Core,
        outside::bell::{BellId, find_bell},
        reactor::{READ, WRITE},
        step::Left,
        task::cell::Task,
        wait::{Answer, NONE, Stage, WaitId, WaitQueue},
    },
    trap::Trap,
};

impl Core {
    /// Takes a wait out of wherever it stands.
    fn undo(&self, id: WaitId) {
        let waits = self.waits.borrow();
        let wait = waits.get(id);
        match (wait.stage.get(), &wait.trap) {
            (Stage::Answered(_) | Stage::Free, _) => {}
            // Its leaf was dropped, or told of a timeout, in the poll in which it asked.
            (Stage::Requested, trap) => {
                self.leave_door(wait.place_at_door());
                if let Trap::Readable(source) = trap {
                    self.reactor.end_doubt(&source.0);
                }
            }
            (Stage::Suspended, Trap::Sleep(_)) => self.timers.borrow_mut().cancel(wait.timer()),
            (Stage::Suspended, Trap::Readable(source)) => {
                source.0.waiter[READ].set(NONE);
                self.reactor.end_doubt(&source.0);
            }
            (Stage::Suspended, Trap::Writable(source)) => source.0.waiter[WRITE].set(NONE),
            (Stage::Suspended, Trap::Wait(queue)) => waits.dequeue(queue.first(), id),
            (Stage::Suspended, Trap::Join(task)) => {
                if let Some(task) = self.tasks.borrow().get(*task) {
                    waits.dequeue(&task.record.joiners, id);
                }
            }
            (Stage::Suspended, Trap::Bell(bell)) => {
                if let Some(state) = find_bell(&self.bells.borrow(), *bell) {
                    state.waiter.set(NONE);
                }
            }
        }
    }

    /// Leaves a gap that `read_door` skips: the others keep their places.
    fn leave_door(&self, place: usize) {
        let mut door = self.door.borrow_mut();
        door[place] = NONE;
        while door.last() == Some(&NONE) {
            door.pop();
        }
    }

    /// Answers a wait whose cause is gone already: the timer fired, the line was left, the
    /// readiness taken.
    #[inline]
    pub(crate) fn answer(&self, wait: WaitId, answer: Answer) {
        let after = self.interruptions.get();
        let task = self.waits.borrow_mut().answer(wait, answer, after);
        if self.waits.borrow().get(wait).is_plain() {
            if let Some(task) = task {
                self.make_ready_answered(task);
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
    #[inline]
    pub(crate) fn wake_foreign(&self) {
        if self.left.take(Left::WAKERS) {
            self.wake_all_foreign();
        }
    }

    #[cold]
    fn wake_all_foreign(&self) {
        for waker in self.to_wake.take() {
            contain("a waker", || waker.wake());
        }
    }

    /// Answers a wait before its cause has come: cancellation and timeouts.
    pub(crate) fn interrupt(&self, wait: WaitId, error: Error) {
        self.undo(wait);
        self.answer(wait, Err(error));
    }

    /// A leaf was dropped before it took its answer.
    pub(crate) fn withdraw(&self, wait: WaitId) {
        self.undo(wait);
        let task = self.waits.borrow_mut().leave_task(wait);
        drop(task);
        if let Some(bell) = self.rung_for(wait) {
            self.ring(bell); // heard by nobody
        }
        self.forget_wait(wait);
    }

    /// The bell whose ring answered this wait, if one did.
    #[inline]
    pub(crate) fn rung_for(&self, wait: WaitId) -> Option<BellId> {
        let waits = self.waits.borrow();
        let wait = waits.get(wait);
        match (wait.stage.get(), &wait.trap) {
            (Stage::Answered(Ok(())), Trap::Bell(bell)) => Some(bell.0),
            _ => None,
        }
    }

    /// Removes a wait that stands nowhere any more.
    #[inline]
    pub(crate) fn forget_wait(&self, wait: WaitId) {
        let left = self.waits.borrow_mut().forget(wait);
        drop(left);
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
        let mut waits = self.waits.borrow_mut();
        if waits.get(wait).scope != scope {
            waits.set_scope(wait, scope);
        }
        self.look_at_current(|now| {
            let before = &waits.get(wait).task;
            let same = matches!((before, now), (Some(before), Some(now)) if before.is(now));
            if let (false, Some(now)) = (same, now) {
                let _before = waits.leave_task(wait);
                waits.enter_task(wait, now.clone());
            }
        });
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

    /// How many tasks wait that asked in this or an earlier step. Walks along the line.
    pub fn count_waiters(&self) -> usize {
        Core::with_current(|core| {
            core.read_door();
            core.waits.borrow().count_line(self.first())
        })
        .unwrap_or(0)
    }

    #[inline]
    fn end(&self, count: usize, answer: Answer) -> usize {
        Core::with_current(
            #[inline(always)]
            |core| {
                // A wait asked for in this same step (by another branch of a `join!`) counts.
                core.read_door();
                match self.is_empty() {
                    true => 0,
                    false => core.end_line(self, count, answer),
                }
            },
        )
        .unwrap_or(0)
    }
}

impl Core {
    /// Answers up to `count` waits of a line; gives how many there were.
    #[inline(never)]
    fn end_line(&self, line: &WaitQueue, count: usize, answer: Answer) -> usize {
        let mut ended = 0;
        while ended < count {
            let first = self.waits.borrow().shift(line.first());
            let Some(wait) = first else {
                break;
            };
            self.answer(wait, answer);
            ended += 1;
        }
        ended
    }
}

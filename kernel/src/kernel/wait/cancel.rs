//! Cancellation and timeouts, as the kernel delivers them.
//!
//! Both come as errors at a trap: to all the waits that are pending, or, if the task is about to run,
//! will be after that; else to the next trap. A cancellation knows the task, a timeout the scope; a
//! shield on the way stops either.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use crate::{
    error::Error,
    kernel::{
        Core, Due,
        clock::timer::nanoseconds,
        ps::line_of,
        step::Left,
        task::{Cancellation, cell::Task},
        wait::{NONE, WaitId, scope::STEPS_TO_BE_TOLD},
    },
};

/// A timeout of this length or more, in nanoseconds, may pass late by a hundredth; see `soon.rs`.
const LONG_NS: u64 = 100_000_000;

impl Core {
    /// What a trap has to come back with instead of waiting, if anything.
    #[inline(always)]
    pub(crate) fn interruption(&self) -> Option<Error> {
        match self.is_undisturbed() {
            true => None,
            false => self.look_for_interruption(),
        }
    }

    fn look_for_interruption(&self) -> Option<Error> {
        let scope = self.scope.get();
        if self.cancelled.get() && !self.scopes.borrow().is_shielded(scope) {
            let task = self.current_task();
            if task.is_untold() && !task.record.is_late() {
                return Some(self.tell_cancelled(&task, scope));
            }
        }
        match scope {
            NONE => None,
            _ => {
                let mut scopes = self.scopes.borrow_mut();
                let error = scopes.deliver(scope)?;
                scopes.settle(scope);
                Some(error)
            }
        }
    }

    /// A part of a task that stands in this scope is told of the cancellation.
    fn tell_cancelled(&self, task: &Task, scope: u32) -> Error {
        match task.cancellation() {
            Cancellation::Hard => task.record.make_rare().untold.set(false),
            _ => task.set_cancellation(Cancellation::Delivered),
        }
        self.switch_timeouts_off(scope);
        Error::Cancelled
    }

    /// What somebody has to be told who yielded, or was answered, after the interruption of number `asked`,
    /// because another has come since. (Waits are found and answered; who yields stands in no table.)
    pub(crate) fn missed(&self, asked: u64) -> Option<Error> {
        if self.interruptions.get() == asked {
            return None;
        }
        let scope = self.scope.get();
        if self.cancelled.get() && !self.scopes.borrow().is_shielded(scope) {
            let task = self.current_task();
            if task.record.make_rare().told_at.get() > asked {
                return Some(self.tell_cancelled(&task, scope));
            }
        }
        let mut scopes = self.scopes.borrow_mut();
        let error = scopes.deliver_missed(scope, asked)?;
        scopes.settle(scope);
        Some(error)
    }

    /// True if whoever polls here is told at the end of the poll, and not before.
    pub(crate) fn is_late(&self) -> bool {
        let (scope, scopes) = (self.scope.get(), self.scopes.borrow());
        scopes.is_any_late(scope) || self.is_task_late() && !scopes.is_shielded(scope)
    }

    fn is_task_late(&self) -> bool {
        self.cancelled.get() && self.with_current_task(|task| task.record.is_late())
    }

    fn next_interruption(&self) -> u64 {
        let number = self.interruptions.get() + 1;
        self.interruptions.set(number);
        number
    }

    /// True if this task will run, or may find answers when it does: then a part of it that was
    /// answered, or never waits, would not be among its waits, and miss what these are told now.
    fn is_about_to_run(&self, task: &Task) -> bool {
        task.is_queued() || !self.to_wake.borrow().is_empty()
    }

    /// False if a task tries to cancel itself.
    pub(crate) fn cancel_task(&self, task: &Task) -> bool {
        if self.current_id() == Some(task.record.id) {
            return false;
        }
        match task.cancellation() {
            _ if task.has_ended() => {}
            Cancellation::None => {
                let end = after(self.clock.now(), self.cleanup_budget);
                let due = Due::Budget(task.record.id.index() as u32);
                let timer = self.timers.borrow_mut().arm(end, due);
                task.record.make_rare().budget.set(Some(timer));
                task.set_cancellation(Cancellation::Pending);
                if self.is_about_to_run(task) {
                    task.record.make_rare().late.set(STEPS_TO_BE_TOLD);
                    self.make_ready(task.clone());
                } else {
                    self.deliver_cancellation(task);
                }
            }
            Cancellation::Pending | Cancellation::Delivered => self.cancel_hard(task),
            Cancellation::Hard => {}
        }
        true
    }

    /// The step is over before which the task was cancelled. A set of futures that wakes itself in it may
    /// have left out parts that have not begun: then it is told after another step.
    pub(crate) fn deliver_if_late(&self, task: &Task) {
        let late = &task.record.make_rare().late;
        match late.get() {
            0 => {}
            steps if steps > 1 && self.left.has(Left::AGAIN) => late.set(steps - 1),
            _ => {
                late.set(0);
                self.deliver_cancellation(task);
            }
        }
    }

    /// Answers every wait of the task that stands under no shield, and has it polled for those joins
    /// that stand in no table.
    fn deliver_cancellation(&self, task: &Task) {
        let number = self.next_interruption();
        task.record.make_rare().told_at.set(number);
        for wait in self.waits_of(task) {
            let scope = self.waits.borrow().get(wait).scope;
            if !self.scopes.borrow().is_shielded(scope) {
                let error = self.tell_cancelled(task, scope);
                self.interrupt(wait, error);
            }
        }
        self.make_ready(task.clone());
    }

    /// A cancellation has come through these scopes: from now on the cleanup budget is what
    /// bounds the task, and no earlier timeout tears its cleanup apart.
    fn switch_timeouts_off(&self, mut scope: u32) {
        while scope != NONE {
            let (timer, around) = self.scopes.borrow_mut().disarm(scope);
            if let Some(timer) = timer {
                self.timers.borrow_mut().cancel(timer);
            }
            scope = around;
        }
    }

    /// A deadline has passed. If its task is about to run, it expires only after that; true if so.
    pub(crate) fn postpone_expiry(&self, id: u32) -> bool {
        let mut scopes = self.scopes.borrow_mut();
        let late = (scopes.passed_in(id)).is_some_and(|task| self.is_about_to_run(task));
        if late {
            let task = scopes.postpone(id);
            match scopes.take_waker(id) {
                Some(waker) => self.wake_later(waker),
                None => task.into_iter().for_each(|task| self.make_ready(task)),
            }
        }
        late
    }

    /// The deadline of a timeout that was opened now has passed before.
    #[cold]
    pub(crate) fn let_pass(&self, id: u32) {
        self.move_deadline(id, None);
        self.scopes.borrow_mut().postpone(id);
    }

    /// Notes that a deadline, or the budget after it, has passed; gives the task.
    pub(crate) fn expire_scope(&self, id: u32) -> Option<Task> {
        let number = self.next_interruption();
        self.scopes.borrow_mut().expire(id, number)
    }

    /// A scope was polled, and its future is pending. Its deadline may have passed before that: then
    /// whatever waits below it is told now.
    #[cold]
    pub(crate) fn expire_late(&self, id: u32, waker: &Waker) -> bool {
        if !self.scopes.borrow().is_late(id) {
            return false;
        }
        if self.left.has(Left::AGAIN) && self.scopes.borrow_mut().postpone_again(id) {
            if !self.is_own_waker(waker) {
                self.wake_later(waker.clone());
            }
            return true;
        }
        if let Some(task) = self.expire_scope(id) {
            self.deliver_timeouts(&task);
            self.follow_up(id, task, self.clock.now());
        }
        true
    }

    /// Answers the waits of a task to which an expired timeout is due.
    pub(crate) fn deliver_timeouts(&self, task: &Task) {
        let mut scopes_met = Vec::new();
        for wait in self.waits_of(task) {
            let scope = self.waits.borrow().get(wait).scope;
            let due = match scope {
                NONE => None,
                scope => self.scopes.borrow_mut().deliver(scope),
            };
            if let Some(error) = due {
                scopes_met.push(scope);
                self.interrupt(wait, error);
            }
        }
        // Only now: one expiry answers all the waits below it.
        scopes_met
            .into_iter()
            .for_each(|scope| self.scopes.borrow_mut().settle(scope));
    }

    /// After a timeout's expiry was delivered: gives what is below it time to clean up. If that
    /// time is over, or nothing was there to be told, has the future polled, which then gives up.
    pub(crate) fn follow_up(&self, id: u32, task: Task, now: Instant) {
        let mut scopes = self.scopes.borrow_mut();
        if !scopes.is_overdue(id) {
            let end = after(now, self.cleanup_budget);
            let timer = self.timers.borrow_mut().arm(end, Due::Scope(id));
            scopes.set_timer(id, timer);
        }
        if scopes.may_be_given_up(id) {
            match scopes.take_waker(id) {
                Some(waker) => self.wake_later(waker),
                None => self.make_ready(task),
            }
        }
    }

    /// The task's unanswered waits, oldest first.
    fn waits_of(&self, task: &Task) -> Vec<WaitId> {
        let waits = self.waits.borrow();
        let mut all: Vec<WaitId> = waits.of(task).collect();
        all.reverse();
        all
    }

    /// The time for cleaning up is over.
    pub(crate) fn spend_budget(&self, index: u32) {
        let task = self.tasks.borrow().at(index).cloned();
        let task = task.expect("a task that ends cancels its budget");
        task.record.make_rare().budget.set(None);
        if log::log_enabled!(log::Level::Warn) {
            let line = line_of(self, &task);
            let end = match self.is_held(&task) {
                true => " once its shield ends, unless it ends by itself",
                false => "",
            };
            log::warn!(
                "kernel: the cleanup budget of a cancelled task is used up, and it is dropped{end}: {line}"
            );
        }
        self.cancel_hard(&task);
    }

    /// Has a task dropped, unless it is shielded. One that was not told before is after its shield, so that
    /// it does not go on from shield to shield.
    fn cancel_hard(&self, task: &Task) {
        let rare = task.record.make_rare();
        if task.cancellation() == Cancellation::Pending {
            rare.untold.set(true);
        }
        rare.late.set(0);
        task.set_cancellation(Cancellation::Hard);
        self.dying.borrow_mut().push(task.clone());
    }

    /// True if a shield keeps this task from being dropped. One that nothing can wake any more is
    /// kept by none: what is shielded is stuck, or was moved out of it and put aside.
    pub(crate) fn is_held(&self, task: &Task) -> bool {
        task.record.is_shielded() && self.can_be_woken(task)
    }

    fn can_be_woken(&self, task: &Task) -> bool {
        let record = &task.record;
        task.is_queued()
            || record.waits.get() != NONE
            || record.rare().is_some_and(|rare| rare.waker.get().is_some())
            || self.scopes.borrow().has_timer(task)
    }

    /// When a timeout of this length, opened now, passes: in nanoseconds since the timers' base.
    #[inline]
    pub(crate) fn end_of_timeout(&self, length: Duration) -> u64 {
        let length_ns = nanoseconds(length);
        let now = match &self.soon {
            Some(soon) if length_ns >= LONG_NS => soon.get(|| self.now_ns()),
            _ => self.now_ns(),
        };
        now.saturating_add(length_ns)
    }

    fn now_ns(&self) -> u64 {
        self.timers.borrow().ns(self.clock.now())
    }

    /// Opens a scope inside the current one: a timeout with a deadline, in nanoseconds since the
    /// timers' base, or a shield.
    #[inline]
    pub(crate) fn open_scope(&self, deadline: Option<u64>) -> u32 {
        let task = self.current_task();
        if deadline.is_none() {
            open_shield(&task);
        }
        let mut scopes = self.scopes.borrow_mut();
        let id = scopes.open(self.scope.get(), task, deadline.is_none());
        if let Some(deadline) = deadline {
            let timer = (self.timers.borrow_mut()).arm_ns(deadline, Due::Scope(id));
            scopes.set_timer(id, timer);
        }
        id
    }

    /// False if there is none that could be moved: it has passed, or this is a shield.
    pub(crate) fn move_deadline(&self, id: u32, deadline: Option<Instant>) -> bool {
        let Some(old) = self.scopes.borrow_mut().take_timer_to_come(id) else {
            return false;
        };
        let mut timers = self.timers.borrow_mut();
        if let Some(old) = old {
            timers.cancel(old);
        }
        if let Some(deadline) = deadline {
            let timer = timers.arm(deadline, Due::Scope(id));
            self.scopes.borrow_mut().set_timer(id, timer);
        }
        true
    }

    /// A scope is polled: if it was opened elsewhere (its future was moved into another timeout, or
    /// into another task), it stands here from now on.
    #[inline]
    pub(crate) fn adopt_scope(&self, id: u32) {
        self.with_current_task(|task| {
            if !(self.scopes.borrow()).stands_in(id, self.scope.get(), task) {
                self.relocate_scope(id, task.clone());
            }
        });
    }

    #[cold]
    fn relocate_scope(&self, id: u32, task: Task) {
        let mut scopes = self.scopes.borrow_mut();
        let shield = scopes.is_shield(id);
        if shield {
            open_shield(&task);
        }
        let before = scopes.relocate(id, self.scope.get(), task);
        drop(scopes);
        if let (true, Some(before)) = (shield, before) {
            self.close_shield(&before);
        }
    }

    #[inline]
    pub(crate) fn close_scope(&self, id: u32) {
        let mut scopes = self.scopes.borrow_mut();
        let (shield, waker) = (scopes.is_shield(id), scopes.take_waker(id));
        let (task, timer, parent) = scopes.close(id);
        drop(scopes);
        drop(waker); // where nothing is borrowed
        if let Some(timer) = timer {
            self.timers.borrow_mut().cancel(timer);
        }
        let Some(task) = task else {
            return;
        };
        if task.record.waits.get() != NONE {
            self.move_waits_out(&task, id, parent);
        }
        if shield {
            self.close_shield(&task);
        }
    }

    /// A leaf that was moved out of a scope that is closed stands in the one around it from now on.
    fn move_waits_out(&self, task: &Task, of: u32, to: u32) {
        let mut waits = self.waits.borrow_mut();
        let inside = |wait: &WaitId| waits.get(*wait).scope == of;
        let left: Vec<WaitId> = waits.of(task).filter(inside).collect();
        left.into_iter().for_each(|wait| waits.set_scope(wait, to));
    }

    fn close_shield(&self, task: &Task) {
        let shields = &task.record.make_rare().shields;
        shields.set(shields.get() - 1);
        if shields.get() == 0 && task.cancellation() == Cancellation::Hard {
            self.dying.borrow_mut().push(task.clone());
        }
    }
}

fn open_shield(task: &Task) {
    let shields = &task.record.make_rare().shields;
    shields.set(shields.get() + 1);
}

/// `now + duration`; beyond what the clock can name, about a hundred years will do.
pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration)
        .or_else(|| now.checked_add(Duration::from_secs(100 * 365 * 86_400)))
        .unwrap_or(now)
}

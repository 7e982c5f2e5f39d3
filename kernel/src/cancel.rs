//! Cancellation and timeouts, as the kernel delivers them.
//!
//! Both come as errors at a trap: to the waits that are pending now, else to the next trap. A
//! cancellation knows the task, a timeout the scope; a shield on the way stops either.

use std::time::Instant;

use crate::{
    error::Error,
    kernel::{Core, Due},
    task::{Cancellation, TaskId},
    wait::{NONE, WaitId},
};

impl Core {
    /// What a trap has to come back with instead of waiting, if anything.
    #[inline(always)]
    pub(crate) fn interruption(&self) -> Option<Error> {
        match self.cancel_pending.get() || self.scope.get() != NONE {
            true => self.look_for_interruption(),
            false => None,
        }
    }

    fn look_for_interruption(&self) -> Option<Error> {
        let scope = self.scope.get();
        if self.cancel_pending.get() && !self.scopes.borrow().is_shielded(scope) {
            self.cancel_pending.set(false);
            let index = self.current_index();
            self.tasks.borrow_mut()[index as usize].cancellation = Cancellation::Delivered;
            return Some(Error::Cancelled);
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

    /// False if a task tries to cancel itself.
    pub(crate) fn cancel_task(&self, id: TaskId) -> bool {
        if self.current.get() == Some(id) {
            return false;
        }
        if !self.is_alive(id) {
            return true;
        }
        let index = id.index as usize;
        let before = self.tasks.borrow()[index].cancellation;
        match before {
            Cancellation::None => {
                let end = self.clock.now() + self.cleanup_budget;
                let timer = self.timers.borrow_mut().arm(end, Due::Budget(id));
                let mut tasks = self.tasks.borrow_mut();
                tasks[index].cancellation = Cancellation::Pending;
                tasks[index].budget = Some(timer);
                drop(tasks);
                self.deliver_cancellation(id);
            }
            Cancellation::Pending | Cancellation::Delivered => self.cancel_hard(id),
            Cancellation::Hard => {}
        }
        true
    }

    /// Answers every wait of the task that stands under no shield.
    pub(crate) fn deliver_cancellation(&self, id: TaskId) {
        for wait in self.waits_of(id.index) {
            let scope = self.waits.borrow().get(wait).scope;
            if self.scopes.borrow().is_shielded(scope) {
                continue;
            }
            self.tasks.borrow_mut()[id.index as usize].cancellation = Cancellation::Delivered;
            self.interrupt(wait, Error::Cancelled);
        }
    }

    /// Answers the waits of a task to which an expired timeout is due.
    pub(crate) fn deliver_timeouts(&self, task: u32) {
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

    pub(crate) fn waits_of(&self, task: u32) -> Vec<WaitId> {
        let mut all = Vec::new();
        let waits = self.waits.borrow();
        let mut wait = self
            .tasks
            .borrow()
            .get(task as usize)
            .map_or(NONE, |t| t.waits);
        while wait != NONE {
            all.push(wait);
            wait = waits.next_of_task(wait);
        }
        all.reverse(); // oldest first
        all
    }

    /// The time for cleaning up is over.
    pub(crate) fn spend_budget(&self, id: TaskId) {
        if !self.is_alive(id) {
            return;
        }
        self.tasks.borrow_mut()[id.index as usize].budget = None;
        let name = self
            .names
            .borrow()
            .get(&id.index)
            .cloned()
            .unwrap_or_default();
        log::warn!(
            "kernel: task {id} {name} used up its cleanup budget after a cancel and is dropped"
        );
        self.cancel_hard(id);
    }

    pub(crate) fn cancel_hard(&self, id: TaskId) {
        self.tasks.borrow_mut()[id.index as usize].cancellation = Cancellation::Hard;
        self.dying.borrow_mut().push(id);
    }

    /// Opens a scope inside the current one.
    pub(crate) fn open_scope(&self, deadline: Option<Instant>) -> u32 {
        let task = self.current_index();
        let shield = deadline.is_none();
        let id = self
            .scopes
            .borrow_mut()
            .open(self.scope.get(), task, shield);
        if let Some(deadline) = deadline {
            let timer = self.timers.borrow_mut().arm(deadline, Due::Scope(id));
            self.scopes.borrow_mut().set_timer(id, timer);
        } else {
            self.tasks.borrow_mut()[task as usize].shields += 1;
        }
        id
    }

    pub(crate) fn close_scope(&self, id: u32) {
        let scope = self.scopes.borrow_mut().close(id);
        if let Some(timer) = scope.timer() {
            self.timers.borrow_mut().cancel(timer);
        }
        // A leaf that was moved out of the scope stands in the one around it from now on.
        for wait in self.waits_of(scope.task()) {
            let mut waits = self.waits.borrow_mut();
            if waits.get(wait).scope == id {
                waits.set_scope(wait, scope.parent());
            }
        }
        if scope.is_shield() {
            self.close_shield(scope.task());
        }
    }

    pub(crate) fn close_shield(&self, index: u32) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get_mut(index as usize) else {
            return;
        };
        task.shields -= 1;
        if task.shields == 0 && task.cancellation == Cancellation::Hard {
            self.dying.borrow_mut().push(TaskId {
                serial: task.serial,
                index,
            });
        }
    }
}

//! The table of tasks and the ready queue: how a task comes into being, gets its turn, and goes.

use std::{
    any::Any,
    panic::{Location, resume_unwind},
    rc::Rc,
    task::Waker,
};

use crate::{
    cell::Runnable,
    error::JoinError,
    kernel::Core,
    task::{Cancellation, JoinHandle, Task, TaskId, report_panic},
    wait::NONE,
};

impl Core {
    /// The kernel that runs on this thread.
    pub(crate) fn current() -> Rc<Core> {
        Core::current_ref(|core| core.me.upgrade()).expect("a kernel that runs is alive")
    }

    /// Runs `f` on the kernel that runs on this thread.
    #[inline(always)]
    pub(crate) fn current_ref<R>(f: impl FnOnce(&Core) -> R) -> R {
        Core::with_current(f).expect("no kernel runs on this thread: use `kernel::run`")
    }

    pub(crate) fn run_number(&self) -> u32 {
        self.run_number.get()
    }

    pub(crate) fn current_task(&self) -> Option<TaskId> {
        self.current.get()
    }

    #[inline]
    pub(crate) fn current_index(&self) -> u32 {
        self.current
            .get()
            .expect("traps are for tasks: this was polled outside of one")
            .index
    }

    /// True if a leaf polled with this waker is woken by making the current task ready.
    #[inline]
    pub(crate) fn is_own_waker(&self, waker: &Waker) -> bool {
        std::ptr::eq(waker.data(), self.lent_data.get())
    }

    /// A clone of the task's real waker, which is made now if it has none yet.
    pub(crate) fn keep_waker(&self, id: TaskId, make: impl FnOnce() -> Waker) -> Option<Waker> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks
            .get_mut(id.index as usize)
            .filter(|t| t.serial == id.serial)?;
        Some(task.waker.get_or_insert_with(make).clone())
    }

    pub(crate) fn add_task(
        &self,
        cell: Rc<dyn Runnable>,
        site: &'static Location<'static>,
    ) -> TaskId {
        let serial = self.spawned.get().wrapping_add(1);
        self.spawned.set(serial);
        let mut task = Task::new(cell, serial, self.current.get(), site);
        if self.closing.get() {
            task.cancellation = Cancellation::Pending;
        }
        let index = self.tasks.borrow_mut().insert(task) as u32;
        self.make_ready(index);
        TaskId { serial, index }
    }

    pub(crate) fn set_name(&self, id: TaskId, name: &str) {
        if self.is_alive(id) {
            self.tasks.borrow_mut()[id.index as usize].named = true;
            self.names.borrow_mut().insert(id.index, name.to_owned());
        }
    }

    pub(crate) fn is_alive(&self, id: TaskId) -> bool {
        self.tasks
            .borrow()
            .get(id.index as usize)
            .is_some_and(|t| t.serial == id.serial)
    }

    /// Puts a task at the end of the ready queue, if it is not there already.
    #[inline]
    pub(crate) fn make_ready(&self, index: u32) {
        if let Some(task) = self.tasks.borrow_mut().get_mut(index as usize)
            && !std::mem::replace(&mut task.queued, true)
        {
            self.ready.borrow_mut().push_back(TaskId {
                serial: task.serial,
                index,
            });
        }
    }

    pub(crate) fn make_ready_if_alive(&self, id: TaskId) {
        if self.is_alive(id) {
            self.make_ready(id.index);
        }
    }

    /// Removes a task that has ended and answers those who wait for it.
    pub(crate) fn retire(&self, id: TaskId, panic: Option<String>) {
        let task = self.tasks.borrow_mut().remove(id.index as usize);
        if let Some(timer) = task.budget {
            self.timers.borrow_mut().cancel(timer);
        }
        let name = match task.named {
            true => self.names.borrow_mut().remove(&id.index),
            false => None,
        };
        // A leaf may have been moved out of the future that asked; its wait has no task now.
        let mut wait = task.waits;
        while wait != NONE {
            let next = self.waits.borrow().next_of_task(wait);
            self.waits
                .borrow_mut()
                .enter_task(wait, NONE, &mut { NONE });
            wait = next;
        }
        let mut joiners = task.joiners;
        while joiners.first != NONE {
            let joiner = joiners.first;
            self.waits.borrow_mut().dequeue(&mut joiners, joiner);
            self.answer(joiner, Ok(()));
        }
        if let Some(text) = panic
            && Rc::strong_count(&task.cell) == 1
        {
            report_panic(id, name.as_deref(), task.site, &text);
        }
        // Nothing is borrowed here: dropping the result and the waker may run foreign code.
        drop(task);
    }

    /// Drops the futures of tasks that were cancelled hard.
    pub(crate) fn drop_dying(&self) {
        loop {
            let Some(id) = self.dying.borrow_mut().pop() else {
                return;
            };
            let cell = match self.tasks.borrow().get(id.index as usize) {
                Some(task) if task.serial == id.serial && task.shields == 0 => task.cell.clone(),
                _ => continue,
            };
            cell.end(JoinError::Cancelled);
            drop(cell);
            self.retire(id, None);
        }
    }

    /// True while the current task may go on without waiting; see `OPERATIONS_PER_STEP`.
    pub(crate) fn spend(&self) -> bool {
        let left = self.operations.get();
        self.operations.set(left.saturating_sub(1));
        left > 0
    }

    /// `main` has ended: cancels all other tasks and runs until they have ended.
    pub(crate) fn close_down(&self) {
        self.closing.set(true);
        let left: Vec<TaskId> = self
            .tasks
            .borrow()
            .iter()
            .map(|(index, task)| TaskId {
                serial: task.serial,
                index: index as u32,
            })
            .collect();
        if !left.is_empty() {
            log::debug!(
                "kernel: main has ended, cancelling the {} tasks that are left",
                left.len()
            );
        }
        for id in left {
            self.cancel_task(id);
        }
        while !self.tasks.borrow().is_empty() {
            self.turn();
        }
    }

    /// Leaves no trace of this run for the next; gives `main`'s value.
    pub(crate) fn finish_run<T: 'static>(&self, main: JoinHandle<T>) -> T {
        self.ready.borrow_mut().clear();
        let stray = self.waits.borrow().ids();
        stray.into_iter().for_each(|wait| self.withdraw(wait));
        self.names.borrow_mut().clear();
        match main.into_result() {
            Ok(value) => value,
            Err(JoinError::Panicked(payload)) => resume_unwind(payload as Box<dyn Any + Send>),
            Err(error) => panic!("the main task was cancelled: {error}"),
        }
    }
}

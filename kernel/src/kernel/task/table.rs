//! The table of tasks and the ready queue: how a task comes into being, gets its turn, and goes.

use std::{
    future::Future,
    num::NonZeroU32,
    panic::{Location, resume_unwind},
    rc::Rc,
    task::Waker,
};

use crate::{
    error::JoinError,
    kernel::{
        Core,
        step::Left,
        task::{
            JoinHandle, Record, TaskId,
            cell::{Joint, Seat, Task},
            report_panic,
        },
        wait::NONE,
    },
    trap::unclaimed,
};

/// All tasks that have not ended, found by their ids.
pub(crate) struct Tasks {
    seats: Vec<Seat>,
    /// The first of the seats that are free; each has the number of the next. `NONE` is after the last.
    free: u32,
    taken: usize,
    /// So many were spawned, with those of earlier kernels: see [`TaskId`].
    spawned: u32,
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks {
            seats: Vec::new(),
            free: NONE,
            taken: 0,
            spawned: 0,
        }
    }
}

impl Tasks {
    /// Goes on counting from here.
    pub(crate) fn count_from(&mut self, spawned: u32) {
        self.spawned = spawned;
    }

    /// How many were spawned.
    pub(crate) fn count(&self) -> u32 {
        self.spawned
    }

    /// A number for the task that is put next, with the place where it will stand.
    #[inline]
    fn next_id(&mut self) -> TaskId {
        self.spawned = self.spawned.wrapping_add(1).max(1);
        if self.free == NONE {
            self.add_seat();
        }
        let serial = NonZeroU32::new(self.spawned).expect("it is at least 1");
        TaskId::new(serial, self.free)
    }

    #[inline(never)]
    fn add_seat(&mut self) {
        self.free = self.seats.len() as u32;
        self.seats.push(Seat::free(NONE));
    }

    /// Puts the task there that was made with the id of `next_id`.
    #[inline]
    fn put(&mut self, task: Task) {
        let seat = &mut self.seats[task.record.id.index()];
        self.free = seat.sit(task);
        self.taken += 1;
    }

    /// The task, unless it has ended.
    #[inline]
    pub(crate) fn get(&self, id: TaskId) -> Option<&Task> {
        let task = self.seats.get(id.index())?.task()?;
        (task.record.id == id).then_some(task)
    }

    /// Where the task stands.
    pub(crate) fn seat(&self, id: TaskId) -> &Seat {
        &self.seats[id.index()]
    }

    /// The task in this place.
    pub(crate) fn at(&self, index: u32) -> Option<&Task> {
        self.seats.get(index as usize)?.task()
    }

    /// Nothing may be borrowed when what this gives is dropped: that may run foreign code.
    #[must_use]
    #[inline]
    fn remove(&mut self, id: TaskId) -> Option<Task> {
        let task = self.seats[id.index()].leave(self.free)?;
        self.free = id.index() as u32;
        self.taken -= 1;
        Some(task)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.seats.iter().filter_map(Seat::task)
    }

    pub(crate) fn len(&self) -> usize {
        self.taken
    }
}

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

    /// The task with this id, unless it has ended.
    #[inline]
    pub(crate) fn task(&self, id: TaskId) -> Option<Task> {
        self.tasks.borrow().get(id).cloned()
    }

    /// True if a leaf polled with this waker is woken by making the current task ready.
    #[inline]
    pub(crate) fn is_own_waker(&self, waker: &Waker) -> bool {
        std::ptr::eq(waker.data(), self.lent_data.get())
    }

    /// A clone of the task's real waker, which is made now if it has none yet.
    pub(crate) fn keep_waker(&self, id: TaskId, make: impl FnOnce() -> Waker) -> Option<Waker> {
        let task = self.task(id)?;
        task.has_waker();
        Some(task.record.make_rare().waker.get_or_init(make).clone())
    }

    #[inline(always)]
    pub(crate) fn add_task<F: Future + 'static>(
        &self,
        future: F,
        site: &'static Location<'static>,
    ) -> Joint<F::Output> {
        let id = self.tasks.borrow_mut().next_id();
        let record = Record::new(id, self.current_id(), site);
        let joint = Joint::new(future, record, &self.blocks);
        let task = joint.task();
        self.tasks.borrow_mut().put(task.clone());
        self.ready.borrow_mut().push(task.clone());
        if self.closing.get() || self.watch.is_some() {
            self.add_unusual(task);
        }
        joint
    }

    /// What else there is to do with a new task, at some times.
    #[cold]
    fn add_unusual(&self, task: &Task) {
        if self.closing.get() {
            self.cancel_task(task);
        }
        if let Some(watch) = &self.watch {
            watch.created(task, self.clock.now());
        }
    }

    /// Puts a task at the end of the ready queue, if it is not there already. The one whose step runs now
    /// is put there when that is over.
    #[inline]
    pub(crate) fn make_ready(&self, task: Task) {
        self.make_ready_or_leave(task, Left::AGAIN);
    }

    /// The same for one of whose waits was answered.
    #[inline]
    pub(crate) fn make_ready_answered(&self, task: Task) {
        self.make_ready_or_leave(task, Left::ROUSED);
    }

    #[inline(always)]
    fn make_ready_or_leave(&self, task: Task, left: u8) {
        if task.enter_queue() {
            self.ready.borrow_mut().push(task);
        } else if self.is_current(&task) {
            self.left.add(left);
        }
    }

    #[inline(always)]
    pub(crate) fn make_ready_if_alive(&self, id: TaskId) {
        if let Some(task) = self.task(id) {
            self.make_ready(task);
        }
    }

    /// Ends a task that did not end by itself.
    pub(crate) fn finish(&self, task: &Task, error: JoinError) {
        // SAFETY: nothing is being polled when the loop ends a task.
        if let Some(JoinError::Panicked(panic)) = unsafe { task.end(error) } {
            report_panic(&task.record, panic.text());
        }
        self.retire(task);
    }

    /// Removes a task that has ended and answers those who wait for it.
    #[inline]
    pub(crate) fn retire(&self, task: &Task) {
        let record = &task.record;
        let removed = self.tasks.borrow_mut().remove(record.id);
        if record.left_something() || self.watch.is_some() {
            self.retire_unusual(task);
        }
        if let (true, Some(parent)) = (task.is_awaited(), record.parent) {
            self.make_ready_if_alive(parent);
        }
        drop(removed);
    }

    /// What else there is to do with a task that has ended, if it leaves more than a result.
    #[inline(never)]
    fn retire_unusual(&self, task: &Task) {
        let record = &task.record;
        if let Some(timer) = record.rare().and_then(|rare| rare.budget.take()) {
            self.timers.borrow_mut().cancel(timer);
        }
        self.disown_waits(task);
        while record.joiners.get() != NONE {
            let joiner = self.waits.borrow().shift(&record.joiners);
            joiner
                .into_iter()
                .for_each(|wait| self.answer(wait, Ok(())));
        }
        if let Some(watch) = &self.watch {
            watch.terminated(task);
        }
    }

    /// Drops the futures of tasks that were cancelled hard.
    pub(crate) fn drop_dying(&self) {
        loop {
            let Some(task) = self.dying.borrow_mut().pop() else {
                return;
            };
            if task.is_parked() && !self.is_held(&task) {
                if let Some(watch) = &self.watch {
                    watch.enter(&task);
                }
                self.finish(&task, JoinError::Cancelled);
                if let Some(watch) = &self.watch {
                    watch.leave(&task);
                }
            }
        }
    }

    /// Leaves nothing ready and no wait for the next run.
    pub(crate) fn drop_strays(&self) {
        let ready = self.ready.borrow_mut().take();
        drop(ready);
        let stray = self.waits.borrow().ids();
        for wait in stray {
            let granted = self.waits.borrow().get(wait).answer() == Some(Ok(()));
            // A ring is heard by the next instead, as `withdraw` has it.
            if granted && self.rung_for(wait).is_none() {
                unclaimed::keep(self.run_number(), wait);
            }
            self.withdraw(wait);
        }
    }

    /// Leaves no trace of this run for the next; gives `main`'s value.
    pub(crate) fn finish_run<T: 'static>(&self, main: JoinHandle<T>) -> T {
        self.drop_strays();
        match main.into_result() {
            Ok(value) => value,
            Err(JoinError::Panicked(panic)) => resume_unwind(panic.into_payload()),
            Err(error) => panic!("the main task was cancelled: {error}"),
        }
    }
}

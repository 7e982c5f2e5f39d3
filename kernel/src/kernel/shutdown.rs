//! The end of a run: hooks, then whatever is left.

use std::{
    cell::Cell,
    future::Future,
    panic::{AssertUnwindSafe, Location, catch_unwind},
    pin::Pin,
};

use crate::{
    error::{Error, JoinError, contain},
    kernel::{
        Core,
        outside::Call,
        task::{Cancellation, cell::Task, spawn_at},
        watch::Observed,
    },
    time::timeout_after,
};

/// Leftover tasks that are named in the log, one by one.
const NAMED: usize = 10;

/// Turns at the end of a run after which a manual clock goes on though tasks are ready.
const TURNS_PER_JUMP: u32 = 1000;

/// Something to be run after `main` has ended.
pub(crate) struct Hook {
    future: Pin<Box<dyn Future<Output = ()>>>,
    site: &'static Location<'static>,
}

/// Has this run when `main` has ended, also by a panic, while all other tasks still run: to say
/// goodbye to a peer, to write out what is pending.
///
/// Hooks run one after another, the last registered first. Each may take as long as a cleanup
/// ([`Builder::cleanup_budget`](crate::Builder::cleanup_budget)); then its traps come back with
/// [`Error::TaskTimeout`], and the same time later it is dropped. What it panics with is logged.
/// One that is left by a task which cleans up at the end of the run is run after that task has ended.
///
/// # Panics
/// Outside a running kernel.
///
/// # Examples
/// ```
/// let said = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
/// let (first, second) = (said.clone(), said.clone());
/// kernel::run(async move {
///     kernel::at_shutdown(async move { first.borrow_mut().push("lights off") });
///     kernel::at_shutdown(async move { second.borrow_mut().push("everybody out") });
/// }).unwrap();
/// assert_eq!(*said.borrow(), ["everybody out", "lights off"]);
/// ```
#[track_caller]
pub fn at_shutdown(hook: impl Future<Output = ()> + 'static) {
    let hook = Hook {
        future: Box::pin(hook),
        site: Location::caller(),
    };
    Core::current_ref(|core| core.hooks.borrow_mut().push(hook));
}

impl Core {
    /// Runs what `at_shutdown` left, last first.
    fn run_hooks(&self) {
        loop {
            let Some(Hook { future, site }) = self.hooks.borrow_mut().pop() else {
                return;
            };
            let bound = self.cleanup_budget;
            let bounded = timeout_after(bound, async {
                future.await;
                Ok::<(), Error>(())
            });
            let hook = spawn_at(bounded, site).name("shutdown hook");
            self.turn_while(&|| !hook.is_finished());
            match hook.into_result() {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(JoinError::Cancelled | JoinError::Interrupted(_)) => {
                    log::warn!(
                        "kernel: the shutdown hook registered at {site} did not end in time"
                    );
                }
                Err(JoinError::Panicked(panic)) => {
                    log::error!("kernel: the shutdown hook registered at {site} panicked: {panic}");
                }
            }
        }
    }

    /// `main` has ended: whatever is left ends, and whatever other threads said by then is heard: no
    /// turn may have come by since, and who waits for an answer would wait for the next run. It is read
    /// once, for a storm would have more every time; and may leave hooks or tasks in its turn.
    pub(crate) fn close_down(&self) {
        self.refused.set(Some(0));
        self.wind_up();
        self.read_all_notes();
        self.wind_up();
        self.report_refused();
    }

    /// Runs the hooks, then ends what is left; and again, if a task that cleaned up has left a hook.
    fn wind_up(&self) {
        loop {
            self.closing.set(false);
            self.run_hooks();
            self.end_all();
            if self.hooks.borrow().is_empty() {
                return;
            }
        }
    }

    /// A task from another thread is taken up. When `main` has ended it is refused: started, only to be
    /// cancelled at once, it would have a cleanup budget of its own, and the run would end when those
    /// threads get tired. It is not kept for a next run either: a task that cleans up may be waiting for
    /// the very thread that waits for this one.
    pub(crate) fn start_or_refuse(&self, start: Call) {
        match self.refused.get() {
            None => contain("a closure sent to it", start),
            Some(before) => {
                self.refused.set(Some(before.saturating_add(1)));
                contain("the drop of something sent to it", || drop(start));
            }
        }
    }

    fn report_refused(&self) {
        match self.refused.get().unwrap_or(0) {
            0 => {}
            1 => log::warn!(
                "kernel: main had ended before a task from another thread was taken up: it was not started"
            ),
            refused => log::warn!(
                "kernel: main had ended before {refused} tasks from other threads were taken up: they were \
                 not started"
            ),
        }
    }

    /// A panic that was no task's goes through the run: drops every task where it stands, and all
    /// that the next run could take for its own.
    pub(crate) fn abandon(&self) {
        self.closing.set(true);
        while self.tasks.borrow().len() > 0 {
            for task in self.tasks_that(|_| true) {
                // An observer that is told of it may panic once more: one panic is enough.
                let ended = || self.finish(&task, JoinError::Cancelled);
                let _again = catch_unwind(AssertUnwindSafe(ended));
            }
        }
        let foreign = (self.hooks.take(), self.to_wake.take());
        let _again = catch_unwind(AssertUnwindSafe(|| drop(foreign)));
        self.door.borrow_mut().clear();
        self.dying.borrow_mut().clear();
        self.left.clear();
        self.drop_strays();
    }

    /// Cancels all tasks and runs until they have ended, those that serve the others (daemons) last.
    fn end_all(&self) {
        self.closing.set(true);
        let left = self.tasks_that(|task| !task.record.is_daemon());
        report_left(&left);
        self.end_tasks(left);
        self.end_tasks(self.tasks_that(|_| true));
        self.turn_while(&|| self.tasks.borrow().len() > 0);
    }

    fn tasks_that(&self, are: impl Fn(&Task) -> bool) -> Vec<Task> {
        let tasks = self.tasks.borrow();
        tasks.iter().filter(|task| are(task)).cloned().collect()
    }

    /// Those that were cancelled before keep the time for cleaning up that they have left.
    fn end_tasks(&self, tasks: Vec<Task>) {
        for task in &tasks {
            if task.cancellation() == Cancellation::None {
                self.cancel_task(task);
            }
        }
        for task in tasks {
            let turns = Cell::new(0u32);
            self.turn_while(&|| {
                turns.set(turns.get() + 1);
                if turns.get().is_multiple_of(TURNS_PER_JUMP) {
                    self.jump(); // it is never idle, so a manual clock would stand still for ever
                }
                !task.has_ended()
            });
        }
    }
}

/// Nothing outlives a run silently.
fn report_left(left: &[Task]) {
    for task in left.iter().take(NAMED) {
        let task = Observed::new(task);
        log::warn!("kernel: main has ended before {task}, which is cancelled now");
    }
    match left.len().saturating_sub(NAMED) {
        0 => {}
        1 => log::warn!("kernel: main has ended before one more task, which is cancelled now"),
        more => {
            log::warn!("kernel: main has ended before {more} more tasks, which are cancelled now");
        }
    }
}

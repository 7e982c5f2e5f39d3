//! The end of a run: hooks, then whatever is left.

use std::{future::Future, panic::Location, pin::Pin};

use crate::{
    cell::Task,
    error::{Error, JoinError},
    kernel::Core,
    task::spawn_at,
    time::timeout_after,
    watch::Observed,
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
    pub(crate) fn run_hooks(&self) {
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
            while !hook.is_finished() {
                self.turn();
            }
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

    /// `main` has ended: cancels all other tasks and runs until they have ended, those that serve
    /// the others (daemons) last.
    pub(crate) fn close_down(&self) {
        self.closing.set(true);
        let left = self.tasks_that(|task| !task.record.is_daemon());
        report_left(&left);
        self.end_tasks(left);
        self.end_tasks(self.tasks_that(|_| true));
        while self.tasks.borrow().len() > 0 {
            self.turn();
        }
    }

    fn tasks_that(&self, are: impl Fn(&Task) -> bool) -> Vec<Task> {
        let tasks = self.tasks.borrow();
        tasks.iter().filter(|task| are(task)).cloned().collect()
    }

    /// Those that were cancelled before keep the time for cleaning up that they have left.
    fn end_tasks(&self, tasks: Vec<Task>) {
        for task in &tasks {
            if task.cancellation() == crate::task::Cancellation::None {
                self.cancel_task(task);
            }
        }
        for task in tasks {
            let mut turns = 0;
            while !task.has_ended() {
                self.turn();
                turns += 1;
                if turns % TURNS_PER_JUMP == 0 {
                    self.jump(); // it is never idle, so a manual clock would stand still for ever
                }
            }
        }
    }
}

/// Nothing outlives a run silently.
fn report_left(left: &[Task]) {
    for task in left.iter().take(NAMED) {
        let task = Observed::new(task);
        log::warn!("kernel: main has ended before {task}, which is cancelled now");
    }
    if left.len() > NAMED {
        let more = left.len() - NAMED;
        log::warn!("kernel: main has ended before {more} more tasks, which are cancelled now");
    }
}

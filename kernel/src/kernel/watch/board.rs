//! What the loop writes down for the monitor's thread: whose code runs, and since when.

use std::{
    fmt,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    across::Mutex,
    kernel::task::{TaskId, cell::Task},
};

/// One entry, overwritten at each step. A lock that is free costs as much as the two or three
/// atomics that would do instead, and needs no argument why it is right.
#[derive(Default)]
pub(crate) struct Board {
    step: Mutex<Option<Step>>,
}

/// Code of a task that runs.
#[derive(Clone)]
pub(crate) struct Step {
    id: TaskId,
    name: Option<Arc<str>>,
    site: &'static Location<'static>,
    since: Instant,
}

impl Board {
    pub(crate) fn enter(&self, task: &Task, since: Instant) {
        let step = Step {
            id: task.record.id,
            name: task.record.shared_name(),
            site: task.record.site,
            since,
        };
        self.put(Some(step));
    }

    pub(crate) fn leave(&self) {
        self.put(None);
    }

    fn put(&self, step: Option<Step>) {
        *self.step.lock().unwrap_or_else(|e| e.into_inner()) = step;
    }

    /// What runs now, if it is a task.
    pub(crate) fn step(&self) -> Option<Step> {
        self.step.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Step {
    pub(crate) fn lasts(&self) -> Duration {
        self.since.elapsed()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("(no name)");
        let (id, site, lasts) = (self.id, self.site, self.lasts());
        write!(
            f,
            "task {id} {name}, spawned at {site}, has been running for {lasts:.1?} without a pause"
        )
    }
}

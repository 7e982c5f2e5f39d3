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

/// Code that runs.
#[derive(Clone)]
pub(crate) struct Step {
    whose: Whose,
    since: Instant,
}

/// Whose code it is.
#[derive(Clone)]
pub(crate) enum Whose {
    Task {
        id: TaskId,
        name: Option<Arc<str>>,
        site: &'static Location<'static>,
    },
    /// That of another thread, which sent it from here.
    Sent(&'static Location<'static>),
}

impl Whose {
    pub(crate) fn task(task: &Task) -> Whose {
        Whose::Task {
            id: task.record.id,
            name: task.record.shared_name(),
            site: task.record.site,
        }
    }
}

impl Board {
    pub(crate) fn enter(&self, whose: Whose, since: Instant) {
        self.put(Some(Step { whose, since }));
    }

    pub(crate) fn leave(&self) {
        self.put(None);
    }

    fn put(&self, step: Option<Step>) {
        *self.step.lock().unwrap_or_else(|e| e.into_inner()) = step;
    }

    /// What runs now, if its owner is known.
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
        let (whose, lasts) = (&self.whose, self.lasts());
        write!(
            f,
            "{whose} has been running for {lasts:.1?} without a pause"
        )
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Task { id, name, site } => {
                let name = name.as_deref().unwrap_or("(no name)");
                write!(f, "task {id} {name}, spawned at {site},")
            }
            Whose::Sent(site) => write!(f, "a closure that another thread sent at {site}"),
        }
    }
}

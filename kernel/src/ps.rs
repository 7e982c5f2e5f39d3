//! Looking at a running kernel: counts, and a listing of tasks.

use std::panic::Location;

use crate::{
    cell::Task,
    kernel::Core,
    task::{Cancellation, TaskId},
    wait::Undo,
};

/// How much a kernel holds at a moment; see [`stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Traps that are waiting, or answered and not yet looked at.
    pub waits: usize,
    /// Deadlines that are armed.
    pub timers: usize,
    /// Timeouts and shields that are open.
    pub scopes: usize,
    /// Descriptors that are registered.
    pub sources: usize,
    /// Bells that exist.
    pub bells: usize,
}

/// Counts what the running kernel holds: a test takes it before and after, and finds leaks.
///
/// # Panics
/// Outside a running kernel.
pub fn stats() -> Stats {
    Core::current_ref(|core| Stats {
        tasks: core.tasks.borrow().len(),
        waits: core.waits.borrow().len(),
        timers: core.timers.borrow().len(),
        scopes: core.scopes.borrow().len(),
        sources: core.reactor.len(),
        bells: core.bells.borrow().len(),
    })
}

/// One line of a listing of tasks; see [`ps`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskInfo {
    /// The task.
    pub id: TaskId,
    /// Its name, or an empty text.
    pub name: String,
    /// The task that spawned it.
    pub parent: Option<TaskId>,
    /// Where it was spawned.
    pub spawned_at: &'static Location<'static>,
    /// The traps it waits in; none for a task that is ready, running, or in foreign code.
    pub waits: Vec<&'static str>,
    /// True if it will run as soon as its turn comes.
    pub ready: bool,
    /// True once it was cancelled.
    pub cancelled: bool,
}

/// Lists the tasks of the running kernel.
///
/// # Panics
/// Outside a running kernel.
pub fn ps() -> Vec<TaskInfo> {
    Core::current_ref(|core| {
        core.read_door();
        let line = |task: &Task| TaskInfo {
            id: task.record.id,
            name: task.record.name(),
            parent: task.record.parent,
            spawned_at: task.record.site,
            waits: traps_of(core, task),
            ready: task.queued.get(),
            cancelled: task.cancellation.get() != Cancellation::None,
        };
        core.tasks.borrow().iter().map(line).collect()
    })
}

fn traps_of(core: &Core, task: &Task) -> Vec<&'static str> {
    let waits = core.waits.borrow();
    let trap = |wait| match &waits.get(wait).undo {
        Undo::Requested | Undo::Answered(_) => "(about to wait)",
        Undo::Timer(_) => "Sleep",
        Undo::Reader(_) => "Readable",
        Undo::Writer(_) => "Writable",
        Undo::Queue(queue) => queue.what(),
        Undo::Joiner(_) => "Join",
        Undo::Bell(_) => "Bell",
    };
    waits.of(task).map(trap).collect()
}

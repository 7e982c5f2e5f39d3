//! Looking at a running kernel: counts, and a listing of tasks.

use std::{collections::HashMap, fmt, panic::Location};

use crate::{
    kernel::{
        Core,
        task::{Cancellation, TaskId, cell::Task},
        wait::{Wait, WaitId},
        watch::{Observed, TaskAccount},
    },
    trap::Trap,
};

/// How much a kernel holds at a moment; see [`stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Tasks that have not ended.
    pub tasks: usize,
    /// Traps that are waiting, or answered and not yet looked at. (A parent that joins its child
    /// usually needs none.)
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
    /// What it does now.
    pub state: TaskState,
    /// The traps it waits in, oldest first; several if it waits in a `join!` or `select!`.
    pub waits: Vec<TaskWait>,
    /// True once it was cancelled.
    pub cancelled: bool,
    /// True for a [daemon](crate::JoinHandle::daemon).
    pub daemon: bool,
    /// What it has used, on a kernel with [`Builder::accounts`](crate::Builder::accounts).
    pub account: Option<TaskAccount>,
}

/// What a task does at the moment it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskState {
    /// It is the one that runs, and that asked for the listing.
    Running,
    /// It will run as soon as its turn comes.
    Ready,
    /// It waits in the traps that are listed.
    Waiting,
    /// It waits in a future that is not the kernel's, for its `Waker` to be called.
    Foreign,
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TaskState::Running => "running",
            TaskState::Ready => "ready",
            TaskState::Waiting => "waiting",
            TaskState::Foreign => "foreign",
        })
    }
}

/// A trap in which a task waits. Its `Display` reads `Join(#4)`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskWait {
    /// The trap.
    pub trap: &'static str,
    /// What for: the time left, the kind of primitive, the task, the number of the descriptor (`fd 7`)
    /// or of the bell.
    pub argument: String,
}

impl fmt::Display for TaskWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.trap, self.argument)
    }
}

/// `#7 waiting Sleep(1.5s) name, spawned at src/main.rs:10:5`, and what more there is to say.
impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<6} {:<8}", self.id.to_string(), self.state)?;
        for wait in &self.waits {
            write!(f, "{wait} ")?;
        }
        match self.name.as_str() {
            "" => f.write_str("(no name)")?,
            name => f.write_str(name)?,
        }
        write!(f, ", spawned at {}", self.spawned_at)?;
        if let Some(parent) = self.parent {
            write!(f, " by {parent}")?;
        }
        if self.daemon {
            f.write_str(", daemon")?;
        }
        if self.cancelled {
            f.write_str(", cancelled")?;
        }
        if let Some(account) = self.account {
            write!(
                f,
                ", age {:.1?}, {} polls, busy {:.1?}, cpu {:.1?}",
                account.age, account.polls, account.busy, account.cpu
            )?;
        }
        Ok(())
    }
}

/// Lists the tasks of the running kernel, in the order of their places in its table.
///
/// # Panics
/// Outside a running kernel.
///
/// # Examples
/// ```
/// kernel::run(async {
///     let lazy = kernel::spawn(kernel::sleep(std::time::Duration::from_secs(60))).name("lazy");
///     kernel::yield_now().await.unwrap();
///     let all = kernel::ps();
///     let line = all.iter().find(|task| task.id == lazy.id()).unwrap();
///     assert_eq!((line.name.as_str(), line.waits[0].trap), ("lazy", "Sleep"));
///     println!("{line}");
///     lazy.cancel().await.unwrap();
/// }).unwrap();
/// ```
pub fn ps() -> Vec<TaskInfo> {
    first(usize::MAX).0
}

/// At most so many tasks, and how many there are.
fn first(count: usize) -> (Vec<TaskInfo>, usize) {
    Core::current_ref(|core| {
        core.read_door();
        let tasks = core.tasks.borrow();
        let lines = tasks.iter().take(count).map(|task| info(core, task));
        let mut lines: Vec<TaskInfo> = lines.collect();
        add_joins_of_parents(&mut lines, tasks.iter());
        (lines, tasks.len())
    })
}

/// The tasks as text, at most so many lines of them.
pub(crate) fn listing(lines: usize) -> String {
    let (tasks, count) = first(lines);
    let mut text = format!("{count} tasks\n");
    for task in &tasks {
        text += &format!("{task}\n");
    }
    if tasks.len() < count {
        text += &format!("and {} more\n", count - tasks.len());
    }
    text
}

/// How this one task is listed.
pub(crate) fn line_of(core: &Core, task: &Task) -> TaskInfo {
    let mut line = [info(core, task)];
    if line[0].waits.is_empty() {
        add_joins_of_parents(&mut line, core.tasks.borrow().iter());
    }
    let [line] = line;
    line
}

fn info(core: &Core, task: &Task) -> TaskInfo {
    let observed = Observed::new(task);
    let waits = waits_of(core, task);
    TaskInfo {
        id: observed.id(),
        name: observed.name(),
        parent: observed.parent(),
        spawned_at: observed.spawned_at(),
        state: match () {
            () if core.current_id() == Some(observed.id()) => TaskState::Running,
            () if task.is_queued() => TaskState::Ready,
            () if waits.is_empty() => TaskState::Foreign,
            () => TaskState::Waiting,
        },
        waits,
        cancelled: task.cancellation() != Cancellation::None,
        daemon: task.record.is_daemon(),
        account: core
            .watch
            .as_ref()
            .and_then(|watch| watch.account(task, core.clock.now())),
    }
}

/// Adds what no table has: which parents wait for the ends of their children. See `join.rs`.
fn add_joins_of_parents<'a>(lines: &mut [TaskInfo], tasks: impl Iterator<Item = &'a Task>) {
    let mut joins: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for child in tasks.filter(|task| task.is_awaited()) {
        let parent = child.record.parent.into_iter();
        parent.for_each(|parent| joins.entry(parent).or_default().push(child.record.id));
    }
    for line in lines {
        for child in joins.remove(&line.id).into_iter().flatten() {
            line.waits.push(join_of(child));
            if line.state == TaskState::Foreign {
                line.state = TaskState::Waiting;
            }
        }
    }
}

fn join_of(task: TaskId) -> TaskWait {
    TaskWait {
        trap: "Join",
        argument: task.to_string(),
    }
}

fn waits_of(core: &Core, task: &Task) -> Vec<TaskWait> {
    let waits = core.waits.borrow();
    let ids: Vec<WaitId> = waits.of(task).collect();
    ids.into_iter()
        .rev()
        .map(|wait| describe(core, waits.get(wait)))
        .collect()
}

fn describe(core: &Core, wait: &Wait) -> TaskWait {
    let (trap, argument) = match &wait.trap {
        Trap::Sleep(until) => {
            let left = until.saturating_duration_since(core.clock.now());
            ("Sleep", format!("{left:.1?}"))
        }
        Trap::Readable(source) => ("Readable", format!("fd {}", source.0.fd)),
        Trap::Writable(source) => ("Writable", format!("fd {}", source.0.fd)),
        Trap::Wait(queue) => ("Wait", queue.what().to_owned()),
        Trap::Join(task) => return join_of(*task),
        Trap::Bell(bell) => ("Bell", bell.0.1.to_string()),
    };
    TaskWait { trap, argument }
}

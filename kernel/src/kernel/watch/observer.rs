//! Hooks into the life of tasks.

use std::{fmt, panic::Location, time::Duration};

use crate::kernel::task::{TaskId, cell::Task};

/// Is told of every event in the life of every task; see
/// [`Builder::observer`](crate::Builder::observer).
///
/// The calls come on the kernel's thread, between steps. They may look around
/// ([`ps`](crate::ps), [`stats`](crate::stats)) and spawn; what they take is taken from all tasks.
/// If one panics there is no task to blame: that is logged, and the run goes on.
///
/// # Examples
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// struct Count(Rc<Cell<u32>>);
///
/// impl kernel::Observer for Count {
///     fn terminated(&self, _: &kernel::Observed<'_>) {
///         self.0.set(self.0.get() + 1);
///     }
/// }
///
/// let ended = Rc::new(Cell::new(0));
/// let mut kernel = kernel::Kernel::builder()
///     .observer(Count(ended.clone()))
///     .build()
///     .unwrap();
/// kernel.run(async {
///     kernel::spawn(async {}).join().await.unwrap();
/// });
/// assert_eq!(ended.get(), 2); // the task, and main
/// ```
pub trait Observer {
    /// A task was spawned; it has not run yet.
    fn created(&self, task: &Observed<'_>) {
        let _ = task;
    }

    /// A step of the task begins now.
    fn running(&self, task: &Observed<'_>) {
        let _ = task;
    }

    /// A step has ended, and the task waits or will run again.
    fn suspended(&self, task: &Observed<'_>) {
        let _ = task;
    }

    /// The task has ended: returned, panicked, or was dropped.
    fn terminated(&self, task: &Observed<'_>) {
        let _ = task;
    }

    /// A step took longer than [`Builder::slow_step`](crate::Builder::slow_step) allows. It was
    /// logged already.
    fn slow_step(&self, task: &Observed<'_>, took: Duration) {
        let _ = (task, took);
    }
}

/// A task as an [`Observer`] sees it. Its `Display` is "task #7 name, spawned at file:line:column".
#[derive(Clone, Copy)]
pub struct Observed<'a> {
    task: &'a Task,
}

impl<'a> Observed<'a> {
    pub(crate) fn new(task: &'a Task) -> Observed<'a> {
        Observed { task }
    }

    /// The task's id.
    pub fn id(&self) -> TaskId {
        self.task.record.id
    }

    /// Its name, or an empty text. A task is named after it was created.
    pub fn name(&self) -> String {
        self.task.record.name()
    }

    /// The task that spawned it.
    pub fn parent(&self) -> Option<TaskId> {
        self.task.record.parent
    }

    /// Where it was spawned.
    pub fn spawned_at(&self) -> &'static Location<'static> {
        self.task.record.site
    }
}

impl fmt::Display for Observed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} ", self.id())?;
        match self.name() {
            name if name.is_empty() => f.write_str("(no name)")?,
            name => f.write_str(&name)?,
        }
        write!(f, ", spawned at {}", self.spawned_at())
    }
}

impl fmt::Debug for Observed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observed").field(&self.id()).finish()
    }
}

//! Tasks: the kernel's table entry, and the handle by which others join or cancel one.

use std::{
    fmt,
    future::Future,
    panic::Location,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::{
    cell::{Joinable, Runnable, TaskCell},
    error::{Error, JoinError, panic_text},
    kernel::Core,
    timer::TimerKey,
    trap::{Ask, Trap, ask},
    wait::{Ends, NONE, WaitId},
};

/// Names a task: its place in the table and the number of its spawning, so that a place used
/// again is another task.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    pub(crate) serial: u32,
    pub(crate) index: u32,
}

impl TaskId {
    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.serial) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_bits(bits: u64) -> TaskId {
        TaskId {
            serial: (bits >> 32) as u32,
            index: bits as u32,
        }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId(#{})", self.serial)
    }
}

/// How far the cancellation of a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancellation {
    None,
    /// Asked for, not yet delivered: the task's next trap outside a shield comes back with it.
    Pending,
    /// Delivered: the task cleans up.
    Delivered,
    /// The future is to be dropped as soon as it is not being polled and no shield is open.
    Hard,
}

/// A task as the kernel holds it.
pub(crate) struct Task {
    pub(crate) cell: Rc<dyn Runnable>,
    pub(crate) serial: u32,
    /// It is in the ready queue.
    pub(crate) queued: bool,
    /// `Core::names` has its name.
    pub(crate) named: bool,
    pub(crate) cancellation: Cancellation,
    /// Shields now open in it.
    pub(crate) shields: u16,
    /// Its unanswered waits.
    pub(crate) waits: WaitId,
    /// Who waits for its end.
    pub(crate) joiners: Ends,
    pub(crate) parent: Option<TaskId>,
    pub(crate) site: &'static Location<'static>,
    /// The end of the cleanup budget, once cancelled.
    pub(crate) budget: Option<TimerKey>,
    /// The real waker, once foreign code has cloned one.
    pub(crate) waker: Option<Waker>,
}

impl Task {
    pub(crate) fn new(
        cell: Rc<dyn Runnable>,
        serial: u32,
        parent: Option<TaskId>,
        site: &'static Location<'static>,
    ) -> Task {
        Task {
            cell,
            serial,
            queued: false,
            named: false,
            cancellation: Cancellation::None,
            shields: 0,
            waits: NONE,
            joiners: Ends::EMPTY,
            parent,
            site,
            budget: None,
            waker: None,
        }
    }
}

/// Starts a task. It is put at the end of the ready queue; the spawner goes on first.
///
/// # Panics
/// Outside a running kernel.
///
/// # Examples
/// ```
/// let sum = kernel::run(async {
///     let parts: Vec<_> = (1..=3).map(|n| kernel::spawn(async move { n * n })).collect();
///     let mut sum = 0;
///     for part in parts {
///         sum += part.join().await.unwrap();
///     }
///     sum
/// }).unwrap();
/// assert_eq!(sum, 14);
/// ```
#[track_caller]
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    spawn_at(future, Location::caller())
}

pub(crate) fn spawn_at<F>(future: F, site: &'static Location<'static>) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    let core = Core::current();
    let cell = TaskCell::new(future);
    let id = core.add_task(cell.clone(), site);
    JoinHandle {
        id,
        cell: Some(cell),
        site,
    }
}

/// The task that runs now; `None` outside of tasks.
pub fn current_task() -> Option<TaskId> {
    Core::with_current(|core| core.current_task()).flatten()
}

/// A task's result to come. Dropping it detaches the task, which then runs on by itself; if it
/// panics later, that is logged as an error with the task's name and where it was spawned.
pub struct JoinHandle<T> {
    id: TaskId,
    /// `None` once the result was taken.
    cell: Option<Rc<dyn Joinable<T>>>,
    site: &'static Location<'static>,
}

impl<T: 'static> JoinHandle<T> {
    /// The task's id.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Names the task, for listings and for the log.
    pub fn name(self, name: &str) -> JoinHandle<T> {
        Core::with_current(|core| core.set_name(self.id, name));
        self
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.has_result())
    }

    /// Waits for the task's end and takes its result.
    ///
    /// # Cancellation
    /// A cancelled joiner gets [`JoinError::Interrupted`]; the task it waited for is detached and
    /// goes on. To keep the handle, use [`wait`](JoinHandle::wait) first.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] with the payload; [`JoinError::Cancelled`] if it was dropped.
    pub fn join(self) -> Join<T> {
        let ended = ask(Trap::Join(self.id));
        Join {
            handle: Some(self),
            ended,
        }
    }

    /// The result of a task that has ended.
    pub(crate) fn into_result(mut self) -> Result<T, JoinError> {
        let cell = self
            .cell
            .take()
            .expect("only this takes the cell, and it consumes the handle");
        cell.take()
            .expect("a task that has ended has a result until it is joined")
    }

    /// Waits for the task's end and leaves the result where it is.
    ///
    /// # Errors
    /// Cancellation and timeouts of the waiting task; [`Error::OneSelf`] from inside the task.
    pub async fn wait(&self) -> Result<(), Error> {
        match self.is_finished() {
            true => crate::trap::check(),
            false => ask(Trap::Join(self.id)).await,
        }
    }

    /// Cancels the task, at this call. See [`Cancel`].
    pub fn cancel(&self) -> Cancel {
        cancel(self.id)
    }

    /// Lets the task run on by itself. The same as dropping the handle.
    pub fn detach(self) {}
}

/// The wait for a task's end and result; see [`JoinHandle::join`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Join<T> {
    handle: Option<JoinHandle<T>>,
    ended: Ask,
}

impl<T: 'static> Future for Join<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let finished = self.handle.as_ref().is_some_and(JoinHandle::is_finished);
        let ended = match finished && self.ended.is_new() {
            true => crate::trap::check(),
            false => std::task::ready!(Pin::new(&mut self.ended).poll(cx)),
        };
        let handle = self.handle.take().expect("polled once more after its end");
        Poll::Ready(match ended {
            Ok(()) => handle.into_result(),
            Err(error) => Err(JoinError::Interrupted(error)),
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        // A panic that was never looked at must not disappear with its handle.
        if let Some(Err(JoinError::Panicked(payload))) =
            self.cell.take().and_then(|cell| cell.take())
        {
            report_panic(self.id, None, self.site, panic_text(payload.as_ref()));
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Says that a task panicked and nobody will ask for its result.
pub(crate) fn report_panic(id: TaskId, name: Option<&str>, site: &Location<'_>, text: &str) {
    let name = name.unwrap_or("(no name)");
    let line =
        format!("kernel task {id} {name}, spawned at {site}, panicked and nobody joins it: {text}");
    if log::log_enabled!(log::Level::Error) {
        log::error!("{line}");
    } else {
        eprintln!("{line}");
    }
}

/// Cancels a task by its id: at this call, not at the await. Awaiting what it returns waits for
/// the task's end.
///
/// The cancellation is delivered once, as [`Error::Cancelled`], to every wait of the task that is
/// pending, else to its next trap. From then on its traps work again, so that it can clean up,
/// for the cleanup budget (5 seconds, [`Builder::cleanup_budget`](crate::Builder)); after that,
/// or at a second cancel, its future is dropped. Code under [`shield`](crate::shield) is left
/// alone until the shield ends. Cancelling a task that has ended does nothing.
pub fn cancel(id: TaskId) -> Cancel {
    let done = Core::with_current(|core| core.cancel_task(id)).unwrap_or(true);
    Cancel {
        end: done.then(|| ask(Trap::Join(id))),
    }
}

/// A cancellation that has been asked for. Awaiting it waits until the task has really ended.
///
/// # Errors
/// Cancellation and timeouts of the waiting task; [`Error::OneSelf`] if a task tried to cancel
/// itself, which has no effect.
#[derive(Debug)]
pub struct Cancel {
    /// `None` for a task that tried to cancel itself.
    end: Option<Ask>,
}

impl Future for Cancel {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.end {
            Some(end) => Pin::new(end).poll(cx),
            None => Poll::Ready(Err(Error::OneSelf)),
        }
    }
}

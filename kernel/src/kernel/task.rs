//! Tasks: what the kernel records of each, and the handle by which others join or cancel one.

pub(crate) mod block;
pub(crate) mod cell;
pub(crate) mod current;
pub(crate) mod join;
pub(crate) mod ready;
pub(crate) mod table;

use std::{
    cell::{Cell, OnceCell},
    fmt,
    future::Future,
    num::{NonZeroU32, NonZeroU64},
    panic::Location,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    error::{Error, JoinError},
    kernel::{
        Core,
        clock::timer::TimerKey,
        held::Held,
        task::{
            cell::{Joint, Task},
            join::Join,
        },
        wait::{NONE, WaitId},
    },
    trap::{Ask, Trap, Yield, ask},
};

/// Names a task: its place in the table and the number of its spawning, so that a place used
/// again is another task.
///
/// Tasks are numbered through all runs of all kernels of a thread, so an id that is kept longer than
/// its run names no other task there; but a manual clock's kernel counts from one, so that a run can
/// be repeated. To other threads an id says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The number above, the place below.
    bits: NonZeroU64,
}

impl TaskId {
    pub(crate) fn new(serial: NonZeroU32, index: u32) -> TaskId {
        TaskId::from_bits(u64::from(serial.get()) << 32 | u64::from(index))
    }

    pub(crate) fn serial(self) -> u32 {
        (self.bits.get() >> 32) as u32
    }

    pub(crate) fn index(self) -> usize {
        self.bits.get() as u32 as usize
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.bits.get()
    }

    pub(crate) fn from_bits(bits: u64) -> TaskId {
        let bits = NonZeroU64::new(bits).expect("these are bits of a task's id");
        TaskId { bits }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.serial())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId(#{})", self.serial())
    }
}

/// How far the cancellation of a task has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cancellation {
    None,
    /// Asked for, not yet delivered: at the end of a step to come (see [`Rare::late`]), or else the
    /// task's next trap outside a shield comes back with it.
    Pending,
    /// Delivered: the task cleans up.
    Delivered,
    /// The future is to be dropped as soon as it is not being polled and no shield is open.
    Hard,
}

/// What the kernel knows of every task. A task that does nothing costs its bytes, so what only
/// some tasks have is in [`Rare`].
pub(crate) struct Record {
    pub(crate) id: TaskId,
    pub(crate) parent: Option<TaskId>,
    pub(crate) site: &'static Location<'static>,
    /// Its unanswered waits.
    pub(crate) waits: Cell<WaitId>,
    /// Who waits for its end: the first in line.
    pub(crate) joiners: Cell<WaitId>,
    rare: OnceCell<Box<Rare>>,
}

/// What few tasks have.
#[derive(Default)]
pub(crate) struct Rare {
    pub(crate) name: Held<Option<Arc<str>>>,
    /// It serves others, and is not missed at the end of a run.
    pub(crate) daemon: Cell<bool>,
    /// Shields now open in it.
    pub(crate) shields: Cell<u32>,
    /// It was cancelled while it was about to run: it is told at the end of a step, when all that it waits
    /// for stands where it can be told. That is the next, or, while parts of it wake themselves, one of
    /// this many.
    pub(crate) late: Cell<u8>,
    /// It was cancelled hard before it was told of the first cancel.
    pub(crate) untold: Cell<bool>,
    /// The number of the interruption that its cancellation was, once delivered.
    pub(crate) told_at: Cell<u64>,
    /// The end of the cleanup budget, once cancelled.
    pub(crate) budget: Cell<Option<TimerKey>>,
    /// The real waker, once foreign code has cloned one.
    pub(crate) waker: OnceCell<Waker>,
}

impl Record {
    #[inline]
    pub(crate) fn new(
        id: TaskId,
        parent: Option<TaskId>,
        site: &'static Location<'static>,
    ) -> Record {
        Record {
            id,
            parent,
            site,
            waits: Cell::new(NONE),
            joiners: Cell::new(NONE),
            rare: OnceCell::new(),
        }
    }

    /// True if waits, joiners or rare things are noted of it.
    #[inline]
    pub(crate) fn left_something(&self) -> bool {
        self.waits.get() != NONE || self.joiners.get() != NONE || self.rare.get().is_some()
    }

    #[inline]
    pub(crate) fn rare(&self) -> Option<&Rare> {
        self.rare.get().map(|rare| &**rare)
    }

    pub(crate) fn make_rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    pub(crate) fn is_shielded(&self) -> bool {
        self.rare().is_some_and(|rare| rare.shields.get() > 0)
    }

    pub(crate) fn is_late(&self) -> bool {
        self.rare().is_some_and(|rare| rare.late.get() > 0)
    }

    pub(crate) fn is_daemon(&self) -> bool {
        self.rare().is_some_and(|rare| rare.daemon.get())
    }

    /// The name, or an empty text.
    pub(crate) fn name(&self) -> String {
        self.shared_name()
            .map_or_else(String::new, |name| name.to_string())
    }

    /// The name, for other threads too.
    pub(crate) fn shared_name(&self) -> Option<Arc<str>> {
        self.rare().and_then(|rare| rare.name.borrow().clone())
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
#[inline(always)]
#[track_caller]
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    spawn_at(future, Location::caller())
}

#[inline(always)]
pub(crate) fn spawn_at<F>(future: F, site: &'static Location<'static>) -> JoinHandle<F::Output>
where
    F: Future + 'static,
{
    Core::current_ref(|core| JoinHandle {
        joint: core.add_task(future, site),
    })
}

/// The task that runs now; `None` outside of tasks.
pub fn current_task() -> Option<TaskId> {
    Core::with_current(|core| core.current_id()).flatten()
}

/// A task's result to come. Dropping it detaches the task, which then runs on by itself; if it
/// panics later, that is logged as an error with the task's name and where it was spawned.
pub struct JoinHandle<T> {
    pub(crate) joint: Joint<T>,
}

impl<T: 'static> JoinHandle<T> {
    /// The task's id.
    pub fn id(&self) -> TaskId {
        self.joint.task().record.id
    }

    /// Names the task, for listings and for the log. These are lines, so control characters in the name
    /// are escaped: of a line feed it keeps `\n`.
    pub fn name(self, name: &str) -> JoinHandle<T> {
        let rare = self.joint.task().record.make_rare();
        rare.name.replace(Some(in_a_line(name)));
        self
    }

    /// Makes the task a daemon: one that serves the others, so that nobody expects its end. When
    /// `main` has ended it is cancelled after the others have ended, and without a line in the log.
    pub fn daemon(self) -> JoinHandle<T> {
        self.joint.task().record.make_rare().daemon.set(true);
        self
    }

    /// True once the task has ended.
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.joint.task().has_ended()
    }

    /// Waits for the task's end and takes its result.
    ///
    /// # Cancellation
    /// A cancelled joiner gets [`JoinError::Interrupted`]; the task it waited for is detached and
    /// goes on, or its result is dropped if it ended at that moment. To keep the handle, use
    /// [`wait`](JoinHandle::wait) first.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] with what it panicked with; [`JoinError::Cancelled`] if it was dropped.
    #[inline]
    pub fn join(self) -> Join<T> {
        Join::new(self)
    }

    /// The result of a task that has ended.
    #[inline]
    pub(crate) fn into_result(self) -> Result<T, JoinError> {
        let result = self.joint.take();
        result.expect("a task that has ended has a result until it is joined")
    }

    /// Waits for the task's end and leaves the result where it is.
    ///
    /// # Cancellation
    /// Safe: the task goes on.
    ///
    /// # Errors
    /// Cancellation and timeouts of the waiting task; [`Error::OneSelf`] from inside the task.
    pub async fn wait(&self) -> Result<(), Error> {
        match self.is_finished() {
            true => crate::trap::breathe().await,
            false => ask(Trap::Join(self.id())).await,
        }
    }

    /// Cancels the task, at this call; as [`cancel`](crate::cancel) does by its id.
    pub fn cancel(&self) -> Cancel {
        let task = self.joint.task();
        Cancel::of((!task.has_ended()).then_some(task))
    }

    /// Cancels the task, unless it was cancelled before: a second time would tear its cleanup.
    pub(crate) fn cancel_once(&self) {
        let task = self.joint.task();
        if task.cancellation() == Cancellation::None {
            Core::with_current(|core| core.cancel_task(task));
        }
    }

    /// Lets the task run on by itself. The same as dropping the handle.
    pub fn detach(self) {}
}

impl<T> Drop for JoinHandle<T> {
    #[inline]
    fn drop(&mut self) {
        self.joint.task().detach();
        if let Some(result) = self.joint.take() {
            unread(&self.joint.task().record, result);
        }
    }
}

fn in_a_line(name: &str) -> Arc<str> {
    if !name.contains(char::is_control) {
        return name.into();
    }
    let mut line = String::new();
    for c in name.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.into()
}

/// A panic that was never looked at must not disappear with its handle.
#[cold]
fn unread<T>(record: &Record, result: Result<T, JoinError>) {
    if let Err(JoinError::Panicked(panic)) = result {
        report_panic(record, panic.text());
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.joint.task().record.id)
            .finish_non_exhaustive()
    }
}

/// Says that a task panicked and nobody will ask for its result.
pub(crate) fn report_panic(record: &Record, text: &str) {
    let name = match record.name() {
        name if name.is_empty() => "(no name)".to_owned(),
        name => name,
    };
    let (id, site) = (record.id, record.site);
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
/// The cancellation is delivered once, as [`Error::Cancelled`], to everything in which the task
/// waits (every branch of a `join!`, every part of a set of futures): now; or, if it is just about to
/// run, after that step, and up to 15 steps later if it wakes itself in each. If it waits nowhere, its
/// next trap comes back with it. A branch under a shield or in foreign code is not told if others were
/// (see [`foreign`](crate::foreign)).
///
/// From then on the task's traps work again, so that it can clean up, for the cleanup budget (5
/// seconds, [`Builder::cleanup_budget`](crate::Builder)); after that, or at a second cancel, its future
/// is dropped. Code under [`shield`](crate::shield) is left alone until the shield ends.
///
/// Where there is nothing to cancel, it does nothing, and no error says so: the task has ended, or
/// belongs to another kernel or an earlier run; or no kernel runs on this thread, which then has no
/// task that has not ended. (From other threads: [`Submitted::cancel`](crate::Submitted::cancel).)
pub fn cancel(id: TaskId) -> Cancel {
    let task = Core::with_current(|core| core.task(id)).flatten();
    Cancel::of(task.as_ref())
}

/// A cancellation that has been asked for. Awaiting it waits until the task has really ended; if it
/// had before, or was never there, it only lets the others run first.
///
/// # Cancellation
/// Dropping it takes nothing back: the task stays cancelled, and nobody waits.
///
/// # Errors
/// Cancellation and timeouts of the waiting task; [`Error::OneSelf`] if a task tried to cancel
/// itself, which has no effect.
///
/// # Panics
/// When polled outside a running kernel.
#[derive(Debug)]
pub struct Cancel {
    end: End,
}

#[derive(Debug)]
enum End {
    /// A task tried to cancel itself.
    OfOneSelf,
    /// It had ended before.
    Over(Yield),
    ToCome(Ask),
}

impl Cancel {
    /// Cancels this task, if it has not ended.
    fn of(task: Option<&Task>) -> Cancel {
        let end = match task {
            None => End::Over(Yield::new()),
            Some(task) => match Core::with_current(|core| core.cancel_task(task)) {
                Some(true) => End::ToCome(ask(Trap::Join(task.record.id))),
                Some(false) => End::OfOneSelf,
                None => End::Over(Yield::new()), // no kernel runs, so no task is left
            },
        };
        Cancel { end }
    }
}

impl Future for Cancel {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.end {
            End::ToCome(end) => Pin::new(end).poll(cx),
            End::Over(turn) => Pin::new(turn).poll(cx),
            End::OfOneSelf => Poll::Ready(Err(Error::OneSelf)),
        }
    }
}

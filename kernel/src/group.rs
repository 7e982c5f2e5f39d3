//! Structured concurrency: tasks that end together.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use crate::{
    JoinHandle, TaskId, WaitQueue,
    error::{Error, JoinError},
    spawn,
    time::shield,
    trap::{Trap, ask, breathe, may_go_on},
    with::With,
};

/// Why a group, or one task of it, failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum GroupError<E> {
    /// A task came back with this error. It does not say which: let the error itself tell what it was
    /// about, or ask for the ids by [`next_with_id`](TaskGroup::next_with_id).
    Task(E),
    /// A task panicked or was dropped; or the task that waits for the group was cancelled or
    /// timed out ([`JoinError::Interrupted`]), which cancels the group.
    Join(JoinError),
}

impl<E> From<Error> for GroupError<E> {
    fn from(error: Error) -> GroupError<E> {
        GroupError::Join(error.into())
    }
}

impl<E: fmt::Display> fmt::Display for GroupError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::Task(e) => e.fmt(f),
            GroupError::Join(e) => e.fmt(f),
        }
    }
}

/// What a task came back with, as it would convert itself; a panic and a drop as errors of their own.
impl<E: Into<io::Error>> From<GroupError<E>> for io::Error {
    fn from(error: GroupError<E>) -> io::Error {
        match error {
            GroupError::Task(e) => e.into(),
            GroupError::Join(e) => e.into(),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for GroupError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GroupError::Task(_) => None, // it need not be a `std::error::Error`
            GroupError::Join(e) => Some(e),
        }
    }
}

/// Tasks that end before the group does.
///
/// A group is left by one of the `join` methods, which cancel what is not wanted any more and
/// return only when every task has really ended. A group that is dropped instead cancels its
/// tasks hard and says so in the log.
///
/// # Examples
/// ```
/// # use kernel::{Error, TaskGroup};
/// kernel::run(async {
///     let mut group = TaskGroup::<u32, Error>::new();
///     for n in 1..=3 {
///         group.spawn(async move {
///             kernel::yield_now().await?;
///             Ok(n)
///         });
///     }
///     assert_eq!(group.join().await.unwrap(), [1, 2, 3]);
/// }).unwrap();
/// ```
pub struct TaskGroup<T: 'static, E: 'static = Error> {
    shared: Rc<Shared>,
    /// By number of spawning, and cancelled in that order.
    running: BTreeMap<usize, JoinHandle<Result<T, E>>>,
    spawned: usize,
}

/// A task that has ended.
struct Ended<T, E> {
    number: usize,
    id: TaskId,
    result: Result<T, GroupError<E>>,
}

/// What the group and its tasks share.
struct Shared {
    /// Numbers of the tasks that have ended, in order of completion.
    finished: RefCell<VecDeque<usize>>,
    queue: WaitQueue,
}

/// Lives in each task of a group; its drop tells the group, however the task ends.
struct Report {
    number: usize,
    shared: Rc<Shared>,
}

impl<F: Future> Future for With<F, Report> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.split().0.poll(cx)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.shared.finished.borrow_mut().push_back(self.number);
        self.shared.queue.wake(usize::MAX);
    }
}

impl<T: 'static, E: 'static> TaskGroup<T, E> {
    /// An empty group.
    pub fn new() -> TaskGroup<T, E> {
        TaskGroup {
            shared: Rc::new(Shared {
                finished: RefCell::default(),
                queue: WaitQueue::named("TaskGroup"),
            }),
            running: BTreeMap::new(),
            spawned: 0,
        }
    }

    /// Starts a task in the group.
    ///
    /// # Panics
    /// Outside a running kernel.
    #[track_caller]
    pub fn spawn(&mut self, future: impl Future<Output = Result<T, E>> + 'static) -> TaskId {
        let number = self.spawned;
        self.spawned += 1;
        let report = Report {
            number,
            shared: self.shared.clone(),
        };
        let task = With::new(future, report); // reports after the future, with all it holds, is gone
        let handle = spawn(task);
        let id = handle.id();
        self.running.insert(number, handle);
        id
    }

    /// How many tasks have not been taken by [`next`](TaskGroup::next).
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits for the next task to end, in order of completion; `None` when there is none left.
    ///
    /// # Cancellation
    /// Safe: a result is never taken and lost.
    ///
    /// # Errors
    /// Cancellation and timeouts of the waiting task; the group goes on.
    pub async fn next(&mut self) -> Result<Option<Result<T, GroupError<E>>>, Error> {
        let next = self.next_ended().await?;
        Ok(next.map(|ended| ended.result))
    }

    /// As [`next`](TaskGroup::next), with the id that [`spawn`](TaskGroup::spawn) gave: for who has
    /// noted what each task is for, and wants to know whose value, error or panic this is.
    ///
    /// # Cancellation
    /// As for [`next`](TaskGroup::next).
    ///
    /// # Errors
    /// As for [`next`](TaskGroup::next).
    ///
    /// # Examples
    /// ```
    /// # use kernel::{Error, TaskGroup};
    /// # kernel::run(async {
    /// let mut group = TaskGroup::<(), Error>::new();
    /// let mut cities = std::collections::HashMap::new();
    /// for city in ["Oslo", "Rome"] {
    ///     let id = group.spawn(async move {
    ///         assert_ne!(city, "Rome", "all roads are closed");
    ///         Ok(())
    ///     });
    ///     cities.insert(id, city);
    /// }
    /// while let Some((id, result)) = group.next_with_id().await? {
    ///     assert_eq!(result.is_err(), cities[&id] == "Rome");
    /// }
    /// # Ok::<(), Error>(()) }).unwrap().unwrap();
    /// ```
    pub async fn next_with_id(
        &mut self,
    ) -> Result<Option<(TaskId, Result<T, GroupError<E>>)>, Error> {
        let next = self.next_ended().await?;
        Ok(next.map(|ended| (ended.id, ended.result)))
    }

    /// Takes the result of a task that has ended, in order of completion; never waits.
    ///
    /// For groups that live long: a server that starts a task for each connection takes out those
    /// that have ended before it starts the next, so that it holds no results that nobody wants.
    ///
    /// # Examples
    /// ```
    /// # use kernel::{Error, TaskGroup};
    /// # kernel::run(async {
    /// let mut group = TaskGroup::<u32, Error>::new();
    /// for n in 0..100 {
    ///     while group.try_next().is_some() {}
    ///     group.spawn(async move { Ok(n) });
    ///     kernel::yield_now().await?; // here a server would accept
    /// }
    /// assert!(group.len() <= 2);
    /// # group.join().await.map(drop) }).unwrap().unwrap();
    /// ```
    pub fn try_next(&mut self) -> Option<Result<T, GroupError<E>>> {
        self.take_ended().map(|ended| ended.result)
    }

    fn take_ended(&mut self) -> Option<Ended<T, E>> {
        let number = self.shared.finished.borrow_mut().pop_front()?;
        let task = self.running.remove(&number);
        let task = task.expect("a task reports once, and is in the table until then");
        let id = task.id();
        let result = match task.into_result() {
            Ok(result) => result.map_err(GroupError::Task),
            Err(error) => Err(GroupError::Join(error)),
        };
        Some(Ended { number, id, result })
    }

    async fn next_ended(&mut self) -> Result<Option<Ended<T, E>>, Error> {
        if !may_go_on() {
            breathe().await?;
        }
        loop {
            if let Some(ended) = self.take_ended() {
                return Ok(Some(ended));
            }
            if self.running.is_empty() {
                return Ok(None);
            }
            ask(Trap::Wait(self.shared.queue.clone())).await?;
        }
    }

    /// Waits for all tasks and gives their values in the order of spawning. The first error
    /// cancels the rest, waits for their end, and is returned.
    ///
    /// # Cancellation
    /// Cancels all tasks and waits for their end, as an error does. Dropped in the middle, it drops
    /// the group, which then cancels its tasks hard.
    ///
    /// # Errors
    /// The first error of a task; or the cancellation or timeout of the waiting task, which
    /// cancels the group too.
    pub async fn join(mut self) -> Result<Vec<T>, GroupError<E>> {
        let mut values: Vec<(usize, T)> = Vec::new();
        loop {
            match self.next_ended().await {
                Ok(None) => {
                    values.sort_unstable_by_key(|(number, _)| *number);
                    return Ok(values.into_iter().map(|(_, value)| value).collect());
                }
                Ok(Some(ended)) => match ended.result {
                    Ok(value) => values.push((ended.number, value)),
                    Err(error) => return Err(self.end_with(error).await),
                },
                Err(interrupted) => return Err(self.end_with(interrupted.into()).await),
            }
        }
    }

    /// Waits for the first task to end, well or not, cancels the rest and waits for their end;
    /// `None` for an empty group.
    ///
    /// # Cancellation
    /// As for [`join`](TaskGroup::join).
    ///
    /// # Errors
    /// The error of that task; the cancellation or timeout of the waiting task.
    pub async fn join_any(mut self) -> Result<Option<T>, GroupError<E>> {
        match self.next().await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(value))) => {
                self.cancel_all().await;
                Ok(Some(value))
            }
            Ok(Some(Err(error))) => Err(self.end_with(error).await),
            Err(interrupted) => Err(self.end_with(interrupted.into()).await),
        }
    }

    /// Waits for the first *value*, passing over errors, cancels the rest and waits for their
    /// end; `None` for an empty group.
    ///
    /// # Cancellation
    /// As for [`join`](TaskGroup::join).
    ///
    /// # Errors
    /// If all tasks fail, the last error; the cancellation or timeout of the waiting task.
    pub async fn join_first(mut self) -> Result<Option<T>, GroupError<E>> {
        let mut last = None;
        loop {
            match self.next().await {
                Ok(None) => return last.map_or(Ok(None), Err),
                Ok(Some(Ok(value))) => {
                    self.cancel_all().await;
                    return Ok(Some(value));
                }
                Ok(Some(Err(error))) => last = Some(error),
                Err(interrupted) => return Err(self.end_with(interrupted.into()).await),
            }
        }
    }

    async fn end_with(&mut self, error: GroupError<E>) -> GroupError<E> {
        self.cancel_all().await;
        error
    }

    /// Cancels all tasks of the group and waits for their end; what they come back with is
    /// dropped.
    ///
    /// # Cancellation
    /// Held off until it is done: each task has its cleanup budget, no more. Dropped in the middle,
    /// it leaves the tasks to that.
    pub async fn cancel_all(&mut self) {
        for task in self.running.values() {
            task.cancel_once();
        }
        let tasks = std::mem::take(&mut self.running);
        shield(async {
            for task in tasks.values() {
                task.wait()
                    .await
                    .expect("nothing interrupts a wait under a shield");
            }
        })
        .await;
        self.shared.finished.borrow_mut().clear();
    }
}

impl<T: 'static, E: 'static> Default for TaskGroup<T, E> {
    fn default() -> TaskGroup<T, E> {
        TaskGroup::new()
    }
}

impl<T: 'static, E: 'static> Drop for TaskGroup<T, E> {
    fn drop(&mut self) {
        let left: Vec<_> = self
            .running
            .values()
            .filter(|task| !task.is_finished())
            .collect();
        if left.is_empty() {
            return;
        }
        log::error!(
            "kernel: a TaskGroup was dropped with {} tasks running: they are dropped too",
            left.len()
        );
        for task in left {
            // Twice is hard: the group's owner is gone, and nobody would wait for a cleanup.
            task.cancel();
            task.cancel();
        }
    }
}

impl<T: 'static, E: 'static> fmt::Debug for TaskGroup<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("running", &self.running.len())
            .finish_non_exhaustive()
    }
}

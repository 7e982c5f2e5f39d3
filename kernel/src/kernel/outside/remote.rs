//! From other threads: tasks whose results come back, and values that stay on the kernel's thread.

use std::{
    any::Any,
    fmt,
    future::Future,
    marker::PhantomData,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    across::AtomicU64,
    error::{Error, JoinError},
    kernel::{
        Core,
        outside::{
            Handle, Note, Shared,
            handover::{Giver, Missing, Taker, handover},
        },
        task::{TaskId, cancel, spawn_at},
    },
    time::shield,
};

/// A task that another thread has given to the kernel; see [`Handle::submit`].
///
/// Dropping it detaches the task.
pub struct Submitted<T> {
    shared: Arc<Shared>,
    result: Taker<Result<T, JoinError>>,
    /// The task's id as bits, once it has one; zero before.
    id: Arc<AtomicU64>,
}

impl<T> Submitted<T> {
    /// Blocks this thread until the task has ended.
    ///
    /// # Errors
    /// As [`JoinHandle::join`](crate::JoinHandle::join); [`JoinError::Cancelled`] also if the task was
    /// never started: the kernel is gone, or `main` had ended.
    ///
    /// # Deadlocks
    /// A kernel that is kept but not run starts nothing, so this waits until it is run or dropped. Its
    /// owner must do that *before* it waits for a thread that may wait here. (Every 10 seconds this looks
    /// whether the kernel runs; the first time that it does not, the log has a warning.)
    ///
    /// # Panics
    /// On the thread of the very kernel, which would wait for itself for ever: while it runs, and
    /// between its runs if the task has not ended.
    pub fn join(self) -> Result<T, JoinError> {
        match block(&self.shared, &self.result) {
            Ok(result) => result,
            Err(_) => Err(JoinError::Cancelled),
        }
    }

    /// As [`join`](Submitted::join), but no longer than until the deadline.
    ///
    /// # Errors
    /// Gives itself back if the task has not ended by then.
    ///
    /// # Panics
    /// On the thread of the very kernel, while it runs.
    pub fn join_by(self, deadline: Instant) -> Result<Result<T, JoinError>, Submitted<T>> {
        refuse_own_thread(&self.shared);
        match self.result.take(Some(deadline)) {
            Ok(result) => Ok(result),
            Err(Missing::Abandoned) => Ok(Err(JoinError::Cancelled)),
            Err(Missing::TimedOut) => Err(self),
        }
    }

    /// Cancels the task, as [`kernel::cancel`](crate::cancel) does: it may clean up; twice is hard.
    pub fn cancel(&self) {
        let id = self.id.clone();
        self.shared.note(Note::Call(Box::new(move || {
            // Notes are read in the order in which they were left, so the task has its id, if it was
            // started at all.
            let id = id.load(Ordering::Relaxed);
            if id != 0 {
                drop(cancel(TaskId::from_bits(id)));
            }
        })));
    }
}

impl Handle {
    /// Starts a task on the kernel from any thread. The closure makes the future on the kernel's
    /// thread, as the first step of the task, so the future itself need not be `Send`.
    ///
    /// It waits for the kernel to [`run`](crate::Kernel::run) if it does not now. While a run ends,
    /// from the end of `main` on, it is refused: the closure is dropped, as it is when the kernel is gone.
    /// So is a task that was handed in before, but not taken up by then, because `main` blocked the thread
    /// until it ended; one that comes when the ending run has listened for the last time waits for the next.
    /// (Only what other threads hand in is refused; what is left of the run may still
    /// [`spawn`](crate::spawn).)
    #[track_caller]
    pub fn spawn<F>(&self, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let site = Location::caller();
        self.shared().note(Note::Start(Box::new(move || {
            spawn_at(async move { make().await }, site).detach();
        })));
    }

    /// As [`spawn`](Handle::spawn), and the result comes back to this thread; or
    /// [`JoinError::Cancelled`], if the task is refused. See [`Submitted::join`] for what may deadlock.
    ///
    /// # Examples
    /// ```
    /// let (give, take) = std::sync::mpsc::channel();
    /// let thread = std::thread::spawn(move || {
    ///     let handle: kernel::Handle = take.recv().unwrap();
    ///     let (done, sum) = (handle.clone(), handle.submit(|| async { 2 + 2 }));
    ///     assert_eq!(sum.join().unwrap(), 4);
    ///     done
    /// });
    /// kernel::run(async move {
    ///     give.send(kernel::handle()).unwrap();
    ///     kernel::run_in_thread(|| thread.join().unwrap()).await.unwrap();
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn submit<F, T>(&self, make: impl FnOnce() -> F + Send + 'static) -> Submitted<T>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let site = Location::caller();
        let (giver, result) = handover();
        let id = Arc::new(AtomicU64::new(0));
        let id_there = id.clone();
        self.shared().note(Note::Start(Box::new(move || {
            let task = start(async move { make().await }, giver, site);
            id_there.store(task.to_bits(), Ordering::Relaxed);
        })));
        Submitted {
            shared: self.shared().clone(),
            result,
            id,
        }
    }
}

/// Starts the task, and beside it a daemon that hands its result over, whatever happens.
fn start<T: Send + 'static>(
    future: impl Future<Output = T> + 'static,
    giver: Giver<Result<T, JoinError>>,
    site: &'static Location<'static>,
) -> TaskId {
    let task = spawn_at(future, site);
    let id = task.id();
    let over = async move { giver.give(shield(task.join()).await) };
    spawn_at(over, site).name("result to a thread").daemon();
    id
}

/// A handle, for any thread, to a value that stays on the kernel's thread: an
/// [`Event`](crate::sync::Event) to set, a mailbox's sender, an `Rc` of one's own.
///
/// What other threads do with the value is done on the kernel's thread, between steps, in the
/// order of asking. Clones are for the same value, which lives until the last of them is dropped
/// or the kernel is.
///
/// # Examples
/// ```
/// use kernel::sync::Event;
///
/// kernel::run(async {
///     let event = Event::new();
///     let remote = kernel::remote(event.clone());
///     let thread = std::thread::spawn(move || remote.with(|event| event.set()));
///     event.wait().await.unwrap();
///     thread.join().unwrap();
/// }).unwrap();
/// ```
pub struct Remote<T> {
    place: Arc<Place>,
    value: PhantomData<fn(T)>,
}

/// Where the value is. Dropped, it takes the value out.
struct Place {
    shared: Arc<Shared>,
    key: usize,
}

/// Makes a value of the running kernel reachable for other threads; see [`Remote`].
///
/// # Panics
/// Outside a running kernel.
pub fn remote<T: 'static>(value: T) -> Remote<T> {
    let place = Core::current_ref(|core| Place {
        shared: core.shared.clone(),
        key: core.remotes.borrow_mut().insert(Rc::new(value)),
    });
    Remote {
        place: Arc::new(place),
        value: PhantomData,
    }
}

impl<T: 'static> Remote<T> {
    /// Has this run on the kernel's thread, and does not wait for it. If it panics, that is
    /// logged; if the kernel is gone, it is dropped.
    ///
    /// It runs between the steps of tasks, so it must neither block nor use traps; for that there
    /// is [`submit`](Remote::submit).
    #[track_caller]
    pub fn with(&self, f: impl FnOnce(&T) + Send + 'static) {
        self.note(move |value| f(&value)); // a panic is logged by whoever reads the note
    }

    /// As [`with`](Remote::with), but blocks this thread for the answer.
    ///
    /// # Errors
    /// [`Error::Closed`] if the kernel is gone.
    ///
    /// # Deadlocks
    /// A kernel that is kept but not run answers nothing, so this waits until it is run or dropped, as
    /// [`Submitted::join`] does: its owner must do that *before* it waits for a thread that may wait here.
    ///
    /// # Panics
    /// If the closure does: its panic goes on here. Also on the thread of the very kernel.
    #[track_caller]
    pub fn call<R: Send + 'static>(
        &self,
        f: impl FnOnce(&T) -> R + Send + 'static,
    ) -> Result<R, Error> {
        refuse_own_thread(&self.place.shared); // before it is asked
        let (giver, taker) = handover();
        self.note(move |value| giver.give(catch_unwind(AssertUnwindSafe(|| f(&value)))));
        match block(&self.place.shared, &taker) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(payload)) => resume_unwind(payload),
            Err(_) => Err(Error::Closed),
        }
    }

    /// Starts a task that has the value: [`Handle::submit`] for what needs it. Refused like that one when
    /// `main` has ended, where [`with`](Remote::with) and [`call`](Remote::call) still go through (unless
    /// the run has listened for the last time: then they wait for the next).
    #[track_caller]
    pub fn submit<F, R>(&self, make: impl FnOnce(Rc<T>) -> F + Send + 'static) -> Submitted<R>
    where
        F: Future<Output = R> + 'static,
        R: Send + 'static,
    {
        let remote = self.clone();
        Handle::of(&self.place.shared).submit(move || {
            let value = remote.place.value();
            async move { make(value).await }
        })
    }

    #[track_caller]
    fn note(&self, f: impl FnOnce(Rc<T>) + Send + 'static) {
        // The clone keeps the value where it is until this has run.
        let (remote, site) = (self.clone(), Location::caller());
        let call = move || {
            let call = || f(remote.place.value());
            Core::current_ref(|core| match &core.watch {
                Some(watch) => watch.sent(site, call),
                None => call(),
            });
        };
        self.place.shared.note(Note::Call(Box::new(call)));
    }
}

impl Place {
    /// The value, on the kernel's thread.
    fn value<T: 'static>(&self) -> Rc<T> {
        let value: Rc<dyn Any> = Core::current_ref(|core| core.remotes.borrow()[self.key].clone());
        value
            .downcast()
            .expect("the value was put there by `remote`, with this type")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let key = self.key;
        let remove = move || {
            let value = Core::current_ref(|core| core.remotes.borrow_mut().remove(key));
            drop(value); // nothing is borrowed: this may be anybody's code
        };
        self.shared.note(Note::Call(Box::new(remove)));
    }
}

/// So often, who waits looks whether the kernel runs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Blocks this thread until the kernel has given what is to come.
fn block<T>(shared: &Arc<Shared>, taker: &Taker<T>) -> Result<T, Missing> {
    refuse_own_thread(shared);
    if thread::current().id() != shared.thread {
        return take_patiently(taker, PATIENCE, || {
            let stands = !shared.runs();
            if stands {
                log::warn!(
                    "kernel: a thread has waited {PATIENCE:?} or more for a kernel that does not run: \
                     it goes on when that is run or dropped"
                );
            }
            stands
        });
    }
    let there = taker.take(Some(Instant::now())); // the kernel does not run
    assert!(!matches!(there, Err(Missing::TimedOut)), "{OWN_THREAD}");
    there
}

/// Blocks, and asks `complains` whenever it has lasted so long again, until that says that it did.
fn take_patiently<T>(
    taker: &Taker<T>,
    patience: Duration,
    mut complains: impl FnMut() -> bool,
) -> Result<T, Missing> {
    loop {
        match taker.take(Some(Instant::now() + patience)) {
            Err(Missing::TimedOut) if complains() => return taker.take(None),
            Err(Missing::TimedOut) => {}
            there => return there,
        }
    }
}

/// A thread that blocks for its own kernel would do so for ever.
fn refuse_own_thread(shared: &Arc<Shared>) {
    let own = Core::with_current(|core| Arc::ptr_eq(&core.shared, shared));
    assert!(own != Some(true), "{OWN_THREAD}");
}

const OWN_THREAD: &str =
    "this blocks until the kernel has answered, and this is the kernel's thread";

impl<T> Clone for Remote<T> {
    fn clone(&self) -> Remote<T> {
        Remote {
            place: self.place.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Submitted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitted").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_complains_once_and_goes_on_waiting() {
        let (giver, taker) = handover();
        let (mut giver, mut looked) = (Some(giver), 0);
        let taken = take_patiently(&taker, Duration::ZERO, || {
            looked += 1;
            let stands = looked == 3; // before, the kernel runs
            if stands {
                giver.take().unwrap().give(7); // it may come after the complaint
            }
            stands
        });
        assert_eq!((taken, looked), (Ok(7), 3));
        let (giver, taker) = handover();
        giver.give(8);
        let taken = take_patiently(&taker, Duration::ZERO, || unreachable!("it is there"));
        assert_eq!(taken, Ok(8));
    }
}

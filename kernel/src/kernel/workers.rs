//! Threads for what blocks: a pool that grows when needed, up to a bound.

pub(crate) mod patience;

use std::{
    collections::VecDeque,
    hint,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use std::cell::Cell;

use crate::{
    Bell, Ringer,
    across::{AtomicU8, Condvar, Mutex, MutexGuard, Whereabouts, thread},
    error::{Error, contain},
    kernel::{Core, workers::patience::Patience},
};

/// A thread that has had nothing to do for this long ends.
const IDLE: Duration = Duration::from_secs(10);

/// Does the work; gives the ringer by which to announce the result.
type Job = Box<dyn FnOnce() -> Ringer + Send>;

/// The kernel's pool of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    max: usize,
    stack: Option<usize>,
    in_flight: Rc<Cell<usize>>,
    /// Jobs whose results are being waited for.
    awaited: Cell<usize>,
    /// Whether the kernel stays awake for them.
    patience: Patience,
}

struct Shared {
    state: Mutex<State>,
    /// For threads that sleep.
    work: Condvar,
    /// For the one that looks. Only a hint: what counts is in `state`.
    called: AtomicU8,
    /// Of the kernel, when it last handed in a job.
    kernel: Whereabouts,
    /// Of the thread that last ended one.
    worker: Whereabouts,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(u64, Job)>,
    next_id: u64,
    threads: usize,
    /// Threads that sleep, or are about to.
    idle: usize,
    /// One thread is idle too, but still awake: it sees a job without being woken.
    looking: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Pool {
    pub(crate) fn new(max: usize, stack: Option<usize>) -> Pool {
        Pool {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                work: Condvar::new(),
                called: AtomicU8::new(0),
                kernel: Whereabouts::unknown(),
                worker: Whereabouts::unknown(),
            }),
            max,
            stack,
            in_flight: Rc::default(),
            awaited: Cell::new(0),
            patience: Patience::new(),
        }
    }

    /// The kernel has nothing to do: true if it is not to sleep yet, for a result may come at once.
    pub(crate) fn looks_for_results(&self) -> bool {
        if self.awaited.get() == 0 {
            self.patience.give_up();
            return false;
        }
        self.patience.looks_on(&self.shared.worker)
    }

    /// Word has come from other threads.
    pub(crate) fn heard(&self) {
        self.patience.rewarded();
    }

    /// How many ends of something outside are being waited for.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// See [`ClockHold`].
    pub(crate) fn hold_clock(&self) -> ClockHold {
        self.in_flight.set(self.in_flight.get() + 1);
        ClockHold {
            in_flight: self.in_flight.clone(),
        }
    }

    /// Queues a job; starts a thread if none is free and the bound allows it.
    fn submit(&self, job: Job) -> u64 {
        self.shared.kernel.tell();
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.jobs.push_back((id, job));
        if state.looking && state.jobs.len() == 1 {
            self.shared.called.store(1, Ordering::Relaxed);
            return id;
        }
        let free = state.idle + usize::from(state.looking);
        if free >= state.jobs.len() || state.threads >= self.max {
            drop(state);
            self.shared.work.notify_one();
            return id;
        }
        state.threads += 1;
        let alone = state.threads == 1;
        drop(state);
        let shared = self.shared.clone();
        let mut thread = thread::Builder::new().name("kernel-thread".into());
        if let Some(size) = self.stack {
            thread = thread.stack_size(size);
        }
        let started = thread.spawn(move || work(&shared));
        if let Err(e) = started {
            self.shared.lock().threads -= 1;
            // Others will get to it; without any, nobody would.
            assert!(
                !alone,
                "kernel: cannot start a thread for run_in_thread: {e}"
            );
        }
        id
    }

    /// Takes a job back that no thread has begun.
    fn revoke(&self, id: u64) {
        let revoked = {
            let mut state = self.shared.lock();
            // Queued with rising numbers and taken from the front, so always in order.
            let at = state.jobs.binary_search_by_key(&id, |job| job.0);
            at.ok().and_then(|at| state.jobs.remove(at))
        };
        drop(revoked);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Threads that are in the middle of a job end after it; nobody waits for them.
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

/// The life of one thread.
///
/// It counts as free before it announces its last result: whoever then hands in the next job
/// finds this thread, warm, and starts no other.
fn work(shared: &Shared) {
    let mut state = shared.lock();
    let mut done: Option<Ringer> = None;
    let patience = Patience::new();
    let mut ends = false;
    while !ends {
        if let Some((_, job)) = state.jobs.pop_front() {
            patience.rewarded();
            drop(state);
            announce(&mut done);
            done = Some(job());
            shared.worker.tell();
            state = shared.lock();
        } else if !state.looking && !state.closed && patience.looks_on(&shared.kernel) {
            state = look(shared, state, &patience, &mut done);
        } else {
            (state, ends) = sleep(shared, state, &mut done);
        }
    }
    state.threads -= 1;
}

/// Stays awake as long as patience lasts, or until a job is there.
fn look<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    patience: &Patience,
    done: &mut Option<Ringer>,
) -> MutexGuard<'a, State> {
    state.looking = true;
    shared.called.store(0, Ordering::Relaxed);
    drop(state);
    announce(done);
    while shared.called.load(Ordering::Relaxed) == 0 && patience.looks_on(&shared.kernel) {
        hint::spin_loop();
    }
    let mut state = shared.lock();
    state.looking = false;
    state
}

/// Sleeps until it is woken. True if there is nothing more to be done.
fn sleep<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    done: &mut Option<Ringer>,
) -> (MutexGuard<'a, State>, bool) {
    state.idle += 1;
    if done.is_some() {
        drop(state);
        announce(done);
        state = shared.lock();
    }
    let mut waited_enough = false;
    if state.jobs.is_empty() && !state.closed {
        let woken = shared.work.wait_timeout(state, IDLE);
        let (again, timeout) = woken.unwrap_or_else(|e| e.into_inner());
        (state, waited_enough) = (again, timeout.timed_out());
    }
    state.idle -= 1;
    let ends = state.jobs.is_empty() && (waited_enough || state.closed);
    (state, ends)
}

fn announce(done: &mut Option<Ringer>) {
    if let Some(ringer) = done.take() {
        ringer.ring();
    }
}

/// Runs a function that blocks on a thread of its own, and waits for its result.
///
/// Threads are made when needed, up to [`Builder::max_threads`](crate::Builder::max_threads);
/// beyond that, functions wait in line.
///
/// # Cancellation
/// A function that has not begun is taken back. One that runs cannot be stopped: it runs to its
/// end, and its result is dropped: on its thread, or here if it came at that moment.
///
/// # Errors
/// Cancellation and timeouts.
///
/// # Panics
/// If the function does: its panic goes on here. Also outside a running kernel, and if not even
/// one thread can be started.
///
/// # Examples
/// ```
/// let sum = kernel::run(async { kernel::run_in_thread(|| (1..=100).sum::<u32>()).await });
/// assert_eq!(sum.unwrap(), Ok(5050));
/// ```
pub async fn run_in_thread<R: Send + 'static>(
    f: impl FnOnce() -> R + Send + 'static,
) -> Result<R, Error> {
    crate::trap::check()?;
    let bell = Bell::new();
    let ringer = bell.ringer();
    let slot = Arc::new(Mutex::new(None));
    let result = slot.clone();
    let job: Job = Box::new(move || {
        let value = catch_unwind(AssertUnwindSafe(f));
        *result.lock().unwrap_or_else(|e| e.into_inner()) = Some(value);
        // If nobody waits any more this drops the value, which may do anything, but not end the thread.
        contain("the drop of a thread's result", || drop(result));
        ringer
    });
    let mut outstanding = Outstanding::submit(job);
    bell.wait().await?;
    outstanding.done = true;
    let value = slot.lock().unwrap_or_else(|e| e.into_inner()).take();
    match value.expect("the bell is rung after the result was put into the slot") {
        Ok(value) => Ok(value),
        Err(payload) => resume_unwind(payload),
    }
}

/// Keeps a manual clock where it is while it lives; see [`hold_clock`](crate::trap::hold_clock).
#[derive(Debug)]
#[must_use = "a clock is held as long as this lives"]
pub struct ClockHold {
    in_flight: Rc<Cell<usize>>,
}

impl Drop for ClockHold {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

/// A job handed to the pool; dropped early, it is taken back if it has not begun.
struct Outstanding {
    core: Rc<Core>,
    id: u64,
    done: bool,
    _hold: ClockHold,
}

impl Outstanding {
    fn submit(job: Job) -> Outstanding {
        let core = Core::current();
        let _hold = core.pool.hold_clock();
        let id = core.pool.submit(job);
        core.pool.awaited.set(core.pool.awaited.get() + 1);
        Outstanding {
            core,
            id,
            done: false,
            _hold,
        }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        let pool = &self.core.pool;
        pool.awaited.set(pool.awaited.get() - 1);
        if !self.done {
            pool.revoke(self.id);
        }
    }
}

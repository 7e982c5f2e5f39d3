//! The kernel: its state, and how it is made and run. The loop is in `turn.rs`.
//!
//! Tasks run by being polled; during a poll nothing of the kernel is borrowed, so whatever a task
//! does (spawn, wake, cancel, drop) finds every table free. That is why the fields are cells.

pub(crate) mod clock;
pub(crate) mod dead_end;
pub(crate) mod door;
pub(crate) mod held;
#[cfg(all(test, loom))]
pub(crate) mod model;
pub(crate) mod outside;
pub(crate) mod places;
pub(crate) mod ps;
pub(crate) mod reactor;
pub(crate) mod shutdown;
pub(crate) mod step;
pub(crate) mod task;
pub(crate) mod turn;
pub(crate) mod wait;
pub(crate) mod watch;
pub(crate) mod workers;

use std::{
    any::Any,
    cell::Cell,
    collections::VecDeque,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use slab::Slab;

use crate::{
    across,
    error::contain,
    kernel::{
        clock::{Clock, ManualClock, soon::Soon, timer::Timers},
        held::Held,
        outside::{Note, Shared, bell::BellState, waker::Lent},
        reactor::Reactor,
        shutdown::Hook,
        step::{Left, OPERATIONS_PER_STEP},
        task::{block::Blocks, cell::Task, current::Current, ready::Ready, spawn_at, table::Tasks},
        wait::{NONE, WaitId, Waits, scope::Scopes},
        watch::{Observer, Wanted, Watch},
        workers::Pool,
    },
};

// The kernel that runs on this thread; null if none does. Set and cleared by `Running`, which
// keeps the kernel alive in between.
across::local!(CURRENT: *const Core = std::ptr::null());
// The same, but null also while the task now polled was cancelled, or polls under a timeout or a shield:
// one question instead of two for what every await asks first.
across::local!(UNDISTURBED: *const Core = std::ptr::null());
across::local!(RUNS: u32 = 0);
// The tasks spawned on this thread, in kernels whose clock is real.
across::local!(SPAWNED: u32 = 0);

/// What a deadline is for.
#[derive(Clone, Copy)]
pub(crate) enum Due {
    Wait(WaitId),
    Scope(u32),
    /// The place of a task in the table: if it ends before, it cancels this.
    Budget(u32),
}

/// The state of a kernel. Everything is in cells; no borrow is held while a task runs.
///
/// In this order in memory: what every step touches comes first, within the 128 bytes that an
/// instruction reaches with a byte.
#[repr(C)]
pub(crate) struct Core {
    /// Which task is being polled, and the waker that is lent to it.
    pub(crate) lent: Lent,
    /// The number of the last cancellation or expiry that was delivered to anybody.
    pub(crate) interruptions: Cell<u64>,
    /// The data pointer of the waker in the task's context: how a leaf knows the kernel's own.
    pub(crate) lent_data: Cell<*const ()>,
    /// The innermost scope around what is being polled.
    pub(crate) scope: Cell<u32>,
    /// How many operations the task may still do in this step without waiting.
    pub(crate) operations: Cell<u32>,
    /// The task was cancelled: its next trap has to look whether it was told.
    pub(crate) cancelled: Cell<bool>,
    /// What the step now running leaves for the loop to do; see [`Left`].
    pub(crate) left: Left,
    pub(crate) ready: Held<Ready<Task>>,

    /// The door: the waits that the task now polled has asked for; usually one.
    pub(crate) door: Held<Vec<WaitId>>,

    // Tasks, and memory for more.
    pub(crate) tasks: Held<Tasks>,
    pub(crate) blocks: Blocks,
    /// To be dropped, having been cancelled hard.
    pub(crate) dying: Held<Vec<Task>>,

    // What tasks wait for.
    pub(crate) waits: Held<Waits>,
    pub(crate) scopes: Held<Scopes>,
    pub(crate) timers: Held<Timers<Due>>,
    pub(crate) reactor: Reactor,
    pub(crate) bells: Held<Slab<BellState>>,
    pub(crate) pool: Pool,
    /// What other threads reach by a `Remote`.
    pub(crate) remotes: Held<Slab<Rc<dyn Any>>>,
    /// To be run when `main` has ended.
    pub(crate) hooks: Held<Vec<Hook>>,

    /// For what holds on to a kernel after its run.
    pub(crate) me: Weak<Core>,
    pub(crate) clock: Clock,
    /// For timeouts: the last reading of the clock, if that is a real one.
    pub(crate) soon: Option<Soon>,
    pub(crate) cleanup_budget: Duration,
    /// Those who look on, if anybody does.
    pub(crate) watch: Option<Box<Watch>>,

    /// What other threads see of this kernel.
    pub(crate) shared: Arc<Shared>,
    /// What they left for us, and we have not read yet.
    pub(crate) notes: Held<VecDeque<Note>>,
    pub(crate) run_number: Cell<u32>,
    /// `main` has ended: whatever is left, or spawned from now on, is cancelled.
    pub(crate) closing: Cell<bool>,

    /// How many tasks of other threads were taken up after `main` had ended, and refused; `None` before.
    pub(crate) refused: Cell<Option<u32>>,

    /// Wakers of combinators, to be called when nothing is half done.
    pub(crate) to_wake: Held<Vec<Waker>>,

    /// Kept for its allocation.
    pub(crate) due: Held<Vec<Due>>,
}

#[cfg(not(debug_assertions))] // `Held` is larger with them
const _: () = assert!(std::mem::offset_of!(Core, ready) + size_of::<Ready<Task>>() <= 128);

// ---------------------------------------------------------------- the kernel as its user sees it

/// A kernel: runs tasks on the thread it is made on.
pub struct Kernel {
    core: Rc<Core>,
}

/// Makes a [`Kernel`] with settings of one's own.
pub struct Builder {
    clock: Clock,
    cleanup_budget: Duration,
    max_threads: usize,
    thread_stack: Option<usize>,
    shuffle: Option<u64>,
    watch: Wanted,
}

impl Builder {
    /// Runs ready tasks in an order drawn from this seed instead of the order in which they
    /// became ready, so that tests meet other orders; the same seed gives the same order.
    pub fn shuffle(mut self, seed: u64) -> Builder {
        self.shuffle = Some(seed);
        self
    }

    /// Runs on this clock instead of the monotonic one.
    pub fn manual_clock(mut self, clock: ManualClock) -> Builder {
        self.clock = Clock::Manual(clock);
        self
    }

    /// How long a cancelled task may clean up before it is dropped. Default: 5 seconds.
    pub fn cleanup_budget(mut self, budget: Duration) -> Builder {
        self.cleanup_budget = budget;
        self
    }

    /// How many threads [`run_in_thread`](crate::run_in_thread) may use at once. Default: 64.
    /// They are made when needed, and end after 10 seconds without work.
    pub fn max_threads(mut self, max: usize) -> Builder {
        self.max_threads = max.max(1);
        self
    }

    /// The size of the stack of each such thread, in bytes. Default: the standard library's
    /// (2 MiB, or what `RUST_MIN_STACK` says).
    pub fn thread_stack(mut self, size: usize) -> Builder {
        self.thread_stack = Some(size);
        self
    }

    /// Has this observer told of every event in the life of every task. Default: nobody is told,
    /// and an event costs one branch.
    pub fn observer(mut self, observer: impl Observer + 'static) -> Builder {
        self.watch.observer = Some(Box::new(observer));
        self
    }

    /// Keeps an account of each task, shown by [`ps`](crate::ps): age, steps, time and CPU time
    /// spent in them. Default: off, for it reads the clock and the CPU time twice a step, and
    /// takes 64 bytes a task.
    pub fn accounts(mut self) -> Builder {
        self.watch.accounts = true;
        self
    }

    /// Logs a warning, with the task's name and where it was spawned, when one step of a task
    /// runs longer than this: nothing else on this kernel could run meanwhile. The same for what
    /// another thread does by a [`Remote`](crate::Remote). Default: off, for
    /// it reads the clock twice a step. 100 milliseconds is a good bound to begin with.
    pub fn slow_step(mut self, bound: Duration) -> Builder {
        self.watch.slow_step = Some(bound);
        self
    }

    /// Listens on a Unix socket at this path, for this user only, and tells on a thread of its own
    /// what the kernel does: `ps`, `stats`, `now`, `cancel ID` and `help`, one command a line, as
    /// from `nc -U PATH`. It answers also when the kernel is stuck, and then names the task at
    /// fault. The socket is removed with the kernel; one left behind by a process that died is
    /// replaced, and nothing else is: whatever else lies there is an error of
    /// [`build`](Builder::build), [`AddrInUse`](io::ErrorKind::AddrInUse) if somebody listens on it, or
    /// makes a monitor there at that moment. Default: none. It costs two readings of the clock and two
    /// free locks a step.
    ///
    /// Between its making and the change of its mode the socket is open to whom the umask lets
    /// in: put it into a directory of your own where that matters. While it is made, an empty file with
    /// `.starting` at the end of its name lies beside it, so that two kernels do not replace one another's.
    pub fn monitor(mut self, path: impl Into<PathBuf>) -> Builder {
        self.watch.monitor = Some(path.into());
        self
    }

    /// Makes the kernel.
    ///
    /// # Errors
    /// If the operating system gives no epoll or eventfd (usually: too many open files), or if the
    /// monitor's socket or thread cannot be made.
    pub fn build(mut self) -> io::Result<Kernel> {
        let (reactor, waker) = Reactor::new()?;
        let shared = Shared::new(waker);
        let watch = Watch::new(std::mem::take(&mut self.watch), &shared)?;
        Ok(Kernel {
            core: Rc::new_cyclic(|me| Core::new(self, reactor, shared, watch, me.clone())),
        })
    }
}

impl Kernel {
    /// A builder with the defaults.
    pub fn builder() -> Builder {
        Builder {
            clock: Clock::Real,
            cleanup_budget: Duration::from_secs(5),
            max_threads: 64,
            thread_stack: None,
            shuffle: None,
            watch: Wanted::default(),
        }
    }

    /// Runs `main` and every task it spawns, until `main` ends; then runs what
    /// [`at_shutdown`](crate::at_shutdown) was given, cancels what is left, waits for its end, and
    /// gives `main`'s value. Nothing outlives the run silently: a task that is left is named in
    /// the log, unless it is a [daemon](crate::JoinHandle::daemon). Tasks of other
    /// threads that the kernel has not taken up by `main`'s end are refused; see
    /// [`Handle::spawn`](crate::Handle::spawn).
    ///
    /// # Panics
    /// If a kernel runs on this thread already. A panic of `main` goes on here. In a dead end
    /// of a [`ManualClock`]: what was left of the run is dropped then, and the next run begins without it.
    #[track_caller]
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        let site = std::panic::Location::caller();
        let core = self.core.clone();
        let _running = Running::start(&core);
        let main = spawn_at(main, site).name("main");
        let ran = catch_unwind(AssertUnwindSafe(|| {
            core.turn_while(&|| !main.is_finished());
            core.close_down();
        }));
        match ran {
            Ok(()) => core.finish_run(main),
            Err(payload) => {
                core.abandon();
                resume_unwind(payload)
            }
        }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("cleanup_budget", &self.cleanup_budget)
            .field("max_threads", &self.max_threads)
            .field("shuffle", &self.shuffle)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel")
            .field("tasks", &self.core.tasks.borrow().len())
            .finish_non_exhaustive()
    }
}

/// Runs `main` on a new kernel with the monotonic clock. See [`Kernel::run`].
///
/// # Errors
/// If the operating system gives no epoll or eventfd.
#[track_caller]
pub fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> io::Result<T> {
    Ok(Kernel::builder().build()?.run(main))
}

/// Marks a kernel as the one that runs on this thread, and keeps it alive.
struct Running {
    core: Rc<Core>,
}

impl Running {
    fn start(core: &Rc<Core>) -> Running {
        assert!(
            CURRENT.with(Cell::get).is_null(),
            "a kernel runs on this thread already: use `spawn` inside of it"
        );
        CURRENT.with(|current| current.set(Rc::as_ptr(core)));
        core.note_disturbance();
        core.run_number.set(RUNS.with(|runs| {
            runs.set(runs.get().wrapping_add(1));
            runs.get()
        }));
        core.closing.set(false);
        core.refused.set(None);
        core.shared.set_runs(true);
        core.lent_data.set(core.lent.data());
        if core.counts_on() {
            core.tasks.borrow_mut().count_from(SPAWNED.with(Cell::get));
        }
        Running { core: core.clone() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        CURRENT.with(|current| current.set(std::ptr::null()));
        UNDISTURBED.with(|core| core.set(std::ptr::null()));
        self.core.shared.set_runs(false);
        if self.core.counts_on() {
            SPAWNED.with(|spawned| spawned.set(self.core.tasks.borrow().count()));
        }
    }
}

impl Core {
    /// True if its tasks are numbered on from those of the kernels before it: see `TaskId`.
    fn counts_on(&self) -> bool {
        matches!(self.clock, Clock::Real)
    }

    /// Runs `f` on the kernel of this thread, if one runs.
    #[inline(always)]
    pub(crate) fn with_current<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
        let core = CURRENT.with(Cell::get);
        // SAFETY: not null only while a `Running` on this thread holds an `Rc` of this very core.
        // `f` cannot end that `Running` (it belongs to `Kernel::run`, below us on the stack), and
        // only shared references to a core are ever made.
        unsafe { core.as_ref() }.map(f)
    }

    /// The same, but only if the task now polled was not cancelled, and polls under no timeout and no
    /// shield.
    #[inline(always)]
    pub(crate) fn with_undisturbed<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
        let core = UNDISTURBED.with(Cell::get);
        // SAFETY: it is null whenever `CURRENT` is, and the same core otherwise.
        unsafe { core.as_ref() }.map(f)
    }

    fn is_running(&self) -> bool {
        std::ptr::eq(self, CURRENT.with(Cell::get))
    }

    /// True if `with_undisturbed` would run what it is given.
    #[inline(always)]
    pub(crate) fn is_undisturbed(&self) -> bool {
        debug_assert!(self.is_running());
        !UNDISTURBED.with(Cell::get).is_null()
    }

    /// To be called wherever the task now polled is another, or comes under a scope or out of it.
    #[inline]
    pub(crate) fn note_disturbance(&self) {
        debug_assert!(self.is_running(), "it would be reached when it is gone");
        let disturbed = self.cancelled.get() || self.scope.get() != NONE;
        UNDISTURBED.with(|core| {
            core.set(match disturbed {
                true => std::ptr::null(),
                false => self,
            });
        });
    }
}

impl Core {
    fn new(
        builder: Builder,
        reactor: Reactor,
        shared: Arc<Shared>,
        watch: Option<Box<Watch>>,
        me: Weak<Core>,
    ) -> Core {
        let base = builder.clock.now();
        Core {
            me,
            soon: match &builder.clock {
                Clock::Real => Soon::new(),
                Clock::Manual(_) => None,
            },
            clock: builder.clock,
            cleanup_budget: builder.cleanup_budget,
            watch,
            door: Held::default(),
            left: Left::default(),
            tasks: Held::default(),
            ready: Held::new(Ready::new(builder.shuffle)),
            blocks: Blocks::new(),
            dying: Held::default(),
            scope: Cell::new(NONE),
            operations: Cell::new(OPERATIONS_PER_STEP),
            cancelled: Cell::new(false),
            interruptions: Cell::new(1),
            lent: Lent {
                shared: shared.clone(),
                current: Current::none(),
                noted: 0.into(),
            },
            lent_data: Cell::new(std::ptr::null()),
            waits: Held::new(Waits::new()),
            scopes: Held::new(Scopes::new()),
            timers: Held::new(Timers::new(base)),
            reactor,
            bells: Held::default(),
            pool: Pool::new(builder.max_threads, builder.thread_stack),
            remotes: Held::default(),
            hooks: Held::default(),
            shared,
            run_number: Cell::new(0),
            closing: Cell::new(false),
            refused: Cell::new(None),
            to_wake: Held::default(),
            notes: Held::default(),
            due: Held::default(),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let (unread, kept) = (self.notes.take(), self.remotes.take());
        let left = self.shared.close();
        for note in unread.into_iter().chain(left) {
            contain("the drop of something sent to it", || drop(note));
        }
        for (_, value) in kept {
            contain("the drop of a remote value", || drop(value));
        }
    }
}

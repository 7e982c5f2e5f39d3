//! The kernel: its state, and the loop.
//!
//! One turn of the loop: look for I/O (and sleep, if nothing is ready), read what came from other
//! threads, answer deadlines that have passed, run tasks that are ready, drop tasks that were
//! cancelled hard. Tasks run by being polled; during a poll nothing of the kernel is borrowed, so whatever a task does (spawn, wake,
//! cancel, drop) finds every table free. That is why the fields are cells.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    bell::BellState,
    cell::Runnable,
    clock::{Clock, ManualClock},
    error::{Error, JoinError, panic_text},
    held::Held,
    outside::{Note, Shared},
    reactor::{READ, Reactor, WRITE},
    scope::Scopes,
    task::{Cancellation, Task, TaskId, spawn_at},
    timer::Timers,
    trap::Trap,
    wait::{NONE, Undo, WaitId, Waits},
    waker::Lent,
    workers::Pool,
};

/// Steps in one turn before deadlines and I/O are looked at again.
const STEPS_PER_TURN: u32 = 128;
/// Steps between two looks at the time; see `TURN_TIME`.
const STEPS_PER_LOOK: u32 = 16;
/// A turn that has taken this long ends at the next look.
const TURN_TIME: Duration = Duration::from_micros(500);
/// Operations that a task may do in one step without waiting.
const OPERATIONS_PER_STEP: u32 = 128;

thread_local! {
    /// The kernel that runs on this thread; null if none does. Set and cleared by `Running`, which
    /// keeps the kernel alive in between.
    static CURRENT: Cell<*const Core> = const { Cell::new(std::ptr::null()) };
    static RUNS: Cell<u32> = const { Cell::new(0) };
}

/// What a deadline is for.
#[derive(Clone, Copy)]
pub(crate) enum Due {
    Wait(WaitId),
    Scope(u32),
    Budget(TaskId),
}

/// The state of a kernel. Everything is in cells; no borrow is held while a task runs.
pub(crate) struct Core {
    /// For what holds on to a kernel after its run.
    pub(crate) me: Weak<Core>,
    pub(crate) clock: Clock,
    pub(crate) cleanup_budget: Duration,

    // The door: what the task now polled asks for. Usually one trap; more spill over.
    pub(crate) slot: Cell<Option<(WaitId, Trap)>>,
    pub(crate) spill: Held<Vec<(WaitId, Trap)>>,

    /// Something is in the slot or the list.
    pub(crate) door_used: Cell<bool>,

    // Tasks, and those ready to run.
    pub(crate) tasks: Held<Slab<Task>>,
    pub(crate) ready: Held<VecDeque<TaskId>>,
    /// To be dropped, having been cancelled hard.
    pub(crate) dying: Held<Vec<TaskId>>,
    pub(crate) names: Held<HashMap<u32, String>>,
    pub(crate) spawned: Cell<u32>,
    /// The state of the generator that draws the next ready task, in a shuffled kernel.
    pub(crate) dice: Option<Cell<u64>>,

    // The task being polled.
    pub(crate) current: Cell<Option<TaskId>>,
    pub(crate) scope: Cell<u32>,
    /// Its cancellation is pending: the next trap has to look.
    pub(crate) cancel_pending: Cell<bool>,
    pub(crate) operations: Cell<u32>,
    pub(crate) lent: Lent,
    /// The data pointer of the waker lent to it: how a leaf knows the kernel's own.
    pub(crate) lent_data: Cell<*const ()>,

    // What tasks wait for.
    pub(crate) waits: Held<Waits>,
    pub(crate) scopes: Held<Scopes>,
    pub(crate) timers: Held<Timers<Due>>,
    pub(crate) reactor: Reactor,
    pub(crate) bells: Held<Slab<BellState>>,
    pub(crate) pool: Pool,

    /// What other threads see of this kernel.
    pub(crate) shared: Arc<Shared>,
    pub(crate) run_number: Cell<u32>,
    /// `main` has ended: whatever is left, or spawned from now on, is cancelled.
    pub(crate) closing: Cell<bool>,

    /// Wakers of combinators, to be called when nothing is half done.
    pub(crate) to_wake: Held<Vec<Waker>>,

    // Kept for their allocations.
    pub(crate) notes: Held<Vec<Note>>,
    pub(crate) due: Held<Vec<Due>>,
    pub(crate) answered: Held<Vec<WaitId>>,
}

// ---------------------------------------------------------------- the kernel as its user sees it

/// A kernel: runs tasks on the thread it is made on.
pub struct Kernel {
    core: Rc<Core>,
}

/// Makes a [`Kernel`] with settings of one's own.
#[derive(Debug)]
pub struct Builder {
    clock: Clock,
    cleanup_budget: Duration,
    max_threads: usize,
    shuffle: Option<u64>,
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

    /// Makes the kernel.
    ///
    /// # Errors
    /// If the operating system gives no epoll or eventfd (usually: too many open files).
    pub fn build(self) -> io::Result<Kernel> {
        let (reactor, waker) = Reactor::new()?;
        let shared = Shared::new(waker);
        Ok(Kernel {
            core: Rc::new_cyclic(|me| Core::new(self, reactor, shared, me.clone())),
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
            shuffle: None,
        }
    }

    /// Runs `main` and every task it spawns, until `main` ends; then cancels what is left, waits
    /// for its end, and gives `main`'s value.
    ///
    /// # Panics
    /// If a kernel runs on this thread already. A panic of `main` goes on here.
    #[track_caller]
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        let site = std::panic::Location::caller();
        let core = self.core.clone();
        let _running = Running::start(&core);
        let main = spawn_at(main, site).name("main");
        while !main.is_finished() {
            core.turn();
        }
        core.close_down();
        core.finish_run(main)
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
    _core: Rc<Core>,
}

impl Running {
    fn start(core: &Rc<Core>) -> Running {
        assert!(
            CURRENT.get().is_null(),
            "a kernel runs on this thread already: use `spawn` inside of it"
        );
        CURRENT.set(Rc::as_ptr(core));
        core.run_number.set(RUNS.with(|runs| {
            runs.set(runs.get().wrapping_add(1));
            runs.get()
        }));
        core.closing.set(false);
        Running {
            _core: core.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        CURRENT.set(std::ptr::null());
    }
}

impl Core {
    /// Runs `f` on the kernel of this thread, if one runs.
    #[inline(always)]
    pub(crate) fn with_current<R>(f: impl FnOnce(&Core) -> R) -> Option<R> {
        let core = CURRENT.get();
        // SAFETY: not null only while a `Running` on this thread holds an `Rc` of this very core.
        // `f` cannot end that `Running` (it belongs to `Kernel::run`, below us on the stack), and
        // only shared references to a core are ever made.
        unsafe { core.as_ref() }.map(f)
    }
}

// ------------------------------------------------------------------------------------ the loop

impl Core {
    fn new(builder: Builder, reactor: Reactor, shared: Arc<Shared>, me: Weak<Core>) -> Core {
        let base = builder.clock.now();
        Core {
            me,
            clock: builder.clock,
            cleanup_budget: builder.cleanup_budget,
            slot: Cell::new(None),
            door_used: Cell::new(false),
            spill: Held::default(),
            tasks: Held::default(),
            ready: Held::default(),
            dying: Held::default(),
            names: Held::default(),
            spawned: Cell::new(0),
            // Spread out, so that neighbouring seeds differ; never 0, where xorshift stands still.
            dice: builder
                .shuffle
                .map(|seed| Cell::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)),
            current: Cell::new(None),
            scope: Cell::new(NONE),
            cancel_pending: Cell::new(false),
            operations: Cell::new(0),
            lent: Lent {
                shared: shared.clone(),
                task: 0.into(),
            },
            lent_data: Cell::new(std::ptr::null()),
            waits: Held::new(Waits::new()),
            scopes: Held::new(Scopes::new()),
            timers: Held::new(Timers::new(base)),
            reactor,
            bells: Held::default(),
            pool: Pool::new(builder.max_threads),
            shared,
            run_number: Cell::new(0),
            closing: Cell::new(false),
            to_wake: Held::default(),
            notes: Held::default(),
            due: Held::default(),
            answered: Held::default(),
        }
    }

    /// One turn: I/O, outside, deadlines, tasks, the dying. Tasks come last, so that whoever
    /// turns the loop sees at once that `main` has ended, and does not sleep once more.
    pub(crate) fn turn(&self) {
        self.poll_io();
        self.read_notes();
        self.expire_deadlines();
        self.wake_foreign();
        self.run_ready();
        self.drop_dying();
    }

    /// Acts on what other threads left for us.
    fn read_notes(&self) {
        if !self.shared.is_noted() {
            return;
        }
        let mut notes = self.notes.take();
        self.shared.take(&mut notes);
        for note in notes.drain(..) {
            match note {
                Note::Wake(task) => self.make_ready_if_alive(task),
                Note::Ring(bell) => self.ring(bell),
                Note::Call(call) => call(),
            }
        }
        self.notes.replace(notes);
    }

    /// Runs ready tasks in their order, up to the bounds that keep deadlines and I/O on time.
    fn run_ready(&self) {
        let mut began = None;
        for step in 1..=STEPS_PER_TURN {
            let Some(task) = self.next_ready() else {
                return;
            };
            self.step(task);
            if step % STEPS_PER_LOOK == 0 {
                let now = Instant::now();
                if now - *began.get_or_insert(now) > TURN_TIME {
                    return;
                }
            }
        }
    }

    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready.borrow_mut();
        let Some(dice) = &self.dice else {
            return ready.pop_front();
        };
        let mut x = dice.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        dice.set(x);
        let drawn = (x % ready.len().max(1) as u64) as usize;
        ready.swap_remove_back(drawn)
    }

    /// Polls one task, then reads what it asked for.
    fn step(&self, id: TaskId) {
        let Some((cell, kept)) = self.begin_step(id) else {
            return;
        };
        let lent = self.lent.waker();
        let waker: &Waker = kept.as_ref().unwrap_or(&lent);
        self.lent_data.set(waker.data());
        let mut cx = Context::from_waker(waker);
        let polled = catch_unwind(AssertUnwindSafe(|| cell.step(&mut cx)));
        self.lent_data.set(std::ptr::null());
        self.current.set(None);
        self.read_door();
        self.wake_foreign();
        match polled {
            Ok(Poll::Pending) if kept.is_none() => {}
            Ok(Poll::Pending) => self.put_back(id, kept),
            Ok(Poll::Ready(())) => self.retire(id, None),
            Err(payload) => {
                let text = panic_text(payload.as_ref()).to_owned();
                cell.end(JoinError::Panicked(payload));
                drop(cell);
                self.retire(id, Some(text));
            }
        }
    }

    /// Makes the task current; gives its cell, and its real waker if it has one.
    fn begin_step(&self, id: TaskId) -> Option<(Rc<dyn Runnable>, Option<Waker>)> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks
            .get_mut(id.index as usize)
            .filter(|t| t.serial == id.serial)?;
        task.queued = false;
        if task.cancellation == Cancellation::Hard && task.shields == 0 {
            return None; // it is among the dying
        }
        self.current.set(Some(id));
        self.scope.set(NONE);
        self.cancel_pending
            .set(task.cancellation == Cancellation::Pending);
        self.operations.set(OPERATIONS_PER_STEP);
        self.lent.task.store(id.to_bits(), Ordering::Relaxed);
        Some((task.cell.clone(), task.waker.take()))
    }

    fn put_back(&self, id: TaskId, kept: Option<Waker>) {
        if let (Some(task), Some(kept)) = (self.tasks.borrow_mut().get_mut(id.index as usize), kept)
        {
            task.waker = Some(kept);
        }
    }

    /// Reads the slot and what spilled over, in the order of asking.
    #[inline]
    pub(crate) fn read_door(&self) {
        if self.door_used.replace(false) {
            self.read_requests();
        }
    }

    fn read_requests(&self) {
        if !self.spill.borrow().is_empty() {
            let spilled = self.spill.take();
            for (wait, trap) in spilled {
                self.handle(wait, trap);
            }
        }
        if let Some((wait, trap)) = self.slot.take() {
            self.handle(wait, trap);
        }
    }

    /// The heart: what each trap means.
    fn handle(&self, wait: WaitId, trap: Trap) {
        match trap {
            Trap::Sleep(until) => {
                let timer = self.timers.borrow_mut().arm(until, Due::Wait(wait));
                self.suspend(wait, Undo::Timer(timer));
            }
            Trap::Readable(source) => self.wait_for_source(wait, source.0, READ),
            Trap::Writable(source) => self.wait_for_source(wait, source.0, WRITE),
            Trap::Wait(queue) => {
                self.waits.borrow_mut().join_line(&queue, wait);
                self.suspend(wait, Undo::Queue(queue));
            }
            Trap::Join(task) => self.wait_for_end(wait, task),
            Trap::Bell(bell) => self.wait_for_bell(wait, bell),
        }
    }

    fn suspend(&self, wait: WaitId, undo: Undo) {
        self.waits.borrow_mut().set_undo(wait, undo);
    }

    fn wait_for_source(&self, wait: WaitId, source: Rc<crate::reactor::Source>, direction: usize) {
        if source.is_ready(direction) {
            return self.answer(wait, Ok(()));
        }
        if source.waiter[direction].get() != NONE {
            return self.answer(wait, Err(Error::Busy));
        }
        source.waiter[direction].set(wait);
        self.suspend(wait, Undo::Source(source, direction));
    }

    fn wait_for_end(&self, wait: WaitId, id: TaskId) {
        {
            let (mut tasks, mut waits) = (self.tasks.borrow_mut(), self.waits.borrow_mut());
            let task = tasks
                .get_mut(id.index as usize)
                .filter(|t| t.serial == id.serial);
            match task {
                Some(task) if waits.get(wait).task != id.index => {
                    waits.enqueue(&mut task.joiners, wait);
                    waits.set_undo(wait, Undo::Joiner(id.index));
                    return;
                }
                _ => {}
            }
        }
        // It has ended, or waits for its own end.
        let oneself = self.is_alive(id);
        self.answer(wait, if oneself { Err(Error::OneSelf) } else { Ok(()) });
    }

    fn wait_for_bell(&self, wait: WaitId, bell: u32) {
        let bells = self.bells.borrow();
        match bells.get(bell as usize) {
            Some(state) if state.rung.replace(false) => self.answer(wait, Ok(())),
            Some(state) if state.waiter.get() == NONE => {
                state.waiter.set(wait);
                self.suspend(wait, Undo::Bell(bell));
            }
            Some(_) => self.answer(wait, Err(Error::Busy)),
            None => self.answer(wait, Err(Error::Closed)),
        }
    }

    /// Answers all deadlines that have passed, those of scopes outermost first.
    fn expire_deadlines(&self) {
        if self.timers.borrow().len() == 0 {
            return;
        }
        let now = self.clock.now();
        let mut due = self.due.take();
        self.timers.borrow_mut().expire(now, &mut due);
        // First note all scopes that have expired, so that the outermost is found whichever of
        // them the timers named first.
        let mut tasks: Vec<u32> = Vec::new();
        for due in &due {
            if let Due::Scope(scope) = due {
                tasks.push(self.scopes.borrow_mut().expire(*scope));
            }
        }
        for due in due.drain(..) {
            match due {
                Due::Wait(wait) => self.answer(wait, Ok(())),
                Due::Budget(task) => self.spend_budget(task),
                Due::Scope(_) => {}
            }
        }
        tasks
            .into_iter()
            .for_each(|task| self.deliver_timeouts(task));
        self.due.replace(due);
    }

    /// Looks for I/O; sleeps if nothing is ready.
    fn poll_io(&self) {
        let busy = !self.ready.borrow().is_empty()
            || !self.dying.borrow().is_empty()
            || !self.to_wake.borrow().is_empty();
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            self.time_to_sleep()
        };
        if timeout != Some(Duration::ZERO) && !self.shared.fall_asleep() {
            return;
        }
        let mut answered = self.answered.take();
        if let Err(e) = self.reactor.poll(timeout, &mut answered) {
            // epoll_wait fails only for reasons that are bugs (a bad descriptor or address).
            panic!("kernel: waiting for events failed: {e}");
        }
        self.shared.wake_up();
        let idle = timeout == Some(Duration::ZERO) && !busy && answered.is_empty();
        answered
            .drain(..)
            .for_each(|wait| self.answer(wait, Ok(())));
        self.answered.replace(answered);
        if idle && !self.shared.is_noted() {
            self.jump();
        }
    }

    /// How long to sleep: until the next deadline, for ever without one. A manual clock never
    /// sleeps, unless it waits for a thread's result.
    fn time_to_sleep(&self) -> Option<Duration> {
        let next = self.timers.borrow().next();
        match &self.clock {
            Clock::Real => next.map(|next| next.saturating_duration_since(Instant::now())),
            Clock::Manual(clock) => match next {
                Some(next) if next <= clock.now() => Some(Duration::ZERO),
                Some(_) if (clock.jumps() || self.closing.get()) && self.pool.in_flight() == 0 => {
                    Some(Duration::ZERO)
                }
                _ => None,
            },
        }
    }

    /// Nothing can happen before the next deadline: a manual clock goes there.
    fn jump(&self) {
        if let (Clock::Manual(clock), Some(next)) = (&self.clock, self.timers.borrow().next())
            && (clock.jumps() || self.closing.get())
        {
            clock.jump_to(next);
        }
    }
}

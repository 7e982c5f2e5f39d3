//! The kernel: its state, and the loop.
//!
//! One turn of the loop: look for I/O (and sleep, if nothing is ready), read what came from other
//! threads, answer deadlines that have passed, run tasks that are ready, drop tasks that were
//! cancelled hard. Tasks run by being polled; during a poll nothing of the kernel is borrowed, so whatever a task does (spawn, wake,
//! cancel, drop) finds every table free. That is why the fields are cells.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    cell::Runnable,
    clock::{Clock, ManualClock},
    error::{Error, JoinError, panic_text},
    outside::{BellId, BellState, Note, Shared},
    reactor::{READ, Reactor, WRITE},
    scope::Scopes,
    task::{Cancellation, JoinHandle, Task, TaskId, report_panic, spawn_at},
    timer::Timers,
    trap::Trap,
    wait::{Answer, NONE, Undo, WaitId, WaitQueue, Waits},
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
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
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
    pub(crate) clock: Clock,
    pub(crate) cleanup_budget: Duration,

    // The door: what the task now polled asks for. Usually one trap; more spill over.
    pub(crate) slot: Cell<Option<(WaitId, Trap)>>,
    pub(crate) spill: RefCell<Vec<(WaitId, Trap)>>,

    // Tasks, and those ready to run.
    pub(crate) tasks: RefCell<Slab<Task>>,
    ready: RefCell<VecDeque<TaskId>>,
    /// To be dropped, having been cancelled hard.
    dying: RefCell<Vec<TaskId>>,
    pub(crate) names: RefCell<HashMap<u32, String>>,
    spawned: Cell<u32>,

    // The task being polled.
    current: Cell<Option<TaskId>>,
    pub(crate) scope: Cell<u32>,
    /// Its cancellation is pending: the next trap has to look.
    cancel_pending: Cell<bool>,
    operations: Cell<u32>,
    lent: Lent,
    /// The data pointer of the waker lent to it: how a leaf knows the kernel's own.
    lent_data: Cell<*const ()>,

    // What tasks wait for.
    pub(crate) waits: RefCell<Waits>,
    pub(crate) scopes: RefCell<Scopes>,
    pub(crate) timers: RefCell<Timers<Due>>,
    pub(crate) reactor: Reactor,
    pub(crate) bells: RefCell<Slab<BellState>>,
    pub(crate) pool: Pool,

    /// What other threads see of this kernel.
    pub(crate) shared: Arc<Shared>,
    run_number: Cell<u32>,
    /// `main` has ended: whatever is left, or spawned from now on, is cancelled.
    closing: Cell<bool>,

    /// Wakers of combinators, to be called when nothing is half done.
    to_wake: RefCell<Vec<Waker>>,

    // Kept for their allocations.
    notes: RefCell<Vec<Note>>,
    due: RefCell<Vec<Due>>,
    answered: RefCell<Vec<WaitId>>,
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
}

impl Builder {
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
            core: Rc::new(Core::new(self, reactor, shared)),
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

/// Marks a kernel as the one that runs on this thread.
struct Running;

impl Running {
    fn start(core: &Rc<Core>) -> Running {
        CURRENT.with_borrow_mut(|current| {
            assert!(
                current.is_none(),
                "a kernel runs on this thread already: use `spawn` inside of it"
            );
            *current = Some(core.clone());
        });
        core.run_number.set(RUNS.with(|runs| {
            runs.set(runs.get().wrapping_add(1));
            runs.get()
        }));
        core.closing.set(false);
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let core = CURRENT.with_borrow_mut(Option::take);
        drop(core);
    }
}

// ------------------------------------------------------------------------------------ the loop

impl Core {
    fn new(builder: Builder, reactor: Reactor, shared: Arc<Shared>) -> Core {
        let base = builder.clock.now();
        Core {
            clock: builder.clock,
            cleanup_budget: builder.cleanup_budget,
            slot: Cell::new(None),
            spill: RefCell::default(),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            dying: RefCell::default(),
            names: RefCell::default(),
            spawned: Cell::new(0),
            current: Cell::new(None),
            scope: Cell::new(NONE),
            cancel_pending: Cell::new(false),
            operations: Cell::new(0),
            lent: Lent {
                shared: shared.clone(),
                task: 0.into(),
            },
            lent_data: Cell::new(std::ptr::null()),
            waits: RefCell::new(Waits::new()),
            scopes: RefCell::new(Scopes::new()),
            timers: RefCell::new(Timers::new(base)),
            reactor,
            bells: RefCell::default(),
            pool: Pool::new(builder.max_threads),
            shared,
            run_number: Cell::new(0),
            closing: Cell::new(false),
            to_wake: RefCell::default(),
            notes: RefCell::default(),
            due: RefCell::default(),
            answered: RefCell::default(),
        }
    }

    /// One turn: I/O, outside, deadlines, tasks, the dying. Tasks come last, so that whoever
    /// turns the loop sees at once that `main` has ended, and does not sleep once more.
    fn turn(&self) {
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
            let Some(task) = self.ready.borrow_mut().pop_front() else {
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
    pub(crate) fn read_door(&self) {
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
            Trap::Yield => unreachable!("answered by the leaf itself: it needs no wait"),
            Trap::Sleep(until) => {
                let timer = self.timers.borrow_mut().arm(until, Due::Wait(wait));
                self.suspend(wait, Undo::Timer(timer));
            }
            Trap::Readable(source) => self.wait_for_source(wait, source.0, READ),
            Trap::Writable(source) => self.wait_for_source(wait, source.0, WRITE),
            Trap::Wait(queue, what) => {
                self.waits.borrow_mut().join_line(&queue, wait);
                self.suspend(wait, Undo::Queue(queue, what));
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
        let asker = self.waits.borrow().get(wait).task;
        if asker == id.index && self.is_alive(id) {
            return self.answer(wait, Err(Error::OneSelf));
        }
        if !self.is_alive(id) {
            return self.answer(wait, Ok(()));
        }
        let mut tasks = self.tasks.borrow_mut();
        let task = &mut tasks[id.index as usize];
        self.waits.borrow_mut().enqueue(&mut task.joiners, wait);
        self.suspend(wait, Undo::Joiner(id.index));
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

// ------------------------------------------------------------------- answering and withdrawing

impl Core {
    /// Takes a wait out of wherever it stands.
    fn undo(&self, wait: WaitId, undo: Undo) {
        match undo {
            Undo::Requested => self.take_from_door(wait),
            Undo::Timer(timer) => self.timers.borrow_mut().cancel(timer),
            Undo::Source(source, direction) => source.waiter[direction].set(NONE),
            Undo::Queue(queue, _) => self.waits.borrow_mut().leave_line(&queue, wait),
            Undo::Joiner(task) => {
                let mut tasks = self.tasks.borrow_mut();
                self.waits
                    .borrow_mut()
                    .dequeue(&mut tasks[task as usize].joiners, wait);
            }
            Undo::Bell(bell) => {
                if let Some(state) = self.bells.borrow().get(bell as usize) {
                    state.waiter.set(NONE);
                }
            }
            Undo::Answered(_) => {}
        }
    }

    /// A leaf was dropped in the same poll in which it asked.
    fn take_from_door(&self, wait: WaitId) {
        match self.slot.take() {
            Some((id, _)) if id == wait => {}
            other => {
                self.slot.set(other);
                self.spill.borrow_mut().retain(|(id, _)| *id != wait);
            }
        }
    }

    /// Answers a wait whose cause is gone already: the timer fired, the line was left, the
    /// readiness taken.
    fn answer(&self, wait: WaitId, answer: Answer) {
        let (task, waker) = {
            let mut waits = self.waits.borrow_mut();
            waits.set_undo(wait, Undo::Answered(answer));
            let task = waits.get(wait).task;
            self.with_wait_list(task, |head| waits.leave_task(wait, head));
            (task, waits.take_waker(wait))
        };
        match waker {
            Some(waker) => self.to_wake.borrow_mut().push(waker),
            None => self.make_ready(task),
        }
    }

    /// Calls the wakers of combinators whose waits were answered. Kept for a moment at which
    /// nothing is borrowed or half done: waking may run any code.
    fn wake_foreign(&self) {
        if !self.to_wake.borrow().is_empty() {
            self.to_wake.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Answers a wait before its cause has come: cancellation and timeouts.
    fn interrupt(&self, wait: WaitId, error: Error) {
        let undo = self
            .waits
            .borrow_mut()
            .set_undo(wait, Undo::Answered(Ok(())));
        self.undo(wait, undo);
        self.answer(wait, Err(error));
    }

    /// A leaf was dropped before it took its answer.
    pub(crate) fn withdraw(&self, wait: WaitId) {
        let undo = self
            .waits
            .borrow_mut()
            .set_undo(wait, Undo::Answered(Ok(())));
        if !matches!(undo, Undo::Answered(_)) {
            self.undo(wait, undo);
            let mut waits = self.waits.borrow_mut();
            let task = waits.get(wait).task;
            self.with_wait_list(task, |head| waits.leave_task(wait, head));
        }
        self.forget_wait(wait);
    }

    /// Removes a wait that stands nowhere any more.
    pub(crate) fn forget_wait(&self, wait: WaitId) {
        let waker = {
            let mut waits = self.waits.borrow_mut();
            let waker = waits.take_waker(wait);
            waits.remove(wait);
            waker
        };
        drop(waker);
    }

    /// The head of a task's list of waits; of none, for a wait whose task has ended.
    fn with_wait_list<R>(&self, task: u32, f: impl FnOnce(&mut WaitId) -> R) -> R {
        match self.tasks.borrow_mut().get_mut(task as usize) {
            Some(task) => f(&mut task.waits),
            None => f(&mut { NONE }),
        }
    }

    pub(crate) fn new_wait(&self) -> WaitId {
        let task = self.current_index();
        let scope = self.scope.get();
        self.with_wait_list(task, |head| {
            self.waits.borrow_mut().insert(task, head, scope)
        })
    }

    /// A wait was found in this task's poll: it belongs here now, and into this scope.
    pub(crate) fn adopt(&self, wait: WaitId) {
        let (task, scope) = (self.current_index(), self.scope.get());
        let mut waits = self.waits.borrow_mut();
        if waits.get(wait).scope != scope {
            waits.set_scope(wait, scope);
        }
        let before = waits.get(wait).task;
        if before != task {
            self.with_wait_list(before, |head| waits.leave_task(wait, head));
            self.with_wait_list(task, |head| waits.enter_task(wait, task, head));
        }
    }
}

// -------------------------------------------------------------------------------------- tasks

impl Core {
    /// The kernel that runs on this thread.
    pub(crate) fn current() -> Rc<Core> {
        CURRENT
            .with_borrow(|current| current.clone())
            .expect("no kernel runs on this thread: use `kernel::run`")
    }

    /// As `current`, without a reference count.
    pub(crate) fn current_ref<R>(f: impl FnOnce(&Rc<Core>) -> R) -> R {
        Core::with_current(f).expect("no kernel runs on this thread: use `kernel::run`")
    }

    /// Runs `f` on the kernel of this thread, if one runs.
    pub(crate) fn with_current<R>(f: impl FnOnce(&Rc<Core>) -> R) -> Option<R> {
        CURRENT
            .try_with(|current| current.borrow().as_ref().map(f))
            .ok()
            .flatten()
    }

    pub(crate) fn run_number(&self) -> u32 {
        self.run_number.get()
    }

    pub(crate) fn current_task(&self) -> Option<TaskId> {
        self.current.get()
    }

    pub(crate) fn current_index(&self) -> u32 {
        self.current
            .get()
            .expect("traps are for tasks: this was polled outside of one")
            .index
    }

    /// True if a leaf polled with this waker is woken by making the current task ready.
    pub(crate) fn is_own_waker(&self, waker: &Waker) -> bool {
        std::ptr::eq(waker.data(), self.lent_data.get())
    }

    /// A clone of the task's real waker, which is made now if it has none yet.
    pub(crate) fn keep_waker(&self, id: TaskId, make: impl FnOnce() -> Waker) -> Option<Waker> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks
            .get_mut(id.index as usize)
            .filter(|t| t.serial == id.serial)?;
        Some(task.waker.get_or_insert_with(make).clone())
    }

    pub(crate) fn add_task(
        &self,
        cell: Rc<dyn Runnable>,
        site: &'static std::panic::Location<'static>,
    ) -> TaskId {
        let serial = self.spawned.get().wrapping_add(1);
        self.spawned.set(serial);
        let mut task = Task::new(cell, serial, self.current.get(), site);
        if self.closing.get() {
            task.cancellation = Cancellation::Pending;
        }
        let index = self.tasks.borrow_mut().insert(task) as u32;
        self.make_ready(index);
        TaskId { serial, index }
    }

    pub(crate) fn set_name(&self, id: TaskId, name: &str) {
        if self.is_alive(id) {
            self.names.borrow_mut().insert(id.index, name.to_owned());
        }
    }

    pub(crate) fn is_alive(&self, id: TaskId) -> bool {
        self.tasks
            .borrow()
            .get(id.index as usize)
            .is_some_and(|t| t.serial == id.serial)
    }

    /// Puts a task at the end of the ready queue, if it is not there already.
    pub(crate) fn make_ready(&self, index: u32) {
        if let Some(task) = self.tasks.borrow_mut().get_mut(index as usize)
            && !std::mem::replace(&mut task.queued, true)
        {
            self.ready.borrow_mut().push_back(TaskId {
                serial: task.serial,
                index,
            });
        }
    }

    pub(crate) fn make_ready_if_alive(&self, id: TaskId) {
        if self.is_alive(id) {
            self.make_ready(id.index);
        }
    }

    /// Removes a task that has ended and answers those who wait for it.
    fn retire(&self, id: TaskId, panic: Option<String>) {
        let task = self.tasks.borrow_mut().remove(id.index as usize);
        if let Some(timer) = task.budget {
            self.timers.borrow_mut().cancel(timer);
        }
        let name = self.names.borrow_mut().remove(&id.index);
        // A leaf may have been moved out of the future that asked; its wait has no task now.
        let mut wait = task.waits;
        while wait != NONE {
            let next = self.waits.borrow().next_of_task(wait);
            self.waits
                .borrow_mut()
                .enter_task(wait, NONE, &mut { NONE });
            wait = next;
        }
        let mut joiners = task.joiners;
        while joiners.first != NONE {
            let joiner = joiners.first;
            self.waits.borrow_mut().dequeue(&mut joiners, joiner);
            self.answer(joiner, Ok(()));
        }
        if let Some(text) = panic
            && Rc::strong_count(&task.cell) == 1
        {
            report_panic(id, name.as_deref(), task.site, &text);
        }
        // Nothing is borrowed here: dropping the result and the waker may run foreign code.
        drop(task);
    }

    /// Drops the futures of tasks that were cancelled hard.
    fn drop_dying(&self) {
        loop {
            let Some(id) = self.dying.borrow_mut().pop() else {
                return;
            };
            let cell = match self.tasks.borrow().get(id.index as usize) {
                Some(task) if task.serial == id.serial && task.shields == 0 => task.cell.clone(),
                _ => continue,
            };
            cell.end(JoinError::Cancelled);
            drop(cell);
            self.retire(id, None);
        }
    }

    /// True while the current task may go on without waiting; see `OPERATIONS_PER_STEP`.
    pub(crate) fn spend(&self) -> bool {
        let left = self.operations.get();
        self.operations.set(left.saturating_sub(1));
        left > 0
    }

    /// `main` has ended: cancels all other tasks and runs until they have ended.
    fn close_down(&self) {
        self.closing.set(true);
        let left: Vec<TaskId> = self
            .tasks
            .borrow()
            .iter()
            .map(|(index, task)| TaskId {
                serial: task.serial,
                index: index as u32,
            })
            .collect();
        if !left.is_empty() {
            log::debug!(
                "kernel: main has ended, cancelling the {} tasks that are left",
                left.len()
            );
        }
        for id in left {
            self.cancel_task(id);
        }
        while !self.tasks.borrow().is_empty() {
            self.turn();
        }
    }

    /// Leaves no trace of this run for the next; gives `main`'s value.
    fn finish_run<T: 'static>(&self, main: JoinHandle<T>) -> T {
        self.ready.borrow_mut().clear();
        let stray = self.waits.borrow().ids();
        stray.into_iter().for_each(|wait| self.withdraw(wait));
        self.names.borrow_mut().clear();
        match main.into_result() {
            Ok(value) => value,
            Err(JoinError::Panicked(payload)) => resume_unwind(payload as Box<dyn Any + Send>),
            Err(error) => panic!("the main task was cancelled: {error}"),
        }
    }
}

// ------------------------------------------------------------------ cancellation and timeouts

impl Core {
    /// What a trap has to come back with instead of waiting, if anything.
    pub(crate) fn interruption(&self) -> Option<Error> {
        let scope = self.scope.get();
        if self.cancel_pending.get() && !self.scopes.borrow().is_shielded(scope) {
            self.cancel_pending.set(false);
            let index = self.current_index();
            self.tasks.borrow_mut()[index as usize].cancellation = Cancellation::Delivered;
            return Some(Error::Cancelled);
        }
        match scope {
            NONE => None,
            _ => {
                let mut scopes = self.scopes.borrow_mut();
                let error = scopes.deliver(scope)?;
                scopes.settle(scope);
                Some(error)
            }
        }
    }

    /// False if a task tries to cancel itself.
    pub(crate) fn cancel_task(&self, id: TaskId) -> bool {
        if self.current.get() == Some(id) {
            return false;
        }
        if !self.is_alive(id) {
            return true;
        }
        let index = id.index as usize;
        let before = self.tasks.borrow()[index].cancellation;
        match before {
            Cancellation::None => {
                let end = self.clock.now() + self.cleanup_budget;
                let timer = self.timers.borrow_mut().arm(end, Due::Budget(id));
                let mut tasks = self.tasks.borrow_mut();
                tasks[index].cancellation = Cancellation::Pending;
                tasks[index].budget = Some(timer);
                drop(tasks);
                self.deliver_cancellation(id);
            }
            Cancellation::Pending | Cancellation::Delivered => self.cancel_hard(id),
            Cancellation::Hard => {}
        }
        true
    }

    /// Answers every wait of the task that stands under no shield.
    fn deliver_cancellation(&self, id: TaskId) {
        for wait in self.waits_of(id.index) {
            let scope = self.waits.borrow().get(wait).scope;
            if self.scopes.borrow().is_shielded(scope) {
                continue;
            }
            self.tasks.borrow_mut()[id.index as usize].cancellation = Cancellation::Delivered;
            self.interrupt(wait, Error::Cancelled);
        }
    }

    /// Answers the waits of a task to which an expired timeout is due.
    fn deliver_timeouts(&self, task: u32) {
        let mut scopes_met = Vec::new();
        for wait in self.waits_of(task) {
            let scope = self.waits.borrow().get(wait).scope;
            let due = match scope {
                NONE => None,
                scope => self.scopes.borrow_mut().deliver(scope),
            };
            if let Some(error) = due {
                scopes_met.push(scope);
                self.interrupt(wait, error);
            }
        }
        // Only now: one expiry answers all the waits below it.
        scopes_met
            .into_iter()
            .for_each(|scope| self.scopes.borrow_mut().settle(scope));
    }

    fn waits_of(&self, task: u32) -> Vec<WaitId> {
        let mut all = Vec::new();
        let waits = self.waits.borrow();
        let mut wait = self
            .tasks
            .borrow()
            .get(task as usize)
            .map_or(NONE, |t| t.waits);
        while wait != NONE {
            all.push(wait);
            wait = waits.next_of_task(wait);
        }
        all.reverse(); // oldest first
        all
    }

    /// The time for cleaning up is over.
    fn spend_budget(&self, id: TaskId) {
        if !self.is_alive(id) {
            return;
        }
        self.tasks.borrow_mut()[id.index as usize].budget = None;
        let name = self
            .names
            .borrow()
            .get(&id.index)
            .cloned()
            .unwrap_or_default();
        log::warn!(
            "kernel: task {id} {name} used up its cleanup budget after a cancel and is dropped"
        );
        self.cancel_hard(id);
    }

    fn cancel_hard(&self, id: TaskId) {
        self.tasks.borrow_mut()[id.index as usize].cancellation = Cancellation::Hard;
        self.dying.borrow_mut().push(id);
    }

    /// Opens a scope inside the current one.
    pub(crate) fn open_scope(&self, deadline: Option<Instant>) -> u32 {
        let task = self.current_index();
        let shield = deadline.is_none();
        let id = self
            .scopes
            .borrow_mut()
            .open(self.scope.get(), task, shield);
        if let Some(deadline) = deadline {
            let timer = self.timers.borrow_mut().arm(deadline, Due::Scope(id));
            self.scopes.borrow_mut().set_timer(id, timer);
        } else {
            self.tasks.borrow_mut()[task as usize].shields += 1;
        }
        id
    }

    pub(crate) fn close_scope(&self, id: u32) {
        let scope = self.scopes.borrow_mut().close(id);
        if let Some(timer) = scope.timer() {
            self.timers.borrow_mut().cancel(timer);
        }
        // A leaf that was moved out of the scope stands in the one around it from now on.
        for wait in self.waits_of(scope.task()) {
            let mut waits = self.waits.borrow_mut();
            if waits.get(wait).scope == id {
                waits.set_scope(wait, scope.parent());
            }
        }
        if scope.is_shield() {
            self.close_shield(scope.task());
        }
    }

    fn close_shield(&self, index: u32) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get_mut(index as usize) else {
            return;
        };
        task.shields -= 1;
        if task.shields == 0 && task.cancellation == Cancellation::Hard {
            self.dying.borrow_mut().push(TaskId {
                serial: task.serial,
                index,
            });
        }
    }
}

// ------------------------------------------------------------------------- lines and bells

impl WaitQueue {
    /// Lets up to `count` tasks go on, the longest waiting first. Gives how many there were.
    pub fn wake(&self, count: usize) -> usize {
        self.end(count, Ok(()))
    }

    /// Lets all tasks in line come back with this error. Gives how many there were.
    pub fn fail(&self, error: Error) -> usize {
        self.end(usize::MAX, Err(error))
    }

    /// True if a task waits that asked in this or an earlier step.
    pub fn has_waiters(&self) -> bool {
        Core::with_current(|core| core.read_door());
        !self.is_empty()
    }

    fn end(&self, count: usize, answer: Answer) -> usize {
        Core::with_current(|core| {
            // A wait asked for in this same step (by another branch of a `join!`) counts.
            core.read_door();
            let mut woken = 0;
            while woken < count && !self.is_empty() {
                let wait = self.first();
                core.waits.borrow_mut().leave_line(self, wait);
                core.answer(wait, answer);
                woken += 1;
            }
            woken
        })
        .unwrap_or(0)
    }
}

impl Core {
    pub(crate) fn new_bell(&self) -> BellId {
        let serial = self.spawned.get().wrapping_add(1);
        self.spawned.set(serial);
        let index = self.bells.borrow_mut().insert(BellState {
            serial,
            rung: Cell::new(false),
            waiter: Cell::new(NONE),
        });
        (index as u32, serial)
    }

    pub(crate) fn drop_bell(&self, id: BellId) {
        self.bells.borrow_mut().remove(id.0 as usize);
    }

    fn ring(&self, (index, serial): BellId) {
        let waiter = match self.bells.borrow().get(index as usize) {
            Some(bell) if bell.serial == serial => {
                let waiter = bell.waiter.replace(NONE);
                bell.rung.set(waiter == NONE);
                waiter
            }
            _ => NONE,
        };
        if waiter != NONE {
            self.answer(waiter, Ok(()));
        }
    }
}

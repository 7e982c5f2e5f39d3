//! The loop: what happens in one turn, and what each trap means.
//!
//! One turn: look for I/O (and sleep, if nothing is ready), read what came from other threads,
//! answer deadlines that have passed, run tasks that are ready, drop tasks that were cancelled
//! hard.

use std::{
    cell::Cell,
    ops::ControlFlow::{self, Break, Continue},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    bell::find_bell,
    cell::Task,
    clock::Clock,
    error::{Error, JoinError, Panic, contain},
    kernel::{Core, Due},
    outside::Note,
    places::prefetch,
    reactor::{READ, Source, WRITE},
    task::Cancellation,
    trap::Trap,
    wait::{Answer, NONE, Stage, WaitId},
};

/// Steps in one turn before deadlines and I/O are looked at again.
const STEPS_PER_TURN: u32 = 1024;
/// Steps between two looks at the time; see `TURN_TIME`.
const STEPS_PER_LOOK: u32 = 64;
/// How many answers lie between two steps of fetching what they touch.
const FETCHED: usize = 6;
/// A turn that has taken this long ends at the next look.
const TURN_TIME: Duration = Duration::from_micros(100);
/// How far ahead in the ready queue the processor fetches tasks.
const PREFETCHED: usize = 5;
/// Notes read in one turn. Not more than a turn runs steps: tasks that other threads give us faster
/// than they are run wait in the list, and not in the ready queue before those whose deadline passes.
const NOTES_PER_TURN: u32 = 128;
/// Room for so many notes is kept; what a storm took beyond is given back.
const NOTES_KEPT: usize = 1024;
/// Operations that a task may do in one step without waiting.
const OPERATIONS_PER_STEP: u32 = 128;

impl Core {
    /// The loop. A turn is part of it and no function of its own: what was called before a system call
    /// returns from behind it to where the processor does not expect.
    pub(crate) fn turn_while(&self, goes_on: &dyn Fn() -> bool) {
        while goes_on() {
            self.turn();
        }
    }

    /// One turn: I/O, outside, deadlines, tasks, the dying. Tasks come last, so that whoever
    /// turns the loop sees at once that `main` has ended, and does not sleep once more.
    #[inline(always)]
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
        if self.notes.borrow().is_empty() {
            if !self.shared.is_noted() {
                return;
            }
            self.pool.heard();
            self.shared.take(&mut self.notes.borrow_mut());
        }
        for _ in 0..NOTES_PER_TURN {
            let note = self.notes.borrow_mut().pop_front();
            let Some(note) = note else {
                return self.notes.borrow_mut().shrink_to(NOTES_KEPT);
            };
            self.read(note);
        }
    }

    fn read(&self, note: Note) {
        match note {
            Note::Wake(waker) => {
                waker.noted.lower();
                self.make_ready_if_alive(waker.task);
            }
            Note::Lent(task) => {
                self.lent.lower(task);
                self.make_ready_if_alive(task);
            }
            Note::Ring(rope) => {
                rope.noted.lower();
                self.ring(rope.id);
            }
            Note::Call(call) => contain("a closure sent to it", call),
        }
    }

    /// Runs ready tasks in their order, up to the bounds that keep deadlines and I/O on time.
    ///
    /// One `catch_unwind` stands around all the steps of a turn instead of around each: whose
    /// panic it was is known all the same, for the task is still the current one.
    fn run_ready(&self) {
        let steps = Steps {
            timed: matches!(self.clock, Clock::Real),
            ..Steps::default()
        };
        let plain = self.watch.is_none() && !self.ready.borrow().is_drawn();
        let run = || match plain {
            true => self.run_steps::<true>(&steps),
            false => self.run_steps::<false>(&steps),
        };
        while let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
            let Some(task) = self.current.take() else {
                resume_unwind(payload); // not in a task: a waker's, or the kernel's own
            };
            self.end_unusual(&task);
            self.left.take(Left::YIELDED | Left::WATCHED);
            self.read_door();
            self.wake_foreign();
            self.finish(&task, JoinError::Panicked(Panic::new(payload)));
        }
    }

    /// `PLAIN` if nobody looks on, and no dice draw the next: what every step would ask otherwise.
    #[inline(never)]
    fn run_steps<const PLAIN: bool>(&self, steps: &Steps) {
        let lent = self.lent.waker();
        while !steps.are_over() {
            for _ in 0..STEPS_PER_LOOK {
                let Some(task) = self.next_ready::<PLAIN>() else {
                    return;
                };
                self.step::<PLAIN>(task, &lent);
            }
        }
    }

    #[inline]
    fn next_ready<const PLAIN: bool>(&self) -> Option<Task> {
        let mut ready = self.ready.borrow_mut();
        if !PLAIN {
            ready.draw();
        }
        let (task, later) = ready.pop(PREFETCHED)?;
        if let Some(later) = later {
            later.prefetch();
        }
        Some(task)
    }

    /// Polls one task, then reads what it asked for.
    #[inline]
    fn step<const PLAIN: bool>(&self, task: Task, waker: &Waker) {
        let mut context = Context::from_waker(waker); // for this step alone: a task may put another there
        self.operations.set(OPERATIONS_PER_STEP);
        let id = task.record.id.to_bits();
        self.lent.task.store(id, Ordering::Relaxed);
        self.current.put(Some(task));
        // The one guard that is held while foreign code runs: nobody but us changes `current`.
        let polled = self.current.borrow().as_ref().and_then(|task| {
            let usual = match PLAIN || self.watch.is_none() {
                true => task.poll_if_usual(&mut context),
                false => None,
            };
            usual.or_else(|| self.poll_unusual(task))
        });
        let task = self.current.take();
        let (Some(polled), Some(task)) = (polled, task) else {
            return;
        };
        match (polled, self.left.0.get()) {
            (Poll::Pending, 0) => {}
            (Poll::Ready(()), 0) => self.retire(&task),
            (Poll::Pending, Left::REQUESTS) => {
                self.left.0.set(0);
                self.read_requests();
                self.wake_foreign();
            }
            (Poll::Pending, Left::YIELDED) => {
                self.left.0.set(0);
                self.make_ready(task);
            }
            _ => self.end_step(task, polled),
        }
    }

    /// Acts on what the task asked for, and on its end.
    #[inline(never)]
    fn end_step(&self, task: Task, polled: Poll<()>) {
        let yielded = self.left.take(Left::YIELDED);
        self.read_door();
        self.wake_foreign();
        match polled {
            Poll::Ready(()) => return self.retire(&task),
            Poll::Pending => self.suspended(&task),
        }
        if yielded {
            self.make_ready(task);
        }
    }

    fn suspended(&self, task: &Task) {
        if let (true, Some(watch)) = (self.left.take(Left::WATCHED), &self.watch) {
            watch.suspended(task);
        }
    }

    /// Polls a task that was cancelled, or has a waker of its own, or is watched. Not if it has
    /// ended, or is among the dying.
    #[inline(never)]
    fn poll_unusual(&self, task: &Task) -> Option<Poll<()>> {
        task.leave_queue();
        let cancellation = task.cancellation();
        if !task.is_parked() || cancellation == Cancellation::Hard && !task.record.is_shielded() {
            return None;
        }
        self.cancelled.set(matches!(
            cancellation,
            Cancellation::Pending | Cancellation::Delivered
        ));
        self.note_disturbance();
        if let Some(watch) = &self.watch {
            self.left.add(Left::WATCHED);
            watch.running(task);
        }
        let polled = self.poll_with_its_waker(task);
        self.end_unusual(task);
        if polled.is_pending() {
            match task.cancellation() {
                Cancellation::Pending => self.deliver_if_late(task),
                Cancellation::Hard => self.dying.borrow_mut().push(task.clone()),
                Cancellation::None | Cancellation::Delivered => {}
            }
        }
        Some(polled)
    }

    /// What a poll that was not as usual has changed, and the next finds as usual again.
    fn end_unusual(&self, task: &Task) {
        self.lent_data.set(self.lent.data());
        self.cancelled.set(false);
        self.note_disturbance();
        if let Some(watch) = &self.watch {
            watch.leave(task);
        }
    }

    /// Polls with the task's real waker if it has one, else with the one that is lent.
    fn poll_with_its_waker(&self, task: &Task) -> Poll<()> {
        match task.record.rare().and_then(|rare| rare.waker.get()) {
            None => task.poll(&mut Context::from_waker(&self.lent.waker())),
            Some(kept) => {
                self.lent_data.set(kept.data());
                task.poll(&mut Context::from_waker(kept))
            }
        }
    }

    /// Reads what was asked for, in the order of asking.
    #[inline]
    pub(crate) fn read_door(&self) {
        if self.left.take(Left::REQUESTS) {
            self.read_requests();
        }
    }

    #[inline(never)]
    fn read_requests(&self) {
        let count = self.door.borrow().len();
        for n in 0..count {
            let wait = self.door.borrow()[n];
            if wait == NONE {
                continue; // it was dropped in the poll in which it was asked for
            }
            if let ControlFlow::Break(answer) = self.handle(wait) {
                self.answer(wait, answer);
            }
        }
        self.door.borrow_mut().clear(); // no trap's meaning puts another in front of the door
    }

    /// The heart: what each trap means. Breaks off with the answer, if it is there at once.
    #[inline]
    fn handle(&self, id: WaitId) -> ControlFlow<Answer> {
        let waits = self.waits.borrow();
        let wait = waits.get(id);
        match &wait.trap {
            Trap::Sleep(until) => {
                wait.set_timer(self.timers.borrow_mut().arm(*until, Due::Wait(id)));
            }
            Trap::Wait(queue) => waits.enqueue(queue.first(), id),
            Trap::Readable(source) => {
                self.wait_for_source(id, &source.0, READ)?;
                if source.is_in_doubt() {
                    self.reactor.wait_in_doubt(&source.0);
                }
            }
            Trap::Writable(source) => self.wait_for_source(id, &source.0, WRITE)?,
            Trap::Join(task) => match self.tasks.borrow().get(*task) {
                None => return Break(Ok(())), // it has ended
                Some(task) if wait.task.as_ref().is_some_and(|own| own.is(task)) => {
                    return Break(Err(Error::OneSelf));
                }
                Some(task) => waits.enqueue(&task.record.joiners, id),
            },
            Trap::Bell(bell) => match find_bell(&self.bells.borrow(), *bell) {
                Some(state) if state.rung.replace(false) => return Break(Ok(())),
                Some(state) if state.waiter.get() == NONE => state.waiter.set(id),
                Some(_) => return Break(Err(Error::Busy)),
                None => return Break(Err(Error::Closed)),
            },
        }
        wait.stage.set(Stage::Suspended);
        Continue(())
    }

    /// Puts a wait to a source; or it is ready, another kernel's, or has another's wait already.
    #[inline]
    fn wait_for_source(
        &self,
        wait: WaitId,
        source: &Source,
        direction: usize,
    ) -> ControlFlow<Answer> {
        let (ready, ours) = (source.is_ready(direction), source.is_of(self));
        if ready && !(ours && source.is_in_doubt(direction)) {
            return Break(Ok(()));
        }
        if !ours {
            return Break(Err(Error::OtherRun));
        }
        if source.waiter[direction].get() != NONE {
            return Break(Err(Error::Busy));
        }
        source.waiter[direction].set(wait);
        Continue(())
    }

    /// Answers all deadlines that have passed, those of scopes outermost first.
    fn expire_deadlines(&self) {
        if self.timers.borrow().len() == 0 {
            return;
        }
        let now = self.clock.now();
        let mut due = self.due.take();
        self.timers.borrow_mut().expire(now, &mut due);
        for n in 0..due.len() {
            self.fetch_ahead(&due[n..]);
            match due[n] {
                Due::Wait(wait) => self.answer(wait, Ok(())),
                Due::Budget(task) => self.spend_budget(task),
                Due::Scope(_) => {}
            }
        }
        // First note all scopes that have expired, so that the outermost is found whichever of
        // them the timers named first.
        let mut expired: Vec<(u32, Task)> = Vec::new();
        for due in due.drain(..) {
            if let Due::Scope(scope) = due
                && !self.postpone_expiry(scope)
            {
                let task = self.expire_scope(scope);
                expired.extend(task.map(|task| (scope, task)));
            }
        }
        expired
            .iter()
            .for_each(|(_, task)| self.deliver_timeouts(task));
        expired
            .into_iter()
            .for_each(|(scope, task)| self.follow_up(scope, task, now));
        self.due.replace(due);
    }

    /// Fetches what the next answers touch, a step at a time: the wait, the task that it names, and
    /// that task's place in the table, should it end.
    #[inline]
    fn fetch_ahead(&self, due: &[Due]) {
        let waits = self.waits.borrow();
        let task = |ahead: usize| match due.get(ahead)? {
            Due::Wait(wait) => waits.get(*wait).task.as_ref(),
            _ => None,
        };
        if let Some(Due::Wait(wait)) = due.get(3 * FETCHED) {
            prefetch(waits.get(*wait));
        }
        if let Some(task) = task(2 * FETCHED) {
            task.prefetch();
        }
        if let Some(task) = task(FETCHED) {
            prefetch(self.tasks.borrow().seat(task.record.id));
        }
    }

    /// Looks for I/O; sleeps if nothing is ready.
    fn poll_io(&self) {
        let busy = !self.ready.borrow().is_empty()
            || !self.dying.borrow().is_empty()
            || !self.to_wake.borrow().is_empty()
            || !self.notes.borrow().is_empty()
            || self.pool.looks_for_results();
        let doubts = self.reactor.has_doubts();
        let timeout = if busy || doubts {
            Some(Duration::ZERO)
        } else {
            self.time_to_sleep()
        };
        if timeout.is_none() {
            self.refuse_dead_end();
        }
        let sleeps = timeout != Some(Duration::ZERO);
        if sleeps && !self.shared.fall_asleep() {
            return;
        }
        #[cfg(any(loom, miri, bare))]
        let timeout = self.shared.sleep(timeout);
        if let Err(e) = self.reactor.wait(timeout) {
            // epoll_wait fails only for reasons that are bugs (a bad descriptor or address).
            panic!("kernel: waiting for events failed: {e}");
        }
        if sleeps {
            self.shared.wake_up();
        }
        let answered = Cell::new(false);
        let answer = |wait| {
            answered.set(true);
            self.answer(wait, Ok(()));
        };
        self.reactor.read_events(answer);
        if self.reactor.has_doubts() {
            self.reactor.settle_doubts(!busy && !answered.get(), answer);
        }
        let idle = !sleeps && !busy && !doubts && !answered.get();
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
    pub(crate) fn jump(&self) {
        if let (Clock::Manual(clock), Some(next)) = (&self.clock, self.timers.borrow().next())
            && (clock.jumps() || self.closing.get())
        {
            clock.jump_to(next);
        }
    }
}

/// What a step leaves for the loop to do: one look says that there is nothing, as there usually is.
#[derive(Default)]
pub(crate) struct Left(Cell<u8>);

impl Left {
    /// Somebody stands at the door.
    pub(crate) const REQUESTS: u8 = 1;
    /// Wakers of combinators are to be called.
    pub(crate) const WAKERS: u8 = 2;
    /// The task goes to the end of the ready queue.
    pub(crate) const YIELDED: u8 = 4;
    /// Somebody looks on.
    const WATCHED: u8 = 8;

    #[inline]
    pub(crate) fn add(&self, what: u8) {
        self.0.set(self.0.get() | what);
    }

    /// Nothing is left.
    pub(crate) fn clear(&self) {
        self.0.set(0);
    }

    /// True if this was left; it is not any more.
    #[inline]
    pub(crate) fn take(&self, what: u8) -> bool {
        let left = self.0.get();
        let found = left & what != 0;
        if found {
            self.0.set(left & !what);
        }
        found
    }
}

/// How far a turn has come.
#[derive(Default)]
struct Steps {
    /// The turn is bounded in time too: not on a manual clock, where one seed has to give one run.
    timed: bool,
    looks: Cell<u32>,
    began: Cell<Option<Instant>>,
}

impl Steps {
    /// Called every `STEPS_PER_LOOK` steps: true when deadlines and I/O have to be looked at.
    fn are_over(&self) -> bool {
        let looks = self.looks.get();
        self.looks.set(looks + 1);
        if looks == 0 {
            return false; // an idle kernel wakes for a step or two: not worth a look at the clock
        }
        if looks * STEPS_PER_LOOK >= STEPS_PER_TURN {
            return true;
        }
        if !self.timed {
            return false;
        }
        let now = Instant::now();
        let began = self.began.get().unwrap_or(now);
        self.began.set(Some(began));
        now - began > TURN_TIME
    }
}

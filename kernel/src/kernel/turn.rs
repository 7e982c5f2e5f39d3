//! The loop: what happens in one turn.
//!
//! One turn: look for I/O (and sleep, if nothing is ready), read what came from other threads,
//! answer deadlines that have passed, run tasks that are ready, drop tasks that were cancelled
//! hard.

use std::{
    cell::Cell,
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    error::contain,
    kernel::{Core, Due, clock::Clock, outside::Note, places::prefetch, task::cell::Task},
};

/// How many answers lie between two steps of fetching what they touch.
const FETCHED: usize = 6;
/// Notes read in one turn. Not more than a turn runs steps: tasks that other threads give us faster
/// than they are run wait in the list, and not in the ready queue before those whose deadline passes.
const NOTES_PER_TURN: u32 = 128;
/// Room for so many notes is kept; what a storm took beyond is given back.
const NOTES_KEPT: usize = 1024;

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

    /// Acts on all that other threads have left up to now, however much, and on nothing that comes
    /// meanwhile.
    pub(crate) fn read_all_notes(&self) {
        let mut notes = self.notes.take();
        if self.shared.is_noted() {
            let mut unread = VecDeque::new();
            self.shared.take(&mut unread);
            notes.append(&mut unread);
        }
        notes.into_iter().for_each(|note| self.read(note));
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
            Note::Start(start) => self.start_or_refuse(start),
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

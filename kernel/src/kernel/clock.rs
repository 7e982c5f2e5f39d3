//! Time as a parameter: the monotonic clock, and one that moves only when told.

pub(crate) mod soon;
pub(crate) mod timer;

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::kernel::wait::cancel::after;

/// Where a kernel reads the time.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    /// `Instant::now`.
    Real,
    /// A clock that a test moves.
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::Real => Instant::now(),
            Clock::Manual(clock) => clock.now(),
        }
    }
}

/// A clock that stands still until something moves it.
///
/// Its instants are `std::time::Instant`s: the moment of its creation plus what it was advanced
/// by. A kernel on a manual clock never sleeps for a timer: when every task waits and nothing
/// else can happen, it jumps the clock to the next deadline ([`ManualClock::new`]) or, with
/// [`ManualClock::paused`], waits until [`advance`](ManualClock::advance) is called by a task.
///
/// A clock that jumps also finds out when nothing can ever happen again: every task waits, no
/// deadline is to come, no descriptor is registered, nothing holds the clock (as `run_in_thread`
/// does), and no other thread has a [`Handle`](crate::Handle), a [`Remote`](crate::Remote), a ringer
/// or a waker by which to reach the kernel. Then [`Kernel::run`](crate::Kernel::run) panics with a
/// listing of who waits for what. (Whether it is another thread that has one cannot be told: one that
/// a task has keeps the kernel waiting too.)
///
/// At the end of a run both move on, so that what is left gets its time to clean up, and no more.
#[derive(Clone, Debug)]
pub struct ManualClock {
    base: Instant,
    offset: Rc<Cell<Duration>>,
    jumps: bool,
}

impl ManualClock {
    /// A clock that jumps to the next deadline when all tasks wait.
    pub fn new() -> ManualClock {
        ManualClock {
            base: Instant::now(),
            offset: Rc::default(),
            jumps: true,
        }
    }

    /// A clock that moves only by [`advance`](ManualClock::advance).
    pub fn paused() -> ManualClock {
        ManualClock {
            jumps: false,
            ..ManualClock::new()
        }
    }

    /// The time it shows.
    pub fn now(&self) -> Instant {
        self.base + self.offset.get()
    }

    /// Moves it forward; by about a hundred years, if it cannot name the time it should go to. Tasks
    /// whose deadline has passed run at the kernel's next turn.
    pub fn advance(&self, by: Duration) {
        self.jump_to(after(self.now(), by));
    }

    /// How far it was moved since it was made.
    pub fn elapsed(&self) -> Duration {
        self.offset.get()
    }

    pub(crate) fn jumps(&self) -> bool {
        self.jumps
    }

    pub(crate) fn jump_to(&self, instant: Instant) {
        let offset = instant.saturating_duration_since(self.base);
        self.offset.set(self.offset.get().max(offset));
    }
}

impl Default for ManualClock {
    fn default() -> ManualClock {
        ManualClock::new()
    }
}

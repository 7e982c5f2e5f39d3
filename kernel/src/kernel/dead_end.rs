//! A dead end: on a clock that jumps, nobody is ready, no deadline is to come, and nobody outside
//! can change that. On the monotonic clock a program may hang as long as it likes; a test that
//! did would only say, much later, that it took too long.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use crate::kernel::{Core, clock::Clock, ps::listing};

/// Who holds what other threads reach of a kernel, if none of them can reach it: the kernel, twice.
const OWN: usize = 2;
/// Tasks that are listed.
const LINES: usize = 100;

impl Core {
    /// Asked before a sleep that no deadline ends.
    ///
    /// # Panics
    /// In a dead end, with a listing of who waits for what.
    pub(crate) fn refuse_dead_end(&self) {
        let waits_for_good = matches!(&self.clock, Clock::Manual(clock) if clock.jumps())
            && self.timers.borrow().len() == 0
            && self.reactor.len() == 0
            && self.pool.in_flight() == 0;
        if waits_for_good && self.is_alone() {
            let tasks = listing(LINES);
            panic!("kernel: a dead end: nobody is left who could wake a task. {tasks}");
        }
    }

    /// True if nobody can leave a note any more, and nobody has.
    fn is_alone(&self) -> bool {
        let alone = Arc::strong_count(&self.shared) == OWN;
        // With the last one's going everything is seen that it did before.
        fence(Ordering::Acquire);
        alone && !self.shared.is_noted()
    }
}

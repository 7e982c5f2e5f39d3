//! A time that is cheap to ask for: never before now, and at most a grain after.
//!
//! A timeout is armed for each operation, and reading the clock is half of what it costs. A reading
//! that is kept for the step would be free, but nobody knows how old it is: a task may compute
//! for as long as it likes, and a timeout counted from too early a moment passes too early. The
//! processor's own counter knows: as long as it has moved by so little that no grain of time can have
//! passed since the clock was read, that reading plus a grain lies ahead of now, and a deadline
//! counted from there is late by a grain at most, and never early.
//!
//! The counter is believed only where the operating system keeps its own time by it, for that
//! has made sure that it runs evenly, and alike on all processors.

use std::cell::Cell;

use crate::across::Known;

/// By how much a time may lie ahead, in nanoseconds: about a millisecond.
pub(crate) const GRAIN_NS: u64 = 1 << 20;
/// A counter of half a gigahertz or more takes no longer than a grain for as many cycles; the slowest
/// known counts 0.8.
const FRESH: u64 = 1 << 19;

/// The last reading of the clock.
pub(crate) struct Soon {
    /// What the counter said just before.
    counted: Cell<u64>,
    /// A grain later, in nanoseconds.
    ns: Cell<u64>,
}

impl Soon {
    /// `None` where the counter is not to be believed.
    pub(crate) fn new() -> Option<Soon> {
        counter_is_trusted().then(|| Soon {
            counted: Cell::new(count().wrapping_sub(FRESH)), // not fresh
            ns: Cell::new(0),
        })
    }

    /// The time, given how to read the clock, in nanoseconds.
    #[inline]
    pub(crate) fn get(&self, read: impl FnOnce() -> u64) -> u64 {
        let count = count();
        if count.wrapping_sub(self.counted.get()) >= FRESH {
            self.counted.set(count);
            self.ns.set(read() + GRAIN_NS);
        }
        self.ns.get()
    }
}

fn counter_is_trusted() -> bool {
    static TRUSTED: Known = Known::nothing();
    TRUSTED.get(|| {
        let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        HAS_COUNTER && std::fs::read_to_string(source).is_ok_and(|name| name.trim() == "tsc")
    })
}

const HAS_COUNTER: bool = cfg!(all(target_arch = "x86_64", not(any(miri, bare))));

#[cfg(all(target_arch = "x86_64", not(any(miri, bare))))]
#[inline]
fn count() -> u64 {
    // SAFETY: every x86-64 processor has this instruction, and it touches no memory. A system that
    // forbids it to processes does not keep its own time, which processes read, by it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(all(target_arch = "x86_64", not(any(miri, bare)))))]
fn count() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn it_is_never_before_now_and_at_most_a_grain_after() {
        let Some(soon) = Soon::new() else {
            return; // no counter here that one may believe
        };
        let base = Instant::now();
        let now = || base.elapsed().as_nanos() as u64;
        let mut read = 0;
        for _ in 0..100_000 {
            let before = now();
            let ns = soon.get(|| {
                read += 1;
                now()
            });
            // Whatever interrupts us between two readings makes `soon` look early, never late.
            assert!(ns >= before, "{ns} is before {before}");
            assert!(ns <= now() + GRAIN_NS);
        }
        assert!(read > 0);
    }
}

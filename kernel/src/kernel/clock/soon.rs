//! Time that is cheap to ask for, by the processor's own counter.
//!
//! A timeout is armed for each operation, and reading the clock is half of what it costs. A reading
//! that is kept for the step would be free, but nobody knows how old it is: a task may compute
//! for as long as it likes, and a timeout counted from too early a moment passes too early. The
//! processor's own counter knows: as long as it has moved by so little that no grain of time can have
//! passed since the clock was read, that reading plus a grain lies ahead of now, and a deadline
//! counted from there is late by a grain at most, and never early.
//!
//! The same counter tells the loop, every 64 steps, that its turn cannot be over yet (`Stretch`).
//!
//! The counter is believed only where the operating system keeps its own time by it, for that
//! has made sure that it runs evenly, and alike on all processors.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::across::Known;

/// By how much a time may lie ahead, in nanoseconds: about a millisecond.
pub(crate) const GRAIN_NS: u64 = 1 << 20;
/// While the counter has moved by less, a reading of the clock is not older than a grain.
const FRESH: u64 = cycles_within(GRAIN_NS);

/// So many cycles take no longer than this, in nanoseconds, on a counter of half a gigahertz or more; the
/// slowest known counts 0.8.
const fn cycles_within(ns: u64) -> u64 {
    ns / 2
}

/// A stretch of time, for one who asks again and again whether it is over: the clock is read only when
/// the counter has moved so far that it might be.
pub(crate) struct Stretch {
    length: Duration,
    /// Whether the counter is to be believed.
    trusted: bool,
    began: Instant,
    /// What the counter said when the clock was read last, and how far it may move before the next time.
    counted: Cell<u64>,
    within: Cell<u64>,
}

impl Stretch {
    /// Begins now.
    pub(crate) fn begin(length: Duration, trusted: bool) -> Stretch {
        let stretch = Stretch {
            length,
            trusted,
            began: Instant::now(),
            counted: Cell::new(0),
            within: Cell::new(0),
        };
        stretch.is_over_by_the_clock();
        stretch
    }

    #[inline]
    pub(crate) fn is_over(&self) -> bool {
        let is_sure = || count().wrapping_sub(self.counted.get()) < self.within.get();
        !(self.trusted && is_sure()) && self.is_over_by_the_clock()
    }

    #[inline(never)]
    fn is_over_by_the_clock(&self) -> bool {
        if self.trusted {
            self.counted.set(count()); // before the clock is read: not less than has passed since
        }
        let left = self.length.checked_sub(self.began.elapsed());
        let left_ns = left.map_or(0, |left| left.as_nanos() as u64);
        self.within.set(cycles_within(left_ns));
        left.is_none()
    }
}

/// The last reading of the clock: a time that is never before now, and at most a grain after.
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

    #[test]
    fn a_stretch_is_over_when_it_is_and_not_before() {
        let length = Duration::from_micros(300);
        for trusted in [false, counter_is_trusted()] {
            let before = Instant::now();
            let stretch = Stretch::begin(length, trusted);
            let after = Instant::now();
            loop {
                let asked = Instant::now();
                if stretch.is_over() {
                    break;
                }
                assert!(asked - after < length, "it was over by then");
            }
            assert!(before.elapsed() >= length);
        }
    }

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

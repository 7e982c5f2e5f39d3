//! The deadline queue: arming and cancelling cost the same few nanoseconds whatever is pending.
//!
//! Most deadlines are timeouts, and most timeouts are cancelled long before they pass. Curio
//! answers by keeping far deadlines out of its heap; we go one step further and use no heap.
//! A deadline falls into one of 64 slots of one of 6 levels: the slots of level 0 are one tick
//! wide (2^20 ns, about a millisecond), those of each next level 64 times wider. A slot is a
//! doubly linked list through a slab, so putting in and taking out never search. As time goes
//! on, the slots of a higher level are spread over the level below ("cascade"). Deadlines are
//! kept exactly: the tick decides only where an entry lies, not when it is due.
//!
//! Pure: `now` is an argument. What is further away than the wheel reaches (2^36 ticks, over two
//! years) waits in the last slot and is put in again when that slot comes up.

use std::time::{Duration, Instant};

use slab::Slab;

const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
const NONE: u32 = u32::MAX;

/// Names one armed deadline. Valid until it is cancelled or comes out of [`Timers::expire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

struct Entry<P> {
    /// Nanoseconds since `Timers::base`.
    deadline_ns: u64,
    /// Arming order, so that equal deadlines come out first armed first.
    order: u64,
    slot: u16,
    next: u32,
    prev: u32,
    payload: P,
}

/// Armed deadlines, each with a payload to hand back when it has passed.
pub(crate) struct Timers<P> {
    base: Instant,
    /// The tick up to which slots were emptied; no entry lies in an earlier one.
    tick: u64,
    armed: u64,
    entries: Slab<Entry<P>>,
    heads: [u32; SLOTS * LEVELS],
    /// One bit for each slot with something in it.
    occupied: [u64; LEVELS],
}

impl<P: Copy> Timers<P> {
    pub(crate) fn new(base: Instant) -> Timers<P> {
        Timers {
            base,
            tick: 0,
            armed: 0,
            entries: Slab::new(),
            heads: [NONE; SLOTS * LEVELS],
            occupied: [0; LEVELS],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Arms a deadline; one that has passed already comes out of the next `expire`.
    pub(crate) fn arm(&mut self, deadline: Instant, payload: P) -> TimerKey {
        let deadline_ns = self.ns(deadline);
        self.armed += 1;
        let key = self.entries.insert(Entry {
            deadline_ns,
            order: self.armed,
            slot: 0,
            next: NONE,
            prev: NONE,
            payload,
        }) as u32;
        self.link(key);
        TimerKey(key)
    }

    /// When it passes.
    pub(crate) fn deadline(&self, key: TimerKey) -> Instant {
        self.base + Duration::from_nanos(self.entries[key.0 as usize].deadline_ns)
    }

    /// Takes an armed deadline out again.
    pub(crate) fn cancel(&mut self, key: TimerKey) {
        self.unlink(key.0);
        self.entries.remove(key.0 as usize);
    }

    /// Moves everything whose deadline is at or before `now` into `due`, earliest first.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<P>) {
        let now_ns = self.ns(now);
        let now_tick = (now_ns >> TICK_BITS).max(self.tick);
        let mut passed: Vec<(u64, u64, P)> = Vec::new();
        while let Some((level, slot, start)) = self.first_slot() {
            if start > now_tick {
                break;
            }
            self.tick = self.tick.max(start);
            if level > 0 {
                self.cascade(level, slot);
                continue;
            }
            self.take_passed(slot, now_ns, &mut passed);
            if self.occupied[0] & (1 << slot) != 0 {
                break; // the rest of this tick is still ahead
            }
        }
        if self.occupied[0] & (1 << (self.tick as usize % SLOTS)) == 0 {
            self.tick = self.tick.max(self.safe_tick(now_tick));
        }
        passed.sort_unstable_by_key(|p| (p.0, p.1));
        due.extend(passed.into_iter().map(|p| p.2));
    }

    /// A moment no later than the next deadline: when to look again. It is the deadline itself
    /// once that lies within 64 ticks, and the start of a wider slot before.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (level, slot, start) = self.first_slot()?;
        if level > 0 {
            return Some(self.base + Duration::from_nanos(start << TICK_BITS));
        }
        let mut key = self.heads[slot];
        let mut earliest = u64::MAX;
        while key != NONE {
            let entry = &self.entries[key as usize];
            earliest = earliest.min(entry.deadline_ns);
            key = entry.next;
        }
        Some(self.base + Duration::from_nanos(earliest))
    }

    fn ns(&self, instant: Instant) -> u64 {
        let ns = instant.saturating_duration_since(self.base).as_nanos();
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The largest tick to which the wheel may move without passing an occupied slot.
    fn safe_tick(&self, now_tick: u64) -> u64 {
        match self.first_slot() {
            Some((_, _, start)) => now_tick.min(start),
            None => now_tick,
        }
    }

    /// The occupied slot that comes up first: level, slot and the tick at which it starts.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let mut best: Option<(usize, usize, u64)> = None;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let here = self.tick >> shift;
            let slot_now = (here % SLOTS as u64) as u32;
            let ahead = self.occupied[level].rotate_right(slot_now).trailing_zeros() as u64;
            let start = ((here + ahead) << shift).max(self.tick);
            let slot = ((here + ahead) % SLOTS as u64) as usize;
            // On a tie the higher level goes first: its entries may belong into the lower slot.
            if best.is_none_or(|b| start <= b.2) {
                best = Some((level, slot, start));
            }
        }
        best
    }

    fn take_passed(&mut self, slot: usize, now_ns: u64, passed: &mut Vec<(u64, u64, P)>) {
        let mut key = self.heads[slot];
        while key != NONE {
            let entry = &self.entries[key as usize];
            let next = entry.next;
            if entry.deadline_ns <= now_ns {
                self.unlink(key);
                let entry = self.entries.remove(key as usize);
                passed.push((entry.deadline_ns, entry.order, entry.payload));
            }
            key = next;
        }
    }

    fn cascade(&mut self, level: usize, slot: usize) {
        let mut key = std::mem::replace(&mut self.heads[level * SLOTS + slot], NONE);
        self.occupied[level] &= !(1 << slot);
        while key != NONE {
            let next = self.entries[key as usize].next;
            self.link(key);
            key = next;
        }
    }

    /// Where an entry with this deadline lies, seen from the current tick.
    fn place(&self, deadline_ns: u64) -> (usize, usize) {
        let tick = (deadline_ns >> TICK_BITS).max(self.tick);
        for level in 0..LEVELS {
            let shift = SLOT_BITS * level as u32;
            if (tick >> shift) - (self.tick >> shift) < SLOTS as u64 {
                return (level, ((tick >> shift) % SLOTS as u64) as usize);
            }
        }
        let last = SLOT_BITS * (LEVELS as u32 - 1);
        let slot = ((self.tick >> last) + SLOTS as u64 - 1) % SLOTS as u64;
        (LEVELS - 1, slot as usize)
    }

    fn link(&mut self, key: u32) {
        let (level, slot) = self.place(self.entries[key as usize].deadline_ns);
        let index = level * SLOTS + slot;
        let next = std::mem::replace(&mut self.heads[index], key);
        self.occupied[level] |= 1 << slot;
        let entry = &mut self.entries[key as usize];
        (entry.slot, entry.next, entry.prev) = (index as u16, next, NONE);
        if next != NONE {
            self.entries[next as usize].prev = key;
        }
    }

    fn unlink(&mut self, key: u32) {
        let Entry {
            slot, next, prev, ..
        } = self.entries[key as usize];
        if next != NONE {
            self.entries[next as usize].prev = prev;
        }
        if prev != NONE {
            self.entries[prev as usize].next = next;
            return;
        }
        let slot = slot as usize;
        self.heads[slot] = next;
        if next == NONE {
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator of repeatable numbers (xorshift).
    struct Dice(u64);
    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    #[test]
    fn comes_out_in_deadline_order_and_never_early() {
        let base = Instant::now();
        let mut timers = Timers::new(base);
        for ms in [50u64, 10, 70_000, 10, 3, 4_000_000] {
            timers.arm(base + Duration::from_millis(ms), ms);
        }
        let mut due = Vec::new();
        timers.expire(base + Duration::from_millis(9), &mut due);
        assert_eq!(due, [3]);
        timers.expire(base + Duration::from_secs(80), &mut due);
        assert_eq!(due, [3, 10, 10, 50, 70_000]);
        assert_eq!(timers.len(), 1);
        timers.expire(base + Duration::from_secs(4_000), &mut due);
        assert_eq!(due.last(), Some(&4_000_000));
        assert_eq!(timers.next(), None);
    }

    /// Against the naive queue: a sorted list.
    #[test]
    fn agrees_with_a_sorted_list() {
        for seed in 1..40u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let base = Instant::now();
            let mut timers = Timers::new(base);
            let mut naive: Vec<(u64, u64, TimerKey)> = Vec::new();
            let mut now = 0u64;
            for id in 0..2_000u64 {
                match dice.below(4) {
                    0 | 1 => {
                        let spread = 1u64 << dice.below(48);
                        let at = now + dice.below(spread.max(1));
                        naive.push((at, id, timers.arm(base + Duration::from_nanos(at), id)));
                    }
                    2 if !naive.is_empty() => {
                        let chosen = dice.below(naive.len() as u64) as usize;
                        timers.cancel(naive.remove(chosen).2);
                    }
                    _ => {
                        let bits = dice.below(44);
                        now += dice.below(1 << bits);
                        let mut due = Vec::new();
                        timers.expire(base + Duration::from_nanos(now), &mut due);
                        naive.sort_by_key(|n| (n.0, n.1));
                        let passed = naive.iter().take_while(|n| n.0 <= now).count();
                        let expected: Vec<u64> = naive.drain(..passed).map(|n| n.1).collect();
                        assert_eq!(due, expected, "seed {seed}");
                        let next = naive.first().map(|n| base + Duration::from_nanos(n.0));
                        match (timers.next(), next) {
                            (Some(look), Some(deadline)) => assert!(look <= deadline),
                            (look, deadline) => assert_eq!(look, deadline, "seed {seed}"),
                        }
                    }
                }
            }
        }
    }

    /// Looking again at each moment that `next` names must reach every deadline.
    #[test]
    fn next_makes_progress() {
        let base = Instant::now();
        let mut timers = Timers::new(base);
        for n in 0..36 {
            timers.arm(base + Duration::from_nanos((1 << n) * 37), n);
        }
        let (mut due, mut looks) = (Vec::new(), 0);
        while let Some(at) = timers.next() {
            timers.expire(at, &mut due);
            looks += 1;
            assert!(looks < 36 * LEVELS, "next() does not make progress");
        }
        assert_eq!(due, (0..36).collect::<Vec<_>>());
    }
}

//! The deadline queue: arming and cancelling cost the same few nanoseconds whatever is pending.
//!
//! Most deadlines are timeouts, and most timeouts are cancelled long before they pass. Curio
//! answers by keeping far deadlines out of its heap; we go one step further and use no heap.
//! Time is counted in nanoseconds, and in ticks of 2^20 of them, about a millisecond. The number of
//! a deadline's tick has up to 8 digits of 6 bits. The highest digit in which it differs from the
//! tick that is now says the level, and its value there the slot: 64 slots for each of 8 levels. So
//! whatever lies in a level comes up before all that lies in a higher one. When time reaches a
//! slot of a higher level, its entries are put in again and fall to lower ones ("cascade").
//!
//! A slot is a plain vector, and an armed deadline knows its place in it, so putting in and taking
//! out never search, and a slot is read from end to end as memory likes it. Deadlines are kept
//! exactly: the tick decides only where an entry lies, not when it is due.
//!
//! Pure: `now` is an argument.

use std::time::{Duration, Instant};

use crate::kernel::places::Places;

const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough for 64 bits of nanoseconds.
const LEVELS: usize = 8;
/// What an emptied slot keeps of its memory, in entries.
const KEPT: usize = 64;

/// Names one armed deadline. Valid until it is cancelled or comes out of [`Timers::expire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(pub(crate) u32);

/// Where an armed deadline lies.
struct Place {
    slot: u32,
    position: u32,
}

#[derive(Clone, Copy)]
struct Entry<P> {
    /// Nanoseconds since `Timers::base`.
    deadline_ns: u64,
    /// Arming order, so that equal deadlines come out first armed first. (Once in four thousand million
    /// it begins again: two that are equal to the nanosecond may change places then.)
    order: u32,
    key: u32,
    payload: P,
}

/// Armed deadlines, each with a payload to hand back when it has passed.
pub(crate) struct Timers<P> {
    base: Instant,
    /// The tick up to which slots were emptied; no entry lies in an earlier one.
    tick: u64,
    armed: u32,
    places: Places<Place>,
    slots: Box<[Vec<Entry<P>>; SLOTS * LEVELS]>,
    /// One bit for each slot with something in it.
    occupied: [u64; LEVELS],
    /// Kept for its memory.
    passed: Vec<Entry<P>>,
}

impl<P: Copy> Timers<P> {
    pub(crate) fn new(base: Instant) -> Timers<P> {
        Timers {
            base,
            tick: 0,
            armed: 0,
            places: Places::new(),
            slots: Box::new([const { Vec::new() }; SLOTS * LEVELS]),
            occupied: [0; LEVELS],
            passed: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Arms a deadline; one that has passed already comes out of the next `expire`.
    #[inline]
    pub(crate) fn arm(&mut self, deadline: Instant, payload: P) -> TimerKey {
        self.arm_ns(self.ns(deadline), payload)
    }

    /// As [`arm`](Timers::arm), in nanoseconds since the base.
    #[inline]
    pub(crate) fn arm_ns(&mut self, deadline_ns: u64, payload: P) -> TimerKey {
        self.armed = self.armed.wrapping_add(1);
        let slot = self.place(deadline_ns);
        let position = self.slots[slot].len() as u32;
        let key = self.places.put(Place {
            slot: slot as u32,
            position,
        });
        self.occupied[slot / SLOTS] |= 1 << (slot % SLOTS);
        self.slots[slot].push(Entry {
            deadline_ns,
            order: self.armed,
            key,
            payload,
        });
        TimerKey(key)
    }

    /// Takes an armed deadline out again.
    #[inline]
    pub(crate) fn cancel(&mut self, key: TimerKey) {
        let Place { slot, position } = self.places[key.0];
        self.places.give_back(key.0);
        let entries = &mut self.slots[slot as usize];
        if position as usize + 1 == entries.len() {
            entries.truncate(position as usize);
        } else {
            entries.swap_remove(position as usize);
            self.places[entries[position as usize].key].position = position;
        }
        if entries.is_empty() {
            self.vacate(slot as usize);
        }
    }

    /// Moves everything whose deadline is at or before `now` into `due`, earliest first.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<P>) {
        let now_ns = self.ns(now);
        let now_tick = (now_ns >> TICK_BITS).max(self.tick);
        while let Some((level, slot, start)) = self.first_slot() {
            if start > now_tick {
                break;
            }
            self.tick = self.tick.max(start);
            if level > 0 {
                self.cascade(level, slot);
                continue;
            }
            self.take_passed(slot, now_ns);
            if !self.slots[slot].is_empty() {
                break; // the rest of this tick is still ahead
            }
        }
        // On to now, or to the slot that comes up first: what lies in a slot agrees with the current
        // tick in all digits above its level.
        let first = self.first_slot().map_or(now_tick, |(_, _, start)| start);
        self.tick = now_tick.min(first).max(self.tick);
        self.passed
            .sort_unstable_by_key(|entry| (entry.deadline_ns, entry.order));
        due.extend(self.passed.drain(..).map(|entry| entry.payload));
        self.passed.shrink_to(KEPT);
    }

    /// A moment no later than the next deadline: when to look again. It is the deadline itself
    /// once that lies within 64 ticks, and the start of a wider slot before.
    pub(crate) fn next(&self) -> Option<Instant> {
        let (level, slot, start) = self.first_slot()?;
        let ns = match level {
            0 => self.slots[slot]
                .iter()
                .map(|entry| entry.deadline_ns)
                .min()?,
            _ => start << TICK_BITS,
        };
        Some(self.base + Duration::from_nanos(ns))
    }

    /// Nanoseconds since the base; the base for what lies before it.
    #[inline]
    pub(crate) fn ns(&self, instant: Instant) -> u64 {
        nanoseconds(instant.saturating_duration_since(self.base))
    }

    /// The occupied slot that comes up first: level, slot and the tick at which it starts.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        // The digits above are those of the current tick, the digits below are 0.
        let shift = SLOT_BITS * level as u32;
        let start = ((self.tick >> shift) & !(SLOTS as u64 - 1) | u64::from(slot)) << shift;
        Some((level, slot as usize, start.max(self.tick)))
    }

    /// Moves what has passed out of a slot of level 0.
    fn take_passed(&mut self, slot: usize, now_ns: u64) {
        let mut entries = std::mem::take(&mut self.slots[slot]);
        entries.retain(|entry| {
            if entry.deadline_ns <= now_ns {
                self.places.give_back(entry.key);
                self.passed.push(*entry);
                return false;
            }
            true
        });
        for (position, entry) in entries.iter().enumerate() {
            self.places[entry.key].position = position as u32;
        }
        self.slots[slot] = entries;
        if self.slots[slot].is_empty() {
            self.vacate(slot);
        }
    }

    fn cascade(&mut self, level: usize, slot: usize) {
        let slot = level * SLOTS + slot;
        let mut entries = std::mem::take(&mut self.slots[slot]);
        self.vacate(slot);
        entries.drain(..).for_each(|entry| self.put(entry));
        entries.shrink_to(KEPT);
        self.slots[slot] = entries; // no entry fell into the slot that it came from
    }

    /// A slot is empty now.
    #[inline]
    fn vacate(&mut self, slot: usize) {
        self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        if self.slots[slot].capacity() > KEPT {
            self.slots[slot] = Vec::new();
        }
    }

    /// Where an entry with this deadline lies, seen from the current tick.
    #[inline]
    fn place(&self, deadline_ns: u64) -> usize {
        let tick = (deadline_ns >> TICK_BITS).max(self.tick);
        let differing = (tick ^ self.tick) | (SLOTS as u64 - 1);
        let level = differing.ilog2() / SLOT_BITS;
        let slot = (tick >> (SLOT_BITS * level)) as usize % SLOTS;
        level as usize % LEVELS * SLOTS + slot
    }

    /// Puts an entry of a higher level where it belongs now.
    fn put(&mut self, entry: Entry<P>) {
        let slot = self.place(entry.deadline_ns);
        let entries = &mut self.slots[slot];
        self.occupied[slot / SLOTS] |= 1 << (slot % SLOTS);
        self.places[entry.key] = Place {
            slot: slot as u32,
            position: entries.len() as u32,
        };
        entries.push(entry);
    }
}

/// In one number; 584 years are as good as any longer time.
#[inline]
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
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
        for seed in 1..if cfg!(miri) { 2 } else { 40u64 } {
            let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let base = Instant::now();
            let mut timers = Timers::new(base);
            let mut naive: Vec<(u64, u64, TimerKey)> = Vec::new();
            let mut now = 0u64;
            for id in 0..2_000u64 {
                match dice.below(4) {
                    0 | 1 => {
                        let spread = 1u64 << dice.below(60);
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
        for n in 0..58 {
            timers.arm(base + Duration::from_nanos((1u64 << n) * 37), n);
        }
        let (mut due, mut looks) = (Vec::new(), 0);
        while let Some(at) = timers.next() {
            timers.expire(at, &mut due);
            looks += 1;
            assert!(looks < 58 * LEVELS, "next() does not make progress");
        }
        assert_eq!(due, (0..58).collect::<Vec<_>>());
    }
}

//! The deadline queue: arming and cancelling cost the same few nanoseconds whatever is pending.
//!
//! Most deadlines are timeouts, and most timeouts are cancelled long before they pass. Curio
//! answers by keeping far deadlines out of its heap; we go one step further and use no heap.
//! A deadline falls into one of 64 slots of one of 6 levels: the slots of level 0 are one tick
//! wide (2^20 ns, about a millisecond), those of each next level 64 times wider. A slot is a plain
//! vector, and an armed deadline knows its place in it, so putting in and taking out never search,
//! and a slot is read from end to end as memory likes it. As time goes on, the slots of a higher
//! level are spread over the level below ("cascade"). Deadlines are kept exactly: the tick decides
//! only where an entry lies, not when it is due.
//!
//! Pure: `now` is an argument. What is further away than the wheel reaches (2^36 ticks, over two
//! years) waits in the last slot and is put in again when that slot comes up.

use std::time::{Duration, Instant};

use crate::places::Places;

const TICK_BITS: u32 = 20;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
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
    /// Arming order, so that equal deadlines come out first armed first.
    order: u64,
    key: u32,
    payload: P,
}

/// Armed deadlines, each with a payload to hand back when it has passed.
pub(crate) struct Timers<P> {
    base: Instant,
    /// The tick up to which slots were emptied; no entry lies in an earlier one.
    tick: u64,
    armed: u64,
    places: Places<Place>,
    slots: Vec<Vec<Entry<P>>>,
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
            slots: (0..SLOTS * LEVELS).map(|_| Vec::new()).collect(),
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
        let deadline_ns = self.ns(deadline);
        self.armed += 1;
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
        if self.slots[self.tick as usize % SLOTS].is_empty() {
            self.tick = self.tick.max(self.safe_tick(now_tick));
        }
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

    fn ns(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        let seconds = since.as_secs().saturating_mul(1_000_000_000);
        seconds.saturating_add(u64::from(since.subsec_nanos()))
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
        // What lies beyond the wheel's reach comes back into the last slot, which may be this one.
        if self.slots[slot].is_empty() {
            entries.shrink_to(KEPT);
            self.slots[slot] = entries;
        }
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
        let significant = u64::BITS - (tick - self.tick).leading_zeros();
        // Their distance in slots of that level is below 64, or 64 itself: then it is the next.
        let mut level = significant.saturating_sub(1) / SLOT_BITS;
        let apart = |level: u32| (tick >> (SLOT_BITS * level)) - (self.tick >> (SLOT_BITS * level));
        if level < LEVELS as u32 && apart(level) >= SLOTS as u64 {
            level += 1;
        }
        if level < LEVELS as u32 {
            let slot = (tick >> (SLOT_BITS * level)) % SLOTS as u64;
            return level as usize * SLOTS + slot as usize;
        }
        let last = SLOT_BITS * (LEVELS as u32 - 1);
        let slot = ((self.tick >> last) + SLOTS as u64 - 1) % SLOTS as u64;
        (LEVELS - 1) * SLOTS + slot as usize
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

//! What tests with random and with hostile bytes share: a seeded generator, a mutator, a count of allocated memory, and
//! the run over as many seeds as asked for.
//!
//! The rounds of hostile bytes stand beside what they attack: `codec/hostile_tests.rs`, `core/hostile_tests.rs`,
//! `broker/hostile_tests.rs`. Each runs a few hundred or thousand seeds as an ordinary test; here they run in turn for
//! an hour (`tests/run --long`). A seed that fails is printed, and `AMQP_FUZZ_SEED` runs it alone.

mod memory;
mod values;

pub(crate) use memory::peak_bytes;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

/// splitmix64: enough randomness for test values, and a seed tells all.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// Damages up to five places of `bytes`, none of them before `from`.
pub(crate) fn mutate(bytes: &mut Vec<u8>, from: usize, random: &mut Random) {
    for _ in 0..random.below(6) {
        if bytes.len() <= from {
            return;
        }
        let at = from + random.below(bytes.len() - from);
        match random.below(8) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next() as u8),
            4 => extreme(&mut bytes[at..], random),
            5 => {
                let end = (at + random.below(40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let end = (at + 1 + random.below(10)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
    }
}

/// Writes one of the numbers that lengths go wrong at.
fn extreme(place: &mut [u8], random: &mut Random) {
    let numbers: [[u8; 4]; 4] = [
        [0xFF; 4],
        [0; 4],
        [0x7F, 0xFF, 0xFF, 0xFF],
        [0, 1, 0xFF, 0xF8],
    ];
    for (byte, new) in place.iter_mut().zip(numbers[random.below(4)]) {
        *byte = new;
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `round` for the seeds 0 to `count`, or only for `AMQP_FUZZ_SEED`.
pub(crate) fn seeds(count: u64, round: impl Fn(u64)) {
    match number("AMQP_FUZZ_SEED") {
        Some(seed) => round(seed),
        None => (0..count).for_each(|seed| attempt("", seed, &round)),
    }
}

fn attempt(what: &str, seed: u64, round: impl Fn(u64)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| round(seed))) {
        eprintln!("{what} seed {seed} failed: run it alone with AMQP_FUZZ_SEED={seed}");
        resume_unwind(panic);
    }
}

/// `AMQP_FUZZ_SECONDS`, by default an hour, of seeds nobody has tried yet: they start at the time of day.
#[test]
#[ignore = "takes an hour: tests/run --long amqp -- long_hostile"]
fn long_hostile_bytes_for_an_hour() {
    let length = Duration::from_secs(number("AMQP_FUZZ_SECONDS").unwrap_or(3600));
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the clock is set");
    let first = since_1970.as_millis() as u64;
    let end = Instant::now() + length;
    let mut seed = first;
    while Instant::now() < end {
        // Side by side they take about as long as each other: a round of the broker is four connections.
        for _ in 0..16 {
            attempt("decoder", seed, crate::codec::hostile_round);
            attempt("core", seed, crate::core::hostile_round);
            seed += 1;
        }
        #[cfg(feature = "kernel")]
        attempt("broker", seed, crate::broker::hostile_round);
    }
    println!("{} seeds from {first} on", seed - first);
}

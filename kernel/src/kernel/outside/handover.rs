//! One value from the kernel's thread to another thread, which blocks until it is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::across::{Condvar, Mutex, MutexGuard};

/// Makes the two ends.
pub(crate) fn handover<T>() -> (Giver<T>, Taker<T>) {
    let place = Arc::new(Place {
        state: Mutex::new(State::Empty),
        changed: Condvar::new(),
    });
    (
        Giver {
            place: place.clone(),
        },
        Taker { place },
    )
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Not yet.
    TimedOut,
    /// The giver was dropped: there will be none.
    Abandoned,
}

enum State<T> {
    Empty,
    Full(T),
    Abandoned,
}

struct Place<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

impl<T> Place<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The end that gives.
pub(crate) struct Giver<T> {
    place: Arc<Place<T>>,
}

impl<T> Giver<T> {
    pub(crate) fn give(self, value: T) {
        *self.place.lock() = State::Full(value);
        // The drop of `self` wakes the taker.
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        let mut state = self.place.lock();
        if matches!(*state, State::Empty) {
            *state = State::Abandoned;
        }
        drop(state);
        self.place.changed.notify_all();
    }
}

/// The end that blocks.
pub(crate) struct Taker<T> {
    place: Arc<Place<T>>,
}

impl<T> Taker<T> {
    /// Blocks until the value is there, or until the deadline.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Result<T, Missing> {
        let mut state = self.place.lock();
        loop {
            match std::mem::replace(&mut *state, State::Abandoned) {
                State::Full(value) => return Ok(value),
                State::Abandoned => return Err(Missing::Abandoned),
                State::Empty => *state = State::Empty,
            }
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600), // and then again
            };
            if left.is_zero() {
                return Err(Missing::TimedOut);
            }
            let waited = self.place.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_over_or_is_said_to_be_missing() {
        let (giver, taker) = handover();
        assert_eq!(taker.take(Some(Instant::now())), Err(Missing::TimedOut));
        let thread = std::thread::spawn(move || giver.give(7));
        assert_eq!(taker.take(None), Ok(7));
        thread.join().unwrap();
        let (giver, taker) = handover::<u32>();
        let thread = std::thread::spawn(move || drop(giver));
        assert_eq!(taker.take(None), Err(Missing::Abandoned));
        thread.join().unwrap();
    }
}

//! When to send a heartbeat, and when the peer is dead (AMQP 0-9-1 §4.2.7).
//!
//! Pure: an [`Instant`] comes in, a decision goes out. Reading and writing are tracked apart, because a peer may
//! go silent while our own writes still disappear into its socket buffer.

use std::time::{Duration, Instant};

/// The heartbeat clock of one connection.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// `None`: heartbeats are off.
    interval: Option<Duration>,
    last_read: Instant,
    last_written: Instant,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing; ask again at this instant at the latest.
    Wait(Instant),
    /// Send a heartbeat frame, call [`Heartbeat::written`], and ask again.
    Send,
    /// Nothing was heard for two intervals: the peer counts as gone.
    PeerDead,
    /// Heartbeats are off; there is nothing to ask for.
    Off,
}

impl Heartbeat {
    /// A clock for the interval both ends agreed on; zero switches heartbeats off.
    pub fn new(interval: Duration, now: Instant) -> Self {
        Heartbeat {
            interval: (!interval.is_zero()).then_some(interval),
            last_read: now,
            last_written: now,
        }
    }

    /// Bytes came from the peer. Any traffic counts as a heartbeat.
    pub fn read(&mut self, now: Instant) {
        self.last_read = now;
    }

    /// Bytes went to the peer.
    pub fn written(&mut self, now: Instant) {
        self.last_written = now;
    }

    /// Decides. We send after half an interval of silence, so that one late turn does not make us look dead.
    pub fn check(&self, now: Instant) -> Action {
        let Some(interval) = self.interval else {
            return Action::Off;
        };
        let dead_at = self.last_read + interval * 2;
        let send_at = self.last_written + interval / 2;
        if now >= dead_at {
            Action::PeerDead
        } else if now >= send_at {
            Action::Send
        } else {
            Action::Wait(dead_at.min(send_at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn sends_after_half_an_interval_of_own_silence() {
        let t0 = Instant::now();
        let mut beat = Heartbeat::new(10 * S, t0);
        assert_eq!(beat.check(t0), Action::Wait(t0 + 5 * S));
        assert_eq!(beat.check(t0 + 5 * S), Action::Send);
        beat.written(t0 + 5 * S);
        assert_eq!(beat.check(t0 + 5 * S), Action::Wait(t0 + 10 * S));
    }

    #[test]
    fn a_peer_silent_for_two_intervals_is_dead_however_much_we_write() {
        let t0 = Instant::now();
        let mut beat = Heartbeat::new(10 * S, t0);
        beat.written(t0 + 19 * S);
        assert_eq!(beat.check(t0 + 19 * S), Action::Wait(t0 + 20 * S));
        assert_eq!(beat.check(t0 + 20 * S), Action::PeerDead);
        beat.read(t0 + 19 * S);
        assert_eq!(beat.check(t0 + 20 * S), Action::Wait(t0 + 24 * S));
    }

    #[test]
    fn zero_switches_it_off() {
        let t0 = Instant::now();
        assert_eq!(
            Heartbeat::new(Duration::ZERO, t0).check(t0 + 1000 * S),
            Action::Off
        );
    }
}

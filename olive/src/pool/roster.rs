//! Which worker runs which job (pure: no process, no clock, no task).
//!
//! A *worker* here is a place for one process. It is idle, with a process of some kind or with
//! none, or out on a job. At most `max` are out, and at most `max` are out or hold a process; those
//! that ran an executable are idle with none, so that an executable never ends a process that
//! took long to start. `W` is the worker itself and `T` what a job left behind that waits for one.

use std::collections::VecDeque;

/// What a process can be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rust,
    Python,
    /// One process a job: nothing is kept.
    Executable,
}

/// How many later jobs may pass one that waits, because a process of their kind came free.
///
/// Passing saves the replacement of a process (tens of milliseconds of start-up); the bound keeps
/// a rare kind from waiting for ever while a common one never lets go.
const OVERTAKEN_MAX: u32 = 16;

pub(super) struct Roster<W, T> {
    max: usize,
    /// Workers that are out, or about to be started.
    out: usize,
    /// Longest idle first.
    idle: Vec<Idle<W>>,
    /// In order of arrival.
    waiting: VecDeque<Waiting<T>>,
}

struct Idle<W> {
    worker: W,
    holds: Option<Kind>,
}

struct Waiting<T> {
    token: T,
    kind: Kind,
    overtaken: u32,
}

/// Who takes a job.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<W> {
    /// This worker; its process may be missing or of another kind, and must then be replaced.
    Worker(W),
    /// One more, to be started by the caller.
    New,
    /// Nobody for now: `wait` in line.
    Full,
}

impl<W, T> Roster<W, T> {
    pub fn new(max: usize) -> Self {
        Roster {
            max,
            out: 0,
            idle: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Takes a worker for a job: the one that needs the least done to it.
    pub fn take(&mut self, kind: Kind) -> Taken<W> {
        let kept = self.out + self.idle.iter().filter(|idle| idle.holds.is_some()).count();
        self.take_rather(kind, kind != Kind::Executable && kept >= self.max)
    }

    /// The same where one more is worse than replacing what an idle one has.
    pub fn take_kept(&mut self, kind: Kind) -> Taken<W> {
        self.take_rather(kind, true)
    }

    fn take_rather(&mut self, kind: Kind, replace: bool) -> Taken<W> {
        if self.out >= self.max {
            return Taken::Full;
        }
        self.out += 1;
        let empty = || self.idle.iter().position(|idle| idle.holds.is_none());
        let held = || self.idle.iter().position(|idle| idle.holds.is_some());
        let found = match self.same_kind(kind) {
            Some(index) => Some(index),
            None if replace && kind != Kind::Executable => held().or_else(empty),
            None if replace => empty().or_else(held),
            None => empty(),
        };
        match found {
            Some(index) => Taken::Worker(self.idle.remove(index).worker),
            None => Taken::New,
        }
    }

    /// The most recently used one: warm, and the others can be replaced.
    fn same_kind(&self, kind: Kind) -> Option<usize> {
        self.idle.iter().rposition(|idle| idle.holds == Some(kind))
    }

    /// How many there are, idle or out.
    pub fn total(&self) -> usize {
        self.out + self.idle.len()
    }

    /// Puts a job in line.
    pub fn wait(&mut self, kind: Kind, token: T) {
        self.waiting.push_back(Waiting {
            token,
            kind,
            overtaken: 0,
        });
    }

    /// Puts a job in line that has waited before.
    pub fn wait_first(&mut self, kind: Kind, token: T) {
        self.waiting.push_front(Waiting {
            token,
            kind,
            overtaken: 0,
        });
    }

    /// Takes jobs out of the line that no longer wait.
    pub fn forget(&mut self, is_forgotten: impl Fn(&T) -> bool) {
        self.waiting.retain(|waiting| !is_forgotten(&waiting.token));
    }

    /// Whoever is next in line, and his worker, after one that holds a process of this kind was
    /// `put_back` (or, with `None`, one was `lost`).
    pub fn next_waiting(&mut self, holds: Option<Kind>) -> Option<(T, Taken<W>)> {
        if self.out >= self.max {
            return None;
        }
        let first = self.waiting.front()?;
        let mut index = 0;
        if first.overtaken < OVERTAKEN_MAX && holds.is_some() {
            let fits = |waiting: &Waiting<T>| {
                waiting.kind == Kind::Executable || Some(waiting.kind) == holds
            };
            index = self.waiting.iter().position(fits).unwrap_or(0);
        }
        for passed in self.waiting.range_mut(..index) {
            passed.overtaken += 1;
        }
        let next = self.waiting.remove(index)?;
        Some((next.token, self.take(next.kind)))
    }

    /// Whoever is next in line when nobody is out who could come free.
    pub fn next_stranded(&mut self) -> Option<(T, Taken<W>)> {
        if self.out > 0 {
            return None;
        }
        self.next_waiting(None)
    }

    /// A worker has come back; see `next_waiting`.
    pub fn put_back(&mut self, worker: W, holds: Option<Kind>) {
        self.out -= 1;
        self.idle.push(Idle { worker, holds });
    }

    /// A worker that was out is no more (or was never started).
    pub fn lost(&mut self) {
        self.out -= 1;
    }

    /// Takes everybody who is idle, for good.
    pub fn dismiss_idle(&mut self) -> Vec<W> {
        self.idle.drain(..).map(|idle| idle.worker).collect()
    }

    /// Takes everybody out of the line, for good.
    pub fn dismiss_waiting(&mut self) -> Vec<T> {
        self.waiting
            .drain(..)
            .map(|waiting| waiting.token)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::*;

    fn roster(max: usize) -> Roster<u32, &'static str> {
        Roster::new(max)
    }

    /// A roster with these idle, longest idle first, and no room for more.
    fn idle(holds: &[Option<Kind>]) -> Roster<u32, &'static str> {
        let mut roster = roster(holds.len());
        for _ in holds {
            assert_eq!(roster.take(Rust), Taken::New);
        }
        for (worker, holds) in holds.iter().enumerate() {
            roster.put_back(worker as u32, *holds);
        }
        roster
    }

    #[test]
    fn workers_come_on_demand_and_never_exceed_the_maximum() {
        let mut roster = roster(2);
        assert_eq!(roster.take(Rust), Taken::New);
        assert_eq!(roster.take(Python), Taken::New);
        assert_eq!(roster.take(Rust), Taken::Full);
        roster.put_back(7, Some(Rust));
        assert_eq!(roster.take(Rust), Taken::Worker(7));
        roster.lost();
        assert_eq!(roster.take(Rust), Taken::New);
        assert_eq!(roster.take(Rust), Taken::Full);
    }

    #[test]
    fn the_worker_that_needs_least_is_taken() {
        let all = [Some(Python), Some(Rust), None, Some(Rust), Some(Python)];
        assert_eq!(idle(&all).take(Rust), Taken::Worker(3)); // its kind, last used
        assert_eq!(idle(&all).take(Executable), Taken::Worker(2)); // no process to end
        let kept = [Some(Python), Some(Python)];
        assert_eq!(idle(&kept).take(Rust), Taken::Worker(0)); // longest idle makes room
    }

    #[test]
    fn an_executable_ends_no_process_that_is_kept() {
        let mut roster = idle(&[Some(Python), Some(Rust)]);
        assert_eq!(roster.take(Executable), Taken::New);
        assert_eq!(roster.take(Python), Taken::Worker(0));
        roster.wait(Executable, "program");
        roster.wait(Python, "python");
        roster.put_back(0, Some(Python));
        assert_eq!(
            roster.next_waiting(Some(Python)),
            Some(("program", Taken::New))
        );
        roster.put_back(2, None);
        assert_eq!(
            roster.next_waiting(None),
            Some(("python", Taken::Worker(0)))
        );
        assert_eq!(roster.take(Executable), Taken::Full);
        roster.put_back(3, None);
        assert_eq!(roster.take(Executable), Taken::Worker(2));
    }

    #[test]
    fn what_is_kept_never_exceeds_the_maximum() {
        let mut roster = idle(&[None, Some(Rust)]);
        assert_eq!(roster.take(Python), Taken::Worker(0));
        roster.put_back(0, Some(Python));
        assert_eq!(roster.take(Executable), Taken::New);
        roster.put_back(2, None);
        assert_eq!(roster.take(Python), Taken::Worker(0));
        assert_eq!(roster.take(Python), Taken::Worker(1)); // not the empty one, a third kept
    }

    #[test]
    fn where_one_more_cannot_be_started_an_idle_one_makes_room() {
        let mut roster = roster(3);
        assert_eq!(roster.take(Rust), Taken::New);
        assert_eq!(roster.take(Python), Taken::New);
        roster.put_back(0, Some(Rust));
        roster.lost(); // the Python one did not start
        assert_eq!(roster.take_kept(Python), Taken::Worker(0));
        assert_eq!(roster.take_kept(Python), Taken::New);
        roster.wait(Python, "later");
        roster.wait_first(Python, "earlier");
        roster.put_back(0, Some(Python));
        let next = roster.next_waiting(Some(Python));
        assert_eq!(next, Some(("earlier", Taken::Worker(0))));
    }

    #[test]
    fn a_free_process_goes_to_its_own_kind_but_not_for_ever() {
        let mut roster = roster(1);
        assert_eq!(roster.take(Rust), Taken::New);
        roster.wait(Python, "python");
        for _ in 0..=OVERTAKEN_MAX {
            roster.wait(Rust, "rust");
        }
        let mut next = |holds| {
            roster.put_back(0, Some(holds));
            roster.next_waiting(Some(holds))
        };
        for _ in 0..OVERTAKEN_MAX {
            assert_eq!(next(Rust), Some(("rust", Taken::Worker(0))));
        }
        assert_eq!(next(Rust), Some(("python", Taken::Worker(0))));
        assert_eq!(next(Python), Some(("rust", Taken::Worker(0))));
        assert_eq!(next(Rust), None);
    }

    #[test]
    fn without_a_match_the_first_in_line_is_next() {
        let mut roster = roster(1);
        assert_eq!(roster.take(Rust), Taken::New);
        roster.wait(Python, "first");
        roster.wait(Python, "second");
        roster.wait(Executable, "third");
        roster.forget(|token| *token == "first");
        assert_eq!(roster.next_stranded(), None);
        roster.lost();
        assert_eq!(roster.next_stranded(), Some(("second", Taken::New)));
        assert_eq!(roster.dismiss_waiting(), ["third"]);
    }
}

//! A side table of what tasks have used, kept only when asked for: a parked task stays small.

use std::time::{Duration, Instant};

use crate::kernel::task::TaskId;

/// What a task has used so far; see [`Builder::accounts`](crate::Builder::accounts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskAccount {
    /// Time since it was spawned, by the kernel's clock.
    pub age: Duration,
    /// Steps it has run.
    pub polls: u64,
    /// Real time spent in its steps.
    pub busy: Duration,
    /// CPU time spent in its steps. Much less than `busy` says that it blocks the thread.
    pub cpu: Duration,
}

struct Account {
    id: TaskId,
    created: Instant,
    polls: u64,
    busy: Duration,
    cpu: Duration,
}

/// The accounts of all tasks that have not ended, at their places in the table of tasks.
#[derive(Default)]
pub(crate) struct Ledger {
    accounts: Vec<Option<Account>>,
}

impl Ledger {
    pub(crate) fn open(&mut self, id: TaskId, now: Instant) {
        let index = id.index();
        if self.accounts.len() <= index {
            self.accounts.resize_with(index + 1, || None);
        }
        self.accounts[index] = Some(Account {
            id,
            created: now,
            polls: 0,
            busy: Duration::ZERO,
            cpu: Duration::ZERO,
        });
    }

    pub(crate) fn close(&mut self, id: TaskId) {
        if let Some(account) = self.accounts.get_mut(id.index()) {
            account.take_if(|account| account.id == id);
        }
    }

    pub(crate) fn charge(&mut self, id: TaskId, busy: Duration, cpu: Duration) {
        let account = self.accounts.get_mut(id.index());
        if let Some(account) = account.and_then(Option::as_mut).filter(|a| a.id == id) {
            account.polls += 1;
            account.busy += busy;
            account.cpu += cpu;
        }
    }

    pub(crate) fn account(&self, id: TaskId, now: Instant) -> Option<TaskAccount> {
        let account = self.accounts.get(id.index())?.as_ref()?;
        (account.id == id).then(|| TaskAccount {
            age: now.saturating_duration_since(account.created),
            polls: account.polls,
            busy: account.busy,
            cpu: account.cpu,
        })
    }
}

/// The CPU time that this thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec that lives across the call, which writes only to it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    debug_assert_eq!(failed, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_used_again_is_another_account() {
        let (mut ledger, start) = (Ledger::default(), Instant::now());
        let (first, second) = (TaskId::from_bits(1 << 32), TaskId::from_bits(2 << 32));
        let ms = Duration::from_millis;
        ledger.open(first, start);
        ledger.charge(first, ms(3), ms(2));
        let account = ledger.account(first, start + ms(10)).unwrap();
        assert_eq!(
            (account.age, account.polls, account.busy, account.cpu),
            (ms(10), 1, ms(3), ms(2))
        );
        ledger.close(first);
        ledger.open(second, start + ms(10));
        ledger.charge(first, ms(3), ms(2)); // too late: charged to nobody
        ledger.close(first);
        assert_eq!(ledger.account(first, start), None);
        assert_eq!(ledger.account(second, start + ms(12)).unwrap().polls, 0);
    }
}

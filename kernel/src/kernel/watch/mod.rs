//! What is kept for those who look on: observers, accounts, slow steps, the monitor's board.
//!
//! None of it exists unless the [`Builder`](crate::Builder) was asked for it; then the loop pays
//! one branch for each of the four events of a task's life, and nothing per task.

mod account;
mod board;
mod monitor;
mod observer;

use std::{
    cell::Cell,
    io,
    panic::Location,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

pub use account::TaskAccount;
pub use observer::{Observed, Observer};

use self::{
    account::{Ledger, thread_cpu},
    board::{Board, Whose},
    monitor::Monitor,
};
use crate::{
    error::contain,
    kernel::{held::Held, outside::Shared, task::cell::Task},
};

/// What the builder was asked for.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) observer: Option<Box<dyn Observer>>,
    pub(crate) accounts: bool,
    pub(crate) slow_step: Option<Duration>,
    pub(crate) monitor: Option<PathBuf>,
}

/// Looks on at one kernel.
pub(crate) struct Watch {
    observer: Option<Box<dyn Observer>>,
    ledger: Option<Held<Ledger>>,
    slow_step: Option<Duration>,
    board: Option<Arc<Board>>,
    _monitor: Option<Monitor>,
    /// When the step now running began, and the thread's CPU time then.
    began: Cell<Option<(Instant, Duration)>>,
}

impl Watch {
    /// `None` if nothing was asked for. Fails if the monitor's socket or thread cannot be made.
    pub(crate) fn new(wanted: Wanted, kernel: &Arc<Shared>) -> io::Result<Option<Box<Watch>>> {
        let board = wanted.monitor.is_some().then(Arc::<Board>::default);
        if wanted.observer.is_none()
            && !wanted.accounts
            && wanted.slow_step.is_none()
            && board.is_none()
        {
            return Ok(None);
        }
        let monitor = match (&wanted.monitor, &board) {
            (Some(path), Some(board)) => Some(Monitor::start(path, board.clone(), kernel.clone())?),
            _ => None,
        };
        Ok(Some(Box::new(Watch {
            observer: wanted.observer,
            ledger: wanted.accounts.then(Held::default),
            slow_step: wanted.slow_step,
            board,
            _monitor: monitor,
            began: Cell::new(None),
        })))
    }

    fn tell(&self, what: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.observer {
            contain("an observer", || what(&**observer));
        }
    }

    /// A task has come into being. `now` is the kernel's time, which may be a manual clock's.
    pub(crate) fn created(&self, task: &Task, now: Instant) {
        if let Some(ledger) = &self.ledger {
            ledger.borrow_mut().open(task.record.id, now);
        }
        self.tell(|observer| observer.created(&Observed::new(task)));
    }

    /// Its next step begins.
    pub(crate) fn running(&self, task: &Task) {
        self.tell(|observer| observer.running(&Observed::new(task)));
        self.enter(task);
    }

    /// Its step is over; it has not ended.
    pub(crate) fn suspended(&self, task: &Task) {
        self.tell(|observer| observer.suspended(&Observed::new(task)));
    }

    /// It has ended, one way or another.
    pub(crate) fn terminated(&self, task: &Task) {
        if let Some(ledger) = &self.ledger {
            ledger.borrow_mut().close(task.record.id);
        }
        self.tell(|observer| observer.terminated(&Observed::new(task)));
    }

    /// Code of this task begins to run: a step, or the drop of its future.
    pub(crate) fn enter(&self, task: &Task) {
        if self.ledger.is_some() || self.slow_step.is_some() || self.board.is_some() {
            self.begin(|| Whose::task(task));
        }
    }

    fn begin(&self, whose: impl FnOnce() -> Whose) {
        let now = Instant::now();
        let cpu = self.ledger.as_ref().map(|_| thread_cpu());
        self.began.set(Some((now, cpu.unwrap_or_default())));
        if let Some(board) = &self.board {
            board.enter(whose(), now);
        }
    }

    /// When it began, and the thread's CPU time then.
    fn end(&self) -> Option<(Instant, Duration)> {
        let began = self.began.take()?;
        if let Some(board) = &self.board {
            board.leave();
        }
        Some(began)
    }

    /// The end of what `enter` began.
    pub(crate) fn leave(&self, task: &Task) {
        let Some((began, cpu)) = self.end() else {
            return;
        };
        let took = began.elapsed();
        if let Some(ledger) = &self.ledger {
            let cpu = thread_cpu().saturating_sub(cpu);
            ledger.borrow_mut().charge(task.record.id, took, cpu);
        }
        if self.slow_step.is_some_and(|bound| took > bound) {
            self.report(task, took);
        }
    }

    /// Runs what another thread sent from this place: in no task's step, but in every task's way.
    pub(crate) fn sent(&self, site: &'static Location<'static>, code: impl FnOnce()) {
        self.begin(|| Whose::Sent(site));
        contain("a closure sent to it", code);
        let took = self.end().map(|(began, _)| began.elapsed());
        if let (Some(bound), Some(took)) = (self.slow_step, took)
            && took > bound
        {
            let sent = Whose::Sent(site);
            log::warn!("kernel: {sent} ran for {took:?} without a pause; nothing else could");
        }
    }

    fn report(&self, task: &Task, took: Duration) {
        let observed = Observed::new(task);
        log::warn!("kernel: {observed} ran for {took:?} without a pause; nothing else could");
        self.tell(|observer| observer.slow_step(&observed, took));
    }

    pub(crate) fn account(&self, task: &Task, now: Instant) -> Option<TaskAccount> {
        let ledger = self.ledger.as_ref()?.borrow();
        ledger.account(task.record.id, now)
    }
}

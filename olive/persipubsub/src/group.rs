//! Group commit: whoever comes while a commit is under way shares the next one.
//!
//! There is no timer and no delay. The first to come leads: it takes all that waits, runs it in one
//! transaction, answers everybody and passes the lead to one of those who came meanwhile. A lone
//! sender therefore commits on its own thread, without a hop. Batches handed in without waiting
//! ([`Group::submit`]) are led by one store thread, started on first use.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::op::{Done, Op};
use crate::sys::lock;

/// So many turns of the processor without a newcomer end the gathering of a group.
const IDLE_YIELDS: u32 = 16;

/// The answers of a batch, one for each operation, in order.
pub type Answers = Vec<Result<Done>>;

/// One batch on its way through the group.
struct Entry {
    ops: Vec<Op>,
    /// Its thread waits in [`Group::execute`] and can lead; otherwise the store thread must.
    blocking: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    answers: Option<Answers>,
    /// The waiting thread is to lead.
    lead: bool,
    waiter: Waiter,
}

#[derive(Default)]
enum Waiter {
    #[default]
    Nobody,
    Thread(Thread),
    Task(Waker),
}

impl Entry {
    fn new(ops: Vec<Op>, blocking: bool) -> Arc<Self> {
        let waiter = if blocking {
            Waiter::Thread(std::thread::current())
        } else {
            Waiter::Nobody
        };
        Arc::new(Entry {
            ops,
            blocking,
            state: Mutex::new(State {
                waiter,
                ..State::default()
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn notify(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let waiter = std::mem::take(&mut state.waiter);
        drop(state);
        match waiter {
            Waiter::Nobody => {}
            Waiter::Thread(thread) => thread.unpark(),
            Waiter::Task(waker) => waker.wake(),
        }
    }
}

/// A batch handed in: a future of its answers, for any executor, and for plain threads.
///
/// Dropping it withdraws nothing: the batch is carried out all the same.
pub struct Ticket(Arc<Entry>);

impl Ticket {
    /// Blocks until the batch is committed as durably as the store was opened, and answers.
    pub fn wait(self) -> Answers {
        loop {
            let mut state = self.0.state();
            if let Some(answers) = state.answers.take() {
                return answers;
            }
            state.waiter = Waiter::Thread(std::thread::current());
            drop(state);
            std::thread::park();
        }
    }
}

impl Future for Ticket {
    type Output = Answers;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answers> {
        let mut state = self.0.state();
        if let Some(answers) = state.answers.take() {
            return Poll::Ready(answers);
        }
        state.waiter = Waiter::Task(context.waker().clone());
        Poll::Pending
    }
}

#[derive(Default)]
struct Line {
    waiting: Vec<Arc<Entry>>,
    /// Somebody leads, or was told to.
    led: bool,
    /// That somebody is the store thread.
    thread_leads: bool,
    thread: Option<JoinHandle<()>>,
    /// The lead was passed on, not taken.
    contended: bool,
    /// The size of the group before.
    last: usize,
    closed: bool,
    /// Since when there are commits without a sync (durability `interval`).
    dirty: Option<Instant>,
}

struct Shared {
    engine: Arc<Engine>,
    line: Mutex<Line>,
    turn: Condvar,
    sync_every: Option<Duration>,
}

/// The one way operations take to the engine.
pub(crate) struct Group(Arc<Shared>);

impl Group {
    pub(crate) fn new(engine: Arc<Engine>, sync_every: Option<Duration>) -> Self {
        Group(Arc::new(Shared {
            engine,
            line: Mutex::default(),
            turn: Condvar::new(),
            sync_every,
        }))
    }

    /// Runs a batch and waits for it, leading if nobody does.
    pub(crate) fn execute(&self, ops: Vec<Op>) -> Answers {
        if let Err(error) = self.0.engine.check() {
            return ops.iter().map(|_| Err(error.clone())).collect();
        }
        let entry = Entry::new(ops, true);
        let mut line = self.0.line();
        line.waiting.push(entry.clone());
        let mut lead = !std::mem::replace(&mut line.led, true);
        if self.0.sync_every.is_some() {
            self.start_thread(&mut line);
        }
        drop(line);
        loop {
            if lead {
                self.0.lead();
            }
            let mut state = entry.state();
            if let Some(answers) = state.answers.take() {
                return answers;
            }
            lead = std::mem::take(&mut state.lead);
            state.waiter = Waiter::Thread(std::thread::current());
            drop(state);
            if !lead {
                std::thread::park();
            }
        }
    }

    /// Hands a batch to the store thread.
    pub(crate) fn submit(&self, ops: Vec<Op>) -> Ticket {
        let entry = Entry::new(ops, false);
        if let Err(error) = self.0.engine.check() {
            entry.state().answers = Some(entry.ops.iter().map(|_| Err(error.clone())).collect());
            return Ticket(entry);
        }
        let mut line = self.0.line();
        self.start_thread(&mut line);
        line.waiting.push(entry.clone());
        if !std::mem::replace(&mut line.led, true) {
            line.thread_leads = true;
            self.0.turn.notify_one();
        }
        Ticket(entry)
    }

    fn start_thread(&self, line: &mut Line) {
        if line.thread.is_none() {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("persipubsub".to_owned());
            line.thread = Some(
                thread
                    .spawn(move || shared.serve())
                    .expect("a thread can be started"),
            );
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // After a fork the thread is the parent's.
        if !self.0.engine.is_home() {
            return;
        }
        let mut line = self.0.line();
        line.closed = true;
        let thread = line.thread.take();
        drop(line);
        self.0.turn.notify_one();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }

    /// One group: take all that waits, run it, answer, pass the lead on.
    fn lead(&self) {
        let group = self.gather();
        let ops = || group.iter().flat_map(|entry| &entry.ops);
        // A panic in here is a bug, but whoever waits must not wait for ever because of it.
        let run = std::panic::AssertUnwindSafe(|| self.engine.run(ops()));
        let answers = std::panic::catch_unwind(run).unwrap_or_else(|_| {
            let error = Error::Lmdb("a panic inside the store".to_owned());
            ops().map(|_| Err(error.clone())).collect()
        });
        let (size, mut answers) = (group.len(), answers.into_iter());
        for entry in group {
            let own = answers.by_ref().take(entry.ops.len()).collect();
            entry.notify(|state| state.answers = Some(own));
        }
        // Told first, those who come again at once are part of the next group.
        let mut line = self.line();
        if self.sync_every.is_some() && line.dirty.is_none() {
            line.dirty = Some(Instant::now());
            self.turn.notify_one();
        }
        line.last = size;
        let next = line.waiting.first().cloned();
        line.led = next.is_some();
        line.contended = next.is_some();
        drop(line);
        if let Some(next) = next {
            self.appoint(&next);
        }
    }

    /// Takes all that waits. Those who were answered a moment ago are likely to come again, and
    /// would otherwise always miss the commit that is just beginning: so while more are coming, the
    /// processor is theirs first. A lone sender finds `last` 0 or nobody else and yields to no one.
    fn gather(&self) -> Vec<Arc<Entry>> {
        let mut line = self.line();
        let expected = match line.waiting.len() + std::mem::take(&mut line.last) {
            _ if !line.contended => 0,
            expected => expected,
        };
        let (mut seen, mut idle) = (line.waiting.len(), 0);
        while line.waiting.len() < expected && idle < IDLE_YIELDS {
            drop(line);
            std::thread::yield_now();
            line = self.line();
            idle = if line.waiting.len() > seen {
                0
            } else {
                idle + 1
            };
            seen = line.waiting.len();
        }
        line.contended = false;
        std::mem::take(&mut line.waiting)
    }

    fn appoint(&self, entry: &Entry) {
        if entry.blocking {
            return entry.notify(|state| state.lead = true);
        }
        self.line().thread_leads = true;
        self.turn.notify_one();
    }

    /// The store thread: leads when told to, and syncs what has been waiting for it long enough.
    fn serve(&self) {
        let mut line = self.line();
        loop {
            let due = self.sync_every.zip(line.dirty);
            let due = due.map(|(every, since)| every.saturating_sub(since.elapsed()));
            if std::mem::take(&mut line.thread_leads) {
                drop(line);
                self.lead();
            } else if line.closed || due == Some(Duration::ZERO) {
                let (closed, dirty) = (line.closed, line.dirty.take());
                drop(line);
                if dirty.is_some() {
                    self.sync();
                }
                if closed {
                    return;
                }
            } else {
                // Nothing to do and nothing to sync: no turn of the processor until there is.
                let wait = due.unwrap_or(Duration::MAX);
                let woken = self.turn.wait_timeout(line, wait);
                drop(woken.expect("no panic happens under this lock"));
            }
            line = self.line();
        }
    }

    fn sync(&self) {
        if let Err(error) = self.engine.env.force_sync() {
            log::error!("persipubsub: a sync at its interval failed, and is tried again: {error}");
            self.line().dirty.get_or_insert_with(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{Durability, Environment, Options, Setup};

    /// How often the store threads of this process went to sleep.
    fn sleeps() -> u64 {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let sleeps = tasks.map(|task| {
            let task = task.unwrap().path();
            let status = match &read(task.join("comm"))[..] {
                "persipubsub\n" => read(task.join("status")),
                _ => String::new(),
            };
            let line = status.lines().find(|line| line.starts_with("voluntary"));
            let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            count.unwrap_or(0)
        });
        sleeps.sum()
    }

    /// With nothing left to sync, the store thread looked every millisecond whether there was.
    #[test]
    fn an_idle_store_rests_between_its_syncs() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            map_size: Some(1 << 20),
            durability: Durability::Interval(Duration::from_millis(1)),
            ..Options::default()
        };
        let env = Environment::open_with(dir.path(), options).unwrap();
        env.new_control().initialize(&Setup::new(["sub"])).unwrap();
        env.new_publisher().unwrap().send("one").unwrap();
        // The sleep is what is measured, not something that is waited for.
        let before = sleeps();
        std::thread::sleep(Duration::from_millis(200));
        let turns = sleeps() - before;
        assert!(turns < 20, "{turns} turns in 200 ms of rest");
    }
}

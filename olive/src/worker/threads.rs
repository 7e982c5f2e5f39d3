//! The threads that run Rust tasks.
//!
//! Work goes to them in batches and their results come back through a [`kernel::inbox`], which
//! rings the kernel once for as many results as there are. How many threads a batch wakes is the
//! caller's guess from how long jobs take: waking a thread costs some microseconds, more than a
//! short job. [`Threads::wake_for_backlog`] corrects a wrong guess.
//!
//! Threads are started when first needed and kept. They know nothing of brokers, and a job that
//! never returns holds its thread until the program ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kernel::InboxSender;
use serde_json::value::RawValue;

use crate::job::Job;
use crate::outcome::TaskError;
use crate::registry::{HandlerId, Registry};

/// A job on its way to a thread.
pub(super) struct Work {
    /// The dispatcher's number for it.
    pub slot: usize,
    pub job: Job,
    pub handler: HandlerId,
}

/// A job on its way back.
pub(super) struct Finished {
    pub slot: usize,
    pub job: Job,
    pub result: Result<Box<RawValue>, TaskError>,
    pub took: Duration,
}

struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    registry: Arc<Registry>,
    finished: InboxSender<Finished>,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Threads that wait on `more`.
    idle: usize,
    /// Threads started.
    threads: usize,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that may panic runs under the lock; a poisoned one is whole all the same.
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The dispatcher's handle. Dropping it lets the threads end after what is queued.
pub(super) struct Threads {
    shared: Arc<Shared>,
    max: usize,
}

impl Threads {
    /// Up to `max` threads that run tasks of `registry` and send what comes out to `finished`.
    pub fn new(max: usize, registry: Arc<Registry>, finished: InboxSender<Finished>) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            registry,
            finished,
        });
        Threads { shared, max }
    }

    /// Queues a batch, emptying it, and wakes up to `wake` threads (at least one).
    pub fn submit(&self, batch: &mut Vec<Work>, wake: usize) {
        if batch.is_empty() {
            return;
        }
        let mut queue = self.shared.lock();
        queue.work.extend(batch.drain(..));
        self.wake(queue, wake.max(1));
    }

    /// Wakes a thread for each job that still waits; says whether any did.
    pub fn wake_for_backlog(&self) -> bool {
        let queue = self.shared.lock();
        let waiting = queue.work.len();
        self.wake(queue, waiting);
        waiting > 0
    }

    /// Takes back what no thread has started.
    pub fn take_unstarted(&self) -> Vec<Work> {
        self.shared.lock().work.drain(..).collect()
    }

    fn wake(&self, mut queue: MutexGuard<'_, Queue>, wanted: usize) {
        let wanted = wanted.min(queue.work.len());
        let awake = wanted.min(queue.idle);
        let start = (wanted - awake).min(self.max - queue.threads);
        // One that was started counts before it runs, so that the next batch does not start it again.
        queue.threads += start;
        drop(queue);
        for _ in 0..awake {
            self.shared.more.notify_one();
        }
        for _ in 0..start {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("olive-task".to_owned());
            if let Err(e) = thread.spawn(move || run(&shared)) {
                log::error!("no new thread for Rust tasks: {e}");
                self.shared.lock().threads -= 1;
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.more.notify_all();
    }
}

fn run(shared: &Shared) {
    let mut queue = shared.lock();
    loop {
        if let Some(work) = queue.work.pop_front() {
            drop(queue);
            let finished = perform(&shared.registry, work);
            if shared.finished.send(finished).is_err() {
                return; // the kernel is gone, and everybody to tell with it
            }
            queue = shared.lock();
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            queue = shared.more.wait(queue).unwrap_or_else(|e| e.into_inner());
            queue.idle -= 1;
        }
    }
}

fn perform(registry: &Registry, work: Work) -> Finished {
    let started = Instant::now();
    let result = registry.call_id(work.handler, work.job.args(), work.job.kwargs());
    Finished {
        slot: work.slot,
        took: started.elapsed(),
        job: work.job,
        result,
    }
}

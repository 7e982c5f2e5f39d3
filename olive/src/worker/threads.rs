//! The threads that run Rust tasks.
//!
//! Work goes out and results come back through one queue under one lock, in batches. What costs
//! here is not the lock but waking somebody up: a context switch takes microseconds, more than a
//! short job does. So while jobs are short
//!
//! * a batch wakes one thread, which works through it;
//! * results gather until the batch is used up, or [`RING_AT`] are there, before the kernel is
//!   rung.
//!
//! "Short" is the dispatcher's guess from the jobs before. Where it is wrong, a job that takes its
//! time could hold up the work and the results behind it: [`Threads::nudge`], called every
//! millisecond while anything is out, puts that right. When jobs are not short, each has a thread
//! woken for it and each result rings at once.
//!
//! Threads are started when first needed and kept. They know nothing of brokers, and a job that
//! never returns holds its thread until the program ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kernel::{Bell, Ringer};
use serde_json::value::RawValue;

use crate::job::Job;
use crate::outcome::TaskError;
use crate::registry::{HandlerId, Registry};

/// A job up to this long is short: not worth waking a thread for.
pub(super) const SHORT: Duration = Duration::from_micros(100);

/// So many results ring the kernel in any case: the broker wants acks to send more.
const RING_AT: usize = 32;

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
    ringer: Ringer,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    finished: Vec<Finished>,
    /// Whether jobs are short of late.
    short: bool,
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

/// The dispatcher's handle. Dropped, the threads end after the job they are at.
pub(super) struct Threads {
    shared: Arc<Shared>,
    /// Rung when there are results to take.
    bell: Bell,
    max: usize,
}

impl Threads {
    /// Up to `max` threads that run tasks of `registry`.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn new(max: usize, registry: Arc<Registry>) -> Self {
        let bell = Bell::new();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            registry,
            ringer: bell.ringer(),
        });
        Threads { shared, bell, max }
    }

    /// Queues a batch, emptying it, and wakes one thread if jobs are `short`, else one for each.
    pub fn submit(&self, batch: &mut Vec<Work>, short: bool) {
        let mut queue = self.shared.lock();
        queue.short = short;
        let wanted = if short { 1 } else { batch.len() };
        queue.work.extend(batch.drain(..));
        self.wake(queue, wanted);
    }

    /// Waits until there are results to take.
    ///
    /// # Errors
    /// Cancellation.
    pub async fn rung(&self) -> Result<(), kernel::Error> {
        self.bell.wait().await
    }

    /// Takes the results that are there.
    pub fn take_finished(&self, into: &mut Vec<Finished>) {
        into.append(&mut self.shared.lock().finished);
    }

    /// Wakes a thread for each job that still waits; says whether any did.
    pub fn nudge(&self) -> bool {
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
        // A thread counts before it runs, so that the next batch does not start it again.
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
    while !queue.closed {
        let Some(work) = queue.work.pop_front() else {
            queue.idle += 1;
            queue = shared.more.wait(queue).unwrap_or_else(|e| e.into_inner());
            queue.idle -= 1;
            continue;
        };
        drop(queue);
        let finished = perform(&shared.registry, work);
        let was_short = finished.took < SHORT;
        queue = shared.lock();
        queue.finished.push(finished);
        let may_wait =
            was_short && queue.short && !queue.work.is_empty() && queue.finished.len() < RING_AT;
        if !may_wait {
            drop(queue);
            shared.ringer.ring();
            queue = shared.lock();
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn work(slot: usize, registry: &Registry, name: &str) -> Work {
        let body = format!(r#"{{"func":"{name}"}}"#);
        Work {
            slot,
            job: Job::parse(body.into_bytes()).map_err(|(_, e)| e).unwrap(),
            handler: registry.find(name).unwrap(),
        }
    }

    /// The guess "short" is wrong: the first job blocks its thread. The nudge brings the second
    /// one to another thread, or the first would never end.
    #[test]
    fn a_wrong_guess_is_put_right() {
        let (send, receive) = mpsc::channel::<()>();
        let receive = Mutex::new(receive);
        let mut registry = Registry::new();
        registry.add("wait", move || {
            receive.lock().unwrap().recv().map_err(|e| e.to_string())
        });
        let send = Mutex::new(send);
        registry.add("free", move || {
            send.lock().unwrap().send(()).map_err(|e| e.to_string())
        });
        let registry = Arc::new(registry);
        kernel::run(async move {
            let threads = Threads::new(2, Arc::clone(&registry));
            let mut batch = vec![work(0, &registry, "wait"), work(1, &registry, "free")];
            threads.submit(&mut batch, true);
            let mut finished = Vec::new();
            while finished.len() < 2 {
                kernel::yield_now().await.unwrap();
                threads.nudge();
                threads.take_finished(&mut finished);
            }
            assert!(finished.iter().all(|f| f.result.is_ok()));
        })
        .unwrap();
    }

    #[test]
    fn results_of_short_jobs_ring_when_the_batch_is_used_up() {
        let registry = Arc::new(Registry::with_builtins());
        kernel::run(async move {
            let threads = Threads::new(1, Arc::clone(&registry));
            let name = "olive.tasks.do_nothing";
            let mut batch = (0..10).map(|slot| work(slot, &registry, name)).collect();
            threads.submit(&mut batch, true);
            let mut finished = Vec::new();
            while finished.len() < 10 {
                threads.rung().await.unwrap();
                threads.take_finished(&mut finished);
            }
            let slots: Vec<usize> = finished.iter().map(|f| f.slot).collect();
            assert_eq!(slots, Vec::from_iter(0..10), "one thread works in order");
        })
        .unwrap();
    }
}

//! The middle of the worker: jobs that wait, jobs that run, and where each goes next.
//!
//! A delivery is read and routed as it arrives, waits here until one of `num_workers` places is
//! free, runs on a thread or in a process, and is handed to `settle` with what came of it. All of
//! this is state of the kernel's thread; only a job's body travels.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amqp::client::{Acker, Delivery};
use amqp::protocol::AMQPValue;
use kernel::sync::Event;
use serde_json::value::RawValue;
use slab::Slab;

use super::letter::Origin;
use super::outbox::Outbox;
use super::route::{Route, route};
use super::settle::{End, Ended};
use super::threads::{Finished, SHORT, Threads, Work};
use super::verdict::{Reason, Verdict, judge, unknown_task};
use crate::config::Config;
use crate::job::Job;
use crate::outcome::{Outcome, Status, TaskError};
use crate::pool::{ProcessPool, Request, Runner};
use crate::registry::Registry;

/// Taken deliveries that may wait here. With a prefetch limit it is never reached; without one it
/// leaves the rest in the connection, whose buffer is bounded too.
const MAX_WAITING: usize = 70_000;

/// Jobs whose processes were killed are remembered up to this many.
const MAX_DEATHS_KNOWN: usize = 10_000;

/// While jobs are short, and none runs in a process, so many times `num_workers` are handed to the
/// threads at once: still no more than `num_workers` run, and hand-offs are fewer.
const AHEAD: usize = 4;

/// How long a batch may lie before the guess that its jobs are short is put right.
const NUDGE: Duration = Duration::from_millis(1);

/// A job that no runner has yet.
struct Waiting {
    acker: Acker,
    origin: Origin,
    job: Job,
    route: Route,
    since: Instant,
}

/// A job that runs; its body is with the runner.
struct Running {
    acker: Acker,
    origin: Origin,
}

struct State {
    waiting: VecDeque<Waiting>,
    running: Slab<Running>,
    /// How many of them run in processes.
    in_processes: usize,
    /// Jobs whose outcome is on its way to the broker.
    settling: usize,
    /// Processes killed so far, by the hash of the job's body: it comes back as the same bytes.
    deaths: HashMap<u64, u32>,
    /// Running mean of what a job takes on a thread, in seconds.
    mean_s: f64,
    /// Results just taken from the threads.
    finished: Vec<Finished>,
    batch: Vec<Work>,
}

/// Counts of what a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that ended well.
    pub done: u64,
    /// Jobs that were dead-lettered.
    pub dead: u64,
    /// Deliveries given back.
    pub given_back: u64,
}

/// See the module's text.
pub(super) struct Dispatcher {
    pub config: Rc<Config>,
    pub outbox: Rc<Outbox>,
    pub pool: ProcessPool,
    registry: Arc<Registry>,
    threads: Threads,
    state: RefCell<State>,
    pub counts: RefCell<Counts>,
    /// Set while nothing runs and nothing is being settled.
    pub idle: Event,
    /// Set while more may be taken.
    pub room: Event,
    /// Nothing more is taken, and what waits is not started: the worker was asked to stop.
    pub quiet: Cell<bool>,
    /// Set when threads were given work.
    submitted: Event,
}

impl Dispatcher {
    /// A dispatcher with nothing to do.
    pub fn new(
        config: Rc<Config>,
        registry: Arc<Registry>,
        pool: ProcessPool,
        outbox: Rc<Outbox>,
    ) -> Rc<Self> {
        let dispatcher = Dispatcher {
            threads: Threads::new(config.num_workers, Arc::clone(&registry)),
            config,
            outbox,
            pool,
            registry,
            state: RefCell::new(State {
                waiting: VecDeque::new(),
                running: Slab::new(),
                in_processes: 0,
                settling: 0,
                deaths: HashMap::new(),
                mean_s: 1.0,
                finished: Vec::new(),
                batch: Vec::new(),
            }),
            counts: RefCell::default(),
            idle: Event::new(),
            room: Event::new(),
            quiet: Cell::new(false),
            submitted: Event::new(),
        };
        dispatcher.idle.set();
        dispatcher.room.set();
        Rc::new(dispatcher)
    }

    /// Takes a delivery: it waits for its turn, or is settled at once if it can never run.
    pub fn take(self: &Rc<Self>, delivery: Delivery, now: Instant) {
        let (message, acker) = delivery.into_parts();
        let attempt = 1 + delivery_count(&message.properties);
        let origin = Origin {
            exchange: message.exchange,
            routing_key: message.routing_key,
            properties: message.properties,
            attempt,
        };
        let job = match Job::parse(message.body) {
            Ok(job) => job,
            Err((body, why)) => {
                let error = TaskError::new("Malformed", why.to_string());
                return self.refuse(acker, origin, Ended::Body(body), Reason::Malformed, error);
            }
        };
        let timed = job.timeout().is_some();
        match route(job.func(), timed, &self.registry, &self.config) {
            Ok(route) => {
                let mut state = self.state.borrow_mut();
                state.waiting.push_back(Waiting {
                    acker,
                    origin,
                    job,
                    route,
                    since: now,
                });
                if state.waiting.len() >= MAX_WAITING {
                    self.room.clear();
                }
            }
            Err(why) => {
                let error = unknown_task(job.func(), &why);
                self.refuse(acker, origin, Ended::Job(job), Reason::UnknownTask, error);
            }
        }
    }

    fn refuse(
        self: &Rc<Self>,
        acker: Acker,
        origin: Origin,
        what: Ended,
        reason: Reason,
        error: TaskError,
    ) {
        let status = Status::Rejected;
        self.end(End {
            acker,
            origin,
            what,
            took: Duration::ZERO,
            outcome: None,
            verdict: Verdict::Dead {
                status,
                reason,
                error,
            },
        });
    }

    /// Starts as many waiting jobs as there are places free.
    pub fn dispatch(self: &Rc<Self>) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let short = state.mean_s < SHORT.as_secs_f64();
        while !self.quiet.get()
            && let Some(next) = state.waiting.front()
            && state.running.len() < self.places(state, &next.route, short)
            && let Some(next) = state.waiting.pop_front()
        {
            let Waiting {
                acker,
                origin,
                job,
                route,
                ..
            } = next;
            let attempt = origin.attempt;
            let slot = state.running.insert(Running { acker, origin });
            match route {
                Route::Thread(handler) => state.batch.push(Work { slot, job, handler }),
                Route::Process(runner) => {
                    state.in_processes += 1;
                    kernel::spawn(Rc::clone(self).run_in_process(slot, job, runner, attempt))
                        .detach();
                }
            }
        }
        if state.waiting.len() < MAX_WAITING {
            self.room.set();
        }
        if !state.running.is_empty() {
            self.idle.clear();
        }
        if !state.batch.is_empty() {
            self.threads.submit(&mut state.batch, short);
            self.submitted.set();
        }
    }

    /// How many may be out when a job of this kind is next.
    fn places(&self, state: &State, route: &Route, short: bool) -> usize {
        match route {
            Route::Thread(_) if short && state.in_processes == 0 => AHEAD * self.config.num_workers,
            _ => self.config.num_workers,
        }
    }

    /// Receives what threads have finished. Runs until cancelled.
    pub async fn receive(self: Rc<Self>) {
        while self.threads.rung().await.is_ok() {
            self.collect();
        }
    }

    /// Takes results from the threads, settles them and starts what waits.
    fn collect(self: &Rc<Self>) {
        let mut batch = std::mem::take(&mut self.state.borrow_mut().finished);
        self.threads.take_finished(&mut batch);
        for finished in batch.drain(..) {
            let Finished {
                slot,
                job,
                result,
                took,
            } = finished;
            let outcome = match result {
                Ok(value) => Outcome::Done { value },
                Err(error) => Outcome::Failed { error },
            };
            self.note_length(took);
            self.finished(slot, job, outcome, took);
        }
        self.state.borrow_mut().finished = batch;
        self.dispatch();
    }

    fn note_length(&self, took: Duration) {
        let mean = &mut self.state.borrow_mut().mean_s;
        *mean += 0.1 * (took.as_secs_f64() - *mean);
    }

    /// Puts right what the guess about short jobs got wrong: while a batch lies, wakes more threads
    /// and takes results that nobody rang for. Runs until cancelled.
    pub async fn nudge(self: Rc<Self>) {
        while self.submitted.wait().await.is_ok() && kernel::sleep(NUDGE).await.is_ok() {
            if !self.threads.nudge() {
                self.submitted.clear();
            }
            self.collect();
        }
    }

    async fn run_in_process(
        self: Rc<Self>,
        slot: usize,
        mut job: Job,
        runner: Runner,
        attempt: u32,
    ) {
        let raw = |text: &str| {
            RawValue::from_string(text.to_owned()).expect("it was JSON when the job was read")
        };
        let request = Request {
            tid: job.tid().to_owned(),
            func: job.func().to_owned(),
            args: raw(job.args()),
            kwargs: raw(job.kwargs()),
            timeout: job.timeout(),
            attempt,
        };
        let started = kernel::now();
        // Cancelled means that the worker gives up: the delivery stays unsettled and the broker
        // gives it to somebody else when the connection ends.
        let ran = self.pool.run(runner, request).await;
        self.state.borrow_mut().in_processes -= 1;
        if let Ok(outcome) = ran {
            self.finished(slot, job, outcome, kernel::now() - started);
            self.dispatch();
        }
    }

    fn finished(self: &Rc<Self>, slot: usize, job: Job, outcome: Outcome, took: Duration) {
        let (running, deaths) = {
            let mut state = self.state.borrow_mut();
            let deaths = state.count_death(&job, &outcome);
            (state.running.remove(slot), deaths)
        };
        let verdict = judge(job.func(), &outcome, job.timeout(), deaths);
        self.end(End {
            acker: running.acker,
            origin: running.origin,
            what: Ended::Job(job),
            took,
            outcome: Some(outcome),
            verdict,
        });
    }

    /// Settles at once where nobody has to be told, else in a kernel task of its own.
    fn end(self: &Rc<Self>, end: End) {
        if let Some(rest) = end.settle_at_once(&mut self.counts.borrow_mut()) {
            self.state.borrow_mut().settling += 1;
            self.idle.clear();
            let this = Rc::clone(self);
            kernel::spawn(async move {
                rest.settle(&this).await;
                this.state.borrow_mut().settling -= 1;
                this.note_idle();
            })
            .detach();
        } else {
            self.note_idle();
        }
    }

    fn note_idle(&self) {
        let state = self.state.borrow();
        if state.running.is_empty() && state.settling == 0 {
            self.idle.set();
        }
    }

    /// Takes everything that no runner has started out of the lines, at once.
    pub fn take_unstarted(&self) -> Vec<Acker> {
        let mut state = self.state.borrow_mut();
        let mut ackers: Vec<Acker> = state.waiting.drain(..).map(|w| w.acker).collect();
        for work in self.threads.take_unstarted() {
            ackers.push(state.running.remove(work.slot).acker);
        }
        drop(state);
        self.note_idle();
        ackers
    }

    /// Gives back what has waited since before `limit`; returns how many.
    pub fn give_back_older(&self, limit: Instant) -> usize {
        let mut ackers = Vec::new();
        let mut state = self.state.borrow_mut();
        while state.waiting.front().is_some_and(|w| w.since < limit) {
            ackers.extend(state.waiting.pop_front().map(|w| w.acker));
        }
        drop(state);
        self.give_back(ackers)
    }

    /// Gives deliveries back to the broker; returns how many.
    pub fn give_back(&self, ackers: Vec<Acker>) -> usize {
        let count = ackers.len();
        for acker in ackers {
            // An error means that the channel is over: the broker has them back already.
            let _ = acker.nack(true);
        }
        self.counts.borrow_mut().given_back += count as u64;
        count
    }

    /// Jobs that run or are being settled.
    pub fn busy(&self) -> usize {
        let state = self.state.borrow();
        state.running.len() + state.settling
    }
}

impl State {
    /// Counts a killed process for its job and returns the count; forgets jobs that ended.
    fn count_death(&mut self, job: &Job, outcome: &Outcome) -> u32 {
        let killed = matches!(
            outcome,
            Outcome::Died {
                signal: Some(_),
                ..
            }
        );
        if !killed && self.deaths.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        job.text().hash(&mut hasher);
        let key = hasher.finish();
        if !killed {
            self.deaths.remove(&key);
            return 0;
        }
        if self.deaths.len() >= MAX_DEATHS_KNOWN {
            self.deaths.clear();
        }
        let count = self.deaths.entry(key).or_default();
        *count += 1;
        *count
    }
}

/// How often a quorum queue says that the message was delivered before.
fn delivery_count(properties: &amqp::codec::RawProperties) -> u32 {
    if properties.is_empty() || properties.fields().headers.is_none() {
        return 0;
    }
    let headers = properties.headers().unwrap_or_default();
    match headers.inner().get("x-delivery-count") {
        Some(AMQPValue::LongLongInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongInt(count)) => u32::try_from(*count).unwrap_or(0),
        Some(AMQPValue::LongUInt(count)) => *count,
        _ => 0,
    }
}

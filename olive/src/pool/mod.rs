//! The process pool: long-lived processes that run jobs, where they can be killed.
//!
//! ```text
//!  ProcessPool ── roster: who takes the job? ─▶ Worker ══ control ══▶ supervisor (__supervise)
//!                                                 ║                      │ spawns, kills, reaps
//!                                                 ╚═════ frames ═════▶ process ─▶ its children
//!                                                                        │
//!                                       log ◀── stdout, stderr ──────────┘
//! ```
//!
//! Reading order: [`names`](self) and `roster` decide and are pure; `frame` and `message` are what
//! is said; `worker` runs one job; `link` is the main process's end of a supervisor and
//! `supervise` the other; `rust_worker` and `shim.py` are the processes that run tasks,
//! `executable` runs those that know nothing of us. The chapter is `docs/src/olive/processes.md`.
//!
//! The pool does not settle, retry or count anything: it turns a [`Request`] into an [`Outcome`].

mod child;
mod executable;
mod fds;
mod frame;
mod hidden;
mod link;
mod message;
mod names;
mod output;
mod parent_death;
mod python;
mod roster;
mod rust_worker;
mod shortage;
mod supervise;
mod worker;

#[cfg(test)]
mod shim_tests;

pub use crate::outcome::Outcome;
pub use hidden::enter_hidden_mode;
pub use names::{PythonName, python_name};

use crate::outcome::TaskError;
use kernel::sync::Event;
use link::Living;
use roster::{Kind, Roster, Taken};
use serde_json::value::RawValue;
use shortage::Spell;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use worker::Worker;

/// One job for the pool.
#[derive(Debug, Clone)]
pub struct Request {
    /// The job's id, for the log and for executables.
    pub tid: String,
    /// The task's name.
    pub func: String,
    /// A JSON list.
    pub args: Box<RawValue>,
    /// A JSON object.
    pub kwargs: Box<RawValue>,
    /// How long the job may run, from the moment a ready process has it. `None`: for ever.
    pub timeout: Option<Duration>,
    /// Which run of the job this is, from 1; executables are told.
    pub attempt: u32,
}

/// Which kind of process runs a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// A Rust task of this very binary.
    Rust,
    /// A function of a listed Python module.
    Python,
    /// A program and its arguments; one process a job.
    Executable(Vec<String>),
}

impl Runner {
    fn kind(&self) -> Kind {
        match self {
            Runner::Rust => Kind::Rust,
            Runner::Python => Kind::Python,
            Runner::Executable(_) => Kind::Executable,
        }
    }
}

/// How the pool works. The defaults run Rust tasks and no Python.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// The most jobs at a time, at least 1, and the most processes that are kept for later jobs;
    /// each with a supervisor beside it. An executable runs beside what is kept. Default 20.
    pub max_processes: usize,
    /// Our own binary, whose `main` calls [`enter_hidden_mode`]. Default `/proc/self/exe`: the
    /// one that runs, even when a newer one has taken its place on disk.
    pub program: PathBuf,
    /// The Python interpreter (that of a venv, for instance). Default `python3`.
    pub python: PathBuf,
    /// The modules whose public functions are tasks. Default none.
    pub python_modules: Vec<String>,
    /// Folders put in front of `PYTHONPATH`. The working directory is on Python's path anyway.
    pub python_path: Vec<PathBuf>,
    /// How long a process may take to start, and to import a module. Default 60 s.
    pub start_timeout: Duration,
    /// The most bytes of JSON in one job or one result. Default 64 MiB.
    pub frame_max: usize,
    /// How long an idle process may take to end by itself before it is killed. Default 2 s.
    pub stop_grace: Duration,
}

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            max_processes: 20,
            program: PathBuf::from("/proc/self/exe"),
            python: PathBuf::from("python3"),
            python_modules: Vec::new(),
            python_path: Vec::new(),
            start_timeout: Duration::from_secs(60),
            frame_max: 64 * 1024 * 1024,
            stop_grace: Duration::from_secs(2),
        }
    }
}

/// A pool of processes, on the kernel of the thread that made it. Clones share it.
///
/// Processes start on demand and are kept. When the maximum is reached, a Rust process that is idle
/// makes room for a Python one and the reverse; an executable takes nobody's place.
///
/// End it with [`shutdown`](Self::shutdown). A pool that is merely dropped also kills all it has,
/// but nobody waits for that.
#[derive(Clone)]
pub struct ProcessPool {
    inner: Rc<Inner>,
}

struct Inner {
    config: PoolConfig,
    roster: RefCell<Roster<Worker, Rc<Seat>>>,
    living: Rc<Living>,
    closed: Cell<bool>,
    /// Jobs that wait because the machine is short of something.
    short: Cell<usize>,
}

/// Where a job waits for a worker. The line holds one handle and the waiting job the other.
struct Seat {
    lease: RefCell<Option<Lease>>,
    called: Event,
}

impl ProcessPool {
    /// A pool without any process yet. Raises this process's soft limit on open files to the hard
    /// one; the processes of the pool get the original.
    ///
    /// # Panics
    /// If `max_processes` is 0.
    pub fn new(config: PoolConfig) -> ProcessPool {
        assert!(config.max_processes > 0, "a pool needs room for a process");
        shortage::raise_open_files();
        let roster = RefCell::new(Roster::new(config.max_processes));
        ProcessPool {
            inner: Rc::new(Inner {
                config,
                roster,
                living: Rc::default(),
                closed: Cell::new(false),
                short: Cell::new(0),
            }),
        }
    }

    /// Runs one job and returns how it ended. Waits while all processes are busy, and while the
    /// machine has no descriptors or memory for one more: that is never an outcome.
    ///
    /// [`Outcome::Failed`] has, beside the kinds of the tasks themselves, `WorkerStartError`,
    /// `WorkerProtocolError`, `ArgumentsTooLarge`, `ArgumentsNotUsable`, `ResultTooLarge`,
    /// `ResultNotJson` and, for executables, `ExitCode`. [`Outcome::Died`] with a signal is no
    /// verdict on the job; with a code, the task's own code ended the process.
    ///
    /// # Cancellation
    /// Safe in that nothing leaks: a job that waits leaves the line; a job that runs is killed,
    /// with all that it started.
    ///
    /// # Errors
    /// Only the kernel's, for the caller: cancellation, an outer timeout;
    /// [`Closed`](kernel::Error::Closed) after [`shutdown`](Self::shutdown).
    pub async fn run(&self, runner: Runner, request: Request) -> Result<Outcome, kernel::Error> {
        let inner = &self.inner;
        let mut module = None;
        if runner == Runner::Python {
            match python_name(&request.func, &inner.config.python_modules) {
                Ok(name) => module = Some(name.module),
                Err(reason) => return Ok(Outcome::Unknown { reason }),
            }
        }
        let mut lease = inner.lease(runner.kind()).await?;
        let mut spell = None;
        loop {
            let error = match lease.run(&runner, &request, module).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            if let Some(error) = kernel::Error::in_io(&error) {
                return Err(error);
            }
            if !shortage::is_passing(&error) {
                return Ok(given_back(&request, &error));
            }
            let spell = spell.get_or_insert_with(|| Spell::begin(inner, &error));
            lease.give_up();
            lease = inner.lease_when_short(runner.kind(), spell.pause()).await?;
        }
    }

    /// Ends the pool: no job starts any more, idle processes are asked to end, and after
    /// [`stop_grace`](PoolConfig::stop_grace) killed; so are those that still run a job, which
    /// then ends as [`Outcome::Died`]. Returns when no process of the pool is left.
    ///
    /// # Cancellation
    /// The processes end all the same, but nobody has waited for them.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn shutdown(&self) -> Result<(), kernel::Error> {
        let inner = &self.inner;
        inner.closed.set(true);
        let waiting = inner.roster.borrow_mut().dismiss_waiting();
        waiting.iter().for_each(|seat| seat.called.set());
        let mut idle = inner.roster.borrow_mut().dismiss_idle();
        idle.iter().for_each(Worker::ask_to_end); // all at once, then one after the other
        for worker in &mut idle {
            if let Err(error) = worker.dismiss(inner.config.stop_grace).await
                && let Some(error) = kernel::Error::in_io(&error)
            {
                return Err(error);
            }
        }
        inner.living.end_all().await
    }

    /// How many processes there are: kept, running, or about to start.
    pub fn len(&self) -> usize {
        self.inner.roster.borrow().total()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A fault around the process and not in the job (a supervisor was killed).
fn given_back(request: &Request, error: &io::Error) -> Outcome {
    log::error!("job {} {}: {error}", request.func, request.tid);
    Outcome::Died {
        signal: Some(rustix::process::Signal::KILL.as_raw()),
        code: None,
    }
}

impl Inner {
    async fn lease(self: &Rc<Self>, kind: Kind) -> Result<Lease, kernel::Error> {
        if self.closed.get() {
            return Err(kernel::Error::Closed);
        }
        let taken = self.roster.borrow_mut().take(kind);
        match self.lease_of(taken) {
            Some(lease) => Ok(lease),
            None => self.wait_in_line(kind).await,
        }
    }

    fn lease_of(self: &Rc<Self>, taken: Taken<Worker>) -> Option<Lease> {
        match taken {
            Taken::Worker(worker) => Some(Lease::new(self, Some(worker))),
            Taken::New => Some(Lease::new(self, None)),
            Taken::Full => None,
        }
    }

    /// For a job that could not be given a process: the next worker that comes free, or, after a
    /// pause, one that is idle, of whatever kind, rather than one more.
    async fn lease_when_short(
        self: &Rc<Self>,
        kind: Kind,
        pause: Duration,
    ) -> Result<Lease, kernel::Error> {
        let seat = self.seat();
        if self.closed.get() {
            return Err(kernel::Error::Closed);
        }
        self.roster.borrow_mut().wait_first(kind, seat.clone());
        let called = kernel::ignore_after(pause, seat.called.wait()).await?;
        if let Some(lease) = seat.lease.take() {
            return Ok(lease);
        }
        if called.is_some() || self.closed.get() {
            return Err(kernel::Error::Closed);
        }
        let taken = {
            let mut roster = self.roster.borrow_mut();
            roster.forget(|other| Rc::ptr_eq(other, &seat));
            roster.take_kept(kind)
        };
        match self.lease_of(taken) {
            Some(lease) => Ok(lease),
            None => self.wait_in_line(kind).await,
        }
    }

    fn seat(&self) -> Rc<Seat> {
        Rc::new(Seat {
            lease: RefCell::new(None),
            called: Event::new(),
        })
    }

    async fn wait_in_line(self: &Rc<Self>, kind: Kind) -> Result<Lease, kernel::Error> {
        let seat = self.seat();
        self.roster.borrow_mut().wait(kind, seat.clone());
        seat.called.wait().await?;
        seat.lease.take().ok_or(kernel::Error::Closed)
    }

    /// The last job that tried again tries no more: if the line relied on it, the next one starts.
    fn spell_is_over(self: &Rc<Self>) {
        let mut roster = self.roster.borrow_mut();
        roster.forget(|seat| Rc::strong_count(seat) == 1);
        let next = roster.next_stranded();
        drop(roster);
        self.call(next);
    }

    /// Takes a worker back (or hears that it is lost), and calls the next in line.
    fn give_back(self: &Rc<Self>, worker: Option<Worker>) {
        let worker = worker.filter(|_| !self.closed.get());
        let mut roster = self.roster.borrow_mut();
        let holds = worker.as_ref().and_then(Worker::holds);
        match worker {
            Some(worker) => roster.put_back(worker, holds),
            None => roster.lost(),
        }
        // Whoever no longer waits has let go of the other handle.
        roster.forget(|seat| Rc::strong_count(seat) == 1);
        let next = roster.next_waiting(holds);
        drop(roster);
        self.call(next);
    }

    fn call(self: &Rc<Self>, next: Option<(Rc<Seat>, Taken<Worker>)>) {
        if let Some((seat, taken)) = next {
            *seat.lease.borrow_mut() = self.lease_of(taken);
            seat.called.set();
        }
    }
}

/// A worker (or the right to start one) for the length of one job.
struct Lease {
    pool: Rc<Inner>,
    worker: Option<Worker>,
    /// Set while nobody knows what the worker is doing: left so by an error or a cancellation.
    unsettled: bool,
    /// Set when there is no place to hand on.
    given_up: bool,
}

impl Lease {
    fn new(pool: &Rc<Inner>, worker: Option<Worker>) -> Lease {
        Lease {
            pool: pool.clone(),
            worker,
            unsettled: false,
            given_up: false,
        }
    }

    /// Lets go of the worker, if there is one, and does not hand its place on: whoever is next
    /// would fail as we did.
    fn give_up(mut self) {
        self.given_up = true;
        self.worker = None; // its descriptors are what others may be waiting for
        self.pool.roster.borrow_mut().lost();
    }

    /// Runs the job, once.
    ///
    /// # Errors
    /// The kernel's, and faults around the process; those that [pass](shortage::is_passing) only
    /// before the job has been given to a process.
    async fn run(
        &mut self,
        runner: &Runner,
        request: &Request,
        module: Option<&str>,
    ) -> io::Result<Outcome> {
        let config = &self.pool.config;
        let worker = match self.worker.take().filter(|worker| !worker.is_lost()) {
            Some(worker) => worker,
            None => match Worker::start(config, &self.pool.living) {
                Ok(worker) => worker,
                Err(error) if shortage::is_passing(&error) => return Err(error),
                Err(error) => {
                    let program = config.program.display();
                    let text = format!("{program} does not start as a supervisor: {error}");
                    let error = TaskError::new("WorkerStartError", text);
                    return Ok(Outcome::Failed { error });
                }
            },
        };
        let worker = self.worker.insert(worker);
        self.unsettled = true;
        let outcome = match runner {
            Runner::Executable(argv) => worker.run_executable(config, argv, request).await,
            _ => worker.run(config, runner.kind(), request, module).await,
        }?;
        self.unsettled = false;
        Ok(outcome)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.given_up {
            return;
        }
        let useful = |worker: &Worker| !self.unsettled && !worker.is_lost();
        let worker = self.worker.take().filter(useful);
        self.pool.give_back(worker);
    }
}

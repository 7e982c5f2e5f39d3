//! One worker of the pool: a supervisor, and the process it has at the moment.
//!
//! ```text
//!   (no process) ──start──▶ ready ──load──▶ ready, module imported ──call──▶ outcome, ready again
//!        ▲                    │                                       │
//!        └── killed, dismissed, died ◀────────────────────────────────┘
//! ```
//!
//! An error (cancellation above all) leaves a worker in a state that nobody knows: it is then
//! dropped, and its supervisor kills whatever it had.

use super::child::{Child, Ends};
use super::frame::{self, TooLarge};
use super::link::{Link, Living};
use super::message::{Call, Exit, Program, Reply, ToWorker};
use super::roster::Kind;
use super::shortage::Short;
use super::{PoolConfig, Request, hidden, python, rust_worker};
use crate::outcome::{Outcome, TaskError};
use kernel::AsyncFd;
use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// From the end of a process's channel to its own end, which must follow.
const END_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    pub(super) link: Link,
    child: Option<Child>,
    /// What the last process wrote to standard error at its end.
    last_words: String,
}

/// A step either goes on with a value, or has already settled what becomes of the job.
pub(super) type Step<T> = Result<T, Outcome>;

impl Worker {
    pub fn start(config: &PoolConfig, living: &Rc<Living>) -> io::Result<Worker> {
        Ok(Worker {
            link: Link::start(&config.program, living)?,
            child: None,
            last_words: String::new(),
        })
    }

    /// The kind of the process it has.
    pub fn holds(&self) -> Option<Kind> {
        self.child.as_ref().map(|child| child.kind)
    }

    /// Whether it is of no more use.
    pub fn is_lost(&self) -> bool {
        self.link.is_gone()
    }

    /// Runs one Rust or Python job.
    pub async fn run(
        &mut self,
        config: &PoolConfig,
        kind: Kind,
        request: &Request,
        module: Option<&str>,
    ) -> io::Result<Outcome> {
        let source = format!("{} {}", request.func, request.tid);
        let by = kernel::now() + config.start_timeout;
        if let Err(outcome) = self.have(config, kind, &source, by).await? {
            return Ok(outcome);
        }
        if let Some(module) = module
            && let Err(outcome) = self.load(module, config.frame_max, by).await?
        {
            return Ok(outcome);
        }
        self.call(request, config.frame_max).await
    }

    /// Sees to it that there is a process of this kind, ready, whose output goes by `source`.
    async fn have(
        &mut self,
        config: &PoolConfig,
        kind: Kind,
        source: &str,
        by: Instant,
    ) -> io::Result<Step<()>> {
        self.notice_end();
        if let Some(child) = self.child.as_ref().filter(|child| child.kind == kind) {
            child.outputs.set_source(source);
            return Ok(Ok(()));
        }
        self.dismiss(config.stop_grace).await?;
        let program = match kind {
            Kind::Rust => rust_program(config),
            _ => python_program(config),
        };
        let Ends {
            frames,
            outputs,
            stdio,
        } = Ends::new(source)?;
        let channel = Some(frames.clone());
        if let Err(error) = self.spawn(&program, stdio, channel).await? {
            return Ok(Err(error));
        }
        self.child = Some(Child::new(kind, frames, outputs, config.frame_max));
        match self.ask_until(None, by).await? {
            Ok(_) => Ok(Ok(())),
            Err(outcome) => Ok(Err(said_at_start(&program, outcome, &self.last_words))),
        }
    }

    /// Starts a program below the supervisor. That the machine is short of something is an error
    /// and no outcome.
    pub(super) async fn spawn(
        &mut self,
        program: &Program,
        stdio: [OwnedFd; 3],
        frames: Option<Rc<AsyncFd<UnixStream>>>,
    ) -> io::Result<Step<()>> {
        let Err(error) = self.link.spawn(program, &stdio, frames).await? else {
            return Ok(Ok(()));
        };
        let text = format!("{} does not start: {}", program.argv[0], error.message);
        if error.passing {
            return Err(io::Error::other(Short(text)));
        }
        Ok(Err(failed("WorkerStartError", text)))
    }

    /// Imports a module, unless the process has it.
    async fn load(&mut self, module: &str, max: usize, by: Instant) -> io::Result<Step<()>> {
        let child = self.child.as_mut().expect("started above");
        if child.loaded.iter().any(|loaded| loaded == module) {
            return Ok(Ok(()));
        }
        let frame = frame::encode(&ToWorker::Load(Cow::Borrowed(module)), max)?;
        match self.ask_until(Some(&frame), by).await? {
            Ok(Reply::Loaded) => {
                let child = self.child.as_mut().expect("it has just answered");
                child.loaded.push(module.to_string());
                Ok(Ok(()))
            }
            Ok(reply) => Ok(Err(outcome_of(reply))),
            Err(outcome) => Ok(Err(outcome)),
        }
    }

    /// One exchange before the job's own time begins, bounded by the time for starting.
    async fn ask_until(&mut self, frame: Option<&[u8]>, by: Instant) -> io::Result<Step<Reply>> {
        let limit = by.saturating_duration_since(kernel::now());
        match self.ask(frame, Some(limit)).await? {
            Asked::Answer(reply) => Ok(Ok(reply)),
            Asked::TooLate => {
                self.end_child().await?;
                let text = "the process was not ready in time (start_timeout)";
                Ok(Err(failed("WorkerStartError", text)))
            }
            other => Ok(Err(self.after(other).await?)),
        }
    }

    /// The job itself. Its time begins here.
    async fn call(&mut self, request: &Request, max: usize) -> io::Result<Outcome> {
        let call = ToWorker::Call(Call {
            func: Cow::Borrowed(&request.func),
            args: &request.args,
            kwargs: &request.kwargs,
        });
        let frame = match frame::encode(&call, max) {
            Ok(frame) => frame,
            Err(TooLarge { len, max }) => {
                let text = format!("the arguments are {len} bytes of JSON, {max} are allowed");
                return Ok(failed("ArgumentsTooLarge", text));
            }
        };
        let asked = self.ask(Some(&frame), request.timeout).await?;
        self.after(asked).await
    }

    /// What an exchange comes to; a process that did not answer is ended.
    async fn after(&mut self, asked: Asked) -> io::Result<Outcome> {
        match asked {
            Asked::Answer(reply) => Ok(outcome_of(reply)),
            Asked::Ended => self.after_end().await,
            Asked::TooLate => {
                self.end_child().await?;
                Ok(Outcome::TimedOut)
            }
            Asked::Garbage(what) => {
                self.end_child().await?;
                Ok(failed(
                    "WorkerProtocolError",
                    format!("the process answered {what}"),
                ))
            }
        }
    }

    /// The channel has ended, which says nothing: how the process ended, its supervisor says.
    async fn after_end(&mut self) -> io::Result<Outcome> {
        match kernel::ignore_after(END_TIMEOUT, self.link.exit()).await? {
            Some(Exit { code, signal }) => {
                self.forget_child();
                Ok(Outcome::Died { signal, code })
            }
            None => {
                self.end_child().await?;
                let text = "the process closed its channel and went on";
                Ok(failed("WorkerProtocolError", text))
            }
        }
    }

    async fn ask(&mut self, frame: Option<&[u8]>, limit: Option<Duration>) -> io::Result<Asked> {
        let child = self.child_mut();
        let exchange = child.exchange(frame);
        let answered = match limit {
            Some(limit) => kernel::ignore_after(limit, exchange).await,
            None => exchange.await.map(Some),
        };
        match answered {
            Ok(Some(Some(reply))) => {
                child.outputs.drain(); // it has flushed what it printed before it answered
                Ok(Asked::Answer(reply))
            }
            Ok(Some(None)) => Ok(Asked::Ended),
            Ok(None) => Ok(Asked::TooLate),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Asked::Garbage(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    /// Kills the process with all that it started; returns when nothing of it is left.
    pub(super) async fn end_child(&mut self) -> io::Result<()> {
        self.link.kill().await?;
        self.forget_child();
        Ok(())
    }

    /// Lets an idle process end by itself, then no longer.
    pub async fn dismiss(&mut self, grace: Duration) -> io::Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.ask_to_end();
        match kernel::ignore_after(grace, self.link.exit()).await? {
            Some(_) => self.forget_child(),
            None => self.end_child().await?,
        }
        Ok(())
    }

    /// Ends the process of another kind that it may still have.
    pub(super) async fn make_room(&mut self, grace: Duration) -> io::Result<()> {
        self.notice_end();
        self.dismiss(grace).await
    }

    /// Asks an idle process to end, without waiting.
    pub fn ask_to_end(&self) {
        if let Some(child) = &self.child {
            child.dismiss();
        }
    }

    fn notice_end(&mut self) {
        if let Some(exit) = self.link.try_exit()
            && let Some(kind) = self.holds()
        {
            self.forget_child();
            log::warn!("an idle {kind:?} process of the pool ended: {exit}");
        }
    }

    /// After its end: logs what it had still written.
    fn forget_child(&mut self) {
        if let Some(child) = self.child.take() {
            child.outputs.drain();
            self.last_words = child.outputs.tail();
        }
    }

    fn child_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect("`have` has started it")
    }
}

/// How an exchange with the process ended.
enum Asked {
    Answer(Reply),
    /// The channel ended before an answer.
    Ended,
    TooLate,
    /// Something came that is no answer.
    Garbage(String),
}

fn outcome_of(reply: Reply) -> Outcome {
    match reply {
        Reply::Done(value) => Outcome::Done { value },
        Reply::Failed(error) => Outcome::Failed { error },
        Reply::Unknown(reason) => Outcome::Unknown { reason },
        Reply::Ready | Reply::Loaded => {
            failed("WorkerProtocolError", "an answer to another question")
        }
    }
}

pub(super) fn failed(kind: &str, message: impl Into<String>) -> Outcome {
    Outcome::Failed {
        error: TaskError::new(kind, message),
    }
}

/// A process that exits by itself before it is ready has the wrong interpreter or environment:
/// no fault of the job, but none that trying again would cure.
fn said_at_start(program: &Program, outcome: Outcome, said: &str) -> Outcome {
    match outcome {
        Outcome::Died {
            code: Some(code), ..
        } => failed(
            "WorkerStartError",
            format!(
                "{} exited with code {code} before it was ready; it said: {said}",
                program.argv[0]
            ),
        ),
        other => other,
    }
}

fn rust_program(config: &PoolConfig) -> Program {
    Program {
        argv: vec![
            config.program.to_string_lossy().into_owned(),
            hidden::RUST_WORKER.to_string(),
        ],
        env: vec![
            (
                rust_worker::FRAME_MAX.to_string(),
                config.frame_max.to_string(),
            ),
            (
                rust_worker::LOG_LEVEL.to_string(),
                log::max_level().to_string(),
            ),
        ],
    }
}

fn python_program(config: &PoolConfig) -> Program {
    let mut argv = vec![config.python.to_string_lossy().into_owned()];
    argv.extend(python::ARGUMENTS.map(String::from));
    let mut env = python::environment(&config.python_modules, config.frame_max);
    if let Some(path) = python::path(&config.python_path) {
        env.push(("PYTHONPATH".to_string(), path));
    }
    Program { argv, env }
}

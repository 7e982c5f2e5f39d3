//! The worker: fetches jobs, runs them, settles them, and stops in good order.
//!
//! ```text
//!            fetch              dispatch                 threads / pool
//!  broker ──────────▶ deliveries ────────▶ num_workers ───────────────▶ your code
//!    ▲ ▲    (1st connection)                                                │
//!    │ └───────────────────────── ack ◀── settle ◀── verdict ◀──────────────┘
//!    └──── result, dead letter ◀────────── outbox (2nd connection, confirmed)
//! ```
//!
//! Reading order: `fetch` (deliveries), `route` (who runs it), `dispatch` (whose turn it is),
//! `threads`, `verdict` (what an outcome means), `letter` (what is told), `settle` (in which
//! order), `outbox` (how it is confirmed), and this file: start and stop.
//!
//! Not here: retries, schedules, stored results.

mod dispatch;
mod fetch;
mod letter;
mod outbox;
mod route;
mod settle;
mod stop;
mod threads;
mod verdict;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use amqp::client::ConnectOptions;
use kernel::sync::Sender;
use kernel::{JoinError, JoinHandle};

pub use dispatch::Counts;
pub(crate) use fetch::declare;
pub use stop::Stop;
pub use verdict::{MAX_DEATHS, Reason};

use crate::config::Config;
use crate::pool::{PoolConfig, ProcessPool};
use crate::registry::Registry;
use dispatch::Dispatcher;
use fetch::Fetch;
use outbox::Outbox;

/// How a worker ended that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// What it did.
    pub counts: Counts,
    /// Jobs that still ran, or were being settled, when it gave up waiting; the broker gives them
    /// to somebody else.
    pub cut_off: usize,
}

/// Why a worker ended that was not asked to.
#[derive(Debug)]
pub enum WorkerError {
    /// The broker refuses us for a reason that trying again does not change.
    Broker(amqp::Error),
    /// A part of the worker ended, which is a mistake in olive.
    Broken(String),
    /// The kernel task that the worker runs in was cancelled.
    Cancelled(kernel::Error),
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::Broker(error) => match advice(error) {
                Some(advice) => write!(f, "{error}. In olive's words: {advice}"),
                None => write!(f, "{error}"),
            },
            WorkerError::Broken(text) => write!(f, "{text}: please report this"),
            WorkerError::Cancelled(error) => write!(f, "the worker was cancelled: {error}"),
        }
    }
}

/// What to do about a refusal of the broker, in terms of our settings.
fn advice(error: &amqp::Error) -> Option<&'static str> {
    use amqp::Error;
    use amqp::protocol::reply;
    match error {
        Error::LoginRefused(_) | Error::VhostRefused { .. } | Error::NotAmqp(_) => {
            Some("correct olive_amqp_url")
        }
        Error::ChannelClosed(reason) if reason.code == reply::PRECONDITION_FAILED => Some(
            "adapt olive_amqp_queue_type or take other names (olive_amqp_queue_name, \
             olive_amqp_exchange_name); or, if it is empty, delete it and olive makes it anew",
        ),
        _ => None,
    }
}

impl std::error::Error for WorkerError {}

impl From<kernel::Error> for WorkerError {
    fn from(error: kernel::Error) -> Self {
        WorkerError::Cancelled(error)
    }
}

/// What ends a worker's work.
enum Happened {
    Refused(amqp::Error),
    AskedToStop,
    Broken(String),
}

/// Runs a worker on this kernel until `stop` says so, or the broker refuses it for good.
///
/// Network faults are no end: both connections are made again, for as long as it takes.
///
/// # Cancellation
/// Dropped midway it leaves its kernel tasks behind; ask `stop` instead.
///
/// # Errors
/// [`WorkerError::Broker`]: a wrong password or virtual host, a queue that exists with other
/// arguments, a permission that is missing.
pub async fn run(
    config: Rc<Config>,
    registry: Arc<Registry>,
    broker: ConnectOptions,
    stop: Stop,
) -> Result<Summary, WorkerError> {
    let outbox = Outbox::new();
    let pool = ProcessPool::new(PoolConfig {
        max_processes: config.num_workers,
        python: config.python.clone(),
        python_modules: config.python_modules.clone(),
        python_path: config.python_path.clone(),
        ..PoolConfig::default()
    });
    let dispatcher = Dispatcher::new(Rc::clone(&config), registry, pool, Rc::clone(&outbox));
    let fetch = Fetch::new(Rc::clone(&dispatcher));

    let (happened, events) = kernel::sync::mailbox();
    let deliveries = Rc::clone(&fetch).keep(broker.clone().named("olive: deliveries"));
    let letters = Rc::clone(&outbox).keep(broker.named("olive: results").brings_results());
    let asked = stop.clone();
    let lines = [
        tell(&happened, "deliveries", async {
            Happened::Refused(deliveries.await)
        }),
        tell(&happened, "results", async {
            Happened::Refused(letters.await)
        }),
    ];
    let ended = |name| Happened::Broken(format!("the kernel task {name} ended"));
    let (receive, nudge) = (
        Rc::clone(&dispatcher).receive(),
        Rc::clone(&dispatcher).nudge(),
    );
    let watch_age = Rc::clone(&fetch).watch_age();
    let tasks = [
        tell(&happened, "receive", async move {
            receive.await;
            ended("receive")
        }),
        tell(&happened, "nudge", async move {
            nudge.await;
            ended("nudge")
        }),
        tell(&happened, "age", async move {
            watch_age.await;
            ended("age")
        }),
        tell(&happened, "stop", async move {
            match asked.draining().await {
                Ok(()) => Happened::AskedToStop,
                Err(_) => ended("stop"),
            }
        }),
    ];

    let failure = match events.recv().await? {
        Some(Happened::Refused(error)) => Some(WorkerError::Broker(error)),
        Some(Happened::Broken(text)) => Some(WorkerError::Broken(text)),
        Some(Happened::AskedToStop) | None => None,
    };
    if failure.is_none() {
        stop::drain(&fetch, &dispatcher, &stop).await?;
    }
    let cut_off = dispatcher.busy();
    // An error is our own cancellation, which the next wait reports as well.
    let _ = dispatcher.pool.shutdown().await;
    for line in &lines {
        // Before the connections are closed, or their end would be taken for a loss.
        let _ = line.cancel().await;
    }
    outbox.close().await;
    fetch.close().await;
    for task in &tasks {
        let _ = task.cancel().await;
    }
    let counts = *dispatcher.counts.borrow();
    match failure {
        Some(error) => Err(error),
        None => Ok(Summary { counts, cut_off }),
    }
}

/// Spawns a part of the worker that tells how it ended; a panic in it ends the worker too, for
/// without that part it would only look alive.
fn tell(
    happened: &Sender<Happened>,
    name: &'static str,
    part: impl Future<Output = Happened> + 'static,
) -> JoinHandle<()> {
    let happened = happened.clone();
    let part = kernel::spawn(part).name(name);
    kernel::spawn(async move {
        let id = part.id();
        let ended = match part.join().await {
            Ok(ended) => ended,
            Err(JoinError::Interrupted(_)) => {
                // We are cancelled, and what we wait for shall end with us.
                let _ = kernel::cancel(id).await;
                return;
            }
            Err(error) => {
                let why = error.panic_message().unwrap_or("it was cancelled");
                Happened::Broken(format!("the kernel task {name} failed: {why}"))
            }
        };
        let _ = happened.send(ended);
    })
}

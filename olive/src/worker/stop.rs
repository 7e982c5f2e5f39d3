//! Stopping: quiet, drain, abandon.
//!
//! 1. *Quiet*: stop consuming; what has not started goes back to the broker at once.
//! 2. *Drain*: what runs may finish, and is settled as always, for `olive_worker_drain_timeout`.
//! 3. *Abandon*: after that, or when asked a second time, processes are killed and the connections
//!    closed; the broker gives what was cut off to somebody else.

use std::rc::Rc;

use kernel::sync::Event;

use super::dispatch::Dispatcher;
use super::fetch::Fetch;

/// Tells a worker to stop; clones tell the same one.
#[derive(Clone)]
pub struct Stop {
    drain: Rc<Event>,
    now: Rc<Event>,
}

impl Default for Stop {
    fn default() -> Self {
        Stop {
            drain: Rc::new(Event::new()),
            now: Rc::new(Event::new()),
        }
    }
}

impl Stop {
    /// A handle nobody has used.
    pub fn new() -> Self {
        Stop::default()
    }

    /// Asks once: the worker drains. Asked again, it stops at once.
    pub fn ask(&self) {
        if self.drain.is_set() {
            self.now.set();
        }
        self.drain.set();
    }

    /// Waits until asked once.
    ///
    /// # Errors
    /// Cancellation.
    pub async fn draining(&self) -> Result<(), kernel::Error> {
        self.drain.wait().await
    }

    /// Waits until asked twice.
    async fn at_once(&self) -> Result<(), kernel::Error> {
        self.now.wait().await
    }
}

/// Quiet and drain, until all is settled, time is up, or `stop` is asked again.
pub(super) async fn drain(
    fetch: &Fetch,
    dispatcher: &Rc<Dispatcher>,
    stop: &Stop,
) -> Result<(), kernel::Error> {
    let limit = dispatcher.config.drain_timeout;
    let given_back = fetch.quiet().await;
    log::info!(
        "draining: {} jobs to finish within {limit:?}, {given_back} given back; ask again to stop at once",
        dispatcher.busy()
    );
    // Whichever comes first: everything is settled, or somebody is impatient.
    let over = Rc::new(Event::new());
    let (watched, settled) = (Rc::clone(dispatcher), Rc::clone(&over));
    let (impatient, cut) = (stop.clone(), Rc::clone(&over));
    let watchers = [
        kernel::spawn(async move {
            if watched.idle.wait().await.is_ok() {
                settled.set();
            }
        }),
        kernel::spawn(async move {
            if impatient.at_once().await.is_ok() {
                cut.set();
            }
        }),
    ];
    let waited = kernel::ignore_after(limit, over.wait()).await;
    for watcher in &watchers {
        let _ = watcher.cancel().await;
    }
    waited.map(drop)
}

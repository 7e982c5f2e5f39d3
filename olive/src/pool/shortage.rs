//! Faults of the machine's moment (no descriptors, no memory, no room for a process): they pass,
//! and are no verdict on a job that has not even begun.

use super::Inner;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The soft limit on open files that we were started with, if we have raised it.
static ORIGINAL: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit on open files to the hard one, once a process: each worker costs five.
///
/// The children get the original back (`supervise.rs`): programs that use `select`, or close all
/// numbers up to the limit, live badly with a high one.
pub(super) fn raise_open_files() -> Option<u64> {
    *ORIGINAL.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        let soft = limit.current?;
        if limit.maximum == Some(soft) {
            return None;
        }
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, raised).ok().map(|()| soft)
    })
}

/// Sets our own soft limit on open files.
pub(super) fn limit_open_files(soft: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(soft),
        ..getrlimit(Resource::Nofile)
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Whether trying again later may help.
pub(super) fn is_passing(error: &io::Error) -> bool {
    let passing = [
        Errno::AGAIN,
        Errno::NOMEM,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::TOOMANYREFS, // descriptors under way in sockets count too
        Errno::TXTBSY,
    ];
    let is = |errno: &Errno| error.raw_os_error() == Some(errno.raw_os_error());
    passing.iter().any(is) || error.get_ref().is_some_and(|inner| inner.is::<Short>())
}

/// A passing fault that somebody else met and told us of.
#[derive(Debug)]
pub(super) struct Short(pub String);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Short {}

/// A job that waits for the machine. The first and the last of a spell are logged.
pub(super) struct Spell {
    pool: Rc<Inner>,
    pause: Cell<Duration>,
}

impl Spell {
    pub fn begin(pool: &Rc<Inner>, error: &io::Error) -> Spell {
        let waiting = pool.short.get();
        pool.short.set(waiting + 1);
        if waiting == 0 {
            log::warn!("no process for a job for now, trying again: {error}");
        }
        Spell {
            pool: pool.clone(),
            pause: Cell::new(FIRST_PAUSE),
        }
    }

    /// How long to wait before the next try: longer each time.
    pub fn pause(&self) -> Duration {
        let pause = self.pause.get();
        self.pause.set(LONGEST_PAUSE.min(pause * 2));
        pause
    }
}

impl Drop for Spell {
    fn drop(&mut self) {
        let waiting = self.pool.short.get() - 1;
        self.pool.short.set(waiting);
        if waiting == 0 {
            log::info!("no job waits for a process to be startable any more");
            self.pool.spell_is_over();
        }
    }
}

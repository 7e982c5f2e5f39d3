//! Processes that answer one request after another.

use std::{
    cell::RefCell,
    fmt, io,
    ops::AsyncFnOnce,
    process::{ExitStatus, Stdio},
    rc::Rc,
    time::Duration,
};

use super::{Child, ChildStdin, ChildStdout, Command};
use crate::{
    TaskGroup,
    io::{BufReader, BufWriter},
    sync::Semaphore,
};

/// A pool of long-lived processes. They are started when needed, kept for the next request, and
/// replaced when they die. What they say to each other, over standard input and output, is up to
/// the user. Clones are the same pool; with the last, the processes are killed.
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::process::{Command, Pool};
/// let pool = Pool::new(2, || {
///     let mut program = Command::new("sh");
///     program.args(["-c", "while read line; do echo \"$line, $line\"; done"]);
///     program
/// });
/// let answer = pool.call(async |worker| {
///     worker.requests.write_all(b"hello\n").await?;
///     worker.requests.flush().await?;
///     let line = worker.replies.read_line().await?;
///     line.map(str::to_owned).ok_or(std::io::ErrorKind::UnexpectedEof.into())
/// });
/// assert_eq!(answer.await?, "hello, hello");
/// pool.close(std::time::Duration::from_secs(1)).await?;
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
#[derive(Clone)]
pub struct Pool {
    shared: Rc<Shared>,
}

struct Shared {
    command: Box<dyn Fn() -> Command>,
    free: Semaphore,
    /// The one used last comes first: the others may be paged out in peace.
    idle: RefCell<Vec<Worker>>,
}

/// A process of a [`Pool`], lent for one request.
#[derive(Debug)]
pub struct Worker {
    /// To its standard input. Flush it.
    pub requests: BufWriter<ChildStdin>,
    /// From its standard output.
    pub replies: BufReader<ChildStdout>,
    child: Child,
}

impl Pool {
    /// A pool of up to `max` processes (at least one) that are started by this command, with
    /// standard input and output piped.
    pub fn new(max: usize, command: impl Fn() -> Command + 'static) -> Pool {
        Pool {
            shared: Rc::new(Shared {
                command: Box::new(command),
                free: Semaphore::new(max.max(1)),
                idle: RefCell::default(),
            }),
        }
    }

    /// Has one request handled: `exchange` gets a process for itself, talks to it, and leaves it
    /// ready for the next request. Waits while all processes are busy, in order of arrival.
    ///
    /// If the exchange fails, nobody knows what the process would say next: it is killed, and
    /// another is started when needed. A process that answers "no" has not failed: that answer
    /// is a value.
    ///
    /// # Cancellation
    /// The process is killed, with its group, and reaped: what it was doing is not worth more.
    ///
    /// # Errors
    /// Those of the exchange, those of [`Command::spawn`], and cancellation and timeouts.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub async fn call<T>(
        &self,
        exchange: impl AsyncFnOnce(&mut Worker) -> io::Result<T>,
    ) -> io::Result<T> {
        let _permit = self.shared.free.acquire().await?;
        let mut worker = match self.take_idle() {
            Some(worker) => worker,
            None => Worker::start((self.shared.command)())?,
        };
        let result = exchange(&mut worker).await;
        match result {
            Ok(_) => self.shared.idle.borrow_mut().push(worker),
            // Awaited, so that there are never more than the most. If that is cut off, or this
            // future dropped, the worker's own drop kills.
            Err(_) => drop(worker.child.kill().await),
        }
        result
    }

    /// How many processes are kept that have nothing to do.
    pub fn idle(&self) -> usize {
        self.shared.idle.borrow().len()
    }

    /// Ends the processes that have nothing to do: their input ends, and those that have not
    /// ended after the grace are killed. Gives their statuses. Busy ones are left alone, and new
    /// ones are started when needed: close it when nobody calls any more.
    ///
    /// # Cancellation
    /// Those that have not ended are killed and reaped.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub async fn close(&self, grace: Duration) -> io::Result<Vec<ExitStatus>> {
        let mut ends = TaskGroup::new();
        for worker in self.shared.idle.take() {
            ends.spawn(worker.end(grace));
        }
        Ok(ends.join().await?)
    }

    /// A process that is kept and has not died meanwhile.
    fn take_idle(&self) -> Option<Worker> {
        loop {
            let mut worker = self.shared.idle.borrow_mut().pop()?;
            match worker.child.try_wait() {
                Ok(None) => return Some(worker),
                Ok(Some(status)) => log::warn!(
                    "kernel: process {} of a pool died while it had nothing to do: {status}",
                    worker.child.id()
                ),
                Err(e) => log::warn!("kernel: process {} of a pool: {e}", worker.child.id()),
            }
        }
    }
}

impl Worker {
    fn start(mut command: Command) -> io::Result<Worker> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Worker {
            requests: BufWriter::new(child.stdin.take().expect("it is piped")),
            replies: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
        })
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    async fn end(self, grace: Duration) -> io::Result<ExitStatus> {
        let Worker {
            requests,
            replies,
            mut child,
        } = self;
        drop(requests); // the end of its input
        let ended = crate::ignore_after(grace, child.wait()).await?;
        drop(replies);
        match ended {
            Some(status) => Ok(status),
            None => child.kill().await,
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("idle", &self.idle())
            .field("free", &self.shared.free.available())
            .finish_non_exhaustive()
    }
}

//! One running child.

use std::{
    io,
    process::{Child as StdChild, ExitStatus},
    time::Duration,
};

use super::exit::{Exit, has_ended, signal_group};
use crate::{AsyncFd, ignore_after, shield, spawn, trap};

/// What a child reads as its standard input. Dropping it is the end of that input.
pub type ChildStdin = AsyncFd<std::process::ChildStdin>;
/// What a child writes to its standard output.
pub type ChildStdout = AsyncFd<std::process::ChildStdout>;
/// What a child writes to its standard error.
pub type ChildStderr = AsyncFd<std::process::ChildStderr>;

/// A child process, the leader of a process group of its own; made by
/// [`Command::spawn`](super::Command::spawn).
///
/// Dropped while it runs, its group is killed at once, and a task of the kernel's own awaits the
/// end and reaps it. (Dropped outside a running kernel, it is waited for on the spot.)
///
/// # Examples
/// ```
/// # kernel::run(async {
/// use kernel::{io::BufReader, process::Command};
/// use std::process::Stdio;
/// let mut child = Command::new("tr")
///     .args(["a-z", "A-Z"])
///     .stdin(Stdio::piped())
///     .stdout(Stdio::piped())
///     .spawn()?;
/// let input = child.stdin.take().expect("it is piped");
/// input.write_all(b"hello\n").await?;
/// drop(input);
/// let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
/// assert_eq!(output.read_line().await?, Some("HELLO"));
/// assert!(child.wait().await?.success());
/// # std::io::Result::Ok(()) }).unwrap().unwrap();
/// ```
#[derive(Debug)]
pub struct Child {
    /// Its standard input, if that is piped.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if that is piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if that is piped.
    pub stderr: Option<ChildStderr>,
    pid: u32,
    /// Until it is reaped.
    running: Option<Running>,
    status: Option<ExitStatus>,
}

#[derive(Debug)]
struct Running {
    child: StdChild,
    exit: Option<Exit>,
}

impl Child {
    pub(super) fn new(child: StdChild) -> io::Result<Child> {
        let exit = Exit::of(child.id());
        Child::with_exit(child, exit)
    }

    pub(super) fn with_exit(child: StdChild, exit: io::Result<Exit>) -> io::Result<Child> {
        // First of all something whose drop kills: each of the following steps may fail.
        let mut new = Child {
            stdin: None,
            stdout: None,
            stderr: None,
            pid: child.id(),
            running: Some(Running { child, exit: None }),
            status: None,
        };
        let running = new.running.as_mut().expect("it was put there just now");
        running.exit = Some(exit?);
        new.stdin = running.child.stdin.take().map(AsyncFd::new).transpose()?;
        new.stdout = running.child.stdout.take().map(AsyncFd::new).transpose()?;
        new.stderr = running.child.stderr.take().map(AsyncFd::new).transpose()?;
        Ok(new)
    }

    /// Its process number, which is that of its group as well. Once it was waited for, the number
    /// may be another's.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits for its end, and closes its standard input first: many programs end only then. What
    /// is left of its group when it ends is killed. Gives the same status again if called again.
    ///
    /// Piped output that nobody reads may keep it from ever ending. A manual clock does not wait
    /// for processes: to it, one that runs on is idle.
    ///
    /// # Cancellation
    /// Safe: the child runs on, until it is dropped.
    ///
    /// # Errors
    /// Cancellation and timeouts; the system's, such as `ECHILD` if somebody else has reaped it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        if let Some(running) = &mut self.running {
            let exit = running.exit.as_mut();
            let exit = exit.expect("a child that was given to its user has one");
            exit.wait(self.pid).await?;
        }
        self.reap()
    }

    /// Its status if it has ended; never waits.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self.running.is_some() && !has_ended(self.pid)? {
            true => Ok(None),
            false => self.reap().map(Some),
        }
    }

    /// Sends a signal to its whole group. Nothing happens once it was waited for.
    ///
    /// # Errors
    /// The system's: no such signal, no permission.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        match self.running {
            Some(_) => signal_group(self.pid, signal),
            None => Ok(()),
        }
    }

    /// Kills its whole group and waits for its end.
    ///
    /// # Cancellation
    /// Safe: it is killed at the call's first poll.
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.signal(libc::SIGKILL)?;
        self.wait().await
    }

    /// Asks its whole group to end (SIGTERM), and kills it if it has not ended after the grace.
    ///
    /// # Cancellation
    /// Safe, as [`wait`](Child::wait).
    ///
    /// # Errors
    /// As [`wait`](Child::wait).
    pub async fn terminate(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        match ignore_after(grace, self.wait()).await? {
            Some(status) => Ok(status),
            None => self.kill().await,
        }
    }

    /// Takes the status of a child that has ended.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        if let Some(mut running) = self.running.take() {
            self.status = Some(running.reap()?);
        }
        self.status
            .ok_or_else(|| io::Error::other("an earlier wait for this process failed"))
    }
}

impl Running {
    /// Ends what is left of the group while its number is still ours, then reaps the child.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let _ = signal_group(self.child.id(), libc::SIGKILL); // fails if there is nobody left
        self.child.wait()
    }

    /// As `reap`, after a kill: waits without keeping the kernel's thread.
    async fn await_death(mut self) {
        let _death = trap::hold_clock();
        if let Some(exit) = &mut self.exit
            && let Err(e) = exit.wait(self.child.id()).await
        {
            log::debug!("kernel: waiting for a killed process: {e}");
        }
        if let Err(e) = self.reap() {
            log::debug!("kernel: reaping a killed process: {e}");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        let _ = signal_group(self.pid, libc::SIGKILL);
        if trap::is_running() && !has_ended(self.pid).unwrap_or(true) {
            // Killed, but it takes the system a moment, longer if much memory is to be freed.
            let task = spawn(shield(running.await_death()));
            task.name("reaper").daemon().detach();
        } else if let Err(e) = running.reap() {
            log::debug!("kernel: reaping a killed process: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a system without pidfd does.
    #[test]
    #[cfg_attr(any(miri, bare), ignore = "needs a system")]
    fn the_end_is_learnt_from_sigchld_too() {
        let statuses = crate::run(async {
            let start = |code: &str| {
                let mut command = std::process::Command::new("sh");
                let script = format!("read line; exit {code}");
                std::os::unix::process::CommandExt::process_group(&mut command, 0);
                let command = command.arg("-c").arg(script);
                let child = command.stdin(std::process::Stdio::piped()).spawn()?;
                Child::with_exit(child, Exit::by_signal())
            };
            // Two at once: each hears of the other's end as well, and must not take it for its own.
            let (mut first, mut second) = (start("3")?, start("4")?);
            let second = spawn(async move { second.wait().await });
            let first = first.wait().await?;
            let second = second.join().await.expect("it does not panic")?;
            io::Result::Ok((first.code(), second.code()))
        });
        assert_eq!(statuses.unwrap().unwrap(), (Some(3), Some(4)));
    }
}

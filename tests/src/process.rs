//! Programs under test: their lines as they come, real signals, and a sure end.

use crate::PATIENCE;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A program that was started. Dropped, it is killed with SIGKILL and reaped; in a test that fails, its output is
/// printed.
pub struct Program {
    name: String,
    pid: Pid,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Standard output and standard error, in the order in which they were read.
    lines: Vec<String>,
    /// Standard output alone.
    stdout: Vec<String>,
    /// Streams not at their end.
    open: usize,
    child: Child,
    exit: Option<ExitStatus>,
}

/// How a program ended, and all that it said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Standard output and standard error together.
    pub output: String,
}

impl Finished {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started or does not end within [`PATIENCE`].
pub fn run(command: Command) -> Finished {
    Program::start(command).finish()
}

impl Program {
    /// Starts a program with nothing on its standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Self {
        let name = describe(&command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: prctl is a system call without a lock or an allocation.
        unsafe {
            // For the case that the test is killed and cannot drop anything.
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = child.stdout.take().expect("it was piped");
        let stderr = child.stderr.take().expect("it was piped");
        let pid = Pid::from_child(&child);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                lines: Vec::new(),
                stdout: Vec::new(),
                open: 2,
                child,
                exit: None,
            }),
            changed: Condvar::new(),
        });
        watch(&shared, move |shared| shared.read(stdout, true));
        watch(&shared, move |shared| shared.read(stderr, false));
        watch(&shared, move |shared| shared.reap(pid));
        Program { name, pid, shared }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The lines it has written so far, standard output and standard error.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lock().lines.clone()
    }

    /// Waits for a line that contains all of `words`, and returns the first.
    ///
    /// # Panics
    /// If the program ends without it, or [`PATIENCE`] runs out.
    pub fn wait_for(&self, words: &[&str]) -> String {
        self.wait_for_nth(1, words)
    }

    /// As [`wait_for`](Self::wait_for), for what takes longer than [`PATIENCE`].
    ///
    /// # Panics
    /// As `wait_for`, with a limit of its own.
    pub fn wait_for_within(&self, limit: Duration, words: &[&str]) -> String {
        self.find(limit, 1, words)
    }

    /// Waits for the `n`-th line (from 1) that contains all of `words`.
    ///
    /// # Panics
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_for_nth(&self, n: usize, words: &[&str]) -> String {
        self.find(PATIENCE, n, words)
    }

    fn find(&self, limit: Duration, n: usize, words: &[&str]) -> String {
        let found = self.wait_until(limit, |state| {
            let mut matching = state
                .lines
                .iter()
                .filter(|line| words.iter().all(|word| line.contains(word)));
            let line = matching.nth(n - 1).cloned();
            (line.is_some() || state.is_over()).then_some(line)
        });
        found
            .flatten()
            .unwrap_or_else(|| panic!("{}: no line {n} with {words:?}{}", self.name, self.told()))
    }

    /// Sends a signal, unless the program has ended.
    pub fn signal(&self, signal: Signal) {
        let state = self.shared.lock();
        if state.exit.is_none() {
            // It was not reaped, so the id is still its own.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.shared.lock().exit.is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If [`PATIENCE`] runs out.
    pub fn finish(&self) -> Finished {
        self.finish_within(PATIENCE)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If `limit` runs out.
    pub fn finish_within(&self, limit: Duration) -> Finished {
        let finished = self.wait_until(limit, |state| {
            let status = state.exit.filter(|_| state.is_over())?;
            Some(Finished {
                status,
                stdout: state.stdout.concat_lines(),
                output: state.lines.concat_lines(),
            })
        });
        finished
            .unwrap_or_else(|| panic!("{} did not end within {limit:?}{}", self.name, self.told()))
    }

    fn wait_until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.expect("no thread panics with the lock").0;
        }
    }

    /// What it wrote, for the message of a panic.
    fn told(&self) -> String {
        let state = self.shared.lock();
        let end = match state.exit {
            Some(status) => status.to_string(),
            None => "it still runs".to_owned(),
        };
        format!("; {end}; its output:\n{}", state.lines.concat_lines())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let reaped = self.wait_until(PATIENCE, |state| state.exit);
        if std::thread::panicking() {
            eprintln!("--- {}{}---", self.name, self.told());
        } else {
            assert!(reaped.is_some(), "{}: not even SIGKILL ended it", self.name);
        }
    }
}

impl State {
    /// Nothing more will happen.
    fn is_over(&self) -> bool {
        self.exit.is_some() && self.open == 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    fn read(&self, stream: impl Read, is_stdout: bool) {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut state = self.lock();
            if is_stdout {
                state.stdout.push(line.clone());
            }
            state.lines.push(line);
            self.changed.notify_all();
        }
        self.lock().open -= 1;
        self.changed.notify_all();
    }

    /// Waits for the end and reaps under the lock, so that no signal ever goes to an id that somebody else got.
    fn reap(&self, pid: Pid) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while rustix::process::waitid(WaitId::Pid(pid), ended).is_err() {}
        let mut state = self.lock();
        state.exit = Some(state.child.wait().expect("it has ended and was not reaped"));
        self.changed.notify_all();
    }
}

fn watch(shared: &Arc<Shared>, body: impl FnOnce(&Shared) + Send + 'static) {
    let shared = Arc::clone(shared);
    std::thread::spawn(move || body(&shared));
}

/// The command line as a person would write it.
fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

trait ConcatLines {
    fn concat_lines(&self) -> String;
}

impl ConcatLines for Vec<String> {
    fn concat_lines(&self) -> String {
        self.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_and_exit_code_are_seen() {
        let finished = run(shell("echo out; echo err >&2; exit 3"));
        assert_eq!(finished.code(), Some(3));
        assert_eq!(finished.stdout, "out\n");
        assert!(finished.output.contains("err"), "{}", finished.output);
    }

    #[test]
    fn a_line_is_waited_for_and_a_signal_ends_it() {
        let program = Program::start(shell("echo port 17 ready; exec sleep 1000"));
        assert_eq!(program.wait_for(&["ready", "17"]), "port 17 ready");
        assert!(program.is_running());
        program.signal(Signal::TERM);
        assert_eq!(program.finish().code(), None);
    }

    #[test]
    #[should_panic(expected = "no line 1 with [\"never\"]")]
    fn a_program_that_ends_without_the_line_is_reported_at_once() {
        Program::start(shell("echo something else")).wait_for(&["never"]);
    }
}

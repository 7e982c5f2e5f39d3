//! What is to be started, and how.

use std::{
    ffi::OsStr,
    future::{Future, poll_fn},
    io,
    os::unix::process::CommandExt,
    path::Path,
    pin::{Pin, pin},
    process::{Command as StdCommand, ExitStatus, Output, Stdio},
    task::Poll,
};

use super::Child;
use crate::{error::about, io::Read};

/// A program to be started as a child process: the standard library's `Command`, whose children
/// the kernel looks after. It can be used more than once.
#[derive(Debug)]
pub struct Command {
    command: StdCommand,
    output_limit: usize,
}

impl Command {
    /// A program by its path, or by its name in `PATH`; with our environment, our folder, and
    /// our three standard streams.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        StdCommand::new(program).into()
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Command {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Command {
        self.command.args(args);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(&mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Command {
        self.command.env(key, value);
        self
    }

    /// Sets the folder it starts in.
    pub fn current_dir(&mut self, folder: impl AsRef<Path>) -> &mut Command {
        self.command.current_dir(folder);
        self
    }

    /// Sets its standard input. Piped, it is [`Child::stdin`].
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Command {
        self.command.stdin(stdin);
        self
    }

    /// Sets its standard output. Piped, it is [`Child::stdout`].
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Command {
        self.command.stdout(stdout);
        self
    }

    /// Sets its standard error. Piped, it is [`Child::stderr`].
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Command {
        self.command.stderr(stderr);
        self
    }

    /// Sets how much of either stream [`output`](Command::output) takes, in bytes. Default:
    /// 16 MiB.
    pub fn output_limit(&mut self, limit: usize) -> &mut Command {
        self.output_limit = limit;
        self
    }

    /// All that the standard library's command can do beside that. Its process group is set at
    /// the start, whatever is set here.
    pub fn as_std_mut(&mut self) -> &mut StdCommand {
        &mut self.command
    }

    /// Starts it, as the leader of a process group of its own. That takes the kernel's thread for
    /// about a millisecond.
    ///
    /// # Errors
    /// The system's, with the program's name before its text (where its number is then, is told in
    /// [`net`](crate::net#errors)): no such program or directory, no permission, too many processes or
    /// descriptors.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn spawn(&mut self) -> io::Result<Child> {
        self.command.process_group(0);
        let child = self.command.spawn().and_then(Child::new);
        child.map_err(|e| self.failed(e))
    }

    /// Says what could not be started, and where: the system's error is the same for a program
    /// that is not there and for such a directory.
    fn failed(&self, error: io::Error) -> io::Error {
        let program = self.command.get_program().display();
        match self.command.get_current_dir() {
            Some(place) => about(format_args!("{program} in {}", place.display()), error),
            None => about(program, error),
        }
    }

    /// Starts it and waits for its end.
    ///
    /// # Cancellation
    /// It is killed, with its group, and reaped.
    ///
    /// # Errors
    /// As [`spawn`](Command::spawn) and [`Child::wait`].
    pub async fn status(&mut self) -> io::Result<ExitStatus> {
        self.spawn()?.wait().await
    }

    /// Starts it without any input, takes all that it writes, and waits for its end.
    ///
    /// # Cancellation
    /// It is killed, with its group, and reaped; what it wrote is lost (with
    /// [`output_into`](Command::output_into) it is not).
    ///
    /// # Errors
    /// As [`spawn`](Command::spawn) and [`Child::wait`]; `InvalidData`, with the names of program and
    /// stream, if it writes more than [`output_limit`](Command::output_limit): it is killed then.
    pub async fn output(&mut self) -> io::Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = self.output_into(&mut stdout, &mut stderr).await?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }

    /// As [`output`](Command::output), but appends what it writes to the caller's vectors. They keep
    /// what was read, whatever becomes of the rest.
    ///
    /// # Cancellation
    /// It is killed, with its group, and reaped.
    ///
    /// # Errors
    /// As [`output`](Command::output).
    ///
    /// # Examples
    /// ```
    /// # kernel::run(async {
    /// use std::time::Duration;
    /// use kernel::{process::Command, timeout_after};
    /// let mut command = Command::new("sh");
    /// command.args(["-c", "echo so far; sleep 1000"]);
    /// let (mut out, mut err) = (Vec::new(), Vec::new());
    /// let run = command.output_into(&mut out, &mut err);
    /// if let Err(e) = timeout_after(Duration::from_millis(50), run).await {
    ///     println!("{e}, after {:?}", String::from_utf8_lossy(&out));
    /// }
    /// # std::io::Result::Ok(()) }).unwrap().unwrap();
    /// ```
    pub async fn output_into(
        &mut self,
        stdout: &mut Vec<u8>,
        stderr: &mut Vec<u8>,
    ) -> io::Result<ExitStatus> {
        self.stdin(Stdio::null());
        self.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        let out = child.stdout.take().expect("it is piped");
        let err = child.stderr.take().expect("it is piped");
        // Side by side: a full pipe would keep it from ending, and its end closes the pipes of
        // whatever it left behind.
        all([
            &mut pin!(self.read_all("standard output", out, stdout)),
            &mut pin!(self.read_all("standard error", err, stderr)),
            &mut pin!(async { child.wait().await.map(drop) }),
        ])
        .await?;
        child.wait().await // the same status again
    }

    async fn read_all(&self, name: &str, from: impl Read, to: &mut Vec<u8>) -> io::Result<()> {
        let mut room = self.output_limit;
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let n = from.read(&mut bytes).await?;
            to.extend_from_slice(&bytes[..n.min(room)]);
            if n == 0 {
                return Ok(());
            }
            room = room.checked_sub(n).ok_or_else(|| {
                let (program, limit) = (self.command.get_program(), self.output_limit);
                let program = program.display();
                let text = format!("{program}: {name} is longer than the limit of {limit} bytes");
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
        }
    }
}

type Part<'a> = &'a mut (dyn Future<Output = io::Result<()>> + Unpin);

/// Runs them side by side, to the end of all; the first error is the end of the others.
async fn all<const N: usize>(parts: [Part<'_>; N]) -> io::Result<()> {
    let mut running = Vec::from(parts);
    poll_fn(|cx| {
        let mut result = Ok(());
        running.retain_mut(|part| match Pin::new(part).poll(cx) {
            Poll::Pending => true,
            Poll::Ready(ended) => {
                if result.is_ok() {
                    result = ended;
                }
                false
            }
        });
        match running.is_empty() || result.is_err() {
            true => Poll::Ready(result),
            false => Poll::Pending,
        }
    })
    .await
}

impl From<StdCommand> for Command {
    fn from(command: StdCommand) -> Command {
        Command {
            command,
            output_limit: 16 * 1024 * 1024,
        }
    }
}

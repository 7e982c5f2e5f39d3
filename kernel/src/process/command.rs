//! What is to be started, and how.

use std::{
    ffi::OsStr,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command as StdCommand, ExitStatus, Output, Stdio},
};

use super::Child;
use crate::{
    TaskGroup,
    error::about,
    io::{BufReader, Read},
};

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
    /// The system's: no such program or directory, no permission (both with the program's name
    /// before the system's text), too many processes or descriptors.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn spawn(&mut self) -> io::Result<Child> {
        self.command.process_group(0);
        let child = self.command.spawn().map_err(|e| self.failed(e))?;
        Child::new(child)
    }

    /// Says what could not be started, and where: the system's error is the same for a program
    /// that is not there and for such a directory.
    fn failed(&self, error: io::Error) -> io::Error {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        if !matches!(error.kind(), NotFound | NotADirectory | PermissionDenied) {
            return error; // a shortage, which its number tells best
        }
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
    /// It is killed, with its group, and reaped; what it wrote is lost.
    ///
    /// # Errors
    /// As [`spawn`](Command::spawn) and [`Child::wait`]; `InvalidData` if it writes more than
    /// [`output_limit`](Command::output_limit): it is killed then.
    pub async fn output(&mut self) -> io::Result<Output> {
        self.stdin(Stdio::null());
        self.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Side by side: a full pipe would keep it from ending, and its end closes the pipes of
        // whatever it left behind. The first to fail ends the others.
        let mut parts = TaskGroup::new();
        parts.spawn(read_all(stdout.expect("it is piped"), self.output_limit));
        parts.spawn(read_all(stderr.expect("it is piped"), self.output_limit));
        parts.spawn(async move { child.wait().await.map(Part::Status) });
        let parts = parts.join().await?;
        match <[Part; 3]>::try_from(parts) {
            Ok(
                [
                    Part::Bytes(stdout),
                    Part::Bytes(stderr),
                    Part::Status(status),
                ],
            ) => Ok(Output {
                status,
                stdout,
                stderr,
            }),
            _ => unreachable!("the parts of a group come in the order of their spawning"),
        }
    }
}

/// What the end of a process consists of.
enum Part {
    Bytes(Vec<u8>),
    Status(ExitStatus),
}

async fn read_all(stream: impl Read, limit: usize) -> io::Result<Part> {
    let mut reader = BufReader::with_limit(stream, limit);
    Ok(Part::Bytes(reader.read_to_end().await?.to_vec()))
}

impl From<StdCommand> for Command {
    fn from(command: StdCommand) -> Command {
        Command {
            command,
            output_limit: 16 * 1024 * 1024,
        }
    }
}

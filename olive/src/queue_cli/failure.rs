//! What ends a command early, and what its user is told: what it was about, and what to do.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use persipubsub::{Environment, Error, Resource};

#[derive(Debug)]
pub(super) enum Failure {
    Store(Error),
    Input(io::Error),
    Output(io::Error),
    /// Nothing came in time.
    Nothing,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Store(error)
    }
}

pub(super) type Outcome = Result<(), Failure>;

/// Tells the user how it went with the queue in `path`, and the shell by the exit code.
pub(super) fn report(path: &Path, outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Nothing) => return ExitCode::from(3),
        // Whoever reads our output has had enough: that is how pipes end.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(Failure::Input(error)) => say(format_args!("standard input: {error}")),
        Err(Failure::Output(error)) => say(format_args!("standard output: {error}")),
        Err(Failure::Store(error)) => say(explain(path, &error)),
    }
    ExitCode::FAILURE
}

pub(super) fn say(line: impl Display) {
    eprintln!("olive queue: {line}");
}

fn explain(path: &Path, error: &Error) -> String {
    let queue = path.display();
    match error {
        Error::NotInitialized(_) if !path.exists() => {
            format!("{queue}: no such directory; `olive queue init {queue}` makes a queue there")
        }
        Error::NotInitialized(_) if !path.is_dir() => {
            format!("{queue} is not a directory, and a queue is one, made by `olive queue init`")
        }
        Error::NotInitialized(_) => {
            format!("{queue} holds no queue; `olive queue init {queue}` makes one there")
        }
        Error::UnknownSubscriber(name) => format!(
            "{queue}: {error}; {}, and `olive queue init {queue} --subscriber {name}` adds one",
            registered(path)
        ),
        Error::Busy(_) => format!("{error}; `--to FILE` writes a copy while others go on"),
        Error::Io { cause, .. }
            if cause.kind() == io::ErrorKind::PermissionDenied && path.join("locks").exists() =>
        {
            format!("{error}; a queue can only be used by the user who made it")
        }
        Error::Io { cause, .. } if cause.kind() == io::ErrorKind::NotADirectory => {
            format!("{error}; a queue is a directory")
        }
        Error::Io { .. } | Error::Config(_) | Error::Format(_) => error.to_string(),
        Error::Full(Resource::Messages | Resource::Bytes | Resource::Map) => {
            format!("{queue}: {error}; `receive`, `prune` and `clear` make room")
        }
        _ => format!("{queue}: {error}"),
    }
}

fn registered(path: &Path) -> String {
    let names = Environment::open(path).and_then(|env| env.new_control().subscribers());
    match names.unwrap_or_default() {
        names if names.is_empty() => "nobody is registered".to_owned(),
        names => format!("registered: {}", names.join(", ")),
    }
}

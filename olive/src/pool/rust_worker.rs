//! A process that runs Rust tasks of this very binary, one at a time (`__rust-worker`).

use super::frame;
use super::hidden::{self, take_stdin};
use super::message::{Call, Reply, ToWorker};
use crate::outcome::TaskError;
use crate::registry::Registry;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

/// Environment: the bound on frames, in bytes.
pub(super) const FRAME_MAX: &str = "OLIVE_FRAME_MAX";
/// Environment: how much the tasks' own `log` lines say.
pub(super) const LOG_LEVEL: &str = "OLIVE_WORKER_LOG";

/// The hidden mode's main: returns when the main process closes its end.
pub(super) fn main(registry: &Registry) -> ExitCode {
    match serve(registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("olive's Rust worker (not meant to be started by hand): {error}");
            ExitCode::from(2)
        }
    }
}

fn serve(registry: &Registry) -> io::Result<()> {
    let max = std::env::var(FRAME_MAX)
        .ok()
        .and_then(|max| max.parse().ok())
        .ok_or_else(|| io::Error::other(format!("{FRAME_MAX} is not set")))?;
    hidden::outlast(&[SIGTERM, SIGINT])?;
    log_to_stderr();
    let mut writer = UnixStream::from(take_stdin()?);
    let mut reader = BufReader::new(writer.try_clone()?);
    frame::write(&mut writer, &Reply::Ready, max)?;
    while let Some(payload) = frame::read(&mut reader, max)? {
        let reply = answer(registry, &payload);
        // What the task printed must be in the pipe before its outcome is.
        let _ = io::stdout().flush();
        send(&mut writer, reply, max)?;
    }
    Ok(())
}

fn answer(registry: &Registry, payload: &[u8]) -> Reply {
    match serde_json::from_slice(payload) {
        Ok(ToWorker::Call(Call { func, args, kwargs })) => match registry.find(&func) {
            Some(id) => match registry.call_id(id, args.get(), kwargs.get()) {
                Ok(value) => Reply::Done(value),
                Err(error) => Reply::Failed(error),
            },
            None => Reply::Unknown(format!("no Rust task is named {func:?}")),
        },
        Ok(ToWorker::Load(_)) => Reply::Loaded, // Rust tasks are linked in
        Err(error) => Reply::Failed(TaskError::new("ArgumentsNotUsable", error.to_string())),
    }
}

fn send(writer: &mut UnixStream, reply: Reply, max: usize) -> io::Result<()> {
    let bytes = frame::encode(&reply, max).or_else(|too_large| {
        let message = format!(
            "the result is {} bytes of JSON, {} are allowed",
            too_large.len, too_large.max
        );
        frame::encode(
            &Reply::Failed(TaskError::new("ResultTooLarge", message)),
            max,
        )
    })?;
    writer.write_all(&bytes)
}

/// The tasks' `log` lines go to standard error, which the main process reads line by line and logs
/// with the time and the job's name: no need for a second time stamp.
fn log_to_stderr() {
    let level = std::env::var(LOG_LEVEL).ok();
    let level = level.and_then(|level| level.parse().ok());
    // An error means that the program has set a logger of its own before us: then that one.
    let _ = env_logger::Builder::new()
        .filter_level(level.unwrap_or(log::LevelFilter::Info))
        .format(|to, record| {
            writeln!(
                to,
                "{} {}: {}",
                record.level(),
                record.target(),
                record.args()
            )
        })
        .try_init();
}

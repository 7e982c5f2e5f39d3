//! The hidden modes: what our own binary does when the pool starts it again.

use super::{rust_worker, supervise};
use crate::registry::Registry;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// First argument of the supervisor (see `supervise.rs`).
pub(super) const SUPERVISE: &str = "__supervise";
/// First argument of a process that runs Rust tasks (see `rust_worker.rs`).
pub(super) const RUST_WORKER: &str = "__rust-worker";

/// Runs one of the pool's hidden modes if the command line asks for one.
///
/// To be called first thing in `main`, before anything with side effects: whatever stands before
/// it runs in each of the pool's processes too. `None` means an ordinary start; `Some` is the
/// exit code to return from `main` with, after a mode that ran until the main process let go.
pub fn enter_hidden_mode(registry: &Registry) -> Option<ExitCode> {
    match std::env::args_os().nth(1)?.to_str()? {
        SUPERVISE => Some(supervise::main()),
        RUST_WORKER => Some(rust_worker::main(registry)),
        _ => None,
    }
}

/// Lives on when these signals come: the main process decides when we go, not a signal to the
/// whole service. A handler, not SIG_IGN: that one would be inherited by what we start.
pub(super) fn outlast(signals: &[i32]) -> io::Result<()> {
    for &signal in signals {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Takes descriptor 0, where the pool put our channel, and leaves `/dev/null` in its place.
pub(super) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(taken)
}

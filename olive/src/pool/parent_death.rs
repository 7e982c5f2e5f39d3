//! The only unsafe code in olive: a step between fork and exec.

#![allow(unsafe_code)]

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel kill the child when this process ends, however it ends.
///
/// For a single-threaded parent only: the signal is bound to the *thread* that spawns. Grandchildren
/// do not inherit it, so it is the second rope (`supervise.rs` has the first).
pub(super) fn kill_when_parent_dies(command: &mut Command) {
    let parent = getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above: then no signal would ever come.
        if getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::SRCH.raw_os_error(),
            ));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done. `arm` makes two system calls
    // through rustix, which goes to the kernel without libc's state, and neither allocates, locks nor panics.
    unsafe { command.pre_exec(arm) };
}

//! What is answered at once: the task that asks goes on.

use std::time::{Duration, Instant};

use super::Yield;
pub use crate::kernel::workers::ClockHold;
use crate::{
    error::Error,
    kernel::{Core, wait::cancel},
};

/// The time on the kernel's clock.
///
/// # Panics
/// Outside a running kernel.
pub fn now() -> Instant {
    Core::current_ref(|core| core.clock.now())
}

/// The moment when this time will be over; beyond what the clock can name, about a hundred years
/// will do.
///
/// # Panics
/// Outside a running kernel.
pub fn after(duration: Duration) -> Instant {
    cancel::after(now(), duration)
}

/// True if a kernel runs on this thread: the other requests work here, also where no task is
/// polled (in the drop of one, say).
pub fn is_running() -> bool {
    Core::with_current(|_| ()).is_some()
}

/// An error if a cancellation or timeout is due to the current task.
///
/// For operations that found what they wanted without waiting, so that a task which never waits
/// can still be cancelled.
///
/// # Errors
/// Cancellation and timeouts.
///
/// # Panics
/// Outside a running kernel.
pub fn check() -> Result<(), Error> {
    Core::current_ref(|core| core.interruption()).map_or(Ok(()), Err)
}

/// Counts an operation that did not have to wait; false if the task has done so many in this step
/// that others should run first.
///
/// # Panics
/// Outside a running kernel.
#[inline]
pub fn spend() -> bool {
    Core::current_ref(|core| core.spend())
}

/// True if the current task may go on at once: nothing is due to it, and it has not done many
/// operations in this step. Spares the usual operation the future of [`breathe`]. False outside a running
/// kernel.
#[inline]
pub fn may_go_on() -> bool {
    Core::with_undisturbed(|core| core.spend()) == Some(true)
}

/// As [`check`], but lets others run after many operations that did not have to wait: a socket
/// that is always ready must not starve the rest.
///
/// # Errors
/// Cancellation and timeouts.
///
/// # Panics
/// Outside a running kernel.
pub async fn breathe() -> Result<(), Error> {
    match spend() {
        true => check(),
        false => {
            yield_now().await?;
            spend(); // the operation that goes on now
            Ok(())
        }
    }
}

/// Keeps a manual clock where it is while this lives: something outside (a thread, a process) is
/// under way that will end by itself, and no deadline is to pass before.
///
/// # Panics
/// Outside a running kernel.
pub fn hold_clock() -> ClockHold {
    Core::current_ref(|core| core.pool.hold_clock())
}

/// Lets every task that is ready now run first.
///
/// # Cancellation
/// Safe to drop at any time.
///
/// # Errors
/// Cancellation and timeouts.
pub fn yield_now() -> Yield {
    Yield::new()
}

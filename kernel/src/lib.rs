//! A small single-threaded async runtime in the manner of Curio: a *scheduling kernel*.
//!
//! A task asks the kernel for what it needs by a [`Trap`]: a leaf future puts the request in
//! front of the kernel and returns `Pending`; the kernel's loop reads it after the poll, acts, and
//! later answers. Tasks and kernel know nothing else of each other.
//!
//! * **One thread, no `Send`.** A task is any `'static` future; `Rc` and `RefCell` are normal.
//!   Other threads reach the kernel through [`Handle`], [`inbox`] and [`Bell`].
//! * **Cancellation is an error at the trap**, so a task can clean up, with further awaits.
//!   `handle.cancel().await` returns when the task has really ended.
//! * **Timeouts nest** and say whose they were.
//! * **Futures of the ecosystem run** by being awaited: they get a real, thread-safe `Waker`.
//!
//! ```
//! use std::time::Duration;
//!
//! kernel::run(async {
//!     let ticker = kernel::spawn(async {
//!         let mut ticks = 0;
//!         while kernel::sleep(Duration::from_millis(2)).await.is_ok() {
//!             ticks += 1;
//!         }
//!         ticks // cancelled: the sleep came back with an error, and we come to an end
//!     });
//!     kernel::sleep(Duration::from_millis(20)).await.unwrap();
//!     ticker.cancel().await.unwrap();
//!     println!("{} ticks", ticker.join().await.unwrap());
//! }).unwrap();
//! ```
//!
//! # Reading order
//!
//! `trap.rs` (the door), `kernel.rs` (the state), `turn.rs` (the loop), `wait.rs` and `answer.rs` (who waits for what),
//! `task.rs`, `table.rs` and `cell.rs`, `scope.rs`, `cancel.rs` and `time.rs` (timeouts, shields), `timer.rs`, `reactor.rs` and `io/`,
//! `outside.rs`, `bell.rs` and `waker.rs` (other threads); then `sync/` for what is built on it.
//!
//! Not here: a second thread for tasks, work stealing, files (use [`run_in_thread`]).

#![warn(missing_docs)]

mod across;
#[cfg(any(feature = "futures-io", feature = "hyper"))]
pub mod adapt;
mod answer;
mod bell;
mod cancel;
mod cell;
mod clock;
mod error;
mod fd;
mod group;
mod handover;
mod held;
mod inbox;
pub mod io;
mod kernel;
#[cfg(all(test, loom))]
mod model;
pub mod net;
mod outside;
#[cfg(feature = "process")]
pub mod process;
mod ps;
mod reactor;
mod scope;
#[cfg(feature = "signal")]
pub mod signal;
pub mod sim;
pub mod sync;
mod table;
mod task;
mod time;
mod timer;
mod trap;
mod turn;
mod wait;
mod waker;
mod watch;
mod with;
mod workers;

pub use bell::{Bell, Ringer};
pub use clock::ManualClock;
pub use error::{Error, JoinError};
pub use fd::AsyncFd;
pub use group::{GroupError, TaskGroup};
pub use inbox::{InboxReceiver, InboxSender, inbox};
pub use kernel::{Builder, Kernel, run};
pub use outside::{Handle, handle};
pub use ps::{Stats, TaskInfo, TaskState, TaskWait, ps, stats};
pub use task::{Cancel, Join, JoinHandle, TaskId, cancel, current_task, spawn};
pub use time::{
    foreign, ignore_after, now, shield, sleep, sleep_until, timeout_after, timeout_at, yield_now,
};
pub use trap::{Ask, Registered, Trap, Yield, ask};
pub use wait::WaitQueue;
pub use watch::{Observed, Observer, TaskAccount};
pub use workers::run_in_thread;

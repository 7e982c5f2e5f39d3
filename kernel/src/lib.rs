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
//! * **Timeouts nest**, say whose they were, and always end.
//! * **Futures of the ecosystem run** by being awaited: they get a real, thread-safe `Waker`.
//! * **Tests need no time and no luck**: [`sim`] runs a program on a clock that jumps, in an order
//!   drawn from a seed, and cancels it at every await.
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
//! # A tour
//!
//! Start with [`run`], [`spawn`] and [`JoinHandle`]; then [`sleep`], [`timeout_after`] and
//! [`Error`], which is what any wait may come back with; then what you need of these:
//!
//! | for | there is |
//! |---|---|
//! | tasks that end together | [`TaskGroup`] |
//! | a part that must not be interrupted; a future that knows nothing of us | [`shield`]; [`foreign`] |
//! | tasks that wait for each other | [`sync`]: events, locks, semaphores, conditions, barriers, mailboxes, one-shots |
//! | sockets; streams, buffered; raw descriptors | [`net`]; [`io`]; [`AsyncFd`] |
//! | work that blocks | [`run_in_thread`] |
//! | children and workers in processes; signals | [`process`]; [`signal`] |
//! | a server that lets its clients finish when a signal comes | the example `graceful`; for HTTP, `hyper_server` |
//! | news from other threads | [`inbox`] for items, [`Bell`] for "now", [`Handle::submit`] for tasks with results, [`remote()`] for a value that stays here |
//! | tasks that serve the others to the end; the last words of a run | [`JoinHandle::daemon`]; [`at_shutdown`] |
//! | time, names, who waits for what | [`now`], [`JoinHandle::name`], [`ps()`] |
//! | looking on from outside | [`Builder::monitor`], [`Observer`], [`Builder::slow_step`] |
//! | guests that poll: `futures-io`, hyper | `adapt`, with the feature of that name |
//! | tests | [`ManualClock`], [`sim::Sim`], [`sim::pipe`], [`sim::cancel_everywhere`] |
//! | primitives, timeouts, streams of one's own | [`trap`], the one door: everything above is built from what is in it |
//!
//! # Errors, and what to do with them
//!
//! Every wait may come back with [`Error::Cancelled`] or one of the three timeouts; `?` passes them
//! on, and that is nearly always right. An error type of your own needs `From<kernel::Error>` and
//! no more. In an `io::Error` or a box it travels inside: [`Error::in_io`] and [`Error::in_chain`] find it. A task that is told to
//! stop may still await (flush, say goodbye), for the cleanup budget of 5 seconds
//! ([`Builder::cleanup_budget`]); then, or at a second cancel, its future is dropped. Every item's
//! documentation says under *Cancellation* what is lost or kept.
//!
//! # What it promises
//!
//! Ready tasks run in the order in which they became ready. A step is one poll, and nothing
//! interrupts it; but a turn of the loop is bounded in time (in steps, on a manual clock), and a task whose
//! operations never have to wait yields now and then, so no task that awaits something of this
//! crate's keeps deadlines and I/O of others from being served. (A foreign future that is ready at
//! every poll asks the kernel nothing: a loop of such awaits is like one that computes.)
//!
//! `run` returns when `main` has ended *and* every other task has, cancelled if need be. A panic is
//! caught at its task and given to who joins it; if nobody does, it is logged with the task's name
//! and where it was spawned.
//!
//! # Features
//!
//! `signal` ([`signal`]) and `process` ([`process`]) are on by default and bring `signal-hook`;
//! without them the crate depends on mio, slab, log and libc. `futures-io` and `hyper` add the
//! module `adapt`, and each the crate of its name. Linux is what it is tested on.
//!
//! # Reading the source
//!
//! The file tree is the map. `trap.rs` and `trap/` are the door. Behind it, in `kernel/`, and best read in this order:
//! `kernel.rs` (the state), `turn.rs` (the loop), `step.rs` (one poll), `door.rs` (what each trap means);
//! `wait.rs` (who waits for what; `wait/` has how waits are answered, cancelled, timed out); `task.rs` (`task/` has their table, their memory, joins, the ready queue);
//! `clock.rs` (`clock/` has the deadline queue); `reactor.rs`; `outside.rs` (other threads: wakers, bells, results); `workers.rs` (the pool);
//! `shutdown.rs`, `dead_end.rs` (simulations that can never go on), `ps.rs` and `watch/` (looking on).
//! Before the door is what anybody could have built of it: `time.rs`, `group.rs`, `inbox.rs`, `sync/`, `io/`, `net/`, `process/` and the rest; a test sees to that.
//! The project's book has a chapter for each idea.
//!
//! Not here: a second thread for tasks, work stealing, files (use [`run_in_thread`]), TLS (it needs
//! nothing of a kernel but a stream).

#![warn(missing_docs)]

mod across;
#[cfg(any(feature = "futures-io", feature = "hyper"))]
pub mod adapt;
mod error;
mod fd;
mod group;
mod inbox;
pub mod io;
mod kernel;
pub mod net;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "signal")]
pub mod signal;
pub mod sim;
pub mod sync;
mod time;
pub mod trap;
mod with;

pub use error::{Error, JoinError, Panic};
pub use fd::AsyncFd;
pub use group::{GroupError, TaskGroup};
pub use inbox::{InboxReceiver, InboxSender, inbox};
pub use kernel::{
    Builder, Kernel,
    clock::ManualClock,
    outside::{
        Handle,
        bell::{Bell, Ringer},
        handle,
        remote::{Remote, Submitted, remote},
    },
    ps::{Stats, TaskInfo, TaskState, TaskWait, ps, stats},
    run,
    shutdown::at_shutdown,
    task::{Cancel, JoinHandle, TaskId, cancel, current_task, join::Join, spawn},
    wait::WaitQueue,
    watch::{Observed, Observer, TaskAccount},
    workers::run_in_thread,
};
pub use time::{foreign, ignore_after, shield, sleep, sleep_until, timeout_after, timeout_at};
pub use trap::{Ask, Registered, Trap, Yield, ask, now, yield_now};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

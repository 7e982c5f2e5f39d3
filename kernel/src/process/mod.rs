//! Child processes: started, talked to through pipes, awaited, and never left behind.
//!
//! A child stands in a process group of its own, and the group is one thing: signals go to all of
//! it, and it ends with its leader, the child itself. Whatever happens to a [`Child`] that still
//! runs (dropped, its task cancelled, the kernel coming to its end), its group is killed and the
//! child is reaped before `run` returns. Only what leaves the group (`setsid`) escapes that.
//!
//! A group of its own also means that Ctrl-C at the terminal does not reach the child, and that it
//! may not read from the terminal.
//!
//! # When a signal ends this program
//!
//! Where a signal ends the whole program, `run` does not come to its end, and nobody is left to end the
//! children: they run on, and see the end of their standard input. So it is not with SIGKILL alone, but
//! with SIGTERM and Ctrl-C (SIGINT) too, *unless the program awaits them*. One with children should
//! (see [`signal`](crate::signal)): then `main` ends, the run ends, and with it the children.
//!
//! ```no_run
//! use std::io;
//! use kernel::{TaskGroup, process::Command, signal::{SIGINT, SIGTERM, Signals}};
//!
//! async fn work() -> io::Result<()> {
//!     Command::new("sleep").arg("1000").status().await.map(drop)
//! }
//!
//! fn main() -> io::Result<()> {
//!     kernel::run(async {
//!         let mut signals = Signals::new(&[SIGTERM, SIGINT])?;
//!         let mut parts = TaskGroup::new();
//!         parts.spawn(work());
//!         parts.spawn(async move { Ok(signals.next().await.map(drop)?) });
//!         parts.join_any().await?; // the first to end ends the other
//!         Ok(())
//!     })?
//! }
//! ```
//!
//! [`Pool`] keeps processes that answer one request after another.
//!
//! Not here: pseudo terminals; and forking a running program, which no program with threads can
//! do safely.

mod child;
mod command;
mod exit;
mod pool;

pub use child::{Child, ChildStderr, ChildStdin, ChildStdout};
pub use command::Command;
pub use pool::{Pool, Worker};

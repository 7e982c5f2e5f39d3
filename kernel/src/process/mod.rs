//! Child processes: started, talked to through pipes, awaited, and never left behind.
//!
//! A child stands in a process group of its own, and the group is one thing: signals go to all of
//! it, and it ends with its leader, the child itself. Whatever happens to a [`Child`] that still
//! runs (dropped, its task cancelled, the kernel coming to its end), its group is killed and the
//! child is reaped before `run` returns. Only what leaves the group (`setsid`) escapes that.
//!
//! A group of its own also means that Ctrl-C at the terminal does not reach the child, and that it
//! may not read from the terminal. And should this whole program be killed with SIGKILL, nobody
//! is left to end its children: they see the end of their standard input.
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

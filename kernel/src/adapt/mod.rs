//! Our streams and time as guests from the ecosystem want to see them (features `futures-io` and
//! `hyper`).
//!
//! A future needs no adapter: it is awaited. Only what does I/O by polling, or starts tasks and
//! timers of its own, has to be told how that is done here:
//!
//! * [`Polled`] is a stream with `poll_read` and `poll_write`: `AsyncRead` and `AsyncWrite` of
//!   `futures-io`, `Read` and `Write` of `hyper`;
//! * `Executor` spawns hyper's tasks, and `Timer` lets hyper sleep (feature `hyper`).

#[cfg(feature = "futures-io")]
mod futures_io;
#[cfg(feature = "hyper")]
mod hyper;
#[cfg(feature = "hyper")]
mod hyper_timer;
mod polled;

#[cfg(feature = "hyper")]
pub use self::{hyper::Executor, hyper_timer::Timer};
pub use polled::Polled;

//! Signals as something to await.
//!
//! The example `graceful` is a server that lets its clients finish, within a deadline, when one comes.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream as StdUnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{SigId, consts::FORBIDDEN, flag, low_level};

use crate::{
    error::Error,
    io::Io,
    trap::{READ, breathe},
};

/// Signals of the process that are caught while this lives.
///
/// While it lives the signals' usual effect (ending the process) is off; `signal-hook` shares
/// them with whoever else asks for them. Two signals of one kind before they are taken are one,
/// as everywhere in Unix. Note that after it is dropped the usual effect stays off: the system
/// offers no safe way back.
///
/// # Examples
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut signals = kernel::signal::Signals::new(&[kernel::signal::SIGTERM, kernel::signal::SIGINT])?;
/// let signal = signals.next().await?;
/// println!("asked to stop by signal {signal}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Signals {
    io: Io<StdUnixStream>,
    caught: Vec<(i32, Arc<AtomicBool>)>,
    ids: Vec<SigId>,
}

pub use libc::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

impl Signals {
    /// Catches these signals from now on.
    ///
    /// # Errors
    /// `InvalidInput` for signals that cannot be caught (SIGKILL, SIGSTOP) or must not be, for their
    /// fault would come again at once (SIGSEGV, SIGILL, SIGFPE); else if the system refuses.
    ///
    /// # Panics
    /// Outside a running kernel.
    pub fn new(signals: &[i32]) -> io::Result<Signals> {
        if let Some(signal) = signals.iter().find(|signal| FORBIDDEN.contains(signal)) {
            let text = format!("signal {signal} is not to be caught");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (read, write) = StdUnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let mut all = Signals {
            io: Io::new(read, true)?,
            caught: Vec::new(),
            ids: Vec::new(),
        };
        for &signal in signals {
            let caught = Arc::new(AtomicBool::new(false));
            // In this order: when the byte arrives the flag is set.
            all.ids.push(flag::register(signal, caught.clone())?);
            all.caught.push((signal, caught));
            all.ids
                .push(low_level::pipe::register(signal, write.try_clone()?)?);
        }
        Ok(all)
    }

    /// Waits for the next signal and gives its number.
    ///
    /// # Cancellation
    /// Safe: a signal that was not taken stays.
    ///
    /// # Errors
    /// Cancellation and timeouts.
    pub async fn next(&mut self) -> Result<i32, Error> {
        breathe().await?;
        loop {
            self.empty_pipe();
            let caught = self
                .caught
                .iter()
                .find(|(_, flag)| flag.swap(false, Ordering::AcqRel));
            if let Some((signal, _)) = caught {
                return Ok(*signal);
            }
            self.io.ready(READ).await?;
        }
    }

    fn empty_pipe(&self) {
        let mut bytes = [0; 64];
        // Until it would block: the flags say what was caught, the bytes only that something was.
        while self
            .io
            .attempt(READ, |mut pipe| pipe.read(&mut bytes))
            .is_ok_and(|n| n > 0)
        {}
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}

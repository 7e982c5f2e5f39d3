//! How the end of a child is learnt, and the system calls for that.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use crate::{
    AsyncFd,
    signal::{SIGCHLD, Signals},
};

/// Something to wait for that comes with the end of a child.
#[derive(Debug)]
pub(super) enum Exit {
    /// Readable from the end of the child on.
    Pidfd(AsyncFd<OwnedFd>),
    /// Comes with the end of any child; for systems that give no pidfd.
    Signal(Signals),
}

impl Exit {
    pub(super) fn of(pid: u32) -> io::Result<Exit> {
        match pidfd_open(pid) {
            Ok(pidfd) => Ok(Exit::Pidfd(AsyncFd::watch(pidfd)?)),
            // Before Linux 5.3, or where a sandbox does not know the call.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                Exit::by_signal()
            }
            Err(e) => Err(e),
        }
    }

    pub(super) fn by_signal() -> io::Result<Exit> {
        Ok(Exit::Signal(Signals::new(&[SIGCHLD])?))
    }

    /// Waits for the end of the child, which stays unreaped.
    pub(super) async fn wait(&mut self, pid: u32) -> io::Result<()> {
        // Looked at before the first wait: the end may have come before we began to listen.
        while !has_ended(pid)? {
            match self {
                Exit::Pidfd(pidfd) => pidfd.readable().await?,
                Exit::Signal(signals) => drop(signals.next().await?),
            }
        }
        crate::trap::breathe().await?;
        Ok(())
    }
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and gives a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    match i32::try_from(fd) {
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// True once a child has ended; it stays unreaped, so its number stays its own.
pub(super) fn has_ended(pid: u32) -> io::Result<bool> {
    // SAFETY: a `siginfo_t` is plain integers and pointers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is ours and lives through the call, which writes to nothing else.
    match unsafe { libc::waitid(libc::P_PID, pid, &mut info, options) } {
        // SAFETY: waitid(2) fills the fields of SIGCHLD, or leaves them zero.
        0 => Ok(unsafe { info.si_pid() } != 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to all processes of the group that a child leads. Only while the child is
/// unreaped: afterwards its number may be another's.
///
/// # Errors
/// `ECHILD` if somebody else has reaped it; else the system's.
pub(super) fn signal_group(pid: u32, signal: i32) -> io::Result<()> {
    has_ended(pid)?;
    // SAFETY: kill(2) takes integers only.
    match unsafe { libc::kill(-(pid as libc::pid_t), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

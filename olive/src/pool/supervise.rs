//! The supervisor: a small process between the main one and each worker process (`__supervise`).
//!
//! ```text
//!   main ──control──▶ supervisor ──▶ child (leader of a group of its own) ──▶ whatever it starts
//! ```
//!
//! It lives as long as the main process holds the other end of its control socket, and has one
//! child at a time. Three facts make it the one that can keep the promise "nothing outlives the
//! main process", which the main process, killed -9, cannot keep itself:
//!
//! * the control socket is open in the main process only, so its end *is* the main one's end;
//! * it is the subreaper of all that its child starts: orphans, also those that left the group
//!   with `setsid`, become its children, so it can find and kill every one;
//! * the child is not reaped before its group is killed, so the number of the group cannot
//!   meanwhile mean somebody else.
//!
//! Should the supervisor itself be killed, the child dies by its parent-death signal.

use super::hidden::{self, take_stdin};
use super::message::{CONTROL_FRAME_MAX, Exit, FromSupervisor, Program, ToSupervisor};
use super::{fds, frame, parent_death, shortage};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

/// The hidden mode's main: returns when the main process is gone or wants us to go.
pub(super) fn main() -> ExitCode {
    match Supervisor::new().and_then(Supervisor::serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("olive's supervisor (not meant to be started by hand): {error}");
            ExitCode::from(2)
        }
    }
}

struct Supervisor {
    control: UnixStream,
    /// Readable after each SIGCHLD.
    deaths: UnixStream,
    child: Option<Pid>,
}

impl Supervisor {
    fn new() -> io::Result<Supervisor> {
        let control = UnixStream::from(take_stdin()?);
        control.peer_addr()?; // not a socket: started by hand
        process::set_child_subreaper(Some(process::getpid()))?;
        hidden::outlast(&[SIGTERM, SIGINT, SIGHUP])?;
        // What we start has the limit that the main process was started with.
        if let Some(soft) = std::env::args().nth(2).and_then(|soft| soft.parse().ok()) {
            shortage::limit_open_files(soft)?;
        }
        let (deaths, bell) = UnixStream::pair()?;
        deaths.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, bell)?;
        Ok(Supervisor {
            control,
            deaths,
            child: None,
        })
    }

    fn serve(mut self) -> io::Result<()> {
        let served = self.turns();
        // Reached when the main process is gone, and after any error of ours.
        if let Some(child) = self.child {
            kill_group(child);
        }
        kill_descendants();
        served
    }

    fn turns(&mut self) -> io::Result<()> {
        loop {
            let commanded = self.wait()?;
            if let Some(exit) = self.reap() {
                kill_descendants();
                self.tell(&FromSupervisor::Exited(exit))?;
            }
            if commanded && !self.obey()? {
                return Ok(());
            }
        }
    }

    /// Waits for a command or a death; true if there is a command (or the end of commands).
    fn wait(&mut self) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(&self.control, PollFlags::IN),
            PollFd::new(&self.deaths, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let commanded = !fds[0].revents().is_empty();
        while matches!(self.deaths.read(&mut [0; 64]), Ok(n) if n > 0) {}
        Ok(commanded)
    }

    /// Reaps all that has ended; the child's status if it is among them.
    fn reap(&mut self) -> Option<Exit> {
        if let Some(child) = self.child.filter(|&child| has_ended(child)) {
            kill_group(child);
        }
        let mut exit = None;
        while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
            if self.child == Some(pid) {
                self.child = None;
                exit = Some(Exit {
                    code: status.exit_status(),
                    signal: status.terminating_signal(),
                });
            }
        }
        exit
    }

    /// Reads one command and does it; false when the main process is gone.
    fn obey(&mut self) -> io::Result<bool> {
        let Some((payload, fds)) = fds::receive(&self.control, CONTROL_FRAME_MAX)? else {
            return Ok(false);
        };
        match serde_json::from_slice(&payload)? {
            ToSupervisor::Spawn(program) => {
                let reply = self.spawn(&program, fds);
                self.tell(&reply)?;
            }
            ToSupervisor::Kill => {
                if let Some(child) = self.child {
                    kill_group(child);
                }
            }
        }
        Ok(true)
    }

    fn spawn(&mut self, program: &Program, fds: Vec<OwnedFd>) -> FromSupervisor {
        match self.try_spawn(program, fds) {
            Ok(pid) => FromSupervisor::Spawned { pid },
            Err(error) => FromSupervisor::SpawnFailed {
                message: error.to_string(),
                passing: shortage::is_passing(&error),
            },
        }
    }

    fn try_spawn(&mut self, program: &Program, fds: Vec<OwnedFd>) -> io::Result<u32> {
        assert!(self.child.is_none(), "one child at a time");
        let (name, args) = program.argv.split_first().expect("a program has a name");
        let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds)
            .map_err(|_| io::Error::other("a program came without its three descriptors"))?;
        let mut command = Command::new(name);
        command
            .args(args)
            .envs(program.env.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr));
        parent_death::kill_when_parent_dies(&mut command);
        let child = command.spawn()?;
        self.child = Some(Pid::from_child(&child));
        Ok(child.id())
    }

    fn tell(&mut self, message: &FromSupervisor) -> io::Result<()> {
        frame::write(&mut self.control, message, CONTROL_FRAME_MAX)
    }
}

/// Whether a child has ended; it stays unreaped, and its number its own.
fn has_ended(child: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(process::waitid(WaitId::Pid(child), options), Ok(Some(_)))
}

fn kill_group(leader: Pid) {
    // An error means that nobody is left in it.
    let _ = process::kill_process_group(leader, Signal::KILL);
}

/// Kills and reaps until nothing that our child started is left.
///
/// Killing a process makes its children ours, so each death can reveal more; it ends when the
/// system says that we have no children.
fn kill_descendants() {
    loop {
        for pid in children() {
            let _ = process::kill_process(pid, Signal::KILL);
        }
        match process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn children() -> Vec<Pid> {
    let listed = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let numbers = listed.split_whitespace();
    numbers
        .filter_map(|number| Pid::from_raw(number.parse().ok()?))
        .collect()
}

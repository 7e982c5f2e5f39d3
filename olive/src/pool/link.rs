//! The main process's end of one supervisor.
//!
//! Two kernel tasks belong to it: the *listener* reads what the supervisor says, the *reaper* waits
//! for the supervisor's own end on a pidfd. Both put what they learn into one mailbox, where
//! whoever owns the link finds it in order.

use super::fds;
use super::frame::Decoder;
use super::hidden::SUPERVISE;
use super::message::{CONTROL_FRAME_MAX, Exit, FromSupervisor, Program, ToSupervisor};
use super::shortage;
use kernel::AsyncFd;
use kernel::sync::{Event, Receiver, Sender, mailbox};
use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

/// How long a supervisor may take to kill what it has, before it is killed itself.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// All supervisors that are not reaped yet, also those that nobody owns any more.
#[derive(Default)]
pub(super) struct Living {
    all: RefCell<Vec<Rc<Shared>>>,
    reaped: Event,
}

impl Living {
    /// Tells every supervisor to kill what it has and to end; returns when all are reaped.
    pub async fn end_all(&self) -> Result<(), kernel::Error> {
        self.for_each(Shared::hang_up);
        if kernel::ignore_after(KILL_TIMEOUT, self.until_none())
            .await?
            .is_none()
        {
            self.for_each(Shared::kill_supervisor);
            self.until_none().await?;
        }
        Ok(())
    }

    fn for_each(&self, act: impl Fn(&Shared)) {
        self.all.borrow().iter().for_each(|shared| act(shared));
    }

    async fn until_none(&self) -> Result<(), kernel::Error> {
        while !self.all.borrow().is_empty() {
            self.reaped.clear();
            self.reaped.wait().await?;
        }
        Ok(())
    }
}

/// What the owner and the two kernel tasks know of one supervisor.
pub(super) struct Shared {
    control: AsyncFd<UnixStream>,
    pid: Pid,
    /// The child, while it is not known to be dead. Written by the listener.
    child: Cell<Option<Pid>>,
    /// The child's frames, shut down by whichever task learns of its death, so that whoever
    /// reads them is woken, after what the child had still written.
    frames: RefCell<Option<Rc<AsyncFd<UnixStream>>>>,
}

impl Shared {
    /// Ends the control connection, at which the supervisor kills what it has, and ends.
    fn hang_up(&self) {
        let _ = rustix::net::shutdown(self.control.get_ref(), Shutdown::Both);
    }

    /// Has the supervisor kill the child; its end is told as any other.
    pub fn kill_child(&self) {
        let control = self.control.get_ref();
        // An error means that the supervisor has ended.
        let _ = fds::send(control, &ToSupervisor::Kill, &[], CONTROL_FRAME_MAX);
    }

    fn kill_supervisor(&self) {
        // Not reaped yet (the reaper would have taken us out of `Living`), so the number is its own.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    fn child_is_dead(&self) {
        self.child.set(None);
        if let Some(frames) = self.frames.take() {
            let _ = rustix::net::shutdown(frames.get_ref(), Shutdown::Both);
        }
    }
}

enum Note {
    Told(FromSupervisor),
    /// The supervisor has ended.
    Gone,
}

/// Why a program did not start.
pub(super) struct SpawnError {
    pub message: String,
    /// Trying again may help.
    pub passing: bool,
}

/// The owner's handle; dropping it ends the supervisor and everything below it.
pub(super) struct Link {
    shared: Rc<Shared>,
    notes: Receiver<Note>,
    gone: bool,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.hang_up();
    }
}

impl Link {
    /// Starts a supervisor: `program` is our own binary.
    pub fn start(program: &Path, living: &Rc<Living>) -> io::Result<Link> {
        let (ours, theirs) = UnixStream::pair()?;
        let control = AsyncFd::new(ours)?;
        let mut child = Command::new(program)
            .arg(SUPERVISE)
            .args(shortage::raise_open_files().map(|soft| soft.to_string()))
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = watch(pid).inspect_err(|_| {
            let _ = child.kill().and_then(|()| child.wait());
        })?;
        let shared = Rc::new(Shared {
            control,
            pid,
            child: Cell::new(None),
            frames: RefCell::new(None),
        });
        let (sender, notes) = mailbox();
        living.all.borrow_mut().push(shared.clone());
        kernel::spawn(listen(shared.clone(), sender.clone()))
            .name("pool listener")
            .detach();
        kernel::spawn(reap(pidfd, child, shared.clone(), sender, living.clone()))
            .name("pool reaper")
            .detach();
        Ok(Link {
            shared,
            notes,
            gone: false,
        })
    }

    /// Starts a program as the supervisor's child; there must be none. The caller drops its
    /// copies of `stdio` afterwards.
    pub async fn spawn(
        &mut self,
        program: &Program,
        stdio: &[OwnedFd; 3],
        frames: Option<Rc<AsyncFd<UnixStream>>>,
    ) -> io::Result<Result<(), SpawnError>> {
        let control = self.shared.control.get_ref();
        let [stdin, stdout, stderr] = stdio;
        let passed = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let message = ToSupervisor::Spawn(program.clone());
        *self.shared.frames.borrow_mut() = frames;
        fds::send(control, &message, &passed, CONTROL_FRAME_MAX)?;
        loop {
            match self.note().await? {
                Note::Told(FromSupervisor::Spawned { .. }) => return Ok(Ok(())),
                Note::Told(FromSupervisor::SpawnFailed { message, passing }) => {
                    return Ok(Err(SpawnError { message, passing }));
                }
                Note::Told(FromSupervisor::Exited(_)) => {}
                Note::Gone => return Err(io::Error::other("the supervisor ended")),
            }
        }
    }

    /// Waits for the child's end.
    pub async fn exit(&mut self) -> io::Result<Exit> {
        loop {
            let note = self.note().await?;
            if let Some(exit) = ending(&note) {
                return Ok(exit);
            }
        }
    }

    /// Kills the child with all that it started, and waits for its end. A supervisor that does
    /// not manage it in time is lost, and killed.
    pub async fn kill(&mut self) -> io::Result<Exit> {
        self.shared.kill_child();
        match kernel::ignore_after(KILL_TIMEOUT, self.exit()).await? {
            Some(exit) => Ok(exit),
            None => {
                self.shared.kill_supervisor();
                self.exit().await
            }
        }
    }

    /// The child's end, if it has come already.
    pub fn try_exit(&mut self) -> Option<Exit> {
        while let Some(note) = self.notes.try_recv() {
            self.gone |= matches!(note, Note::Gone);
            if let Some(exit) = ending(&note) {
                return Some(exit);
            }
        }
        None
    }

    /// For a kernel task that may have to kill the child.
    pub fn shared(&self) -> Rc<Shared> {
        self.shared.clone()
    }

    /// Whether the supervisor has ended, and the link is of no more use.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    async fn note(&mut self) -> io::Result<Note> {
        if self.gone {
            return Ok(Note::Gone);
        }
        let note = self.notes.recv().await?.unwrap_or(Note::Gone);
        self.gone = matches!(note, Note::Gone);
        Ok(note)
    }
}

/// With the supervisor gone, the child is too: killed by it, or by its parent-death signal.
fn ending(note: &Note) -> Option<Exit> {
    match note {
        Note::Told(FromSupervisor::Exited(exit)) => Some(*exit),
        Note::Told(_) => None,
        Note::Gone => Some(Exit {
            code: None,
            signal: Some(Signal::KILL.as_raw()),
        }),
    }
}

fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd_open(pid, PidfdFlags::empty())?)
}

async fn listen(shared: Rc<Shared>, notes: Sender<Note>) {
    let mut decoder = Decoder::new(CONTROL_FRAME_MAX);
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = shared.control.read(&mut buffer).await {
        decoder.push(&buffer[..read]);
        while let Ok(Some(payload)) = decoder.next() {
            let Ok(told) = serde_json::from_slice(&payload) else {
                return shared.hang_up();
            };
            match told {
                FromSupervisor::Spawned { pid } => shared.child.set(Pid::from_raw(pid as i32)),
                FromSupervisor::SpawnFailed { .. } | FromSupervisor::Exited(_) => {
                    shared.child_is_dead();
                }
            }
            let _ = notes.send(Note::Told(told));
        }
    }
}

async fn reap(
    pidfd: AsyncFd<OwnedFd>,
    mut supervisor: Child,
    shared: Rc<Shared>,
    notes: Sender<Note>,
    living: Rc<Living>,
) {
    // Shielded by nothing: if the kernel itself ends first, so does our process.
    if pidfd.readable().await.is_err() {
        return;
    }
    if let Ok(status) = supervisor.wait()
        && !status.success()
    {
        log::warn!("a supervisor of the process pool ended by {status}");
    }
    if let Some(child) = shared.child.get() {
        // It died without killing its child, which its parent-death signal has done; what else
        // is in the group has not been told.
        let _ = kill_process_group(child, Signal::KILL);
    }
    shared.child_is_dead();
    living
        .all
        .borrow_mut()
        .retain(|other| !Rc::ptr_eq(other, &shared));
    living.reaped.set();
    let _ = notes.send(Note::Gone);
}

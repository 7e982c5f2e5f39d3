//! A thread that tells over a Unix socket what the kernel does, also when the kernel is stuck.
//!
//! Questions that need the kernel's tables are put to the loop, as a note like any other. A loop
//! that does not answer in time has its culprit named from the [`Board`] instead, together with
//! the last listing that it gave. Each client has a thread of its own, so none waits for another.

mod socket;

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use self::socket::Socket;
use super::board::Board;
use crate::{
    across::{Mutex, MutexGuard},
    error::about,
    kernel::{
        Core,
        outside::{
            Note, Shared,
            handover::{Missing, handover},
        },
        ps::{listing, stats},
    },
    net::listening::has_callers,
};

/// A loop that has not answered for this long is called stuck.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where a descriptor or memory is lacking for a client, it is looked again so often.
const SHORTAGE: Duration = Duration::from_millis(100);
/// Clients at once; further ones are sent away.
const CLIENTS: usize = 8;
/// Tasks in a listing that names no number.
const LINES: usize = 1000;
/// Bytes in a command.
const COMMAND: u64 = 256;

const LISTENER: Token = Token(0);
const STOP: Token = Token(1);

const HELP: &str = "\
ps [N]     the tasks, at most N of them (1000)
stats      what the kernel holds
now        what runs at this moment; does not ask the loop
cancel ID  cancels a task, as `kernel::cancel` does; twice is hard
help       this
An empty line ends each answer.
";

/// The monitor of one kernel. Dropping it ends its threads; the first takes the socket with it.
pub(crate) struct Monitor {
    room: Arc<Room>,
    stop: mio::Waker,
    thread: Option<JoinHandle<()>>,
}

/// What the monitor's threads share.
struct Room {
    board: Arc<Board>,
    kernel: Arc<Shared>,
    stopped: AtomicBool,
    clients: Mutex<Vec<Client>>,
    last: Mutex<Option<(Instant, String)>>,
}

struct Client {
    number: u64,
    stream: UnixStream,
}

impl Monitor {
    pub(crate) fn start(
        path: &Path,
        board: Arc<Board>,
        kernel: Arc<Shared>,
    ) -> io::Result<Monitor> {
        let socket = Socket::bind(path).map_err(|e| about(path.display(), e))?;
        let poll = Poll::new()?;
        let stop = mio::Waker::new(poll.registry(), STOP)?;
        let fd = socket.listener.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&fd), LISTENER, Interest::READABLE)?;
        let room = Arc::new(Room {
            board,
            kernel,
            stopped: AtomicBool::new(false),
            clients: Mutex::default(),
            last: Mutex::default(),
        });
        let here = room.clone();
        let thread = thread::Builder::new()
            .name("kernel-monitor".into())
            .spawn(move || {
                if let Err(e) = here.receive(&socket.listener, poll) {
                    log::error!("kernel: the monitor ends: {e}");
                }
            })?;
        Ok(Monitor {
            room,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.room.stopped.store(true, Ordering::Release);
        if self.stop.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            thread.join().ok();
        }
        for client in self.room.clients().iter() {
            client.stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

impl Room {
    fn clients(&self) -> MutexGuard<'_, Vec<Client>> {
        self.clients.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes clients in until it is told to stop.
    fn receive(self: Arc<Room>, listener: &UnixListener, mut poll: Poll) -> io::Result<()> {
        let mut events = Events::with_capacity(4);
        let (mut number, mut shortage) = (0, false);
        while !self.stopped.load(Ordering::Acquire) {
            // Whoever was not taken in makes no second event.
            match poll.poll(&mut events, shortage.then_some(SHORTAGE)) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            let taken = self.take_in(listener, &mut number);
            if let (Err(e), false) = (&taken, shortage) {
                log::warn!("kernel: the monitor cannot accept a client, and goes on trying: {e}");
            }
            shortage = taken.is_err();
        }
        Ok(())
    }

    /// Takes in all that wait.
    fn take_in(self: &Arc<Room>, listener: &UnixListener, number: &mut u64) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Without a descriptor, the system does not look whether anybody waits.
                Err(_) if !has_callers(listener) => return Ok(()),
                Err(e) => return Err(e),
            };
            *number += 1;
            if let Err(e) = self.admit(*number, stream) {
                log::warn!("kernel: the monitor cannot serve a client: {e}");
            }
        }
    }

    fn admit(self: &Arc<Room>, number: u64, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        if self.clients().len() >= CLIENTS {
            return stream.write_all(b"busy: too many clients\n");
        }
        let kept = stream.try_clone()?;
        self.clients().push(Client {
            number,
            stream: kept,
        });
        let here = self.clone();
        let started = thread::Builder::new()
            .name("kernel-monitor-client".into())
            .spawn(move || {
                here.serve(stream).ok(); // a client that went away
                here.dismiss(number);
            });
        if started.is_err() {
            self.dismiss(number);
        }
        started.map(drop)
    }

    fn dismiss(&self, number: u64) {
        self.clients().retain(|client| client.number != number);
    }

    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while !self.stopped.load(Ordering::Acquire) {
            line.clear();
            if reader.by_ref().take(COMMAND).read_line(&mut line)? == 0 {
                break;
            }
            let mut answer = self.answer(line.trim());
            answer.push('\n');
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn answer(&self, command: &str) -> String {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        let rest = rest.trim();
        match (word, rest.parse::<usize>()) {
            ("ps", _) if rest.is_empty() => self.list(LINES),
            ("ps", Ok(lines)) => self.list(lines),
            ("stats", _) => self.ask(|| format!("{:#?}\n", stats())),
            ("now", _) => match self.board.step() {
                Some(step) => format!("{step}\n"),
                None => "no task runs at this moment\n".to_owned(),
            },
            ("cancel", _) => match rest.trim_start_matches('#').parse::<u32>() {
                Ok(serial) => self.cancel(serial),
                Err(_) => "cancel needs the number of a task\n".to_owned(),
            },
            ("help", _) => HELP.to_owned(),
            _ => format!("not understood; there are:\n{HELP}"),
        }
    }

    fn list(&self, lines: usize) -> String {
        let text = match self.put_to_loop(move || listing(lines)) {
            Ok(text) => text,
            Err(missing) => return self.trouble(missing) + &self.last_listing(),
        };
        *self.last.lock().unwrap_or_else(|e| e.into_inner()) = Some((Instant::now(), text.clone()));
        text
    }

    fn last_listing(&self) -> String {
        let last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        match &*last {
            Some((when, text)) => format!("the last listing, {:.1?} old:\n{text}", when.elapsed()),
            None => "no listing was asked for before\n".to_owned(),
        }
    }

    fn ask(&self, question: impl FnOnce() -> String + Send + 'static) -> String {
        self.put_to_loop(question)
            .unwrap_or_else(|missing| self.trouble(missing))
    }

    fn cancel(&self, serial: u32) -> String {
        let in_line = "the cancel is in line: it will be carried out when the loop goes on. Asked for \
                       again it would come twice, and the second is hard\n";
        self.put_to_loop(move || cancel(serial))
            .unwrap_or_else(|missing| match missing {
                Missing::TimedOut => self.trouble(missing) + in_line,
                Missing::Abandoned => self.trouble(missing),
            })
    }

    /// Has the loop answer.
    fn put_to_loop(
        &self,
        question: impl FnOnce() -> String + Send + 'static,
    ) -> Result<String, Missing> {
        let asked = Instant::now();
        let (giver, taker) = handover();
        self.kernel
            .note(Note::Call(Box::new(move || giver.give(question()))));
        taker.take(Some(asked + PATIENCE))
    }

    /// Why the loop does not answer.
    fn trouble(&self, missing: Missing) -> String {
        if missing == Missing::Abandoned {
            return "the kernel has ended\n".to_owned();
        }
        let mut text = format!("STUCK: the loop has not answered for {PATIENCE:.1?}\n");
        let culprit = match self.board.step() {
            Some(step) => step.to_string(),
            None => "no task is running: the kernel is outside of `run`, or stuck in code that \
                     belongs to no task (a waker, an observer)"
                .to_owned(),
        };
        writeln!(text, "{culprit}").expect("a String takes everything");
        text
    }
}

/// Runs on the kernel's thread.
fn cancel(serial: u32) -> String {
    Core::current_ref(|core| {
        let task = core
            .tasks
            .borrow()
            .iter()
            .find(|task| task.record.id.serial() == serial)
            .cloned();
        match task {
            Some(task) => {
                core.cancel_task(&task);
                format!("task #{serial} is cancelled\n")
            }
            None => format!("there is no task #{serial}\n"),
        }
    })
}

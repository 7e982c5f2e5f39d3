//! The kernel tasks of one connection: a reader, a writer, a timekeeper, and one that gives dropped deliveries back.
//!
//! The writer runs after whatever was ready before it, so all that was said in a turn of the loop leaves in one
//! write. The reader lets the others run after at most 256 KiB, so that acks and confirms leave before more is read.

use super::inbox::Inbox;
use super::transport::Transport;
use super::wait;
use crate::core::Core;
use crate::error::Error;
use crate::heartbeat::{Action, Heartbeat};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// What the tasks of a connection share.
struct Link {
    core: Rc<Core>,
    stream: Transport,
    beat: RefCell<Heartbeat>,
    written_out: Cell<bool>,
}

/// How long the last bytes (a Close, usually) may take to leave.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Starts the tasks. They end when the core is closed.
pub(super) fn start(core: Rc<Core>, stream: Transport) {
    // Heartbeats start once the interval is agreed; until then opening has its own deadline.
    let beat = RefCell::new(Heartbeat::new(Duration::ZERO, kernel::now()));
    let link = Rc::new(Link {
        core,
        stream,
        beat,
        written_out: Cell::new(false),
    });
    kernel::spawn(read(Rc::clone(&link)))
        .name("amqp reader")
        .detach();
    kernel::spawn(write(Rc::clone(&link)))
        .name("amqp writer")
        .detach();
    kernel::spawn(keep_time(Rc::clone(&link)))
        .name("amqp timekeeper")
        .detach();
    kernel::spawn(give_back(Rc::clone(&link.core)))
        .name("amqp returner")
        .detach();
}

/// However the task ends, also when its kernel is dropped: nothing waits for this connection any longer.
struct EndsWith(Rc<Core>);

impl Drop for EndsWith {
    fn drop(&mut self) {
        self.0.transport_ended(Error::ClosedByUs);
    }
}

async fn read(link: Rc<Link>) {
    let core = Rc::clone(&link.core);
    let _end = EndsWith(Rc::clone(&core));
    let mut inbox = Inbox::new();
    while !core.is_closed() {
        if core.is_over_full() && wait(|waker| core.poll_read_room(waker)).await.is_err() {
            break;
        }
        match inbox.read(&core, &link.stream).await {
            Ok(false) => {
                let text = "the server hung up without a word".to_owned();
                core.transport_ended(Error::Lost {
                    kind: io::ErrorKind::UnexpectedEof,
                    text,
                });
            }
            Ok(true) => {
                link.beat.borrow_mut().read(kernel::now());
                inbox.deliver(&core);
                if inbox.pause().await.is_err() {
                    break;
                }
            }
            Err(error) => core.transport_ended(Error::from_io(&error)),
        }
    }
}

async fn write(link: Rc<Link>) {
    let core = &link.core;
    let mut bytes = Vec::new();
    while wait(|waker| core.poll_output(waker)).await.is_ok() {
        core.take_output(&mut bytes);
        if bytes.is_empty() && core.is_closed() {
            break;
        }
        let written = link.stream.write_all(&bytes).await;
        bytes.clear();
        match written {
            Ok(()) => link.beat.borrow_mut().written(kernel::now()),
            Err(error) => {
                // A server that closes says why before it hangs up: let the reader find that first.
                let lost = Error::from_io(&error);
                let reason =
                    kernel::timeout_after(LAST_WRITE, wait(|waker| core.poll_closed(waker))).await;
                if reason.is_err() {
                    core.transport_ended(lost);
                }
                break;
            }
        }
    }
    link.stream.finish().await;
    link.written_out.set(true);
    link.stream.shutdown();
}

async fn keep_time(link: Rc<Link>) {
    let core = &link.core;
    if let Ok(Ok(())) = wait(|waker| core.poll_open(waker)).await {
        let interval = core
            .negotiated()
            .map_or(Duration::ZERO, |agreed| agreed.heartbeat);
        *link.beat.borrow_mut() = Heartbeat::new(interval, kernel::now());
        beat(&link, interval).await;
    }
    // The writer closes the socket when the last bytes are out; a peer that does not read must not keep it.
    if !link.written_out.get() && kernel::sleep(LAST_WRITE).await.is_ok() && !link.written_out.get()
    {
        link.stream.shutdown();
    }
}

async fn beat(link: &Link, interval: Duration) {
    let core = &link.core;
    let mut suspected = false;
    while !core.is_closed() {
        if core.is_over_full() {
            // We do not read, so silence says nothing about the peer.
            link.beat.borrow_mut().read(kernel::now());
        }
        let action = link.beat.borrow().check(kernel::now());
        let until = match action {
            Action::Off => kernel::now() + Duration::from_secs(3600),
            Action::Wait(until) => until,
            Action::Send => {
                core.write_heartbeat();
                link.beat.borrow_mut().written(kernel::now());
                continue;
            }
            Action::PeerDead if suspected => {
                core.fail(Error::PeerSilent(interval * 2));
                return;
            }
            Action::PeerDead => {
                // After a suspended laptop, what the peer sent may wait in the socket: read first.
                suspected = true;
                kernel::now() + Duration::from_millis(50)
            }
        };
        suspected &= matches!(action, Action::PeerDead);
        match kernel::timeout_at(until, wait(|waker| core.poll_closed(waker))).await {
            Err(kernel::Error::TaskTimeout) => {}
            _ => return,
        }
    }
}

/// Gives dropped deliveries back, at first soon, then with growing pauses: a consumer that drops everything must not
/// turn the queue into a loop at full speed.
async fn give_back(core: Rc<Core>) {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(5);
    let mut pause = FIRST;
    loop {
        let calm = kernel::timeout_after(LONGEST * 2, wait(|waker| core.poll_dropped(waker))).await;
        match calm {
            Ok(()) if core.is_closed() => return,
            Ok(()) => {}
            Err(kernel::Error::TaskTimeout) => {
                pause = FIRST;
                if wait(|waker| core.poll_dropped(waker)).await.is_err() || core.is_closed() {
                    return;
                }
            }
            Err(_) => return,
        }
        if kernel::sleep(pause).await.is_err() {
            return;
        }
        let count = core.give_back_dropped();
        log::warn!(
            "amqp: {count} deliveries were dropped without being settled; given back after {pause:?}"
        );
        pause = (pause * 2).min(LONGEST);
    }
}

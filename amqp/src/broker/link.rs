//! One connection's socket and its tasks.

use super::arena::Key;
use super::node::Node;
use super::peer::{Peer, Phase};
use super::server::Shared;
use crate::heartbeat::{Action, Heartbeat};
use kernel::net::TcpStream;
use kernel::sync::Event;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// The driver's side of a connection.
pub(crate) struct Link {
    stream: TcpStream,
    address: SocketAddr,
    /// Set by the turn when reading may go on.
    pub(crate) resume: Event,
    is_paused: Cell<bool>,
    /// [`Link::hang_up`] was called.
    is_hung_up: Cell<bool>,
    /// Set when the handshake is over.
    opened: Event,
    /// The socket is full: the writer has taken over.
    is_full: Cell<bool>,
    /// Rung to start the writer.
    full: Event,
    beat: RefCell<Heartbeat>,
}

impl Link {
    pub(crate) fn new(stream: TcpStream, address: SocketAddr) -> Self {
        Link {
            stream,
            address,
            resume: Event::new(),
            is_paused: Cell::new(false),
            is_hung_up: Cell::new(false),
            opened: Event::new(),
            is_full: Cell::new(false),
            full: Event::new(),
            beat: RefCell::new(Heartbeat::new(Duration::ZERO, kernel::now())),
        }
    }

    /// Ends the connection as far as the socket goes; its reader sees the end and cleans up.
    pub(crate) fn hang_up(&self) {
        self.is_hung_up.set(true);
        // An error means that the other end was faster.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.resume.set();
    }

    /// Writes what waits for this connection, as far as the socket takes it.
    pub(crate) fn flush(&self, node: &mut Node, key: Key<Peer>) {
        if self.is_full.get() {
            return;
        }
        match self.try_flush(node, key) {
            Ok(true) => {}
            Ok(false) => {
                self.is_full.set(true);
                self.full.set();
            }
            Err(error) => {
                log::debug!("writing to {} failed: {error}", self.address);
                self.hang_up();
            }
        }
    }

    /// `true`: everything is written. `false`: the socket is full.
    fn try_flush(&self, node: &mut Node, key: Key<Peer>) -> io::Result<bool> {
        let mut has_written = false;
        let result = loop {
            let Some(out) = node.out(key) else {
                break Ok(true);
            };
            if out.is_empty() {
                break Ok(true);
            }
            match self.stream.try_write(out.pending()) {
                Ok(count) => {
                    out.advance(count);
                    has_written = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(false),
                Err(error) => break Err(error),
            }
        };
        if has_written {
            let mut beat = self.beat.borrow_mut();
            beat.written(kernel::now());
            if self.is_paused.get() {
                // We do not read, so its heartbeats cannot be seen; that it takes our bytes is a sign of life.
                beat.read(kernel::now());
            }
            drop(beat);
            node.drained(key);
        }
        result
    }
}

/// The life of one connection, from the accept to its end.
pub(crate) async fn serve(shared: Rc<Shared>, link: Rc<Link>, key: Key<Peer>) {
    let helpers = [
        kernel::spawn(mind(shared.clone(), link.clone(), key)).name("broker: minder"),
        kernel::spawn(write(shared.clone(), link.clone(), key)).name("broker: writer"),
    ];
    let result = read(&shared, &link, key).await;
    for helper in helpers {
        // Fails only if we are cancelled ourselves; the helper is cancelled in any case.
        let _ = helper.cancel().await;
    }
    match result {
        Ok(()) => say_goodbye(&shared, &link, key).await,
        Err(error) => log::debug!("reading from {} ended: {error}", link.address),
    }
    shared.links.borrow_mut().remove(&key);
    shared.node.borrow_mut().disconnect(key);
    shared.work.set();
    shared.changed.set();
}

/// Reads until the connection is over. `Ok`: we said or heard Close; an error: it broke.
async fn read(shared: &Shared, link: &Link, key: Key<Peer>) -> io::Result<()> {
    // What is left of the last read: part of a frame, or, after a pause, whole frames not looked at yet.
    let mut rest: Vec<u8> = Vec::new();
    let mut has_whole_frames = false;
    let mut answer_due = None;
    loop {
        if !shared.node.borrow().takes_input(key) {
            pause(shared, link, key).await?;
        }
        if link.is_hung_up.get() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match receive(shared, link, key, &mut rest, has_whole_frames) {
            Ok(()) => shared.work.set(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match answer_due {
                    None => link.stream.readable().await?,
                    Some(due) => kernel::timeout_at(due, link.stream.readable()).await?,
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        has_whole_frames = !shared.node.borrow().takes_input(key);
        match shared.node.borrow().phase(key) {
            None | Some(Phase::Closed) => return Ok(()),
            Some(Phase::Running) => link.opened.set(),
            Some(Phase::Closing) if answer_due.is_none() => {
                let patience = shared.node.borrow().config().handshake_timeout;
                answer_due = Some(kernel::now() + patience);
            }
            _ => {}
        }
        kernel::yield_now().await?;
    }
}

/// Waits until this connection may be read again.
async fn pause(shared: &Shared, link: &Link, key: Key<Peer>) -> Result<(), kernel::Error> {
    link.is_paused.set(true);
    link.resume.clear();
    shared.paused.borrow_mut().push(key);
    // The turn may have come and gone already.
    shared.work.set();
    link.resume.wait().await?;
    link.is_paused.set(false);
    link.beat.borrow_mut().read(kernel::now());
    Ok(())
}

/// One read, and the frames in it.
fn receive(
    shared: &Shared,
    link: &Link,
    key: Key<Peer>,
    rest: &mut Vec<u8>,
    only_rest: bool,
) -> io::Result<()> {
    let mut scratch = shared.scratch.borrow_mut();
    let kept = rest.len();
    // Never empty: `rest` is less than a frame, or we have been told to take it first.
    let count = if only_rest {
        0
    } else {
        let count = link.stream.try_read(&mut scratch[kept..])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        link.beat.borrow_mut().read(kernel::now());
        count
    };
    scratch[..kept].copy_from_slice(rest);
    let input = &scratch[..kept + count];
    let taken = {
        let mut node = shared.node.borrow_mut();
        node.set_time(shared.milliseconds());
        node.receive(key, input)
    };
    rest.clear();
    rest.extend_from_slice(&input[taken..]);
    if rest.is_empty() {
        // An idle connection holds no buffer.
        rest.shrink_to(4096);
    }
    Ok(())
}

/// Writes the last bytes, and waits a little for the client to hang up first: closing a socket with unread input
/// would throw away what it has not read yet.
async fn say_goodbye(shared: &Shared, link: &Link, key: Key<Peer>) {
    let timeout = shared.node.borrow().config().stop_timeout;
    let goodbye = async {
        loop {
            let is_done = link.try_flush(&mut shared.node.borrow_mut(), key)?;
            if is_done {
                break;
            }
            link.stream.writable().await?;
        }
        link.stream.shutdown(Shutdown::Write)?;
        let mut ignored = [0; 1024];
        while link.stream.read(&mut ignored).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    if let Err(error) = kernel::ignore_after(timeout, goodbye).await {
        log::debug!("closing the connection to {}: {error}", link.address);
    }
}

/// Writes whenever the turn has found the socket full.
async fn write(shared: Rc<Shared>, link: Rc<Link>, key: Key<Peer>) -> Result<(), kernel::Error> {
    loop {
        link.full.wait().await?;
        link.full.clear();
        loop {
            link.stream.writable().await?;
            let result = link.try_flush(&mut shared.node.borrow_mut(), key);
            // Room in the buffer may mean more deliveries, or more reading.
            shared.work.set();
            match result {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    log::debug!("writing to {} failed: {error}", link.address);
                    link.hang_up();
                    return Ok(());
                }
            }
        }
        link.is_full.set(false);
    }
}

/// Ends a handshake that takes too long; then keeps the heartbeat.
async fn mind(shared: Rc<Shared>, link: Rc<Link>, key: Key<Peer>) -> Result<(), kernel::Error> {
    let timeout = shared.node.borrow().config().handshake_timeout;
    if kernel::ignore_after(timeout, link.opened.wait())
        .await?
        .is_none()
    {
        log::info!("{} did not finish its handshake in time", link.address);
        link.hang_up();
        return Ok(());
    }
    let interval = shared.node.borrow().heartbeat_of(key);
    *link.beat.borrow_mut() = Heartbeat::new(interval, kernel::now());
    loop {
        let action = link.beat.borrow().check(kernel::now());
        match action {
            Action::Off => return Ok(()),
            Action::Wait(until) => kernel::sleep_until(until).await?,
            Action::Send => {
                link.beat.borrow_mut().written(kernel::now());
                shared.node.borrow_mut().send_heartbeat(key);
                shared.work.set();
            }
            Action::PeerDead => {
                log::warn!("{} is silent for two heartbeats: closing", link.address);
                link.hang_up();
                return Ok(());
            }
        }
    }
}

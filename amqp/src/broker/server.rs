//! The driver: kernel tasks that move bytes between sockets and the [`Node`].
//!
//! One task accepts. Each connection has a reader, a minder (handshake time, heartbeats) and, only once its socket
//! is full, a writer. One more task runs the turn: readers only hand bytes in and ring; when all that were ready
//! have run, the turn delivers, hands a batch to the store, and writes each connection's buffer once.

use super::arena::Key;
use super::config::Config;
use super::link::Link;
use super::node::Node;
use super::peer::Peer;
use super::store::{Outcome, Store, Ticket};
use kernel::net::TcpListener;
use kernel::sync::{Event, Receiver, Sender, mailbox};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Why a broker did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum BindError {
    /// The address can be reached from other machines, and no user is configured: only `guest` could log in, who
    /// may come from loopback only.
    NoUsers {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// A setting is out of its range.
    Setting {
        /// Which one, and its range.
        reason: &'static str,
    },
    /// The address cannot be listened on; in use, most often.
    Io {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::NoUsers { listen } => write!(
                f,
                "the broker shall listen on {listen}, which is not loopback: configure a user and a password first"
            ),
            BindError::Setting { reason } => write!(f, "broker setting: {reason}"),
            BindError::Io { listen, source } => {
                write!(f, "the broker cannot listen on {listen}: {source}")
            }
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BindError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn check(config: &Config) -> Result<(), BindError> {
    if !config.listen.ip().is_loopback() && config.users.is_empty() {
        return Err(BindError::NoUsers {
            listen: config.listen,
        });
    }
    let refuse = |reason| Err(BindError::Setting { reason });
    if config.frame_max < crate::protocol::FRAME_MIN_SIZE || config.frame_max > 1 << 24 {
        return refuse("frame_max must be from 4,096 bytes to 16 MiB");
    }
    if config.channel_max == 0 {
        return refuse("channel_max must be at least 1");
    }
    if config.heartbeat.as_secs() > u64::from(u16::MAX) {
        return refuse("heartbeat must be at most 65,535 seconds");
    }
    if config.users.iter().any(|user| user.password.is_empty()) {
        return refuse("a user must have a password");
    }
    Ok(())
}

/// A batch on its way to the store: its number, and the future that ends when it is safe.
type Pending = (u64, Pin<Box<dyn Future<Output = Outcome>>>);

/// What the tasks of one broker share.
pub(crate) struct Shared {
    pub(crate) node: RefCell<Node>,
    store: Box<dyn Store>,
    /// Batches on their way to the store, with their numbers.
    tickets: Sender<Pending>,
    pub(crate) links: RefCell<HashMap<Key<Peer>, Rc<Link>>>,
    /// Connections that are not read from for now.
    pub(crate) paused: RefCell<Vec<Key<Peer>>>,
    /// Rung whenever the node may have something to do.
    pub(crate) work: Event,
    /// All readers read into this one buffer; what is left of a frame is kept by each.
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// When the broker was made: the zero of the node's clock.
    started: Instant,
    /// Set while a queue has, or holds messages that have, a time to live.
    has_timed: Event,
    /// Reused by every turn.
    touched: RefCell<Vec<Key<Peer>>>,
    pub(crate) is_stopping: Cell<bool>,
    /// Set when a connection has ended.
    pub(crate) changed: Event,
    /// Set when the broker has stopped.
    ended: Event,
}

/// A broker that listens.
pub struct Broker {
    shared: Rc<Shared>,
    listener: Rc<TcpListener>,
    address: SocketAddr,
    tickets: Rc<Receiver<Pending>>,
}

impl Broker {
    /// Checks the configuration and listens. Clients can connect from now on and are served by [`Broker::serve`].
    ///
    /// # Errors
    /// [`BindError`].
    ///
    /// # Panics
    /// Outside a running kernel.
    pub async fn bind(config: Config, store: impl Store) -> Result<Broker, BindError> {
        check(&config)?;
        let listen = config.listen;
        let failed = |source| BindError::Io { listen, source };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (sender, receiver) = mailbox();
        // Room for what is left of a frame, and for a whole frame behind it.
        let scratch = vec![0; 2 * config.frame_max as usize];
        let shared = Shared {
            node: RefCell::new(Node::new(config, store.is_lasting())),
            store: Box::new(store),
            tickets: sender,
            links: RefCell::default(),
            paused: RefCell::default(),
            work: Event::new(),
            scratch: RefCell::new(scratch),
            started: kernel::now(),
            has_timed: Event::new(),
            touched: RefCell::default(),
            is_stopping: Cell::new(false),
            changed: Event::new(),
            ended: Event::new(),
        };
        Ok(Broker {
            shared: Rc::new(shared),
            listener: Rc::new(listener),
            address,
            tickets: Rc::new(receiver),
        })
    }

    /// Where it listens; with the port that was picked if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Something to stop it with, from any task.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            shared: self.shared.clone(),
        }
    }

    /// Serves clients until [`Stopper::stop`] has done its work.
    ///
    /// # Cancellation
    /// Closes all connections at once, without a Close; messages in memory are lost.
    ///
    /// # Errors
    /// Cancellation only: [`kernel::Error`].
    pub async fn serve(&self) -> Result<(), kernel::Error> {
        let shared = &self.shared;
        let tasks = [
            kernel::spawn(accept(shared.clone(), self.listener.clone())).name("broker: accept"),
            kernel::spawn(turns(shared.clone())).name("broker: turns"),
            kernel::spawn(settle_tickets(shared.clone(), self.tickets.clone()))
                .name("broker: store"),
            kernel::spawn(sweep(shared.clone())).name("broker: sweep"),
        ];
        let result = shared.ended.wait().await;
        shared.is_stopping.set(true);
        for task in tasks {
            // Acts at once; nobody has to wait for the end of these.
            drop(task.cancel());
        }
        shared.hang_up_all();
        result
    }
}

/// Stops a broker. Clones stop the same one.
#[derive(Clone)]
pub struct Stopper {
    shared: Rc<Shared>,
}

/// What a stop left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Messages that were in queues or delivered and not settled, and that the store does not keep.
    pub messages_dropped: usize,
}

impl Stopper {
    /// Messages in all queues now, those delivered and not settled included.
    pub fn message_count(&self) -> usize {
        self.shared.node.borrow().message_count()
    }

    /// Takes no more clients, closes all connections with 320 `CONNECTION_FORCED`, waits up to
    /// [`Config::stop_timeout`] for their answers, and ends [`Broker::serve`].
    ///
    /// # Cancellation
    /// The stop has begun and goes no further than it came; call it again.
    ///
    /// # Errors
    /// Cancellation only: [`kernel::Error`].
    pub async fn stop(&self) -> Result<Stopped, kernel::Error> {
        let shared = &self.shared;
        shared.is_stopping.set(true);
        shared.node.borrow_mut().close_all();
        shared.work.set();
        let timeout = shared.node.borrow().config().stop_timeout;
        let all_gone = async {
            while shared.node.borrow().connection_count() > 0 {
                shared.changed.clear();
                shared.changed.wait().await?;
            }
            Ok::<_, kernel::Error>(())
        };
        kernel::ignore_after(timeout, all_gone).await?;
        let messages_dropped = match shared.store.is_lasting() {
            true => 0,
            false => shared.node.borrow().message_count(),
        };
        shared.ended.set();
        Ok(Stopped { messages_dropped })
    }
}

impl Shared {
    fn hang_up_all(&self) {
        for link in self.links.borrow().values() {
            link.hang_up();
        }
    }

    /// The node's clock.
    pub(crate) fn milliseconds(&self) -> u64 {
        let elapsed = kernel::now().saturating_duration_since(self.started);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// One turn: deliver, store, confirm, write.
    fn turn(&self) {
        let mut node = self.node.borrow_mut();
        if let Some((number, batch)) = node.turn() {
            match self.store.submit(batch) {
                Ticket::Done(outcome) => node.stored(number, outcome),
                Ticket::Pending(ticket) => {
                    // Fails only when the broker is going down, and then nobody waits for confirms.
                    let _ = self.tickets.send((number, ticket));
                }
            }
        }
        node.confirm();
        if node.has_timed() {
            self.has_timed.set();
        }
        let mut touched = self.touched.borrow_mut();
        node.take_touched(&mut touched);
        let links = self.links.borrow();
        for key in touched.drain(..) {
            if let Some(link) = links.get(&key) {
                link.flush(&mut node, key);
            }
        }
        self.paused.borrow_mut().retain(|&key| {
            let goes_on = node.takes_input(key);
            let Some(link) = links.get(&key) else {
                return false;
            };
            if goes_on {
                link.resume.set();
            }
            !goes_on
        });
    }
}

/// Runs a turn whenever something has happened.
async fn turns(shared: Rc<Shared>) -> Result<(), kernel::Error> {
    loop {
        shared.work.wait().await?;
        shared.work.clear();
        shared.turn();
        while shared.node.borrow().has_work() {
            // Others first: what they bring may go out with the same write.
            kernel::yield_now().await?;
            shared.turn();
        }
    }
}

/// How often expired messages and queues are looked for. Consumers never get an expired message; this is only how
/// long one may still hold memory and be counted.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

async fn sweep(shared: Rc<Shared>) -> Result<(), kernel::Error> {
    loop {
        shared.has_timed.wait().await?;
        kernel::sleep(SWEEP_EVERY).await?;
        let mut node = shared.node.borrow_mut();
        node.set_time(shared.milliseconds());
        node.sweep();
        if !node.has_timed() {
            shared.has_timed.clear();
        }
        // Queues may have gone, and their consumers are to be told.
        shared.work.set();
    }
}

/// Waits for batches to be safe, in their order, and lets the turn send their confirms.
async fn settle_tickets(
    shared: Rc<Shared>,
    tickets: Rc<Receiver<Pending>>,
) -> Result<(), kernel::Error> {
    while let Some((number, ticket)) = tickets.recv().await? {
        let outcome = ticket.await;
        shared.node.borrow_mut().stored(number, outcome);
        shared.work.set();
    }
    Ok(())
}

/// How long to wait when the system has no more descriptors: accepting again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept(shared: Rc<Shared>, listener: Rc<TcpListener>) -> Result<(), kernel::Error> {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(cancelled) = kernel::Error::in_io(&error) {
                    return Err(cancelled);
                }
                log::warn!("accepting a connection failed: {error}");
                kernel::sleep(ACCEPT_PAUSE).await?;
                continue;
            }
        };
        let mut node = shared.node.borrow_mut();
        if shared.is_stopping.get() || node.connection_count() >= node.config().connections_max {
            log::warn!("a connection from {address} is refused: too many, or stopping");
            continue;
        }
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("no TCP_NODELAY for {address}: {error}");
        }
        let key = node.connect(
            address.ip().to_canonical().is_loopback(),
            address.to_string(),
        );
        drop(node);
        let link = Rc::new(Link::new(stream, address));
        shared.links.borrow_mut().insert(key, link.clone());
        kernel::spawn(super::link::serve(shared.clone(), link, key))
            .name("broker: connection")
            .detach();
    }
}

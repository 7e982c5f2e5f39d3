//! Publishing that outlives connections: what was not confirmed at a loss is sent again.
//!
//! Each publish has an entry in the outbox for as long as somebody waits for it. One kernel task per life of the
//! session sends the entries in their order, first those of the last life; each waits for its own confirm. So a
//! message is taken at least once, and first copies keep their order.

use super::wait;
use crate::codec::RawProperties;
use crate::core::{Channel, Line, Publish, Room, Step, Wakers};
use crate::error::{Error, PublishError};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Publishes through a [`Session`](super::Session), over losses: at least once, in order. Cloning gives another
/// handle.
///
/// A message waits while there is no connection, and one that the server may have lost with the connection is sent
/// again; a server that had it already then has it twice. What a server *refuses* is not sent again: a message that
/// came back, a nack, and whatever was on its way when the server closed the channel or the connection for a fault of
/// ours ([`Error::is_retryable`] is false), since one of them was the fault.
#[derive(Clone)]
pub struct Publisher {
    outbox: Rc<Outbox>,
}

/// What a session and its publishers share.
pub(super) struct Outbox {
    /// By rising `id`.
    entries: RefCell<VecDeque<Rc<Entry>>>,
    next_id: Cell<u64>,
    bytes: Cell<usize>,
    max_bytes: usize,
    timeout: Duration,
    /// Publishers without room.
    line: RefCell<Line>,
    /// The sender.
    sender: RefCell<Wakers>,
    /// The session is gone: nobody connects any more.
    ended: Cell<bool>,
}

struct Entry {
    id: u64,
    exchange: String,
    routing_key: String,
    mandatory: bool,
    properties: RawProperties,
    body: Vec<u8>,
    sent: RefCell<Sent>,
    waiting: RefCell<Wakers>,
}

/// How far a publish has come.
enum Sent {
    NotYet,
    /// In this life, under this number.
    As(Rc<Channel>, u64),
    Settled(Result<(), PublishError>),
}

/// Bytes that a message counts for in the outbox.
fn size(message: &Publish<'_>) -> usize {
    // What the rest takes, roughly.
    const OVERHEAD: usize = 256;
    let names = message.exchange.len() + message.routing_key.len();
    OVERHEAD + names + message.properties.as_wire().len() + message.body.len()
}

impl Entry {
    fn message(&self) -> Publish<'_> {
        Publish {
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            mandatory: self.mandatory,
            properties: &self.properties,
            body: &self.body,
        }
    }

    /// Sends it, unless this life has done so or an earlier one was answered.
    fn send(&self, channel: &Rc<Channel>) {
        let sent = &mut *self.sent.borrow_mut();
        if let Sent::As(..) = sent {
            return;
        }
        if let Sent::NotYet = sent {
            *sent = match channel.publish(&self.message()) {
                Ok(Some(number)) => Sent::As(Rc::clone(channel), number),
                Ok(None) => unreachable!("a session with a publisher switches confirms on"),
                Err(PublishError::Closed(_)) => Sent::NotYet,
                Err(invalid) => Sent::Settled(Err(invalid)),
            };
            self.waiting.borrow_mut().wake();
        }
    }

    /// Looks whether there is an answer, or a loss to be made good by sending it again.
    fn poll(&self, waker: &Waker) -> Poll<Result<(), PublishError>> {
        let sent = &mut *self.sent.borrow_mut();
        if let Sent::As(channel, number) = sent {
            match channel.poll_confirm(*number, waker) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(PublishError::Closed(error))) if error.is_retryable() => {
                    channel.abandon_confirm(*number);
                    *sent = Sent::NotYet;
                }
                Poll::Ready(settled) => *sent = Sent::Settled(settled),
            }
        }
        match sent {
            Sent::Settled(settled) => Poll::Ready(settled.clone()),
            _ => {
                self.waiting.borrow_mut().add(waker);
                Poll::Pending
            }
        }
    }
}

impl Outbox {
    pub(super) fn new(max_bytes: usize, timeout: Duration) -> Rc<Self> {
        Rc::new(Outbox {
            entries: RefCell::default(),
            next_id: Cell::new(0),
            bytes: Cell::new(0),
            max_bytes,
            timeout,
            line: RefCell::default(),
            sender: RefCell::default(),
            ended: Cell::new(false),
        })
    }

    pub(super) fn publisher(self: &Rc<Self>) -> Publisher {
        Publisher {
            outbox: Rc::clone(self),
        }
    }

    /// The session is gone.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.line.borrow_mut().let_all_in();
        self.sender.borrow_mut().wake();
        for entry in &*self.entries.borrow() {
            entry.waiting.borrow_mut().wake();
        }
    }

    /// A life has begun: starts the task that sends on its channel.
    pub(super) fn begin(self: &Rc<Self>, channel: Rc<Channel>) {
        for entry in &*self.entries.borrow() {
            // Those that were lost and whose publisher has not looked since. The answer stays for it.
            let _ = entry.poll(Waker::noop());
        }
        kernel::spawn(send(Rc::downgrade(self), channel))
            .name("amqp publisher")
            .detach();
    }

    /// Sends what is not sent yet, from `next` on, as far as there is room; where there is none, `room` stands in line
    /// for it. `Ready`: the channel is closed.
    fn poll_send(
        &self,
        channel: &Rc<Channel>,
        next: &mut u64,
        room: &mut Option<Room>,
        waker: &Waker,
    ) -> Poll<()> {
        loop {
            let entry = {
                let entries = self.entries.borrow();
                let at = entries.partition_point(|entry| entry.id < *next);
                entries.get(at).cloned()
            };
            let Some(entry) = entry else {
                self.sender.borrow_mut().add(waker);
                // The end of the channel is worth waking up for, too.
                return channel.poll_closed(waker).map(drop);
            };
            if room.is_some() || !channel.has_room() {
                let room = room.get_or_insert_with(|| Room::new(channel, &entry.message()));
                match room.poll(waker) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(())) => {}
                }
            }
            entry.send(channel);
            *room = None;
            *next = entry.id + 1;
        }
    }

    fn let_in(&self) {
        let mut line = self.line.borrow_mut();
        line.let_in(self.bytes.get(), self.max_bytes);
    }

    fn add(&self, message: &Publish<'_>) -> Rc<Entry> {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let entry = Rc::new(Entry {
            id,
            exchange: message.exchange.to_owned(),
            routing_key: message.routing_key.to_owned(),
            mandatory: message.mandatory,
            properties: message.properties.clone(),
            body: message.body.to_vec(),
            sent: RefCell::new(Sent::NotYet),
            waiting: RefCell::default(),
        });
        self.bytes.set(self.bytes.get() + size(message));
        self.entries.borrow_mut().push_back(Rc::clone(&entry));
        self.sender.borrow_mut().wake();
        entry
    }

    fn remove(&self, entry: &Entry) {
        if let Sent::As(channel, number) = &*entry.sent.borrow() {
            channel.abandon_confirm(*number);
        }
        let mut entries = self.entries.borrow_mut();
        if let Ok(at) = entries.binary_search_by_key(&entry.id, |each| each.id) {
            entries.remove(at);
        }
        drop(entries);
        self.bytes.set(self.bytes.get() - size(&entry.message()));
        self.let_in();
    }
}

/// A publisher's way to room for one message, kept until the message is added or given up.
struct Turn<'a> {
    outbox: &'a Outbox,
    size: usize,
    step: Step,
}

impl Turn<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<Result<(), PublishError>> {
        let outbox = self.outbox;
        let room = (outbox.bytes.get(), outbox.max_bytes);
        let mut line = outbox.line.borrow_mut();
        match outbox.ended.get() || line.advance(&mut self.step, self.size, room, waker) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.outbox.line.borrow_mut().leave(self.step, self.size);
        self.outbox.let_in();
    }
}

async fn send(outbox: Weak<Outbox>, channel: Rc<Channel>) {
    let (mut next, mut room) = (0, None);
    // Cancelled: the kernel ends.
    let _ = wait(|waker| match outbox.upgrade() {
        Some(outbox) => outbox.poll_send(&channel, &mut next, &mut room, waker),
        None => Poll::Ready(()),
    })
    .await;
}

impl Publisher {
    /// Publishes a message and waits until a server has taken responsibility for it, over any number of losses.
    ///
    /// The limit for all of it is the `publish_timeout` of the session's first host.
    ///
    /// # Cancellation
    /// The message may or may not have been sent; it is not sent again.
    ///
    /// # Errors
    /// [`PublishError`]: `Deadline`, `Unroutable`, `Nacked`, `Invalid`; `Closed` with what a server refused, or
    /// [`Error::ClosedByUs`] if the session is gone.
    pub async fn publish(&self, message: Publish<'_>) -> Result<(), PublishError> {
        self.publish_pending(message).await?.await
    }

    /// Takes a message and returns a [`Pending`] to wait for, so that many can be on their way; the message is
    /// copied. Waits only while the publisher's byte limit is reached.
    ///
    /// # Cancellation
    /// Safe: cancelled while waiting, the message is not sent.
    ///
    /// # Errors
    /// [`PublishError::Deadline`] without room within `publish_timeout`; `Closed` if the session is gone.
    pub async fn publish_pending(&self, message: Publish<'_>) -> Result<Pending, PublishError> {
        let outbox = &self.outbox;
        let deadline = kernel::now() + outbox.timeout;
        let mut turn = Turn {
            outbox,
            size: size(&message),
            step: Step::Outside,
        };
        if turn.poll(Waker::noop()).is_pending() {
            let room = wait_until(deadline, |waker| turn.poll(waker));
            room.await
                .unwrap_or(Err(PublishError::Deadline(outbox.timeout)))?;
        }
        let entry = outbox.add(&message);
        drop(turn);
        let (outbox, place) = (Rc::clone(outbox), Rc::clone(&entry));
        let place = Place {
            outbox,
            entry: place,
        };
        Ok(Pending {
            waiting: Box::pin(place.settled(deadline)),
        })
    }

    /// How many messages are not confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.outbox.entries.borrow().len()
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({} unconfirmed)", self.unconfirmed())
    }
}

/// A message of a [`Publisher`], until a server has confirmed it. Dropped, the message is not sent again.
#[must_use = "a message is sent again only while its Pending is there"]
pub struct Pending {
    waiting: Pin<Box<dyn Future<Output = Result<(), PublishError>>>>,
}

impl Future for Pending {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.waiting.as_mut().poll(context)
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

/// An entry's place in the outbox, given up with this value.
struct Place {
    outbox: Rc<Outbox>,
    entry: Rc<Entry>,
}

impl Place {
    async fn settled(self, deadline: Instant) -> Result<(), PublishError> {
        let Place { outbox, entry } = &self;
        let settled = wait_until(deadline, |waker| match entry.poll(waker) {
            Poll::Pending if outbox.ended.get() => {
                Poll::Ready(Err(PublishError::Closed(Error::ClosedByUs)))
            }
            poll => poll,
        });
        settled
            .await
            .unwrap_or(Err(PublishError::Deadline(outbox.timeout)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.outbox.remove(&self.entry);
    }
}

/// `None`: the deadline has passed.
async fn wait_until<T>(
    deadline: Instant,
    poll: impl FnMut(&Waker) -> Poll<Result<T, PublishError>>,
) -> Option<Result<T, PublishError>> {
    let waiting = async { wait(poll).await? };
    match kernel::timeout_at(deadline, waiting).await {
        Err(PublishError::Kernel(kernel::Error::TaskTimeout)) => None,
        result => Some(result),
    }
}

//! One connection: bytes to frames to channels, and back into one buffer.

use super::call::Call;
use super::channel::Channel;
use super::handshake::{Handshake, Negotiated};
use super::line::{Line, Step};
use super::piece::Piece;
use super::wakers::Wakers;
use crate::codec::{WriteBuffer, encode};
use crate::error::Error;
use crate::options::ConnectOptions;
use crate::protocol::{AMQPClass, ShortString, channel, connection, reply};
use connection::AMQPMethod as Connection;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

pub(super) enum Phase {
    Handshake(Option<Handshake>),
    Open,
    /// Our Close is out; all but its answer is dropped.
    Closing,
    Closed,
}

/// A connection's state.
pub(crate) struct Core {
    options: ConnectOptions,
    pub(super) phase: RefCell<Phase>,
    pub(super) negotiated: OnceCell<Negotiated>,
    pub(super) frame_max: Cell<u32>,
    pub(super) out: RefCell<WriteBuffer>,
    /// The body frame of which only a part has come.
    pub(super) piece: Cell<Option<Piece>>,
    /// By channel id; 0 stays empty.
    pub(super) channels: RefCell<Vec<Option<Rc<Channel>>>>,
    /// Channels with acks that wait to be told.
    acking: RefCell<Vec<u16>>,
    /// Deliveries dropped without being settled: channel and tag.
    dropped: RefCell<Vec<(Rc<Channel>, u64)>>,
    /// `connection.update-secret` in flight.
    pub(super) secret: RefCell<Option<Rc<Call>>>,
    pub(super) blocked: RefCell<Option<String>>,
    closed: RefCell<Option<Error>>,
    /// Bytes of deliveries that wait for their consumers.
    buffered: Cell<usize>,
    /// Whoever writes the output.
    pub(super) writer: RefCell<Wakers>,
    /// Whoever waits for the connection to open, close, block or unblock.
    pub(super) watchers: RefCell<Wakers>,
    /// Publishers without room in the write buffer.
    publishers: RefCell<Line>,
    /// The reader, while too much is buffered.
    reader: RefCell<Wakers>,
    /// Whoever gives dropped deliveries back.
    returner: RefCell<Wakers>,
}

impl Core {
    /// A connection whose protocol header waits to be written.
    pub(crate) fn new(options: ConnectOptions) -> Rc<Self> {
        let mut out = WriteBuffer::new();
        let handshake = Handshake::begin(out.out());
        Rc::new(Core {
            // Before the server has spoken, our own wish is the limit.
            frame_max: Cell::new(options.frame_max.max(crate::protocol::FRAME_MIN_SIZE)),
            options,
            phase: RefCell::new(Phase::Handshake(Some(handshake))),
            negotiated: OnceCell::new(),
            out: RefCell::new(out),
            piece: Cell::new(None),
            channels: RefCell::default(),
            acking: RefCell::default(),
            dropped: RefCell::default(),
            secret: RefCell::default(),
            blocked: RefCell::default(),
            closed: RefCell::default(),
            buffered: Cell::new(0),
            writer: RefCell::default(),
            watchers: RefCell::default(),
            publishers: RefCell::default(),
            reader: RefCell::default(),
            returner: RefCell::default(),
        })
    }

    pub(crate) fn options(&self) -> &ConnectOptions {
        &self.options
    }

    pub(crate) fn frame_max(&self) -> u32 {
        self.frame_max.get()
    }

    pub(crate) fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.get()
    }

    // --- states others wait for ---

    /// Waits until the handshake is over.
    pub(crate) fn poll_open(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        if let Some(error) = self.closed() {
            return Poll::Ready(Err(error));
        }
        if self.negotiated.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        self.watchers.borrow_mut().add(waker);
        Poll::Pending
    }

    /// The first cause of the end, once the connection is over.
    pub(crate) fn closed(&self) -> Option<Error> {
        self.closed.borrow().clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    pub(crate) fn poll_closed(&self, waker: &Waker) -> Poll<Error> {
        match self.closed() {
            Some(error) => Poll::Ready(error),
            None => {
                self.watchers.borrow_mut().add(waker);
                Poll::Pending
            }
        }
    }

    /// Why the server blocks publishers, if it does.
    pub(crate) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }

    /// Waits for the blocked state to differ from `seen`, or for the end.
    pub(crate) fn poll_blocked(
        &self,
        seen: bool,
        waker: &Waker,
    ) -> Poll<Result<Option<String>, Error>> {
        if let Some(error) = self.closed() {
            return Poll::Ready(Err(error));
        }
        let blocked = self.blocked();
        if blocked.is_some() != seen {
            return Poll::Ready(Ok(blocked));
        }
        self.watchers.borrow_mut().add(waker);
        Poll::Pending
    }

    // --- output ---

    /// Appends to the output and lets the writer know.
    #[inline]
    pub(crate) fn write(&self, append: impl FnOnce(&mut Vec<u8>)) {
        append(self.out.borrow_mut().out());
        self.writer.borrow_mut().wake();
    }

    /// Notes that a channel has acks to tell.
    #[inline]
    pub(super) fn acks_wait(&self, id: u16) {
        self.acking.borrow_mut().push(id);
        self.writer.borrow_mut().wake();
    }

    /// Exchanges what is to be written against the empty `spare`. Called once per turn: this is where acks are
    /// coalesced.
    pub(crate) fn take_output(&self, spare: &mut Vec<u8>) {
        let acking = std::mem::take(&mut *self.acking.borrow_mut());
        for id in acking {
            if let Some(channel) = self.channel(id) {
                channel.collect_acks(self.out.borrow_mut().out());
            }
        }
        self.out.borrow_mut().swap(spare);
        self.let_publishers_in();
    }

    /// Waits until there is something to write.
    pub(crate) fn poll_output(&self, waker: &Waker) -> Poll<()> {
        if !self.out.borrow().is_empty() || !self.acking.borrow().is_empty() || self.is_closed() {
            return Poll::Ready(());
        }
        self.writer.borrow_mut().add(waker);
        Poll::Pending
    }

    /// Whether a Close was written, so that nothing follows what is in the output now.
    pub(crate) fn is_sealed(&self) -> bool {
        self.out.borrow().is_sealed()
    }

    // --- room in the output ---

    /// Bytes in the write buffer, and how many may be.
    #[inline]
    fn write_room(&self) -> (usize, usize) {
        let limit = match *self.blocked.borrow() {
            Some(_) => 0,
            None => self.options.write_buffer_bytes,
        };
        (self.out.borrow().len(), limit)
    }

    #[inline]
    pub(super) fn has_write_room(&self) -> bool {
        let (used, limit) = self.write_room();
        self.publishers.borrow().has_room(used, limit)
    }

    /// Goes on in the line of publishers; see [`super::room::Room`].
    pub(super) fn advance_in_buffer(&self, step: &mut Step, bytes: usize, waker: &Waker) -> bool {
        let room = self.write_room();
        let mut publishers = self.publishers.borrow_mut();
        publishers.advance(step, bytes, room, waker)
    }

    pub(super) fn leave_buffer(&self, step: Step, bytes: usize) {
        self.publishers.borrow_mut().leave(step, bytes);
        self.let_publishers_in();
    }

    #[inline]
    pub(super) fn let_publishers_in(&self) {
        let (used, limit) = self.write_room();
        self.publishers.borrow_mut().let_in(used, limit);
    }

    /// A heartbeat is due.
    pub(crate) fn write_heartbeat(&self) {
        self.write(encode::heartbeat);
    }

    // --- channels ---

    /// Opens a channel: the call is answered when it is open.
    pub(crate) fn open_channel(self: &Rc<Self>) -> Result<(Rc<Channel>, Rc<Call>), Error> {
        if let Some(error) = self.closed() {
            return Err(error);
        }
        let Some(negotiated) = self.negotiated.get().filter(|_| !self.is_sealed()) else {
            return Err(Error::ClosedByUs);
        };
        let channel = {
            let channels = &mut *self.channels.borrow_mut();
            if channels.is_empty() {
                channels.push(None);
            }
            let free = channels
                .iter()
                .skip(1)
                .position(Option::is_none)
                .map(|at| at + 1);
            let id = free.unwrap_or(channels.len());
            if id > usize::from(negotiated.channel_max) {
                return Err(Error::NoFreeChannel {
                    channel_max: negotiated.channel_max,
                });
            }
            let channel = Channel::new(id as u16, Rc::clone(self));
            if free.is_none() {
                channels.push(None);
            }
            channels[id] = Some(Rc::clone(&channel));
            channel
        };
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        let call = channel.call(&open, "channel.open", (20, 11))?;
        Ok((channel, call))
    }

    /// The channel's id is free again.
    pub(super) fn forget(&self, id: u16) {
        let channel = self.channels.borrow_mut()[usize::from(id)].take();
        drop(channel);
    }

    /// Sends a new secret for a login that expires (RabbitMQ's `connection.update-secret`).
    pub(crate) fn update_secret(&self, secret: &str, why: &str) -> Result<Rc<Call>, Error> {
        if let Some(error) = self.closed() {
            return Err(error);
        }
        if self.secret.borrow().is_some() {
            return Err(Error::Invalid(
                "another update of the secret waits for its answer".into(),
            ));
        }
        let update = connection::UpdateSecret {
            new_secret: secret.into(),
            reason: super::short(why, "reason")?,
        };
        let call = Call::new("connection.update-secret", (10, 71));
        *self.secret.borrow_mut() = Some(Rc::clone(&call));
        self.write(|out| {
            encode::method(
                out,
                0,
                &AMQPClass::Connection(Connection::UpdateSecret(update)),
            )
        });
        Ok(call)
    }

    // --- the end ---

    /// Sends `connection.close`; everything that waits ends with `ClosedByUs` now, and the connection is over once
    /// the answer came.
    pub(crate) fn close(&self, code: u16, text: &str) {
        if self.is_closed() || self.is_sealed() {
            return;
        }
        self.end_channels(&Error::ClosedByUs);
        if matches!(*self.phase.borrow(), Phase::Open) {
            self.write_close(code, text);
            *self.phase.borrow_mut() = Phase::Closing;
        } else {
            self.fail(Error::ClosedByUs);
        }
    }

    fn write_close(&self, code: u16, text: &str) {
        // Acks that were called before the close leave before it.
        let mut acks = Vec::new();
        std::mem::swap(&mut acks, &mut *self.acking.borrow_mut());
        let mut out = self.out.borrow_mut();
        for id in acks {
            if let Some(channel) = self.channel(id) {
                channel.collect_acks(out.out());
            }
        }
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let reply_text = ShortString::try_new(&text[..end]).unwrap_or_default();
        let close = connection::Close {
            reply_code: code,
            reply_text,
            class_id: 0,
            method_id: 0,
        };
        encode::method(
            out.out(),
            0,
            &AMQPClass::Connection(Connection::Close(close)),
        );
        out.seal();
        drop(out);
        self.writer.borrow_mut().wake();
    }

    /// The peer did what it may not: tell it, and end.
    pub(super) fn give_up(&self, error: Error) {
        if matches!(*self.phase.borrow(), Phase::Open) {
            let code = match &error {
                Error::Protocol { code, .. } => *code,
                Error::MessageTooLarge { .. } => reply::CONTENT_TOO_LARGE,
                _ => reply::INTERNAL_ERROR,
            };
            self.write_close(code, &error.to_string());
        }
        self.fail(error);
    }

    /// The connection is over. The first cause counts; everything that waits is told it.
    pub(crate) fn fail(&self, error: Error) {
        if self.is_closed() {
            return;
        }
        *self.closed.borrow_mut() = Some(error.clone());
        *self.phase.borrow_mut() = Phase::Closed;
        self.out.borrow_mut().seal();
        self.end_channels(&error);
        if let Some(call) = self.secret.borrow_mut().take() {
            call.answer(Err(error));
        }
        for wakers in [&self.writer, &self.watchers, &self.reader, &self.returner] {
            wakers.borrow_mut().wake();
        }
    }

    /// The transport ended: by itself, or with an error of the system.
    pub(crate) fn transport_ended(&self, error: Error) {
        let hung_up = match &*self.phase.borrow() {
            Phase::Handshake(Some(handshake)) => handshake.hung_up(),
            Phase::Closing => Some(Error::ClosedByUs),
            _ => None,
        };
        self.fail(hung_up.unwrap_or(error));
    }

    fn end_channels(&self, error: &Error) {
        let channels = std::mem::take(&mut *self.channels.borrow_mut());
        for channel in channels.into_iter().flatten() {
            // What was acked before still counts.
            channel.collect_acks(self.out.borrow_mut().out());
            channel.fail(error);
        }
        self.dropped.borrow_mut().clear();
        self.publishers.borrow_mut().let_all_in();
    }

    // --- bytes that wait for their consumers ---

    #[inline]
    pub(super) fn buffer(&self, bytes: usize) {
        self.buffered
            .set(self.buffered.get() + bytes + MESSAGE_OVERHEAD);
    }

    #[inline]
    pub(super) fn unbuffer(&self, bytes: usize) {
        let left = self.buffered.get().saturating_sub(bytes + MESSAGE_OVERHEAD);
        self.buffered.set(left);
        if left <= self.options.read_buffer_bytes / 2 {
            self.reader.borrow_mut().wake();
        }
    }

    /// Whether reading has to wait for the consumers.
    pub(crate) fn is_over_full(&self) -> bool {
        self.buffered.get() > self.options.read_buffer_bytes
    }

    /// Waits until at least half of the buffer is free again.
    pub(crate) fn poll_read_room(&self, waker: &Waker) -> Poll<()> {
        if self.buffered.get() <= self.options.read_buffer_bytes / 2 || self.is_closed() {
            return Poll::Ready(());
        }
        self.reader.borrow_mut().add(waker);
        Poll::Pending
    }

    // --- deliveries dropped without being settled ---

    pub(crate) fn dropped(&self, channel: Rc<Channel>, tag: u64) {
        if !self.is_closed() && channel.closed().is_none() {
            self.dropped.borrow_mut().push((channel, tag));
            self.returner.borrow_mut().wake();
        }
    }

    /// Waits for a delivery to be dropped, or for the end.
    pub(crate) fn poll_dropped(&self, waker: &Waker) -> Poll<()> {
        if !self.dropped.borrow().is_empty() || self.is_closed() {
            return Poll::Ready(());
        }
        self.returner.borrow_mut().add(waker);
        Poll::Pending
    }

    /// Gives the dropped deliveries back to their queues; returns how many there were.
    pub(crate) fn give_back_dropped(&self) -> usize {
        let dropped = std::mem::take(&mut *self.dropped.borrow_mut());
        for (channel, tag) in &dropped {
            // An error means that the channel is closed: the server gives it back by itself.
            let _ = channel.settle(*tag, super::Settle::Nack { requeue: true });
        }
        dropped.len()
    }
}

/// What a waiting message takes besides its body, roughly.
const MESSAGE_OVERHEAD: usize = 128;

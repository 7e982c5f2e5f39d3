//! One channel: calls in flight, consumers, confirms, deliveries, and the content under way.

use super::confirms::{Confirms, Outcome, fingerprint};
use super::connection::Core;
use super::ledger::Ledger;
use super::message::{ConsumerState, Ended, Message, Names, Raw};
use super::request::{Consume, Publish};
use super::wakers::Wakers;
use crate::codec::{Ack, Assembler, Content, Header, Method, Nack, Reject, encode, fits_short};
use crate::error::{Error, PublishError, Returned};
use crate::protocol::{AMQPClass, basic, channel, reply};
use basic::AMQPMethod as Basic;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// What answers a call.
#[derive(Debug)]
pub(crate) enum Reply {
    Method(Box<AMQPClass>),
    /// `basic.get`: a message and how many are left, or nothing.
    Got(Option<(Raw, u32)>),
}

/// A request on its way. It stays in the channel's line until its answer came, also when nobody waits for it any
/// more: answers are told apart only by their order.
pub(crate) struct Call {
    pub(crate) what: &'static str,
    /// Class and method of the answer.
    expects: (u16, u16),
    answer: RefCell<Option<Result<Reply, Error>>>,
    waiting: RefCell<Wakers>,
    /// Nobody waits for it; a message it brings is given back.
    pub(crate) abandoned: Cell<bool>,
}

impl Call {
    pub(crate) fn new(what: &'static str, expects: (u16, u16)) -> Rc<Self> {
        Rc::new(Call {
            what,
            expects,
            answer: RefCell::default(),
            waiting: RefCell::default(),
            abandoned: Cell::new(false),
        })
    }

    pub(crate) fn answer(&self, answer: Result<Reply, Error>) {
        self.answer.borrow_mut().get_or_insert(answer);
        self.waiting.borrow_mut().wake();
    }

    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<Reply, Error>> {
        match self.answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.waiting.borrow_mut().add(waker);
                Poll::Pending
            }
        }
    }
}

/// How a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack,
    Nack { requeue: bool },
    Reject { requeue: bool },
}

/// The method before a content.
enum Carrier {
    Deliver {
        consumer: Option<Rc<ConsumerState>>,
        raw: Envelope,
    },
    GetOk {
        raw: Envelope,
        left: u32,
    },
    Return(basic::Return),
}

struct Envelope {
    tag: u64,
    redelivered: bool,
    exchange: Arc<str>,
    routing_key: Arc<str>,
}

impl Envelope {
    fn fill(self, properties: crate::codec::RawProperties, body: Vec<u8>) -> Raw {
        let Envelope {
            tag,
            redelivered,
            exchange,
            routing_key,
        } = self;
        Raw {
            tag,
            message: Message {
                exchange,
                routing_key,
                redelivered,
                properties,
                body,
            },
        }
    }
}

enum Status {
    Open,
    /// Our Close is out; all but its answer is dropped (AMQP 0-9-1 §1.5.2.5).
    Closing(Rc<Call>),
    Closed(Error),
}

/// How many returned messages wait for somebody to ask for them; older ones are dropped, with a line in the log.
const RETURNS_MAX: usize = 256;

struct State {
    status: Status,
    content: Assembler<Carrier>,
    calls: VecDeque<Rc<Call>>,
    consumers: Vec<Rc<ConsumerState>>,
    confirms: Option<Confirms>,
    ledger: Ledger,
    names: Names,
    /// `channel.flow`: whether the server wants content from us.
    flowing: bool,
    returns: VecDeque<Returned>,
    next_consumer: u32,
    /// Those that wait for room to publish, for returned messages, or for the end.
    waiting: Wakers,
}

/// One channel of a connection, open or closed.
pub(crate) struct Channel {
    pub(crate) id: u16,
    pub(crate) core: Rc<Core>,
    state: RefCell<State>,
    /// Whether the connection knows that acks wait to be told.
    pub(super) dirty: Cell<bool>,
}

impl Channel {
    pub(super) fn new(id: u16, core: Rc<Core>) -> Rc<Self> {
        Rc::new(Channel {
            id,
            core,
            dirty: Cell::new(false),
            state: RefCell::new(State {
                status: Status::Open,
                content: Assembler::new(),
                calls: VecDeque::new(),
                consumers: Vec::new(),
                confirms: None,
                ledger: Ledger::new(),
                names: Names::default(),
                flowing: true,
                returns: VecDeque::new(),
                next_consumer: 1,
                waiting: Wakers::default(),
            }),
        })
    }

    /// Why the channel is closed, if it is.
    pub(crate) fn closed(&self) -> Option<Error> {
        match &self.state.borrow().status {
            Status::Open => None,
            Status::Closing(_) => Some(Error::ClosedByUs),
            Status::Closed(error) => Some(error.clone()),
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        self.closed().map_or(Ok(()), Err)
    }

    /// Waits for the end of the channel.
    pub(crate) fn poll_closed(&self, waker: &Waker) -> Poll<Error> {
        match self.closed() {
            Some(error) => Poll::Ready(error),
            None => {
                self.state.borrow_mut().waiting.add(waker);
                Poll::Pending
            }
        }
    }

    /// Sends a request and puts it in line for its answer.
    pub(crate) fn call(
        &self,
        method: &AMQPClass,
        what: &'static str,
        expects: (u16, u16),
    ) -> Result<Rc<Call>, Error> {
        self.send(method)?;
        let call = Call::new(what, expects);
        self.state.borrow_mut().calls.push_back(Rc::clone(&call));
        Ok(call)
    }

    /// Sends a method without an answer. Acks noted before it go first.
    pub(crate) fn send(&self, method: &AMQPClass) -> Result<(), Error> {
        self.check_open()?;
        self.core.write(|out| {
            self.collect_acks(out);
            encode::method(out, self.id, method);
        });
        Ok(())
    }

    pub(super) fn collect_acks(&self, out: &mut Vec<u8>) {
        self.dirty.set(false);
        self.state
            .borrow_mut()
            .ledger
            .collect(|ack| encode::ack(out, self.id, ack));
    }

    // --- publishing ---

    pub(crate) fn has_confirms(&self) -> bool {
        self.state.borrow().confirms.is_some()
    }

    /// How many publishes are not confirmed yet.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.state
            .borrow()
            .confirms
            .as_ref()
            .map_or(0, Confirms::pending)
    }

    /// Waits until a publish may go out: the server is not blocking, flow is on, window and buffer have room.
    #[inline]
    pub(crate) fn poll_room(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        let state = &mut *self.state.borrow_mut();
        match &state.status {
            Status::Open => {}
            Status::Closing(_) => return Poll::Ready(Err(Error::ClosedByUs)),
            Status::Closed(error) => return Poll::Ready(Err(error.clone())),
        }
        let window = state.confirms.as_ref().map_or(0, Confirms::pending);
        let full = !state.flowing || window >= self.core.options().confirm_window;
        if full {
            state.waiting.add(waker);
            return Poll::Pending;
        }
        self.core.poll_write_room(waker).map(Ok)
    }

    /// [`Channel::poll_room`] without waiting; a closed channel has no room.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state.borrow();
        let window = state.confirms.as_ref().map_or(0, Confirms::pending);
        matches!(state.status, Status::Open)
            && state.flowing
            && window < self.core.options().confirm_window
            && self.core.has_write_room()
    }

    /// Writes a message. Gives its number if the channel has confirms.
    #[inline]
    pub(crate) fn publish(&self, message: &Publish<'_>) -> Result<Option<u64>, PublishError> {
        if !fits_short(message.exchange) || !fits_short(message.routing_key) {
            let text = "exchange names and routing keys are at most 255 bytes long";
            return Err(PublishError::Invalid(Error::Invalid(text.into())));
        }
        let state = &mut *self.state.borrow_mut();
        if !matches!(state.status, Status::Open) {
            let error = match &state.status {
                Status::Closed(error) => error.clone(),
                _ => Error::ClosedByUs,
            };
            return Err(PublishError::Closed(error));
        }
        let method = crate::codec::Publish {
            exchange: message.exchange,
            routing_key: message.routing_key,
            mandatory: message.mandatory,
            immediate: false,
        };
        let frame_max = self.core.frame_max();
        self.core.write(|out| {
            encode::publish(
                out,
                self.id,
                &method,
                message.properties.as_wire(),
                message.body,
                frame_max,
            );
        });
        Ok(state.confirms.as_mut().map(|confirms| {
            let mark = message
                .mandatory
                .then(|| fingerprint(message.exchange, message.routing_key, message.body));
            confirms.publish(mark)
        }))
    }

    /// Waits for the confirm of a publish.
    #[inline]
    pub(crate) fn poll_confirm(
        &self,
        number: u64,
        waker: &Waker,
    ) -> Poll<Result<(), PublishError>> {
        let state = &mut *self.state.borrow_mut();
        let confirms = state
            .confirms
            .as_mut()
            .expect("numbers exist with confirms only");
        match confirms.poll(number, waker) {
            Poll::Ready(outcome) => Poll::Ready(as_result(outcome)),
            Poll::Pending => match &state.status {
                Status::Open => Poll::Pending,
                Status::Closing(_) => Poll::Ready(Err(PublishError::Closed(Error::ClosedByUs))),
                Status::Closed(error) => Poll::Ready(Err(PublishError::Closed(error.clone()))),
            },
        }
    }

    /// The answer to a publish, if it is there. Its number is then forgotten.
    #[inline]
    pub(crate) fn confirmed(&self, number: u64) -> Option<Result<(), PublishError>> {
        let state = &mut *self.state.borrow_mut();
        let outcome = state.confirms.as_mut()?.take(number)?;
        Some(as_result(outcome))
    }

    /// Nobody waits for this confirm any more.
    pub(crate) fn abandon_confirm(&self, number: u64) {
        if let Some(confirms) = &mut self.state.borrow_mut().confirms {
            confirms.abandon(number);
        }
    }

    /// Waits until every publish so far is settled, or the channel is closed.
    pub(crate) fn poll_all_confirmed(&self, waker: &Waker) -> Poll<Result<(), Error>> {
        let state = &mut *self.state.borrow_mut();
        if state.confirms.as_ref().map_or(0, Confirms::pending) == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Status::Closed(error) = &state.status {
            return Poll::Ready(Err(error.clone()));
        }
        state.waiting.add(waker);
        Poll::Pending
    }

    /// Takes a message that came back and belongs to no confirm.
    pub(crate) fn poll_returned(&self, waker: &Waker) -> Poll<Result<Returned, Error>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(returned) = state.returns.pop_front() {
            return Poll::Ready(Ok(returned));
        }
        if let Status::Closed(error) = &state.status {
            return Poll::Ready(Err(error.clone()));
        }
        state.waiting.add(waker);
        Poll::Pending
    }

    // --- consuming ---

    /// Sends `basic.consume`; the consumer is known before the answer, for deliveries may follow it at once.
    pub(crate) fn consume(
        &self,
        request: &Consume,
    ) -> Result<(Rc<ConsumerState>, Rc<Call>), Error> {
        let tag = {
            let state = &mut *self.state.borrow_mut();
            let number = state.next_consumer;
            state.next_consumer += 1;
            if request.tag.is_empty() {
                format!("c{}-{number}", self.id)
            } else {
                request.tag.clone()
            }
        };
        let taken = self
            .state
            .borrow()
            .consumers
            .iter()
            .any(|consumer| consumer.tag == tag);
        if taken {
            return Err(Error::Invalid(format!(
                "consumer tag {tag:?} is in use on this channel"
            )));
        }
        let call = self.call(&request.method(&tag)?, "basic.consume", (60, 21))?;
        let consumer = Rc::new(ConsumerState::new(tag, request.no_ack));
        self.state.borrow_mut().consumers.push(Rc::clone(&consumer));
        Ok((consumer, call))
    }

    /// Sends `basic.cancel`. Deliveries that were on their way still come, up to its answer.
    pub(crate) fn cancel_consumer(&self, consumer: &ConsumerState) -> Result<Rc<Call>, Error> {
        let consumer_tag = super::short(&consumer.tag, "consumer tag")?;
        let cancel = basic::Cancel {
            consumer_tag,
            nowait: false,
        };
        self.call(
            &AMQPClass::Basic(Basic::Cancel(cancel)),
            "basic.cancel",
            (60, 31),
        )
    }

    /// Its user is gone: cancel it, and give back what waits for it.
    pub(crate) fn abandon_consumer(&self, consumer: &ConsumerState) {
        consumer.abandoned.set(true);
        if consumer.ended.borrow().is_none() {
            // An error means that the channel is closed, and with it the consumer.
            let _ = self.cancel_consumer(consumer);
        }
        let waiting = std::mem::take(&mut *consumer.queue.borrow_mut());
        for raw in waiting {
            self.core.unbuffer(raw.message.body.len());
            self.give_back_unseen(consumer.no_ack, raw.tag);
        }
    }

    fn give_back_unseen(&self, no_ack: bool, tag: u64) {
        if !no_ack {
            // An error means that the channel is closed: the server gives it back by itself.
            let _ = self.settle(tag, Settle::Nack { requeue: true });
        }
    }

    /// Takes the next delivery that waits.
    #[inline]
    pub(crate) fn take_delivery(&self, consumer: &ConsumerState) -> Option<Raw> {
        let raw = consumer.queue.borrow_mut().pop_front()?;
        self.core.unbuffer(raw.message.body.len());
        Some(raw)
    }

    /// Settles one delivery. Acks are only noted; they leave with the next output.
    ///
    /// # Errors
    /// The channel's end, or [`Error::AlreadySettled`].
    #[inline]
    pub(crate) fn settle(self: &Channel, tag: u64, how: Settle) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        match &state.status {
            Status::Open => {}
            Status::Closing(_) => return Err(Error::ClosedByUs),
            Status::Closed(error) => return Err(error.clone()),
        }
        match how {
            Settle::Ack => {
                state.ledger.ack(tag).map_err(|_| Error::AlreadySettled)?;
                if !self.dirty.replace(true) {
                    self.core.acks_wait(self.id);
                }
            }
            Settle::Nack { requeue } => {
                state
                    .ledger
                    .settle(tag)
                    .map_err(|_| Error::AlreadySettled)?;
                let nack = Nack {
                    delivery_tag: tag,
                    multiple: false,
                    requeue,
                };
                self.core.write(|out| encode::nack(out, self.id, nack));
            }
            Settle::Reject { requeue } => {
                state
                    .ledger
                    .settle(tag)
                    .map_err(|_| Error::AlreadySettled)?;
                let reject = Reject {
                    delivery_tag: tag,
                    requeue,
                };
                self.core.write(|out| encode::reject(out, self.id, reject));
            }
        }
        Ok(())
    }

    /// Settles all outstanding deliveries up to and including `tag` with one frame.
    pub(crate) fn settle_through(&self, tag: u64, how: Settle) -> Result<(), Error> {
        self.check_open()?;
        self.state
            .borrow_mut()
            .ledger
            .settle_through(tag)
            .map_err(|_| Error::AlreadySettled)?;
        self.core.write(|out| match how {
            Settle::Ack => encode::ack(
                out,
                self.id,
                Ack {
                    delivery_tag: tag,
                    multiple: true,
                },
            ),
            Settle::Nack { requeue } | Settle::Reject { requeue } => {
                encode::nack(
                    out,
                    self.id,
                    Nack {
                        delivery_tag: tag,
                        multiple: true,
                        requeue,
                    },
                );
            }
        });
        Ok(())
    }

    /// How many deliveries are not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.state.borrow().ledger.unsettled()
    }

    /// The server has taken all unsettled deliveries back.
    pub(crate) fn forget_deliveries(&self) {
        self.state.borrow_mut().ledger.forget_all();
    }

    // --- closing ---

    /// Sends `channel.close`; what waits on the channel ends with `ClosedByUs` now.
    pub(crate) fn close(&self, code: u16, text: &str) -> Result<Rc<Call>, Error> {
        let close = channel::Close {
            reply_code: code,
            reply_text: super::short(text, "close text")?,
            class_id: 0,
            method_id: 0,
        };
        self.send(&AMQPClass::Channel(channel::AMQPMethod::Close(close)))?;
        let call = Call::new("channel.close", (20, 41));
        self.end_waits(&Error::ClosedByUs);
        self.state.borrow_mut().status = Status::Closing(Rc::clone(&call));
        Ok(call)
    }

    /// The channel is over: everything that waits on it is told why.
    pub(super) fn fail(&self, error: &Error) {
        let state = &mut *self.state.borrow_mut();
        match std::mem::replace(&mut state.status, Status::Closed(error.clone())) {
            Status::Open => {}
            Status::Closing(call) => {
                call.answer(Err(error.clone()));
                state.status = Status::Closed(Error::ClosedByUs);
            }
            // The first cause stays.
            Status::Closed(first) => state.status = Status::Closed(first),
        }
        Self::end_all(state, error);
    }

    fn end_waits(&self, error: &Error) {
        Self::end_all(&mut self.state.borrow_mut(), error);
    }

    fn end_all(state: &mut State, error: &Error) {
        for call in state.calls.drain(..) {
            call.answer(Err(error.clone()));
        }
        for consumer in state.consumers.drain(..) {
            consumer.end(Ended::Closed(error.clone()));
        }
        if let Some(confirms) = &mut state.confirms {
            confirms.wake_all();
        }
        state.content = Assembler::new();
        state.waiting.wake();
    }

    // --- what the peer sends ---

    /// A method came on this channel.
    #[inline]
    pub(super) fn on_method(self: &Rc<Self>, method: Method<'_>) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        if let Status::Closing(_) = state.status {
            return self.on_method_while_closing(state, method);
        }
        match method {
            Method::Deliver(deliver) => {
                let consumer = state
                    .consumers
                    .iter()
                    .find(|consumer| consumer.tag == deliver.consumer_tag)
                    .cloned();
                let no_ack = consumer.as_ref().is_some_and(|consumer| consumer.no_ack);
                received(&mut state.ledger, deliver.delivery_tag, no_ack)?;
                let (exchange, routing_key) =
                    state.names.share(deliver.exchange, deliver.routing_key);
                let raw = Envelope {
                    tag: deliver.delivery_tag,
                    redelivered: deliver.redelivered,
                    exchange,
                    routing_key,
                };
                state
                    .content
                    .begin(Carrier::Deliver { consumer, raw })
                    .map_err(content_error)
            }
            Method::GetOk(got) => {
                let no_ack = state
                    .calls
                    .front()
                    .is_some_and(|call| call.expects == GET_NO_ACK);
                received(&mut state.ledger, got.delivery_tag, no_ack)?;
                let (exchange, routing_key) = state.names.share(got.exchange, got.routing_key);
                let raw = Envelope {
                    tag: got.delivery_tag,
                    redelivered: got.redelivered,
                    exchange,
                    routing_key,
                };
                state
                    .content
                    .begin(Carrier::GetOk {
                        raw,
                        left: got.message_count,
                    })
                    .map_err(content_error)
            }
            _ if !state.content.is_idle() => {
                Err(content_error(crate::codec::ContentError::MethodInside))
            }
            Method::Ack(ack) => confirm(state, ack.delivery_tag, ack.multiple, true),
            Method::Nack(nack) => confirm(state, nack.delivery_tag, nack.multiple, false),
            Method::Publish(_) | Method::Reject(_) => Err(Error::protocol(
                reply::COMMAND_INVALID,
                "a server does not send basic.publish or basic.reject",
            )),
            Method::Other(class) => self.on_other(state, class),
        }
    }

    /// Only Close-Ok counts, and the server's own Close, which may have crossed ours.
    fn on_method_while_closing(&self, state: &mut State, method: Method<'_>) -> Result<(), Error> {
        let Method::Other(class) = method else {
            return Ok(());
        };
        match *class {
            AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => {
                if let Status::Closing(call) =
                    std::mem::replace(&mut state.status, Status::Closed(Error::ClosedByUs))
                {
                    call.answer(Ok(Reply::Method(class)));
                }
                self.core.forget(self.id);
            }
            AMQPClass::Channel(channel::AMQPMethod::Close(_)) => self.write_close_ok(),
            _ => {}
        }
        Ok(())
    }

    fn write_close_ok(&self) {
        let close_ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
        self.core
            .write(|out| encode::method(out, self.id, &close_ok));
    }

    fn on_other(&self, state: &mut State, class: Box<AMQPClass>) -> Result<(), Error> {
        match *class {
            AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                let reason = super::handshake::close_reason(&channel_close(close));
                let error = Error::ChannelClosed(reason);
                self.write_close_ok();
                state.status = Status::Closed(error.clone());
                Self::end_all(state, &error);
                self.core.forget(self.id);
                Ok(())
            }
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => {
                state.flowing = flow.active;
                let ok = channel::AMQPMethod::FlowOk(channel::FlowOk {
                    active: flow.active,
                });
                self.core
                    .write(|out| encode::method(out, self.id, &AMQPClass::Channel(ok)));
                state.waiting.wake();
                Ok(())
            }
            AMQPClass::Basic(Basic::Return(returned)) => state
                .content
                .begin(Carrier::Return(returned))
                .map_err(content_error),
            AMQPClass::Basic(Basic::Cancel(cancel)) => {
                let tag = cancel.consumer_tag.as_str();
                if let Some(at) = state
                    .consumers
                    .iter()
                    .position(|consumer| consumer.tag == tag)
                {
                    state.consumers.swap_remove(at).end(Ended::Cancelled);
                }
                if !cancel.nowait {
                    let ok = Basic::CancelOk(basic::CancelOk {
                        consumer_tag: cancel.consumer_tag,
                    });
                    self.core
                        .write(|out| encode::method(out, self.id, &AMQPClass::Basic(ok)));
                }
                Ok(())
            }
            AMQPClass::Basic(Basic::GetEmpty(_)) => {
                let call = next_call(state, is_get).ok_or_else(|| unexpected_answer(60, 72))?;
                call.answer(Ok(Reply::Got(None)));
                Ok(())
            }
            _ => {
                let id = (class.get_amqp_class_id(), class.get_amqp_method_id());
                if let AMQPClass::Basic(Basic::CancelOk(ok)) = &*class {
                    let tag = ok.consumer_tag.as_str();
                    if let Some(at) = state
                        .consumers
                        .iter()
                        .position(|consumer| consumer.tag == tag)
                    {
                        state.consumers.swap_remove(at).end(Ended::Cancelled);
                    }
                }
                let call = next_call(state, |expects| expects == id)
                    .ok_or_else(|| unexpected_answer(id.0, id.1))?;
                // Publishes that follow it in the next frame are numbered already.
                if id == CONFIRM_SELECT_OK {
                    state.confirms.get_or_insert_with(Confirms::new);
                }
                call.answer(Ok(Reply::Method(class)));
                Ok(())
            }
        }
    }

    #[inline]
    pub(super) fn on_header(self: &Rc<Self>, header: &Header<'_>) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        if let Status::Closing(_) = state.status {
            return Ok(());
        }
        let limit = self.core.options().max_message_bytes;
        match state.content.header(header, limit) {
            Ok(None) => Ok(()),
            Ok(Some(content)) => self.on_content(state, content),
            Err(error) => Err(content_error(error)),
        }
    }

    #[inline]
    pub(super) fn on_body(self: &Rc<Self>, piece: &[u8]) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        if let Status::Closing(_) = state.status {
            return Ok(());
        }
        match state.content.body(piece).map_err(content_error)? {
            None => Ok(()),
            Some(content) => self.on_content(state, content),
        }
    }

    #[inline]
    fn on_content(&self, state: &mut State, content: Content<Carrier>) -> Result<(), Error> {
        let Content {
            method,
            properties,
            body,
        } = content;
        match method {
            Carrier::Deliver {
                consumer: Some(consumer),
                raw,
            } if !consumer.abandoned.get() => {
                self.core.buffer(body.len());
                consumer.push(raw.fill(properties, body));
                Ok(())
            }
            // Its consumer is cancelled or gone.
            Carrier::Deliver { consumer, raw } => {
                if !consumer.is_some_and(|consumer| consumer.no_ack) {
                    self.nack_now(state, raw.tag);
                }
                Ok(())
            }
            Carrier::GetOk { raw, left } => {
                let call = next_call(state, is_get).ok_or_else(|| unexpected_answer(60, 71))?;
                if call.abandoned.get() && call.expects == GET {
                    self.nack_now(state, raw.tag);
                } else {
                    call.answer(Ok(Reply::Got(Some((raw.fill(properties, body), left)))));
                }
                Ok(())
            }
            Carrier::Return(method) => {
                let returned = Box::new(Returned {
                    code: method.reply_code,
                    text: method.reply_text.to_string(),
                    exchange: method.exchange.to_string(),
                    routing_key: method.routing_key.to_string(),
                    properties,
                    body,
                });
                on_returned(state, returned);
                Ok(())
            }
        }
    }

    fn nack_now(&self, state: &mut State, tag: u64) {
        if state.ledger.settle(tag).is_ok() {
            let nack = Nack {
                delivery_tag: tag,
                multiple: false,
                requeue: true,
            };
            self.core.write(|out| encode::nack(out, self.id, nack));
        }
    }
}

/// What [`Channel::call`] expects for `basic.get`; get-ok and get-empty both answer it.
pub(crate) const GET: (u16, u16) = (60, 71);
/// As [`GET`] without acks. No method has this id: it only tells the two apart.
pub(crate) const GET_NO_ACK: (u16, u16) = (60, 0);
const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);

fn is_get(expects: (u16, u16)) -> bool {
    expects == GET || expects == GET_NO_ACK
}

/// Takes the oldest call in line if it waits for this answer. If not, it stays: the connection is about to end, and
/// the call has to be told why.
fn next_call(state: &mut State, waits_for: impl FnOnce((u16, u16)) -> bool) -> Option<Rc<Call>> {
    let call = state.calls.front()?;
    if waits_for(call.expects) {
        state.calls.pop_front()
    } else {
        None
    }
}

fn as_result(outcome: Outcome) -> Result<(), PublishError> {
    match outcome {
        Outcome::Acked => Ok(()),
        Outcome::Nacked => Err(PublishError::Nacked),
        Outcome::Returned(returned) => Err(PublishError::Unroutable(returned)),
    }
}

fn received(ledger: &mut Ledger, tag: u64, no_ack: bool) -> Result<(), Error> {
    ledger.received(tag, no_ack).map_err(|order| {
        let text = format!("delivery tag {tag} where {} was due", order.expected);
        Error::protocol(reply::COMMAND_INVALID, text)
    })
}

#[inline]
fn confirm(state: &mut State, number: u64, multiple: bool, acked: bool) -> Result<(), Error> {
    let Some(confirms) = &mut state.confirms else {
        return Err(Error::protocol(
            reply::COMMAND_INVALID,
            "a confirm on a channel without confirms",
        ));
    };
    let settled = confirms.settle(number, multiple, acked);
    state.waiting.wake();
    settled.map_err(|error| {
        let text = format!("a confirm for publish {}, which was never made", error.0);
        Error::protocol(reply::COMMAND_INVALID, text)
    })
}

fn on_returned(state: &mut State, returned: Box<Returned>) {
    let unclaimed = match &mut state.confirms {
        Some(confirms) => {
            let mark = fingerprint(&returned.exchange, &returned.routing_key, &returned.body);
            confirms.returned(mark, returned)
        }
        None => Some(returned),
    };
    let Some(returned) = unclaimed else {
        return;
    };
    if state.returns.len() == RETURNS_MAX {
        state.returns.pop_front();
        log::warn!(
            "amqp: more than {RETURNS_MAX} returned messages wait for somebody to ask for them; dropped the oldest"
        );
    }
    state.returns.push_back(*returned);
    state.waiting.wake();
}

fn content_error(error: crate::codec::ContentError) -> Error {
    match error {
        crate::codec::ContentError::TooLarge { size, limit } => {
            Error::MessageTooLarge { size, limit }
        }
        other => Error::protocol(other.reply_code(), other),
    }
}

fn unexpected_answer(class: u16, method: u16) -> Error {
    Error::protocol(
        reply::COMMAND_INVALID,
        format!("method {class}.{method} answers nothing that was asked"),
    )
}

/// The two Closes have the same fields.
fn channel_close(close: channel::Close) -> crate::protocol::connection::Close {
    crate::protocol::connection::Close {
        reply_code: close.reply_code,
        reply_text: close.reply_text,
        class_id: close.class_id,
        method_id: close.method_id,
    }
}

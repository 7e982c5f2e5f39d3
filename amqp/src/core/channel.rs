//! One channel, as its user drives it: calls, publishing, consuming, closing. What the peer sends is in `inbound.rs`.

use super::call::Call;
use super::confirms::{Confirms, Outcome, fingerprint};
use super::connection::Core;
use super::ledger::Ledger;
use super::line::Line;
use super::message::{ConsumerState, Ended, Message, Names, Raw};
use super::no_wait::unanswered;
use super::request::{Consume, Publish};
use super::wakers::Wakers;
use crate::codec::{Ack, Assembler, Nack, Reject, encode, fits_short};
use crate::error::{Error, PublishError, Returned};
use crate::protocol::{AMQPClass, basic, channel};
use basic::AMQPMethod as Basic;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

/// How a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack,
    Nack { requeue: bool },
    Reject { requeue: bool },
}

/// The method before a content.
pub(super) enum Carrier {
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

pub(super) struct Envelope {
    pub(super) tag: u64,
    pub(super) redelivered: bool,
    pub(super) exchange: Arc<str>,
    pub(super) routing_key: Arc<str>,
}

impl Envelope {
    pub(super) fn fill(self, properties: crate::codec::RawProperties, body: Vec<u8>) -> Raw {
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

pub(super) enum Status {
    Open,
    /// Our Close is out; all but its answer is dropped (AMQP 0-9-1 §1.5.2.5).
    Closing(Rc<Call>),
    Closed(Error),
}

pub(super) struct State {
    pub(super) status: Status,
    pub(super) content: Assembler<Carrier>,
    pub(super) calls: VecDeque<Rc<Call>>,
    pub(super) consumers: Vec<Rc<ConsumerState>>,
    pub(super) confirms: Option<Confirms>,
    pub(super) ledger: Ledger,
    pub(super) names: Names,
    /// `channel.flow`: whether the server wants content from us.
    pub(super) flowing: bool,
    pub(super) returns: VecDeque<Returned>,
    pub(super) next_consumer: u32,
    /// Those that wait for room to publish.
    pub(super) publishers: Line,
    /// Those that wait for all confirms, for returned messages, or for the end.
    pub(super) waiting: Wakers,
}

/// One channel of a connection, open or closed.
pub(crate) struct Channel {
    pub(crate) id: u16,
    pub(crate) core: Rc<Core>,
    pub(super) state: RefCell<State>,
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
                publishers: Line::default(),
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

    /// Sends a method without an answer. Acks noted before it go first. A method that no frame can hold (large
    /// arguments) is refused, and none of it is written.
    pub(crate) fn send(&self, method: &AMQPClass) -> Result<(), Error> {
        self.check_open()?;
        let frame_max = self.core.frame_max() as usize;
        let mut len = 0;
        self.core.write(|out| {
            self.collect_acks(out);
            let start = out.len();
            encode::method(out, self.id, method);
            len = out.len() - start;
            if len > frame_max {
                out.truncate(start);
            }
        });
        match len > frame_max {
            true => Err(too_large("the arguments of the method", len, frame_max)),
            false => Ok(()),
        }
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

    /// The server confirms what is published from now on.
    pub(super) fn begin_confirms(&self) {
        let state = &mut *self.state.borrow_mut();
        state.confirms.get_or_insert_with(Confirms::new);
    }

    /// How many publishes are not confirmed yet.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.state
            .borrow()
            .confirms
            .as_ref()
            .map_or(0, Confirms::pending)
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
        let frame_max = self.core.frame_max();
        let len = encode::header_frame_len(message.properties.as_wire());
        if len > frame_max as usize {
            let error = too_large("the properties", len, frame_max as usize);
            return Err(PublishError::Invalid(error));
        }
        let method = crate::codec::Publish {
            exchange: message.exchange,
            routing_key: message.routing_key,
            mandatory: message.mandatory,
            immediate: false,
        };
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
        let tag = self.consumer_tag(request)?;
        let call = self.call(&request.method(&tag)?, "basic.consume", (60, 21))?;
        Ok((self.add_consumer(tag, request), call))
    }

    /// [`Channel::consume`] without an answer.
    pub(crate) fn consume_no_wait(&self, request: &Consume) -> Result<Rc<ConsumerState>, Error> {
        let tag = self.consumer_tag(request)?;
        self.send(&unanswered(request.method(&tag)?))?;
        Ok(self.add_consumer(tag, request))
    }

    /// The one asked for, else one of our own.
    fn consumer_tag(&self, request: &Consume) -> Result<String, Error> {
        let state = &mut *self.state.borrow_mut();
        let tag = if request.tag.is_empty() {
            format!("c{}-{}", self.id, state.next_consumer)
        } else {
            request.tag.clone()
        };
        state.next_consumer += 1;
        if state.consumers.iter().any(|consumer| consumer.tag == tag) {
            return Err(Error::Invalid(format!(
                "consumer tag {tag:?} is in use on this channel"
            )));
        }
        Ok(tag)
    }

    fn add_consumer(&self, tag: String, request: &Consume) -> Rc<ConsumerState> {
        let consumer = Rc::new(ConsumerState::new(tag, request.no_ack));
        self.state.borrow_mut().consumers.push(Rc::clone(&consumer));
        consumer
    }

    /// Sends `basic.cancel` without an answer. Nothing tells which deliveries are the last, so the consumer stays
    /// known: what still comes for it is given back.
    pub(crate) fn cancel_consumer_no_wait(&self, consumer: &ConsumerState) -> Result<(), Error> {
        let cancel = basic::Cancel {
            consumer_tag: super::short(&consumer.tag, "consumer tag")?,
            nowait: true,
        };
        self.send(&AMQPClass::Basic(Basic::Cancel(cancel)))?;
        consumer.end(Ended::Cancelled);
        Ok(())
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

    pub(super) fn end_all(state: &mut State, error: &Error) {
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
        state.publishers.let_all_in();
        state.waiting.wake();
    }
}

fn as_result(outcome: Outcome) -> Result<(), PublishError> {
    match outcome {
        Outcome::Acked => Ok(()),
        Outcome::Nacked => Err(PublishError::Nacked),
        Outcome::Returned(returned) => Err(PublishError::Unroutable(returned)),
    }
}

/// Only bodies are cut into frames; everything else has to fit into one.
#[cold]
fn too_large(what: &str, len: usize, frame_max: usize) -> Error {
    Error::Invalid(format!(
        "{what} make a frame of {len} bytes, and the connection's frame_max is {frame_max}"
    ))
}

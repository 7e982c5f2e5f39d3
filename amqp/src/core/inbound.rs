//! What the peer sends on a channel.
//!
//! Methods answer calls, begin contents, confirm publishes or end the channel; headers and bodies complete contents. An
//! error returned here ends the connection, and only `core/connection.rs` says so to the peer.

use super::call::{Call, GET, GET_NO_ACK, Reply};
use super::channel::{Carrier, Channel, Envelope, State, Status};
use super::confirms::{Confirms, fingerprint};
use super::ledger::Ledger;
use super::message::Ended;
use super::room::let_in;
use crate::codec::{Content, Header, Method, Nack, encode};
use crate::error::{Error, Returned};
use crate::protocol::{AMQPClass, basic, channel, reply};
use basic::AMQPMethod as Basic;
use std::rc::Rc;

/// How many returned messages wait for somebody to ask for them; older ones are dropped, with a line in the log.
const RETURNS_MAX: usize = 256;

impl Channel {
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
            Method::Ack(ack) => self.on_confirm(state, ack.delivery_tag, ack.multiple, true),
            Method::Nack(nack) => self.on_confirm(state, nack.delivery_tag, nack.multiple, false),
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
                let_in(state, &self.core);
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

    /// A body frame with so much payload begins; its parts come by [`Channel::on_body_part`] or
    /// [`Channel::with_body`].
    pub(super) fn on_body_begin(&self, size: u32) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        if let Status::Closing(_) = state.status {
            return Ok(());
        }
        let begun = state.content.expect(u64::from(size));
        begun.map(drop).map_err(content_error)
    }

    /// Appends to the body under way; the channel may have been closed meanwhile, and then there is none.
    pub(super) fn on_body_part(&self, part: &[u8]) {
        self.with_body(|body| body.extend_from_slice(part));
    }

    pub(super) fn with_body<T>(&self, append: impl FnOnce(&mut Vec<u8>) -> T) -> Option<T> {
        let state = &mut *self.state.borrow_mut();
        state.content.expect(0).ok().map(append)
    }

    /// The frame begun has ended.
    pub(super) fn on_body_end(self: &Rc<Self>) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        match state.content.finish() {
            Some(content) => self.on_content(state, content),
            None => Ok(()),
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

    #[inline]
    fn on_confirm(
        &self,
        state: &mut State,
        number: u64,
        multiple: bool,
        acked: bool,
    ) -> Result<(), Error> {
        let Some(confirms) = &mut state.confirms else {
            return Err(Error::protocol(
                reply::COMMAND_INVALID,
                "a confirm on a channel without confirms",
            ));
        };
        confirms.settle(number, multiple, acked).map_err(|error| {
            let text = format!("a confirm for publish {}, which was never made", error.0);
            Error::protocol(reply::COMMAND_INVALID, text)
        })?;
        if confirms.pending() == 0 {
            state.waiting.wake();
        }
        let_in(state, &self.core);
        Ok(())
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

fn received(ledger: &mut Ledger, tag: u64, no_ack: bool) -> Result<(), Error> {
    ledger.received(tag, no_ack).map_err(|order| {
        let text = format!("delivery tag {tag} where {} was due", order.expected);
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

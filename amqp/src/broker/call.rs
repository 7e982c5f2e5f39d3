//! A frame on an open channel: finds its handler.

use super::arena::Key;
use super::channel::Channel;
use super::fault::Fault;
use super::peer::{Peer, Terms};
use super::world::World;
use crate::codec::{Frame, Method, WriteBuffer, encode};
use crate::protocol::{AMQPClass, FieldTable, basic, channel, confirm, exchange, queue};

/// Everything a handler may touch: its channel, its connection's buffer, and the shared world. The handlers are
/// methods on this, in `publish.rs`, `basic.rs` and `topology.rs`.
pub(crate) struct Call<'a> {
    pub(crate) peer: Key<Peer>,
    pub(crate) number: u16,
    pub(crate) channel: &'a mut Channel,
    pub(crate) out: &'a mut WriteBuffer,
    pub(crate) terms: &'a Terms,
    pub(crate) publishes: &'a mut bool,
    pub(crate) world: &'a mut World,
}

impl Call<'_> {
    /// Handles one frame. `true`: the client closes the channel.
    #[inline]
    pub(crate) fn frame(&mut self, frame: Frame<'_>) -> Result<bool, Fault> {
        let method = match frame {
            Frame::Header(_, header) => return self.header(&header).map(|()| false),
            Frame::Body(_, piece) => return self.body(piece).map(|()| false),
            Frame::Method(_, method) => method,
            Frame::Heartbeat => return Ok(false),
        };
        if !self.channel.assembly.is_idle() {
            return Err(Fault::unexpected_frame(
                "a method inside a message: its header or body was due",
            ));
        }
        match method {
            Method::Publish(publish) => {
                let result = self.publish(&publish);
                result.map_err(|fault| fault.in_method(60, 40))?;
            }
            Method::Ack(ack) => {
                let result = self.ack(ack.delivery_tag, ack.multiple);
                result.map_err(|fault| fault.in_method(60, 80))?;
            }
            Method::Nack(nack) => {
                let result = self.nack(nack.delivery_tag, nack.multiple, nack.requeue);
                result.map_err(|fault| fault.in_method(60, 120))?;
            }
            Method::Reject(reject) => {
                let result = self.nack(reject.delivery_tag, false, reject.requeue);
                result.map_err(|fault| fault.in_method(60, 90))?;
            }
            Method::Deliver(_) | Method::GetOk(_) => return Err(from_a_server()),
            Method::Other(method) => {
                let (class, id) = (method.get_amqp_class_id(), method.get_amqp_method_id());
                let result = self.other(*method);
                return result.map_err(|fault| fault.in_method(class, id));
            }
        }
        Ok(false)
    }

    /// All methods that are not hot.
    fn other(&mut self, method: AMQPClass) -> Result<bool, Fault> {
        match method {
            AMQPClass::Channel(method) => return self.channel_method(method),
            AMQPClass::Exchange(method) => match method {
                exchange::AMQPMethod::Declare(declare) => self.exchange_declare(&declare),
                exchange::AMQPMethod::Delete(delete) => self.exchange_delete(&delete),
                exchange::AMQPMethod::Bind(_) | exchange::AMQPMethod::Unbind(_) => {
                    Err(Fault::not_implemented("binding an exchange to an exchange"))
                }
                _ => Err(from_a_server()),
            },
            AMQPClass::Queue(method) => match method {
                queue::AMQPMethod::Declare(declare) => self.queue_declare(declare),
                queue::AMQPMethod::Bind(bind) => self.queue_bind(bind),
                queue::AMQPMethod::Unbind(unbind) => self.queue_unbind(&unbind),
                queue::AMQPMethod::Purge(purge) => self.queue_purge(&purge),
                queue::AMQPMethod::Delete(delete) => self.queue_delete(&delete),
                _ => Err(from_a_server()),
            },
            AMQPClass::Basic(method) => self.basic_method(method),
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => {
                self.channel.confirms.get_or_insert_default();
                let ok = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
                self.say_unless(select.nowait, AMQPClass::Confirm(ok));
                Ok(())
            }
            AMQPClass::Tx(_) => Err(Fault::not_implemented("class tx (use publisher confirms)")),
            AMQPClass::Access(_) => Err(Fault::not_implemented("class access")),
            AMQPClass::Connection(_) => Err(Fault::command_invalid(
                "a connection method is only valid on channel 0",
            )),
            _ => Err(from_a_server()),
        }
        .map(|()| false)
    }

    fn channel_method(&mut self, method: channel::AMQPMethod) -> Result<bool, Fault> {
        match method {
            channel::AMQPMethod::Close(_) => return Ok(true),
            channel::AMQPMethod::Open(_) => Err(Fault::new(
                crate::protocol::reply::CHANNEL_ERROR,
                format!("channel {} is open already", self.number),
            )),
            channel::AMQPMethod::Flow(flow) if flow.active => {
                let ok = channel::AMQPMethod::FlowOk(channel::FlowOk { active: true });
                self.say(AMQPClass::Channel(ok));
                Ok(())
            }
            channel::AMQPMethod::Flow(_) => Err(Fault::not_implemented(
                "stopping deliveries with channel.flow (use a prefetch)",
            )),
            _ => Err(from_a_server()),
        }
        .map(|()| false)
    }

    fn basic_method(&mut self, method: basic::AMQPMethod) -> Result<(), Fault> {
        match method {
            basic::AMQPMethod::Qos(qos) => self.qos(&qos),
            basic::AMQPMethod::Consume(consume) => self.consume(consume),
            basic::AMQPMethod::Cancel(cancel) => self.cancel(&cancel),
            basic::AMQPMethod::Get(get) => self.get(&get),
            basic::AMQPMethod::Recover(recover) => self.recover(recover.requeue, true),
            basic::AMQPMethod::RecoverAsync(recover) => self.recover(recover.requeue, false),
            _ => Err(from_a_server()),
        }
    }

    /// Writes a method on this channel.
    pub(crate) fn say(&mut self, method: AMQPClass) {
        encode::method(self.out.out(), self.number, &method);
    }

    /// Writes an answer that the client may have asked to leave out.
    pub(crate) fn say_unless(&mut self, nowait: bool, method: AMQPClass) {
        if !nowait {
            self.say(method);
        }
    }
}

/// A method that only a server sends.
fn from_a_server() -> Fault {
    Fault::command_invalid("this method is not for a client to send")
}

/// Arguments that change what a queue, exchange or consumer does and that we do not do. Accepting one without
/// doing it would be a promise broken in silence; unknown names promise nothing and are accepted, as on RabbitMQ.
pub(crate) fn refuse_arguments(arguments: &FieldTable, refused: &[&str]) -> Result<(), Fault> {
    match refused.iter().find(|name| arguments.contains_key(name)) {
        Some(name) => Err(Fault::not_implemented(format_args!("argument '{name}'"))),
        None => Ok(()),
    }
}

//! The protocol's requests and how to read their answers, one function each; both façades run them.

use super::request::{ExchangeDeclare, QueueDeclare, QueueOk, checked, short};
use crate::error::Error;
use crate::protocol::{
    AMQPClass, FieldTable, ShortString, basic, channel, confirm, exchange, queue, tx,
};
use basic::AMQPMethod as Basic;
use exchange::AMQPMethod as Exchange;
use queue::AMQPMethod as Queue;
use tx::AMQPMethod as Tx;

/// A request, its name for errors, the class and method of its answer, and how to read that.
pub(crate) struct Op<T> {
    pub(crate) method: AMQPClass,
    pub(crate) what: &'static str,
    pub(crate) expects: (u16, u16),
    /// `None` never happens: the channel hands over only the answer that was expected.
    pub(crate) read: fn(AMQPClass) -> Option<T>,
}

impl<T> Op<T> {
    fn new(what: &'static str, method: AMQPClass, read: fn(AMQPClass) -> Option<T>) -> Self {
        let expects = match (method.get_amqp_class_id(), method.get_amqp_method_id()) {
            EXCHANGE_UNBIND => EXCHANGE_UNBIND_OK,
            (class, request) => (class, request + 1),
        };
        Op {
            method,
            what,
            expects,
            read,
        }
    }
}

/// The one answer whose number does not follow its request's.
const EXCHANGE_UNBIND: (u16, u16) = (40, 40);
const EXCHANGE_UNBIND_OK: (u16, u16) = (40, 51);

/// A request whose answer says nothing but that it was done.
fn op(what: &'static str, method: AMQPClass) -> Op<()> {
    Op::new(what, method, |_| Some(()))
}

/// What a binding names, in the order in which it stands on the wire: where to (a queue or an exchange), from which
/// exchange, by which key.
type Names<'a> = [&'a str; 3];

/// The names of a binding to a queue or an exchange, as `kind` says.
fn binding(
    kind: &str,
    [to, source, routing_key]: Names<'_>,
    arguments: &FieldTable,
) -> Result<[ShortString; 3], Error> {
    checked(arguments)?;
    Ok([
        short(to, kind)?,
        short(source, "exchange name")?,
        short(routing_key, "routing key")?,
    ])
}

pub(crate) fn exchange_declare(declare: &ExchangeDeclare) -> Result<Op<()>, Error> {
    Ok(op("exchange.declare", declare.method()?))
}

pub(crate) fn exchange_delete(name: &str, if_unused: bool) -> Result<Op<()>, Error> {
    let delete = exchange::Delete {
        exchange: short(name, "exchange name")?,
        if_unused,
        nowait: false,
    };
    let delete = Exchange::Delete(delete);
    Ok(op("exchange.delete", AMQPClass::Exchange(delete)))
}

pub(crate) fn exchange_bind(names: Names<'_>, arguments: FieldTable) -> Result<Op<()>, Error> {
    let [destination, source, routing_key] = binding("exchange name", names, &arguments)?;
    let bind = Exchange::Bind(exchange::Bind {
        destination,
        source,
        routing_key,
        nowait: false,
        arguments,
    });
    Ok(op("exchange.bind", AMQPClass::Exchange(bind)))
}

pub(crate) fn exchange_unbind(names: Names<'_>, arguments: FieldTable) -> Result<Op<()>, Error> {
    let [destination, source, routing_key] = binding("exchange name", names, &arguments)?;
    let unbind = Exchange::Unbind(exchange::Unbind {
        destination,
        source,
        routing_key,
        nowait: false,
        arguments,
    });
    Ok(op("exchange.unbind", AMQPClass::Exchange(unbind)))
}

pub(crate) fn queue_declare(declare: &QueueDeclare) -> Result<Op<QueueOk>, Error> {
    Ok(Op::new(
        "queue.declare",
        declare.method()?,
        |answer| match answer {
            AMQPClass::Queue(Queue::DeclareOk(ok)) => Some(QueueOk {
                name: ok.queue.into(),
                messages: ok.message_count,
                consumers: ok.consumer_count,
            }),
            _ => None,
        },
    ))
}

pub(crate) fn queue_bind(names: Names<'_>, arguments: FieldTable) -> Result<Op<()>, Error> {
    let [queue, exchange, routing_key] = binding("queue name", names, &arguments)?;
    let bind = Queue::Bind(queue::Bind {
        queue,
        exchange,
        routing_key,
        nowait: false,
        arguments,
    });
    Ok(op("queue.bind", AMQPClass::Queue(bind)))
}

pub(crate) fn queue_unbind(names: Names<'_>, arguments: FieldTable) -> Result<Op<()>, Error> {
    let [queue, exchange, routing_key] = binding("queue name", names, &arguments)?;
    let unbind = Queue::Unbind(queue::Unbind {
        queue,
        exchange,
        routing_key,
        arguments,
    });
    Ok(op("queue.unbind", AMQPClass::Queue(unbind)))
}

pub(crate) fn queue_purge(queue: &str) -> Result<Op<u32>, Error> {
    let purge = Queue::Purge(queue::Purge {
        queue: short(queue, "queue name")?,
        nowait: false,
    });
    Ok(Op::new(
        "queue.purge",
        AMQPClass::Queue(purge),
        |answer| match answer {
            AMQPClass::Queue(Queue::PurgeOk(ok)) => Some(ok.message_count),
            _ => None,
        },
    ))
}

pub(crate) fn queue_delete(queue: &str, if_unused: bool, if_empty: bool) -> Result<Op<u32>, Error> {
    let delete = Queue::Delete(queue::Delete {
        queue: short(queue, "queue name")?,
        if_unused,
        if_empty,
        nowait: false,
    });
    Ok(Op::new(
        "queue.delete",
        AMQPClass::Queue(delete),
        |answer| match answer {
            AMQPClass::Queue(Queue::DeleteOk(ok)) => Some(ok.message_count),
            _ => None,
        },
    ))
}

pub(crate) fn qos(prefetch_count: u16) -> Op<()> {
    let qos = Basic::Qos(basic::Qos {
        prefetch_count,
        global: false,
    });
    op("basic.qos", AMQPClass::Basic(qos))
}

pub(crate) fn get(queue: &str, no_ack: bool) -> Result<Op<()>, Error> {
    let get = Basic::Get(basic::Get {
        queue: short(queue, "queue name")?,
        no_ack,
    });
    let mut op = op("basic.get", AMQPClass::Basic(get));
    op.expects = match no_ack {
        true => super::GET_NO_ACK,
        false => super::GET,
    };
    Ok(op)
}

pub(crate) fn recover(requeue: bool) -> Op<()> {
    let recover = Basic::Recover(basic::Recover { requeue });
    op("basic.recover", AMQPClass::Basic(recover))
}

pub(crate) fn flow(active: bool) -> Op<bool> {
    use channel::AMQPMethod::{Flow, FlowOk};
    let flow = AMQPClass::Channel(Flow(channel::Flow { active }));
    Op::new("channel.flow", flow, |answer| match answer {
        AMQPClass::Channel(FlowOk(ok)) => Some(ok.active),
        _ => None,
    })
}

pub(crate) fn confirm_select() -> Op<()> {
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    op("confirm.select", AMQPClass::Confirm(select))
}

pub(crate) fn tx_select() -> Op<()> {
    op("tx.select", AMQPClass::Tx(Tx::Select(tx::Select {})))
}

pub(crate) fn tx_commit() -> Op<()> {
    op("tx.commit", AMQPClass::Tx(Tx::Commit(tx::Commit {})))
}

pub(crate) fn tx_rollback() -> Op<()> {
    op("tx.rollback", AMQPClass::Tx(Tx::Rollback(tx::Rollback {})))
}

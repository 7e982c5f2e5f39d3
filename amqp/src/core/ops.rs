//! The protocol's requests and how to read their answers, one function each; both façades run them.

use super::request::{ExchangeDeclare, QueueDeclare, QueueOk, checked, short};
use crate::error::Error;
use crate::protocol::{AMQPClass, FieldTable, basic, channel, confirm, exchange, queue, tx};
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

fn nothing(_: AMQPClass) -> Option<()> {
    Some(())
}

fn op(method: AMQPClass, what: &'static str, expects: (u16, u16)) -> Op<()> {
    Op {
        method,
        what,
        expects,
        read: nothing,
    }
}

pub(crate) fn exchange_declare(declare: &ExchangeDeclare) -> Result<Op<()>, Error> {
    Ok(op(declare.method()?, "exchange.declare", (40, 11)))
}

pub(crate) fn exchange_delete(name: &str, if_unused: bool) -> Result<Op<()>, Error> {
    let delete = exchange::Delete {
        exchange: short(name, "exchange name")?,
        if_unused,
        nowait: false,
    };
    Ok(op(
        AMQPClass::Exchange(Exchange::Delete(delete)),
        "exchange.delete",
        (40, 21),
    ))
}

pub(crate) fn exchange_bind(
    destination: &str,
    source: &str,
    routing_key: &str,
    arguments: FieldTable,
) -> Result<Op<()>, Error> {
    checked(&arguments)?;
    let bind = exchange::Bind {
        destination: short(destination, "exchange name")?,
        source: short(source, "exchange name")?,
        routing_key: short(routing_key, "routing key")?,
        nowait: false,
        arguments,
    };
    Ok(op(
        AMQPClass::Exchange(Exchange::Bind(bind)),
        "exchange.bind",
        (40, 31),
    ))
}

pub(crate) fn exchange_unbind(
    destination: &str,
    source: &str,
    routing_key: &str,
    arguments: FieldTable,
) -> Result<Op<()>, Error> {
    checked(&arguments)?;
    let unbind = exchange::Unbind {
        destination: short(destination, "exchange name")?,
        source: short(source, "exchange name")?,
        routing_key: short(routing_key, "routing key")?,
        nowait: false,
        arguments,
    };
    Ok(op(
        AMQPClass::Exchange(Exchange::Unbind(unbind)),
        "exchange.unbind",
        (40, 51),
    ))
}

pub(crate) fn queue_declare(declare: &QueueDeclare) -> Result<Op<QueueOk>, Error> {
    let read = |answer| match answer {
        AMQPClass::Queue(Queue::DeclareOk(ok)) => Some(QueueOk {
            name: ok.queue.into(),
            messages: ok.message_count,
            consumers: ok.consumer_count,
        }),
        _ => None,
    };
    Ok(Op {
        method: declare.method()?,
        what: "queue.declare",
        expects: (50, 11),
        read,
    })
}

pub(crate) fn queue_bind(
    queue: &str,
    exchange: &str,
    routing_key: &str,
    arguments: FieldTable,
) -> Result<Op<()>, Error> {
    checked(&arguments)?;
    let bind = queue::Bind {
        queue: short(queue, "queue name")?,
        exchange: short(exchange, "exchange name")?,
        routing_key: short(routing_key, "routing key")?,
        nowait: false,
        arguments,
    };
    Ok(op(
        AMQPClass::Queue(Queue::Bind(bind)),
        "queue.bind",
        (50, 21),
    ))
}

pub(crate) fn queue_unbind(
    queue: &str,
    exchange: &str,
    routing_key: &str,
    arguments: FieldTable,
) -> Result<Op<()>, Error> {
    checked(&arguments)?;
    let unbind = queue::Unbind {
        queue: short(queue, "queue name")?,
        exchange: short(exchange, "exchange name")?,
        routing_key: short(routing_key, "routing key")?,
        arguments,
    };
    Ok(op(
        AMQPClass::Queue(Queue::Unbind(unbind)),
        "queue.unbind",
        (50, 51),
    ))
}

pub(crate) fn queue_purge(queue: &str) -> Result<Op<u32>, Error> {
    let purge = queue::Purge {
        queue: short(queue, "queue name")?,
        nowait: false,
    };
    let read = |answer| match answer {
        AMQPClass::Queue(Queue::PurgeOk(ok)) => Some(ok.message_count),
        _ => None,
    };
    Ok(Op {
        method: AMQPClass::Queue(Queue::Purge(purge)),
        what: "queue.purge",
        expects: (50, 31),
        read,
    })
}

pub(crate) fn queue_delete(queue: &str, if_unused: bool, if_empty: bool) -> Result<Op<u32>, Error> {
    let delete = queue::Delete {
        queue: short(queue, "queue name")?,
        if_unused,
        if_empty,
        nowait: false,
    };
    let read = |answer| match answer {
        AMQPClass::Queue(Queue::DeleteOk(ok)) => Some(ok.message_count),
        _ => None,
    };
    Ok(Op {
        method: AMQPClass::Queue(Queue::Delete(delete)),
        what: "queue.delete",
        expects: (50, 41),
        read,
    })
}

pub(crate) fn qos(prefetch_count: u16) -> Op<()> {
    let qos = basic::Qos {
        prefetch_count,
        global: false,
    };
    op(AMQPClass::Basic(Basic::Qos(qos)), "basic.qos", (60, 11))
}

pub(crate) fn get(queue: &str, no_ack: bool) -> Result<Op<()>, Error> {
    let get = basic::Get {
        queue: short(queue, "queue name")?,
        no_ack,
    };
    let expects = if no_ack {
        super::GET_NO_ACK
    } else {
        super::GET
    };
    Ok(op(AMQPClass::Basic(Basic::Get(get)), "basic.get", expects))
}

pub(crate) fn recover(requeue: bool) -> Op<()> {
    op(
        AMQPClass::Basic(Basic::Recover(basic::Recover { requeue })),
        "basic.recover",
        (60, 111),
    )
}

pub(crate) fn flow(active: bool) -> Op<bool> {
    let flow = AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }));
    let read = |answer| match answer {
        AMQPClass::Channel(channel::AMQPMethod::FlowOk(ok)) => Some(ok.active),
        _ => None,
    };
    Op {
        method: flow,
        what: "channel.flow",
        expects: (20, 21),
        read,
    }
}

pub(crate) fn confirm_select() -> Op<()> {
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    op(AMQPClass::Confirm(select), "confirm.select", (85, 11))
}

pub(crate) fn tx_select() -> Op<()> {
    op(
        AMQPClass::Tx(Tx::Select(tx::Select {})),
        "tx.select",
        (90, 11),
    )
}

pub(crate) fn tx_commit() -> Op<()> {
    op(
        AMQPClass::Tx(Tx::Commit(tx::Commit {})),
        "tx.commit",
        (90, 21),
    )
}

pub(crate) fn tx_rollback() -> Op<()> {
    op(
        AMQPClass::Tx(Tx::Rollback(tx::Rollback {})),
        "tx.rollback",
        (90, 31),
    )
}

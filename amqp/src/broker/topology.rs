//! Declaring, binding and deleting exchanges and queues.

use super::arena::Key;
use super::call::{Call, refuse_arguments};
use super::exchange::{ExchangeOptions, Kind};
use super::fault::Fault;
use super::queue::{Queue, QueueOptions};
use super::reply_to;
use crate::protocol::{AMQPClass, AMQPValue, FieldTable, exchange, queue, reply};
use std::rc::Rc;

/// Queue arguments that we do not do.
const REFUSED: [&str; 12] = [
    "x-max-length",
    "x-max-length-bytes",
    "x-overflow",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-priority",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-quorum-initial-group-size",
];

impl Call<'_> {
    pub(crate) fn exchange_declare(&mut self, declare: &exchange::Declare) -> Result<(), Fault> {
        let name = declare.exchange.as_str();
        if name.is_empty() {
            return Err(Fault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        if declare.passive {
            if self.world.vhost.exchange(name).is_none() {
                return Err(Fault::not_found("exchange", name));
            }
        } else {
            self.exchange_declare_actively(name, declare)?;
        }
        let ok = exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {});
        self.say_unless(declare.nowait, AMQPClass::Exchange(ok));
        Ok(())
    }

    fn exchange_declare_actively(
        &mut self,
        name: &str,
        declare: &exchange::Declare,
    ) -> Result<(), Fault> {
        refuse_arguments(&declare.arguments, &["alternate-exchange"])?;
        let Some(kind) = Kind::parse(declare.kind.as_str()) else {
            let text = format!("unknown exchange type '{}'", declare.kind);
            return Err(Fault::command_invalid(text));
        };
        let options = ExchangeOptions {
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments.clone(),
        };
        let Some(found) = self.world.vhost.exchange(name) else {
            refuse_reserved("exchange", name)?;
            self.world.vhost.add_exchange(name, options);
            return Ok(());
        };
        let found = &found.options;
        let what = format_args!("exchange '{name}'");
        same("type", what, found.kind.name(), kind.name())?;
        same("durable", what, found.durable, options.durable)?;
        same("auto_delete", what, found.auto_delete, options.auto_delete)?;
        same("internal", what, found.internal, options.internal)?;
        same_arguments(what, &found.arguments, &options.arguments)
    }

    /// An exchange that is not there is no error, as on RabbitMQ.
    pub(crate) fn exchange_delete(&mut self, delete: &exchange::Delete) -> Result<(), Fault> {
        let name = delete.exchange.as_str();
        if name.is_empty() {
            return Err(Fault::access_refused(
                "operation not permitted on the default exchange",
            ));
        }
        if let Some(found) = self.world.vhost.exchange(name) {
            if found.is_predeclared {
                let text = format!("exchange name '{name}' is reserved: it cannot be deleted");
                return Err(Fault::access_refused(text));
            }
            if delete.if_unused && found.binding_count > 0 {
                let text = format!("exchange '{name}' in vhost '/' in use");
                return Err(Fault::precondition(text));
            }
            self.world.vhost.remove_exchange(name);
        }
        let ok = exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {});
        self.say_unless(delete.nowait, AMQPClass::Exchange(ok));
        Ok(())
    }

    pub(crate) fn queue_declare(&mut self, declare: queue::Declare) -> Result<(), Fault> {
        let nowait = declare.nowait;
        let name = declare.queue.as_str();
        if declare.passive && name.starts_with(reply_to::NAME) {
            // How the server of an RPC asks whether the client is still there.
            if name != reply_to::NAME && !self.world.reply_addresses.contains_key(name) {
                return Err(Fault::not_found("queue", name));
            }
            let name = Rc::from(name);
            self.say_declare_ok(nowait, &name, 0, 1);
            return Ok(());
        }
        let key = match name {
            "" if !declare.passive => {
                let name = format!("amq.gen-{:016x}", self.world.generate());
                self.add_queue(name.into(), declare)?
            }
            "" => self.find_queue("")?.0,
            _ => match self.world.vhost.queue_named(name) {
                Some(_) if declare.passive => self.find_queue(name)?.0,
                Some(key) => self.redeclare(key, declare)?,
                None if declare.passive => return Err(Fault::not_found("queue", name)),
                None => {
                    refuse_reserved("queue", name)?;
                    self.add_queue(name.into(), declare)?
                }
            },
        };
        self.world.expire(key);
        let now = self.world.now;
        let queue = self.world.vhost.queue_mut(key);
        let queue = queue.expect("declared or found a moment ago");
        queue.last_used = now;
        let (name, messages, consumers) = (queue.name.clone(), queue.len(), queue.consumers.len());
        self.say_declare_ok(nowait, &name, messages, consumers);
        self.channel.last_queue = Some(name);
        Ok(())
    }

    fn say_declare_ok(&mut self, nowait: bool, name: &Rc<str>, messages: usize, consumers: usize) {
        let ok = queue::DeclareOk {
            queue: (&**name).into(),
            message_count: u32::try_from(messages).unwrap_or(u32::MAX),
            consumer_count: u32::try_from(consumers).unwrap_or(u32::MAX),
        };
        let ok = AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok));
        self.say_unless(nowait, ok);
    }

    fn add_queue(&mut self, name: Rc<str>, declare: queue::Declare) -> Result<Key<Queue>, Fault> {
        let options = queue_options(declare)?;
        let message_ttl = milliseconds(&options.arguments, "x-message-ttl", 0)?;
        let expires_after = milliseconds(&options.arguments, "x-expires", 1)?;
        let owner = options.exclusive.then_some(self.peer);
        let key = self.world.vhost.add_queue(name, options);
        if let Some(queue) = self.world.vhost.queue_mut(key) {
            queue.owner = owner;
            queue.message_ttl = message_ttl;
            queue.expires_after = expires_after;
        }
        if expires_after.is_some() {
            self.world.watch(key);
        }
        Ok(key)
    }

    /// The queue is there: the declaration must agree with it.
    fn redeclare(&mut self, key: Key<Queue>, declare: queue::Declare) -> Result<Key<Queue>, Fault> {
        self.check_owner(key)?;
        let options = queue_options(declare)?;
        let queue = self.world.vhost.queue(key).expect("found by its name");
        let (name, found) = (&queue.name, &queue.options);
        let what = format_args!("queue '{name}'");
        same("durable", what, found.durable, options.durable)?;
        same("exclusive", what, found.exclusive, options.exclusive)?;
        same("auto_delete", what, found.auto_delete, options.auto_delete)?;
        same_arguments(what, &found.arguments, &options.arguments)?;
        Ok(key)
    }

    /// The queue of this name (empty: the one declared last on this channel), if this connection may use it.
    pub(crate) fn find_queue(&self, name: &str) -> Result<(Key<Queue>, Rc<str>), Fault> {
        let name: Rc<str> = match (name, &self.channel.last_queue) {
            ("", Some(last)) => last.clone(),
            ("", None) => {
                let text = "an empty queue name means the queue declared last on this channel: \
                            there is none";
                return Err(Fault::new(reply::NOT_FOUND, text));
            }
            _ => name.into(),
        };
        let key = self.world.vhost.queue_named(&name);
        let key = key.ok_or_else(|| Fault::not_found("queue", &name))?;
        self.check_owner(key)?;
        Ok((key, name))
    }

    fn check_owner(&self, key: Key<Queue>) -> Result<(), Fault> {
        match self.world.vhost.queue(key) {
            Some(queue) if queue.owner.is_some_and(|owner| owner != self.peer) => Err(Fault::new(
                reply::RESOURCE_LOCKED,
                format!(
                    "cannot obtain exclusive access to locked queue '{}' in vhost '/': it belongs \
                     to another connection",
                    queue.name
                ),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn queue_bind(&mut self, bind: queue::Bind) -> Result<(), Fault> {
        let (queue, name) = self.find_queue(bind.queue.as_str())?;
        let exchange = bind.exchange.as_str();
        refuse_default(exchange)?;
        let key = binding_key(&bind.queue, &bind.routing_key, &name);
        let vhost = &mut self.world.vhost;
        vhost.bind(queue, exchange, key, bind.arguments)?;
        let ok = queue::AMQPMethod::BindOk(queue::BindOk {});
        self.say_unless(bind.nowait, AMQPClass::Queue(ok));
        Ok(())
    }

    pub(crate) fn queue_unbind(&mut self, unbind: &queue::Unbind) -> Result<(), Fault> {
        let (queue, name) = self.find_queue(unbind.queue.as_str())?;
        let exchange = unbind.exchange.as_str();
        refuse_default(exchange)?;
        let key = binding_key(&unbind.queue, &unbind.routing_key, &name);
        let vhost = &mut self.world.vhost;
        vhost.unbind(queue, exchange, key, &unbind.arguments)?;
        let ok = queue::AMQPMethod::UnbindOk(queue::UnbindOk {});
        self.say(AMQPClass::Queue(ok));
        Ok(())
    }

    pub(crate) fn queue_purge(&mut self, purge: &queue::Purge) -> Result<(), Fault> {
        let (key, _) = self.find_queue(purge.queue.as_str())?;
        let message_count = self.world.purge(key);
        let ok = queue::AMQPMethod::PurgeOk(queue::PurgeOk { message_count });
        self.say_unless(purge.nowait, AMQPClass::Queue(ok));
        Ok(())
    }

    /// A queue that is not there is no error, as on RabbitMQ.
    pub(crate) fn queue_delete(&mut self, delete: &queue::Delete) -> Result<(), Fault> {
        let name = delete.queue.as_str();
        let mut message_count = 0;
        if name.is_empty() || self.world.vhost.queue_named(name).is_some() {
            let (key, name) = self.find_queue(name)?;
            let queue = self.world.vhost.queue(key).expect("found by its name");
            if delete.if_unused && !queue.consumers.is_empty() {
                let text = format!("queue '{name}' in vhost '/' in use");
                return Err(Fault::precondition(text));
            }
            if delete.if_empty && !queue.is_empty() {
                let text = format!("queue '{name}' in vhost '/' not empty");
                return Err(Fault::precondition(text));
            }
            message_count = self.world.delete_queue(key);
        }
        let ok = queue::AMQPMethod::DeleteOk(queue::DeleteOk { message_count });
        self.say_unless(delete.nowait, AMQPClass::Queue(ok));
        Ok(())
    }
}

fn queue_options(declare: queue::Declare) -> Result<QueueOptions, Fault> {
    refuse_arguments(&declare.arguments, &REFUSED)?;
    match declare.arguments.inner().get("x-queue-type") {
        None => {}
        Some(AMQPValue::LongString(kind)) if kind.as_bytes() == b"classic" => {}
        Some(AMQPValue::LongString(kind)) => {
            let kind = String::from_utf8_lossy(kind.as_bytes()).into_owned();
            return Err(Fault::not_implemented(format_args!("queue type '{kind}'")));
        }
        Some(_) => return Err(Fault::precondition("x-queue-type must be a string")),
    }
    Ok(QueueOptions {
        durable: declare.durable,
        exclusive: declare.exclusive,
        auto_delete: declare.auto_delete,
        arguments: declare.arguments,
    })
}

/// A time in an argument, in any of the integer types clients use.
fn milliseconds(arguments: &FieldTable, name: &str, min: u32) -> Result<Option<u64>, Fault> {
    let Some(value) = arguments.inner().get(name) else {
        return Ok(None);
    };
    let number = match *value {
        AMQPValue::ShortShortInt(n) => i64::from(n),
        AMQPValue::ShortShortUInt(n) => i64::from(n),
        AMQPValue::ShortInt(n) => i64::from(n),
        AMQPValue::ShortUInt(n) => i64::from(n),
        AMQPValue::LongInt(n) => i64::from(n),
        AMQPValue::LongUInt(n) => i64::from(n),
        AMQPValue::LongLongInt(n) => n,
        _ => -1,
    };
    match u32::try_from(number) {
        Ok(number) if number >= min => Ok(Some(number.into())),
        _ => Err(Fault::precondition(format!(
            "invalid arg '{name}': milliseconds from {min} to 4294967295, not {}",
            show(Some(value))
        ))),
    }
}

/// Queue and key both empty: the key is the name of the queue declared last (AMQP 0-9-1 §1.7.2.3).
fn binding_key<'a>(
    queue: &crate::protocol::ShortString,
    key: &'a crate::protocol::ShortString,
    last: &'a str,
) -> &'a str {
    match (queue.as_str(), key.as_str()) {
        ("", "") => last,
        (_, key) => key,
    }
}

fn refuse_default(exchange: &str) -> Result<(), Fault> {
    match exchange {
        "" => Err(Fault::access_refused(
            "operation not permitted on the default exchange",
        )),
        _ => Ok(()),
    }
}

fn refuse_reserved(what: &str, name: &str) -> Result<(), Fault> {
    match name.starts_with("amq.") {
        true => Err(Fault::access_refused(format!(
            "{what} name '{name}' contains reserved prefix 'amq.*'"
        ))),
        false => Ok(()),
    }
}

fn same<T: PartialEq + std::fmt::Display>(
    argument: &str,
    what: std::fmt::Arguments<'_>,
    current: T,
    received: T,
) -> Result<(), Fault> {
    if current == received {
        return Ok(());
    }
    Err(Fault::precondition(format!(
        "inequivalent arg '{argument}' for {what} in vhost '/': received '{received}' but \
         current is '{current}'"
    )))
}

fn same_arguments(
    what: std::fmt::Arguments<'_>,
    current: &FieldTable,
    received: &FieldTable,
) -> Result<(), Fault> {
    let names = current.inner().keys().chain(received.inner().keys());
    for name in names {
        let (current, received) = (
            current.inner().get(name.as_str()),
            received.inner().get(name.as_str()),
        );
        if current != received {
            return Err(Fault::precondition(format!(
                "inequivalent arg '{name}' for {what} in vhost '/': received {} but current is {}",
                show(received),
                show(current)
            )));
        }
    }
    Ok(())
}

fn show(value: Option<&AMQPValue>) -> String {
    match value {
        None => "none".to_owned(),
        Some(AMQPValue::LongString(text)) => format!("'{text}'"),
        Some(value) => format!("{value:?}"),
    }
}

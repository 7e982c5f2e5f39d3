//! Names → exchanges, queues, bindings. One virtual host, `/`.

use super::arena::{Arena, Key};
use super::exchange::{Exchange, ExchangeOptions, Kind};
use super::fault::Fault;
use super::queue::{Queue, QueueOptions};
use crate::protocol::FieldTable;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// What makes a binding different from another (AMQP 0-9-1 §3.1.3.1). Ordered by queue first, so that those of
/// one queue stand together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    queue: Key<Queue>,
    exchange: Rc<str>,
    key: Rc<str>,
    /// The arguments in wire form.
    arguments: Vec<u8>,
}

/// Everything that has a name.
pub(crate) struct Vhost {
    queues: Arena<Queue>,
    queue_names: HashMap<Rc<str>, Key<Queue>>,
    exchanges: HashMap<Rc<str>, Exchange>,
    bindings: BTreeMap<Binding, FieldTable>,
    last_queue_id: u64,
    /// Changes whenever a routing decision could change, so that channels may remember one.
    version: u64,
}

impl Vhost {
    /// A virtual host with the exchanges that AMQP 0-9-1 §3.1.3 requires from the start.
    pub(crate) fn new() -> Self {
        let predeclared = [
            ("amq.direct", Kind::Direct),
            ("amq.fanout", Kind::Fanout),
            ("amq.topic", Kind::Topic),
            ("amq.headers", Kind::Headers),
            ("amq.match", Kind::Headers),
        ];
        let exchanges = predeclared.map(|(name, kind)| {
            let options = ExchangeOptions::durable(kind);
            (Rc::from(name), Exchange::new(options, true))
        });
        Vhost {
            queues: Arena::default(),
            queue_names: HashMap::new(),
            exchanges: HashMap::from(exchanges),
            bindings: BTreeMap::new(),
            last_queue_id: 0,
            version: 1,
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    #[inline]
    pub(crate) fn queue(&self, key: Key<Queue>) -> Option<&Queue> {
        self.queues.get(key)
    }

    #[inline]
    pub(crate) fn queue_mut(&mut self, key: Key<Queue>) -> Option<&mut Queue> {
        self.queues.get_mut(key)
    }

    pub(crate) fn queues(&self) -> impl Iterator<Item = (Key<Queue>, &Queue)> {
        self.queues.iter()
    }

    pub(crate) fn queue_named(&self, name: &str) -> Option<Key<Queue>> {
        self.queue_names.get(name).copied()
    }

    pub(crate) fn queue_with_id(&self, id: u64) -> Option<Key<Queue>> {
        self.queues()
            .find(|(_, queue)| queue.id == id)
            .map(|(key, _)| key)
    }

    pub(crate) fn add_queue(&mut self, name: Rc<str>, options: QueueOptions) -> Key<Queue> {
        self.last_queue_id += 1;
        self.version += 1;
        let queue = Queue::new(name.clone(), self.last_queue_id, options);
        let key = self.queues.insert(queue);
        self.queue_names.insert(name, key);
        key
    }

    /// Takes a queue out with its bindings.
    pub(crate) fn remove_queue(&mut self, key: Key<Queue>) -> Option<Queue> {
        let queue = self.queues.remove(key)?;
        self.version += 1;
        self.queue_names.remove(&queue.name);
        let first = Binding {
            queue: key,
            exchange: "".into(),
            key: "".into(),
            arguments: Vec::new(),
        };
        let own = self.bindings.range(first..).map(|(binding, _)| binding);
        let own: Vec<_> = own.take_while(|b| b.queue == key).cloned().collect();
        for binding in own {
            self.remove_binding(&binding);
        }
        Some(queue)
    }

    pub(crate) fn exchange(&self, name: &str) -> Option<&Exchange> {
        self.exchanges.get(name)
    }

    pub(crate) fn add_exchange(&mut self, name: &str, options: ExchangeOptions) {
        self.version += 1;
        let exchange = Exchange::new(options, false);
        self.exchanges.insert(name.into(), exchange);
    }

    pub(crate) fn remove_exchange(&mut self, name: &str) {
        self.version += 1;
        self.exchanges.remove(name);
        self.bindings
            .retain(|binding, _| *binding.exchange != *name);
    }

    /// Binds a queue; a second time changes nothing.
    pub(crate) fn bind(
        &mut self,
        queue: Key<Queue>,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Result<(), Fault> {
        let Some((name, found)) = self.exchanges.get_key_value(exchange) else {
            return Err(Fault::not_found("exchange", exchange));
        };
        if found.looks_at_headers() && !super::headers::is_valid(&arguments) {
            return Err(Fault::precondition(
                "x-match must be 'all', 'any', 'all-with-x' or 'any-with-x'",
            ));
        }
        let binding = Binding {
            queue,
            exchange: name.clone(),
            key: key.into(),
            arguments: wire_form(&arguments),
        };
        if self.bindings.contains_key(&binding) {
            return Ok(());
        }
        self.version += 1;
        if let Some(exchange) = self.exchanges.get_mut(exchange) {
            exchange.bind(queue, key, &arguments);
        }
        self.bindings.insert(binding, arguments);
        Ok(())
    }

    /// Removes a binding; one that is not there is no error, as on RabbitMQ.
    pub(crate) fn unbind(
        &mut self,
        queue: Key<Queue>,
        exchange: &str,
        key: &str,
        arguments: &FieldTable,
    ) -> Result<(), Fault> {
        if !self.exchanges.contains_key(exchange) {
            return Err(Fault::not_found("exchange", exchange));
        }
        self.remove_binding(&Binding {
            queue,
            exchange: exchange.into(),
            key: key.into(),
            arguments: wire_form(arguments),
        });
        Ok(())
    }

    fn remove_binding(&mut self, binding: &Binding) {
        let Some(arguments) = self.bindings.remove(binding) else {
            return;
        };
        self.version += 1;
        let Some(exchange) = self.exchanges.get_mut(&binding.exchange) else {
            return;
        };
        if exchange.unbind(binding.queue, &binding.key, &arguments) {
            let own = self.bindings.keys();
            let own = own.filter(|other| other.exchange == binding.exchange);
            exchange.rebuild(own.map(|other| (other.queue, &*other.key)));
        }
        if exchange.binding_count == 0 && exchange.options.auto_delete {
            self.exchanges.remove(&binding.exchange);
        }
    }

    /// Puts the queues for a message into `found`. The exchange must exist; if it has gone since, nothing is found.
    pub(crate) fn route(
        &mut self,
        exchange: &str,
        key: &str,
        headers: impl FnOnce() -> FieldTable,
        found: &mut Vec<Key<Queue>>,
    ) {
        found.clear();
        if exchange.is_empty() {
            // The default exchange: every queue is bound with its name (§3.1.3.2).
            found.extend(self.queue_named(key));
        } else if let Some(exchange) = self.exchanges.get_mut(exchange) {
            exchange.route(key, headers, found);
        }
    }
}

/// A table as bytes: tables with the same values compare equal, because they are ordered.
fn wire_form(table: &FieldTable) -> Vec<u8> {
    use amq_protocol::frame::WriteContext;
    amq_protocol::types::generation::gen_field_table(table)(WriteContext::from(Vec::new()))
        .expect("writing to a Vec does not fail")
        .into_inner()
        .0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> QueueOptions {
        QueueOptions {
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
        }
    }

    fn route(vhost: &mut Vhost, exchange: &str, key: &str) -> Vec<Key<Queue>> {
        let mut found = Vec::new();
        vhost.route(exchange, key, FieldTable::default, &mut found);
        found
    }

    #[test]
    fn a_queue_goes_with_its_bindings_only() {
        let mut vhost = Vhost::new();
        let one = vhost.add_queue("one".into(), options());
        let two = vhost.add_queue("two".into(), options());
        for queue in [one, two] {
            for exchange in ["amq.direct", "amq.topic", "amq.fanout"] {
                for _ in 0..2 {
                    let none = FieldTable::default();
                    vhost.bind(queue, exchange, "k", none).unwrap();
                }
            }
        }
        assert_eq!(route(&mut vhost, "amq.topic", "k"), [one, two]);
        assert_eq!(route(&mut vhost, "", "one"), [one]);
        vhost.remove_queue(one);
        for exchange in ["amq.direct", "amq.topic", "amq.fanout"] {
            assert_eq!(route(&mut vhost, exchange, "k"), [two]);
            assert_eq!(vhost.exchange(exchange).unwrap().binding_count, 1);
        }
        assert_eq!(route(&mut vhost, "", "one"), []);
    }

    /// Binding and unbinding many patterns makes the tree anew and loses none.
    #[test]
    fn topic_tree_survives_churn() {
        let mut vhost = Vhost::new();
        let queue = vhost.add_queue("q".into(), options());
        let none = FieldTable::default();
        vhost
            .bind(queue, "amq.topic", "stays.#", none.clone())
            .unwrap();
        for i in 0..2000 {
            let key = format!("a.{i}.b");
            vhost.bind(queue, "amq.topic", &key, none.clone()).unwrap();
            assert_eq!(route(&mut vhost, "amq.topic", &key), [queue]);
            vhost.unbind(queue, "amq.topic", &key, &none).unwrap();
            assert_eq!(route(&mut vhost, "amq.topic", &key), []);
        }
        assert_eq!(route(&mut vhost, "amq.topic", "stays.here"), [queue]);
    }
}

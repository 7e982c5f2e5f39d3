//! Exchanges: a routing key goes in, a set of queues comes out (pure).

use super::arena::Key;
use super::headers::HeaderRules;
use super::queue::Queue;
use super::topic::Patterns;
use crate::protocol::FieldTable;
use std::collections::HashMap;

/// The four types of AMQP 0-9-1 §3.1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => Kind::Direct,
            "fanout" => Kind::Fanout,
            "topic" => Kind::Topic,
            "headers" => Kind::Headers,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
            Kind::Headers => "headers",
        }
    }
}

/// What an exchange was declared with; a declaration of the same name must agree (406).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ExchangeOptions {
    pub(crate) kind: Kind,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: FieldTable,
}

impl ExchangeOptions {
    /// Durable, and nothing else.
    pub(crate) fn durable(kind: Kind) -> Self {
        ExchangeOptions {
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        }
    }
}

/// Queues with the number of bindings that lead to each.
#[derive(Default)]
pub(crate) struct Targets {
    list: Vec<(Key<Queue>, u32)>,
}

impl Targets {
    pub(crate) fn add(&mut self, queue: Key<Queue>) {
        match self.list.iter_mut().find(|(key, _)| *key == queue) {
            Some((_, count)) => *count += 1,
            None => self.list.push((queue, 1)),
        }
    }

    pub(crate) fn remove(&mut self, queue: Key<Queue>) {
        let Some(index) = self.list.iter().position(|(key, _)| *key == queue) else {
            return;
        };
        self.list[index].1 -= 1;
        if self.list[index].1 == 0 {
            self.list.remove(index);
        }
    }

    #[inline]
    pub(crate) fn route(&self, found: &mut Vec<Key<Queue>>) {
        found.extend(self.list.iter().map(|(key, _)| *key));
    }
}

/// How the bindings of an exchange are looked up.
enum Table {
    Direct(HashMap<Box<str>, Targets>),
    Fanout(Targets),
    Topic(Patterns),
    Headers(HeaderRules),
}

impl Table {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Direct => Table::Direct(HashMap::new()),
            Kind::Fanout => Table::Fanout(Targets::default()),
            Kind::Topic => Table::Topic(Patterns::default()),
            Kind::Headers => Table::Headers(HeaderRules::default()),
        }
    }
}

/// One exchange.
pub(crate) struct Exchange {
    pub(crate) options: ExchangeOptions,
    /// Declared by us at start; cannot be deleted.
    pub(crate) is_predeclared: bool,
    /// How many bindings lead away from it.
    pub(crate) binding_count: usize,
    table: Table,
}

impl Exchange {
    pub(crate) fn new(options: ExchangeOptions, is_predeclared: bool) -> Self {
        Exchange {
            table: Table::new(options.kind),
            options,
            is_predeclared,
            binding_count: 0,
        }
    }

    /// Adds a binding. The caller sees to it that each is added once.
    pub(crate) fn bind(&mut self, queue: Key<Queue>, key: &str, arguments: &FieldTable) {
        self.binding_count += 1;
        match &mut self.table {
            Table::Direct(table) => table.entry(key.into()).or_default().add(queue),
            Table::Fanout(targets) => targets.add(queue),
            Table::Topic(patterns) => patterns.insert(key, queue),
            Table::Headers(rules) => rules.insert(queue, arguments),
        }
    }

    /// Removes a binding that was added. `true`: [`Exchange::rebuild`] is worth its cost.
    pub(crate) fn unbind(&mut self, queue: Key<Queue>, key: &str, arguments: &FieldTable) -> bool {
        self.binding_count -= 1;
        match &mut self.table {
            Table::Direct(table) => {
                if let Some(targets) = table.get_mut(key) {
                    targets.remove(queue);
                    if targets.list.is_empty() {
                        table.remove(key);
                    }
                }
                false
            }
            Table::Fanout(targets) => {
                targets.remove(queue);
                false
            }
            Table::Topic(patterns) => {
                patterns.remove(key, queue);
                patterns.is_worth_rebuilding(self.binding_count)
            }
            Table::Headers(rules) => {
                rules.remove(queue, arguments);
                false
            }
        }
    }

    /// Makes the table of a topic exchange anew from all its bindings, without what dead ones left behind.
    pub(crate) fn rebuild<'a>(&mut self, bindings: impl Iterator<Item = (Key<Queue>, &'a str)>) {
        let mut patterns = Patterns::default();
        for (queue, key) in bindings {
            patterns.insert(key, queue);
        }
        self.table = Table::Topic(patterns);
    }

    /// Whether routing depends on a message's headers and not on its routing key.
    pub(crate) fn looks_at_headers(&self) -> bool {
        self.options.kind == Kind::Headers
    }

    /// Puts the queues that shall have the message into `found`, each once.
    pub(crate) fn route(
        &mut self,
        key: &str,
        headers: impl FnOnce() -> FieldTable,
        found: &mut Vec<Key<Queue>>,
    ) {
        found.clear();
        match &mut self.table {
            Table::Direct(table) => {
                if let Some(targets) = table.get(key) {
                    targets.route(found);
                }
                return;
            }
            Table::Fanout(targets) => return targets.route(found),
            Table::Topic(patterns) => patterns.route(key, found),
            Table::Headers(rules) => rules.route(&headers(), found),
        }
        // Two patterns may lead to the same queue, which gets the message once.
        found.sort_unstable();
        found.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(kind: Kind) -> Exchange {
        Exchange::new(ExchangeOptions::durable(kind), false)
    }

    fn route(exchange: &mut Exchange, key: &str) -> Vec<Key<Queue>> {
        let mut found = Vec::new();
        exchange.route(key, FieldTable::default, &mut found);
        found
    }

    #[test]
    fn direct_takes_equal_keys_and_fanout_takes_all() {
        let (one, two) = (Key::from_bits(1), Key::from_bits(2));
        let none = FieldTable::default();
        let mut direct = exchange(Kind::Direct);
        direct.bind(one, "k", &none);
        direct.bind(two, "k", &none);
        assert_eq!(route(&mut direct, "k"), [one, two]);
        assert_eq!(route(&mut direct, "K"), []);
        direct.unbind(one, "k", &none);
        assert_eq!(route(&mut direct, "k"), [two]);

        let mut fanout = exchange(Kind::Fanout);
        fanout.bind(one, "a", &none);
        fanout.bind(one, "b", &none);
        assert_eq!(route(&mut fanout, "whatever"), [one]);
        fanout.unbind(one, "a", &none);
        assert_eq!(route(&mut fanout, "whatever"), [one]);
        fanout.unbind(one, "b", &none);
        assert_eq!(route(&mut fanout, "whatever"), []);
    }

    #[test]
    fn a_queue_matched_by_two_patterns_gets_the_message_once() {
        let none = FieldTable::default();
        let mut topic = exchange(Kind::Topic);
        topic.bind(Key::from_bits(1), "a.*", &none);
        topic.bind(Key::from_bits(1), "#.b", &none);
        assert_eq!(route(&mut topic, "a.b").len(), 1);
    }
}

//! Headers exchanges: bindings that look at a message's headers (pure).

use super::arena::Key;
use super::queue::Queue;
use crate::protocol::{AMQPValue, FieldTable};

struct Rule {
    queue: Key<Queue>,
    arguments: FieldTable,
    /// `x-match`: any one of the values is enough, or all are needed.
    any: bool,
    /// Whether headers that begin with `x-` take part.
    with_x: bool,
}

/// The bindings of one headers exchange, looked at one after the other.
#[derive(Default)]
pub(crate) struct HeaderRules {
    rules: Vec<Rule>,
}

/// Whether `x-match` is one of the four words RabbitMQ knows, or missing.
pub(crate) fn is_valid(arguments: &FieldTable) -> bool {
    match arguments.inner().get("x-match") {
        None => true,
        Some(value) => matches!(
            text(value),
            Some(b"all" | b"any" | b"all-with-x" | b"any-with-x")
        ),
    }
}

fn text(value: &AMQPValue) -> Option<&[u8]> {
    match value {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ShortString(text) => Some(text.as_str().as_bytes()),
        _ => None,
    }
}

impl HeaderRules {
    pub(crate) fn insert(&mut self, queue: Key<Queue>, arguments: &FieldTable) {
        let mode = arguments.inner().get("x-match").and_then(text);
        self.rules.push(Rule {
            queue,
            arguments: arguments.clone(),
            any: matches!(mode, Some(b"any" | b"any-with-x")),
            with_x: matches!(mode, Some(b"all-with-x" | b"any-with-x")),
        });
    }

    pub(crate) fn remove(&mut self, queue: Key<Queue>, arguments: &FieldTable) {
        let position = self
            .rules
            .iter()
            .position(|rule| rule.queue == queue && rule.arguments == *arguments);
        if let Some(position) = position {
            self.rules.remove(position);
        }
    }

    /// Adds the queues whose rules take these headers to `found`.
    pub(crate) fn route(&self, headers: &FieldTable, found: &mut Vec<Key<Queue>>) {
        let taking = self.rules.iter().filter(|rule| rule.takes(headers));
        found.extend(taking.map(|rule| rule.queue));
    }
}

impl Rule {
    fn takes(&self, headers: &FieldTable) -> bool {
        let mut wanted = self.arguments.inner().iter().filter(|(name, _)| {
            let name = name.as_str();
            name != "x-match" && (self.with_x || !name.starts_with("x-"))
        });
        let mut holds = |(name, value): (&_, &AMQPValue)| match headers.inner().get(name) {
            // A binding's value without a type asks only that the header is there.
            Some(found) => *value == AMQPValue::Void || found == value,
            None => false,
        };
        if self.any {
            wanted.any(&mut holds)
        } else {
            wanted.all(&mut holds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pairs: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in pairs {
            table.insert((*name).into(), value.clone());
        }
        table
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn all_any_presence_and_x_headers() {
        let takes = |rule: &[(&str, AMQPValue)], headers: &[(&str, AMQPValue)]| {
            let mut rules = HeaderRules::default();
            rules.insert(Key::from_bits(1), &table(rule));
            let mut found = Vec::new();
            rules.route(&table(headers), &mut found);
            !found.is_empty()
        };
        let (a, b) = (("a", AMQPValue::LongInt(1)), ("b", text("2")));
        let (all, any) = (("x-match", text("all")), ("x-match", text("any")));
        let both = [a.clone(), b.clone()];
        assert!(takes(&[all.clone(), a.clone(), b.clone()], &both));
        assert!(!takes(&[all.clone(), a.clone(), b.clone()], &both[..1]));
        assert!(takes(&[any.clone(), a.clone(), b.clone()], &both[1..]));
        assert!(!takes(std::slice::from_ref(&any), &both));
        assert!(takes(&[all], &[]));
        assert!(takes(&[("a", AMQPValue::Void)], &[("a", text("whatever"))]));
        let x = ("x-a", text("1"));
        assert!(
            takes(std::slice::from_ref(&x), &[]),
            "x- headers do not take part"
        );
        let with_x = ("x-match", text("any-with-x"));
        assert!(takes(&[with_x.clone(), x.clone()], &[x]));
        assert!(is_valid(&table(&[with_x])));
        assert!(!is_valid(&table(&[("x-match", text("some"))])));
    }
}

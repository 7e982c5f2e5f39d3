//! Topic patterns: `*` stands for one word, `#` for any number of words, also none (pure).
//!
//! The patterns of an exchange form one tree, word by word. A routing key walks all its branches at the same time:
//! after each word there is a *set* of nodes that the words so far can have reached. With that, `#` needs no
//! backtracking, and a hostile pattern such as `#.a.#.a.#.a` costs no more than its length.

use super::arena::Key;
use super::exchange::Targets;
use super::queue::Queue;
use std::collections::HashMap;

/// Index of a node in [`Patterns::nodes`].
type Node = u32;

#[derive(Default)]
struct Branches {
    words: HashMap<Box<str>, Node>,
    star: Option<Node>,
    /// Below a `#`. Such a node reaches itself again by any word.
    hash: Option<Node>,
    is_hash: bool,
    targets: Targets,
}

/// The patterns bound to one topic exchange.
pub(crate) struct Patterns {
    nodes: Vec<Branches>,
    /// Nodes reached so far and next; kept for their memory.
    now: Vec<Node>,
    next: Vec<Node>,
}

impl Default for Patterns {
    fn default() -> Self {
        Patterns {
            nodes: vec![Branches::default()],
            now: Vec::new(),
            next: Vec::new(),
        }
    }
}

const ROOT: Node = 0;

impl Patterns {
    pub(crate) fn insert(&mut self, pattern: &str, queue: Key<Queue>) {
        let mut node = ROOT;
        for word in pattern.split('.') {
            node = self.child(node, word);
        }
        self.nodes[node as usize].targets.add(queue);
    }

    /// The child for one word of a pattern, made if need be.
    fn child(&mut self, node: Node, word: &str) -> Node {
        let fresh = self.nodes.len() as Node;
        let branches = &mut self.nodes[node as usize];
        let child = match word {
            "*" => *branches.star.get_or_insert(fresh),
            // `#.#` is `#`: without this, a chain of them would be a chain of nodes, all reached at once.
            "#" if branches.is_hash => return node,
            "#" => *branches.hash.get_or_insert(fresh),
            _ => match branches.words.get(word) {
                Some(&child) => child,
                None => *branches.words.entry(word.into()).or_insert(fresh),
            },
        };
        if child == fresh {
            self.nodes.push(Branches {
                is_hash: word == "#",
                ..Branches::default()
            });
        }
        child
    }

    /// Takes one queue away from a pattern. Empty nodes stay; [`Patterns::is_worth_rebuilding`] says when there
    /// are too many.
    pub(crate) fn remove(&mut self, pattern: &str, queue: Key<Queue>) {
        let mut node = ROOT;
        for word in pattern.split('.') {
            node = self.child(node, word);
        }
        self.nodes[node as usize].targets.remove(queue);
    }

    /// Whether most nodes are left over from `live` patterns' dead companions.
    pub(crate) fn is_worth_rebuilding(&self, live: usize) -> bool {
        // A pattern has at most 128 words; most have a handful.
        self.nodes.len() > 64 + 8 * live
    }

    /// Adds the queues whose patterns match `key` to `found`.
    pub(crate) fn route(&mut self, key: &str, found: &mut Vec<Key<Queue>>) {
        let (mut now, mut next) = (
            std::mem::take(&mut self.now),
            std::mem::take(&mut self.next),
        );
        now.clear();
        self.enter(ROOT, &mut now);
        for word in key.split('.') {
            next.clear();
            for &node in &now {
                let branches = &self.nodes[node as usize];
                if branches.is_hash {
                    self.enter(node, &mut next);
                }
                for child in [branches.words.get(word).copied(), branches.star] {
                    child
                        .into_iter()
                        .for_each(|child| self.enter(child, &mut next));
                }
            }
            // A node can be reached on two ways, and must not be walked twice.
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut now, &mut next);
        }
        for &node in &now {
            self.nodes[node as usize].targets.route(found);
        }
        (self.now, self.next) = (now, next);
    }

    /// Reaches a node, and with it the `#` below it, which may stand for no word at all.
    fn enter(&self, node: Node, set: &mut Vec<Node>) {
        set.push(node);
        set.extend(self.nodes[node as usize].hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, written down.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => matches(rest, key),
            (Some((&"#", rest)), Some((_, tail))) => matches(rest, key) || matches(pattern, tail),
            (Some((&"*", rest)), Some((_, tail))) => matches(rest, tail),
            (Some((word, rest)), Some((first, tail))) => word == first && matches(rest, tail),
            _ => false,
        }
    }

    /// All lists of up to `len` of these words.
    fn lists(words: &[&'static str], len: usize) -> Vec<Vec<&'static str>> {
        let mut all = vec![vec![]];
        let mut last = all.clone();
        for _ in 0..len {
            last = last
                .iter()
                .flat_map(|list| {
                    words.iter().map(|&word| {
                        let mut list = list.clone();
                        list.push(word);
                        list
                    })
                })
                .collect();
            all.extend(last.iter().cloned());
        }
        all.retain(|list| !list.is_empty());
        all
    }

    #[test]
    fn agrees_with_the_definition_on_all_small_inputs() {
        let patterns = lists(&["a", "b", "*", "#"], 4);
        let mut tree = Patterns::default();
        for (index, pattern) in patterns.iter().enumerate() {
            tree.insert(&pattern.join("."), Key::from_bits(index as u64));
        }
        for key in lists(&["a", "b", "c", ""], 4) {
            let mut found = Vec::new();
            tree.route(&key.join("."), &mut found);
            found.sort_unstable();
            found.dedup();
            let expected: Vec<_> = (0..patterns.len())
                .filter(|&index| matches(&patterns[index], &key))
                .map(|index| Key::from_bits(index as u64))
                .collect();
            assert_eq!(found, expected, "key {key:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_is_cheap() {
        let mut tree = Patterns::default();
        tree.insert(&["#", "a"].repeat(60).join("."), Key::from_bits(1));
        let mut found = Vec::new();
        tree.route(&["a"; 120].join("."), &mut found);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_removed_pattern_matches_no_more() {
        let mut tree = Patterns::default();
        let (one, two) = (Key::from_bits(1), Key::from_bits(2));
        tree.insert("a.#", one);
        tree.insert("a.#", two);
        tree.remove("a.#", one);
        let mut found = Vec::new();
        tree.route("a.b", &mut found);
        assert_eq!(found, [two]);
    }
}

//! Random operations on the store and on a model that is too simple to be wrong; both must agree
//! after every step. `PERSIPUBSUB_SEED` repeats a run.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use persipubsub::{
    Backlog, Environment, Error, HighWaterMark, Options, Received, Resource, Setup, Strategy,
};
use support::Random;

#[derive(Default, Clone)]
struct Queue {
    waiting: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    max_attempts: u32,
    attempts: BTreeMap<u64, u32>,
}

/// Every message in a map, every queue a set of sequences.
struct Model {
    messages: BTreeMap<u64, Vec<u8>>,
    queues: BTreeMap<String, Queue>,
    next: u64,
    max_messages: u64,
    max_bytes: u64,
    strategy: Strategy,
}

impl Model {
    fn bytes(&self) -> u64 {
        self.messages.values().map(|body| body.len() as u64).sum()
    }

    fn send(&mut self, bodies: &[Vec<u8>]) -> Result<(), &'static str> {
        if bodies.iter().any(|body| body.len() as u64 > self.max_bytes) {
            return Err("too large");
        }
        if self.queues.is_empty() {
            self.next += bodies.len() as u64;
            return Ok(());
        }
        if self.strategy == Strategy::Reject {
            if self.messages.len() as u64 + bodies.len() as u64 > self.max_messages {
                return Err("messages");
            }
            if self.bytes() + bodies.iter().map(|body| body.len() as u64).sum::<u64>()
                > self.max_bytes
            {
                return Err("bytes");
            }
        }
        for body in bodies {
            while self.messages.len() as u64 >= self.max_messages
                || self.bytes() + body.len() as u64 > self.max_bytes
            {
                let half = self.messages.len().div_ceil(2);
                let mut seqs: Vec<u64> = self.messages.keys().copied().collect();
                if self.strategy == Strategy::PruneLast {
                    seqs.reverse();
                }
                for seq in &seqs[..half] {
                    self.messages.remove(seq);
                    for queue in self.queues.values_mut() {
                        queue.waiting.remove(seq);
                        queue.dead.remove(seq);
                    }
                }
            }
            self.messages.insert(self.next, body.clone());
            self.queues
                .values_mut()
                .for_each(|queue| _ = queue.waiting.insert(self.next));
            self.next += 1;
        }
        Ok(())
    }

    /// Drops what nobody refers to.
    fn sweep(&mut self) {
        let queues = &self.queues;
        let held = |seq: &u64| {
            queues
                .values()
                .any(|queue| queue.waiting.contains(seq) || queue.dead.contains(seq))
        };
        self.messages.retain(|seq, _| held(seq));
    }
}

struct Run {
    random: Random,
    model: Model,
    env: Option<Environment>,
    path: std::path::PathBuf,
    in_hand: Vec<(String, Received)>,
}

const NAMES: [&str; 4] = ["a", "b", "data_db", "messages"];

impl Run {
    fn env(&self) -> &Environment {
        self.env.as_ref().unwrap()
    }

    fn name(&mut self) -> String {
        NAMES[self.random.below(NAMES.len() as u64) as usize].to_owned()
    }

    fn body(&mut self) -> Vec<u8> {
        let len = match self.random.below(10) {
            0 => 1024 + self.random.below(9000),
            _ => self.random.below(60),
        };
        vec![b'x'; len as usize]
    }

    fn step(&mut self) {
        let draw = self.random.below(100);
        println!("step {draw}");
        match draw {
            0..30 => self.send(1),
            30..40 => {
                let many = self.random.below(12) as usize;
                self.send(many);
            }
            40..55 => self.receive(),
            55..80 => self.settle(),
            80..84 => self.add(),
            84..86 => self.remove(),
            86..92 => self.limit(),
            92..94 => self.clear(),
            94..96 => self.receive_newest(),
            96..98 => self.revive(),
            _ => self.reopen(),
        }
    }

    fn send(&mut self, many: usize) {
        let bodies: Vec<Vec<u8>> = (0..many).map(|_| self.body()).collect();
        let expected = self.model.send(&bodies);
        let answer = self.env().new_publisher().unwrap().send_many(bodies);
        match expected {
            Ok(()) => assert_eq!(answer.unwrap().end, self.model.next),
            Err("messages") => assert!(
                matches!(answer, Err(Error::Full(Resource::Messages))),
                "{answer:?}"
            ),
            Err("bytes") => assert!(
                matches!(answer, Err(Error::Full(Resource::Bytes))),
                "{answer:?}"
            ),
            Err(_) => assert!(matches!(answer, Err(Error::TooLarge { .. })), "{answer:?}"),
        }
    }

    fn free(&self, name: &str) -> Vec<u64> {
        let taken: BTreeSet<u64> = self
            .in_hand
            .iter()
            .filter(|(owner, _)| owner == name)
            .map(|(_, received)| received.seq())
            .collect();
        self.model.queues[name]
            .waiting
            .difference(&taken)
            .copied()
            .collect()
    }

    fn receive(&mut self) {
        let name = self.name();
        if !self.model.queues.contains_key(&name) {
            assert!(matches!(
                self.env().new_subscriber(&name),
                Err(Error::UnknownSubscriber(_))
            ));
            return;
        }
        let many = 1 + self.random.below(3) as usize;
        let free = self.free(&name);
        let queue = self.model.queues.get_mut(&name).unwrap();
        let mut expected = Vec::new();
        for seq in free {
            if expected.len() == many {
                break;
            } else if queue.max_attempts > 0
                && queue
                    .attempts
                    .get(&seq)
                    .is_some_and(|n| *n >= queue.max_attempts)
            {
                // Its last attempt ended without a word; it is buried when it is met.
                queue.waiting.remove(&seq);
                queue.dead.insert(seq);
            } else {
                expected.push(seq);
            }
        }
        let batch = self
            .env()
            .new_subscriber(&name)
            .unwrap()
            .receive_batch(many, Duration::ZERO)
            .unwrap();
        let batch: Vec<Received> = batch.into_iter().collect();
        assert_eq!(
            batch.iter().map(Received::seq).collect::<Vec<_>>(),
            expected,
            "{name}"
        );
        for received in batch {
            assert_eq!(received.body(), self.model.messages[&received.seq()]);
            let queue = self.model.queues.get_mut(&name).unwrap();
            let attempts = queue.attempts.entry(received.seq()).or_default();
            *attempts += 1;
            assert_eq!(received.attempt(), *attempts);
            self.in_hand.push((name.clone(), received));
        }
    }

    fn settle(&mut self) {
        if self.in_hand.is_empty() {
            return;
        }
        let at = self.random.below(self.in_hand.len() as u64) as usize;
        let (name, received) = self.in_hand.swap_remove(at);
        let seq = received.seq();
        let Some(queue) = self.model.queues.get_mut(&name) else {
            // Its subscriber is gone, perhaps another of the same name has come: all is a no-op.
            return received.ack().unwrap();
        };
        match self.random.below(4) {
            0 | 1 => {
                received.ack().unwrap();
                queue.waiting.remove(&seq);
            }
            2 => {
                received.give_back().unwrap();
                *queue.attempts.get_mut(&seq).unwrap() -= 1;
            }
            _ => {
                let spent = queue.max_attempts > 0 && received.attempt() >= queue.max_attempts;
                received.fail(Duration::ZERO).unwrap();
                if spent && queue.waiting.remove(&seq) {
                    queue.dead.insert(seq);
                }
            }
        }
        self.model.sweep();
    }

    fn add(&mut self) {
        let name = self.name();
        let backlog = if self.random.below(2) == 0 {
            Backlog::Now
        } else {
            Backlog::Oldest
        };
        let added = self
            .env()
            .new_control()
            .add_subscriber(&name, backlog)
            .unwrap();
        assert_eq!(added, !self.model.queues.contains_key(&name));
        if added {
            let mut queue = Queue {
                max_attempts: self.random.below(4) as u32,
                ..Queue::default()
            };
            self.env()
                .new_control()
                .set_max_attempts(&name, queue.max_attempts)
                .unwrap();
            if backlog == Backlog::Oldest {
                queue.waiting = self
                    .model
                    .queues
                    .values()
                    .flat_map(|queue| queue.waiting.clone())
                    .collect();
            }
            self.model.queues.insert(name, queue);
        }
    }

    fn remove(&mut self) {
        let name = self.name();
        self.in_hand.retain(|(owner, _)| *owner != name);
        let removed = self.env().new_control().remove_subscriber(&name).unwrap();
        assert_eq!(removed, self.model.queues.remove(&name).is_some());
        self.model.sweep();
    }

    fn limit(&mut self) {
        let strategy = [Strategy::PruneFirst, Strategy::PruneLast, Strategy::Reject]
            [self.random.below(3) as usize];
        (self.model.max_messages, self.model.max_bytes) =
            (1 + self.random.below(30), 20 + self.random.below(40_000));
        let hwm = HighWaterMark {
            message_timeout: Duration::MAX,
            max_messages: self.model.max_messages,
            max_bytes: self.model.max_bytes,
        };
        self.model.strategy = strategy;
        let control = self.env().new_control();
        control.set_high_water_mark(hwm).unwrap();
        control.set_strategy(strategy).unwrap();
    }

    fn clear(&mut self) {
        let name = self.name();
        let control = self.env().new_control();
        if let Some(queue) = self.model.queues.get_mut(&name) {
            assert_eq!(
                control.prune_all_messages_for(&name).unwrap(),
                queue.waiting.len() as u64
            );
            queue.waiting.clear();
            assert_eq!(
                control.clear_dead_letters(&name).unwrap(),
                queue.dead.len() as u64
            );
            queue.dead.clear();
        } else {
            assert_eq!(
                control.clear_messages().unwrap(),
                self.model.messages.len() as u64
            );
            self.model.messages.clear();
            for queue in self.model.queues.values_mut() {
                queue.waiting.clear();
                queue.dead.clear();
            }
        }
        self.model.sweep();
    }

    fn receive_newest(&mut self) {
        let name = self.name();
        if !self.model.queues.contains_key(&name) {
            return;
        }
        let mut free = self.free(&name);
        // Those without an attempt left become dead letters where they are met; keep the model simple.
        let queue = &self.model.queues[&name];
        if free.iter().any(|seq| {
            queue
                .attempts
                .get(seq)
                .is_some_and(|attempts| *attempts > 0)
        }) {
            return;
        }
        let top = free.pop();
        let received = self
            .env()
            .new_subscriber(&name)
            .unwrap()
            .receive_to_top(Duration::ZERO)
            .unwrap();
        assert_eq!(received.as_ref().map(Received::seq), top);
        let queue = self.model.queues.get_mut(&name).unwrap();
        free.iter().for_each(|seq| _ = queue.waiting.remove(seq));
        if let Some(received) = received {
            received.ack().unwrap();
            queue.waiting.remove(&top.unwrap());
        }
        self.model.sweep();
    }

    fn revive(&mut self) {
        let name = self.name();
        if let Some(queue) = self.model.queues.get_mut(&name) {
            let revived = self
                .env
                .as_ref()
                .unwrap()
                .new_control()
                .revive_dead_letters(&name)
                .unwrap();
            assert_eq!(revived, queue.dead.len() as u64);
            for seq in std::mem::take(&mut queue.dead) {
                queue.waiting.insert(seq);
                queue.attempts.remove(&seq);
            }
        }
    }

    fn reopen(&mut self) {
        // What is in hand comes again, the attempt counted.
        self.in_hand.clear();
        self.env = None;
        self.env = Some(open(&self.path));
    }

    fn check(&mut self) {
        let stat = self.env().new_control().stat().unwrap();
        assert_eq!(
            (stat.messages, stat.bytes),
            (self.model.messages.len() as u64, self.model.bytes())
        );
        assert_eq!(stat.next_sequence, self.model.next);
        assert_eq!(stat.subscribers.len(), self.model.queues.len());
        for subscriber in stat.subscribers {
            let queue = &self.model.queues[&subscriber.name];
            let id = self.env().queue(&subscriber.name).unwrap();
            let sum = |seqs: &BTreeSet<u64>| {
                seqs.iter()
                    .map(|seq| self.model.messages[seq].len() as u64)
                    .sum::<u64>()
            };
            let seqs = |id| {
                self.env()
                    .peek(id, 0, usize::MAX)
                    .unwrap()
                    .into_iter()
                    .map(|message| message.seq)
            };
            assert_eq!(
                seqs(id).collect::<BTreeSet<_>>(),
                queue.waiting,
                "{}",
                subscriber.name
            );
            assert_eq!(
                seqs(id.dead()).collect::<BTreeSet<_>>(),
                queue.dead,
                "{} dead",
                subscriber.name
            );
            assert_eq!(subscriber.depth, queue.waiting.len() as u64);
            assert_eq!(subscriber.dead, queue.dead.len() as u64);
            assert_eq!(subscriber.bytes, sum(&queue.waiting));
        }
    }
}

fn open(path: &std::path::Path) -> Environment {
    let options = Options {
        map_size: Some(32 << 20),
        durability: persipubsub::Durability::None,
        ..Options::default()
    };
    Environment::open_with(path, options).unwrap()
}

fn run(seed: u64, steps: usize) {
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let env = open(dir.path());
    let high_water_mark = HighWaterMark {
        message_timeout: Duration::MAX,
        ..HighWaterMark::default()
    };
    env.new_control()
        .initialize(&Setup {
            high_water_mark,
            ..Setup::default()
        })
        .unwrap();
    let model = Model {
        messages: BTreeMap::new(),
        queues: BTreeMap::new(),
        next: 1,
        max_messages: high_water_mark.max_messages,
        max_bytes: high_water_mark.max_bytes,
        strategy: Strategy::PruneFirst,
    };
    let path = dir.path().to_owned();
    let mut run = Run {
        random: Random::new(seed),
        model,
        env: Some(env),
        path,
        in_hand: Vec::new(),
    };
    for _ in 0..steps {
        run.step();
        run.check();
    }
}

#[test]
fn the_store_and_a_naive_model_agree() {
    match std::env::var("PERSIPUBSUB_SEED") {
        Ok(seed) => run(seed.parse().unwrap(), 4000),
        Err(_) => (1..=12).for_each(|seed| run(seed, 800)),
    }
}

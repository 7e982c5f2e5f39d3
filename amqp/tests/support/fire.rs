//! A producer with confirms and a consumer with acks that keep book, for tests in which brokers and networks fail.

use amqp::client::{
    Backoff, Confirm, ConnectOptions, ConsumerEvent, Live, Publish, Session, Topology,
};
use amqp::codec::RawProperties;
use amqp::protocol::BasicProperties;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// A session that comes back soon.
pub fn session(hosts: Vec<ConnectOptions>, topology: Topology) -> Session {
    let backoff = Backoff {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(200),
    };
    Session::with_hosts(hosts, topology).backoff(backoff)
}

/// What producer and consumer know.
#[derive(Default)]
pub struct Facts {
    pub confirmed: RefCell<BTreeSet<u32>>,
    pub seen: RefCell<BTreeSet<u32>>,
    pub duplicates: Cell<u32>,
    pub lives: Cell<u64>,
    pub stop: Cell<bool>,
}

impl Facts {
    /// Waits until so many more are confirmed: what runs is really running.
    pub async fn progress(&self, more: usize) {
        let goal = self.confirmed.borrow().len() + more;
        while self.confirmed.borrow().len() < goal {
            kernel::sleep(Duration::from_millis(5)).await.unwrap();
        }
    }
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} lives, {} confirmed, {} seen, {} twice",
            self.lives.get(),
            self.confirmed.borrow().len(),
            self.seen.borrow().len(),
            self.duplicates.get()
        )
    }
}

/// Publishes numbers one after the other until told to stop; a number without a confirm is published again.
pub async fn produce(mut session: Session, queue: String, facts: Rc<Facts>) {
    let properties = RawProperties::from(BasicProperties::default().with_delivery_mode(2));
    let mut todo: VecDeque<u32> = VecDeque::new();
    let mut next = 0;
    while !facts.stop.get() {
        let live = session
            .connect()
            .await
            .unwrap_or_else(|error| panic!("only the network fails: {error}"));
        facts.lives.set(facts.lives.get() + 1);
        let mut waiting: VecDeque<(u32, Confirm)> = VecDeque::new();
        let mut alive = true;
        while alive && !facts.stop.get() {
            let number = todo.pop_front().unwrap_or_else(|| {
                next += 1;
                next
            });
            let body = number.to_be_bytes();
            let message = Publish::new("", &queue, &body)
                .properties(&properties)
                .mandatory();
            match live.channel.publish_pending(message).await {
                Ok(confirm) => waiting.push_back((number, confirm)),
                Err(_) => {
                    todo.push_back(number);
                    alive = false;
                }
            }
            while waiting.len() > 50 || (!alive && !waiting.is_empty()) {
                alive &= settle(&mut waiting, &mut todo, &facts).await;
            }
        }
        while !waiting.is_empty() {
            settle(&mut waiting, &mut todo, &facts).await;
        }
    }
}

async fn settle(
    waiting: &mut VecDeque<(u32, Confirm)>,
    todo: &mut VecDeque<u32>,
    facts: &Facts,
) -> bool {
    let (number, confirm) = waiting.pop_front().expect("the caller checked");
    let asked = std::time::Instant::now();
    let answer = confirm.await;
    // Its own deadline is some seconds; this is for a machine that does ten things at once.
    assert!(asked.elapsed() < Duration::from_secs(60), "{answer:?}");
    match answer {
        Ok(()) => facts.confirmed.borrow_mut().insert(number),
        Err(_) => {
            todo.push_back(number);
            false
        }
    }
}

pub async fn consume(mut session: Session, facts: Rc<Facts>) {
    loop {
        let live = session
            .connect()
            .await
            .unwrap_or_else(|error| panic!("only the network fails: {error}"));
        facts.lives.set(facts.lives.get() + 1);
        if consume_once(live, &facts).await {
            return;
        }
    }
}

/// Consumes until the connection is lost, or all that was confirmed has been seen (true).
async fn consume_once(mut live: Live, facts: &Facts) -> bool {
    let consumer = &mut live.consumers[0];
    loop {
        kernel::ignore_after(Duration::from_millis(100), consumer.ready())
            .await
            .expect("nobody cancels us");
        match consumer.try_next() {
            Some(ConsumerEvent::Delivery(delivery)) => {
                let number = delivery.body[..].try_into().expect("we send four bytes");
                if !facts.seen.borrow_mut().insert(u32::from_be_bytes(number)) {
                    facts.duplicates.set(facts.duplicates.get() + 1);
                }
                // An error is the end of the channel, which the next event tells too.
                let _ = delivery.ack();
            }
            Some(ConsumerEvent::Closed(_) | ConsumerEvent::Cancelled) => return false,
            None => {}
        }
        if facts.stop.get() && facts.confirmed.borrow().is_subset(&facts.seen.borrow()) {
            return true;
        }
    }
}

/// Memory of this process in use now, in KiB.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.expect("a number of KiB").parse().expect("a number")
}

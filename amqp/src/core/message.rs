//! Messages as a consumer gets them, and the queue in which they wait for it.

use super::wakers::Wakers;
use crate::codec::RawProperties;
use crate::error::Error;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

/// A message from the broker. `Send`, so that it can be worked on by another thread while the
/// duty to settle it stays with the connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it was published; shared between deliveries, so a clone is cheap.
    pub exchange: Arc<str>,
    /// With which routing key.
    pub routing_key: Arc<str>,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Its properties, undecoded.
    pub properties: RawProperties,
    /// Its body.
    pub body: Vec<u8>,
}

/// A message and its tag, before anybody is responsible for it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) tag: u64,
    pub(crate) message: Message,
}

/// Why a consumer yields nothing more.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// The server cancelled it, for example because its queue was deleted; or we did.
    Cancelled,
    Closed(Error),
}

/// The connection's end of one consumer.
pub(crate) struct ConsumerState {
    pub(crate) tag: String,
    pub(crate) no_ack: bool,
    /// What has come and was not taken yet. Bounded by the prefetch, without one by `read_buffer_bytes`.
    pub(crate) queue: RefCell<VecDeque<Raw>>,
    pub(crate) ended: RefCell<Option<Ended>>,
    pub(crate) waiting: RefCell<Wakers>,
    /// Its user is gone: what still comes is given back.
    pub(crate) abandoned: Cell<bool>,
}

impl ConsumerState {
    pub(crate) fn new(tag: String, no_ack: bool) -> Self {
        ConsumerState {
            tag,
            no_ack,
            queue: RefCell::default(),
            ended: RefCell::default(),
            waiting: RefCell::default(),
            abandoned: Cell::new(false),
        }
    }

    pub(crate) fn push(&self, raw: Raw) {
        self.queue.borrow_mut().push_back(raw);
        self.waiting.borrow_mut().wake();
    }

    pub(crate) fn end(&self, why: Ended) {
        self.ended.borrow_mut().get_or_insert(why);
        self.waiting.borrow_mut().wake();
    }
}

/// The names of the last delivery: most deliveries of a consumer have the same, and then share them.
#[derive(Default)]
pub(crate) struct Names {
    exchange: Option<Arc<str>>,
    routing_key: Option<Arc<str>>,
}

impl Names {
    #[inline]
    pub(crate) fn share(&mut self, exchange: &str, routing_key: &str) -> (Arc<str>, Arc<str>) {
        (
            shared(&mut self.exchange, exchange),
            shared(&mut self.routing_key, routing_key),
        )
    }
}

#[inline]
fn shared(last: &mut Option<Arc<str>>, name: &str) -> Arc<str> {
    match last {
        Some(last) if **last == *name => Arc::clone(last),
        _ => Arc::clone(last.insert(name.into())),
    }
}

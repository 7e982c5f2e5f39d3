//! A request in flight and what answers it.

use super::message::Raw;
use super::wakers::Wakers;
use crate::error::Error;
use crate::protocol::AMQPClass;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// What `Channel::call` expects for `basic.get`; get-ok and get-empty both answer it.
pub(crate) const GET: (u16, u16) = (60, 71);
/// As [`GET`] without acks. No method has this id: it only tells the two apart.
pub(crate) const GET_NO_ACK: (u16, u16) = (60, 0);

/// What answers a call.
#[derive(Debug)]
pub(crate) enum Reply {
    Method(Box<AMQPClass>),
    /// `basic.get`: a message and how many are left, or nothing.
    Got(Option<(Raw, u32)>),
}

/// A request on its way. It stays in the channel's line until its answer came, also when nobody waits for it any
/// more: answers are told apart only by their order.
pub(crate) struct Call {
    pub(crate) what: &'static str,
    /// Class and method of the answer.
    pub(super) expects: (u16, u16),
    answer: RefCell<Option<Result<Reply, Error>>>,
    waiting: RefCell<Wakers>,
    /// Nobody waits for it; a message it brings is given back.
    pub(crate) abandoned: Cell<bool>,
}

impl Call {
    pub(crate) fn new(what: &'static str, expects: (u16, u16)) -> Rc<Self> {
        Rc::new(Call {
            what,
            expects,
            answer: RefCell::default(),
            waiting: RefCell::default(),
            abandoned: Cell::new(false),
        })
    }

    pub(crate) fn answer(&self, answer: Result<Reply, Error>) {
        self.answer.borrow_mut().get_or_insert(answer);
        self.waiting.borrow_mut().wake();
    }

    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<Reply, Error>> {
        match self.answer.borrow_mut().take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.waiting.borrow_mut().add(waker);
                Poll::Pending
            }
        }
    }
}

//! The user's handle of a channel: one method of the protocol each.

use super::connection::Connection;
use super::consumer::Consumer;
use super::delivery::Delivery;
use super::wait;
use crate::core::ops::{self, Op};
use crate::core::{
    self, Call, Consume, ExchangeDeclare, NoWait, QueueDeclare, QueueOk, Raw, Reply, Settle,
    requests,
};
use crate::error::Error;
use crate::protocol::{FieldTable, reply};
use std::rc::Rc;
use std::time::Duration;

/// A channel. Cloning gives another handle of the same one.
///
/// When its last handle is dropped, consumers included, the channel closes, and the server gives what was not
/// settled to somebody else. Errors of the server close a channel; every later call then returns the reason.
///
/// All waiting calls: a cancelled one leaves its request with the server and its answer is ignored when it comes;
/// they fail with [`Error::NoAnswer`] after the connection's `answer_timeout`.
#[derive(Clone)]
pub struct Channel {
    handle: Rc<Handle>,
}

struct Handle {
    core: Rc<core::Channel>,
    connection: Connection,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.core.closed().is_none() {
            // An error means that it is closed already.
            let _ = self
                .core
                .close(reply::SUCCESS, "the last handle was dropped");
        }
    }
}

/// Waits for the answer of a call.
pub(super) async fn answered(call: &Rc<Call>, limit: Duration) -> Result<Reply, Error> {
    let answer = async { wait(|waker| call.poll(waker)).await? };
    match kernel::timeout_after(limit, answer).await {
        Err(Error::Kernel(kernel::Error::TaskTimeout)) => Err(Error::NoAnswer {
            what: call.what,
            after: limit,
        }),
        result => result,
    }
}

impl Channel {
    pub(super) fn new(core: Rc<core::Channel>, connection: Connection) -> Self {
        Channel {
            handle: Rc::new(Handle { core, connection }),
        }
    }

    #[inline]
    pub(super) fn core(&self) -> &Rc<core::Channel> {
        &self.handle.core
    }

    /// Its number on the connection.
    pub fn id(&self) -> u16 {
        self.core().id
    }

    /// Its connection.
    pub fn connection(&self) -> &Connection {
        &self.handle.connection
    }

    /// The first cause of the end, if the channel is over.
    pub fn is_closed(&self) -> Option<Error> {
        self.core().closed()
    }

    /// Waits for the end of the channel and tells its first cause.
    ///
    /// # Cancellation
    /// Safe. A cancellation is returned as [`Error::Kernel`].
    pub async fn closed(&self) -> Error {
        match wait(|waker| self.core().poll_closed(waker)).await {
            Ok(cause) => cause,
            Err(cancelled) => Error::Kernel(cancelled),
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.core().core.options().answer_timeout
    }

    async fn run<T>(&self, op: Op<T>) -> Result<T, Error> {
        let call = self.core().call(&op.method, op.what, op.expects)?;
        match answered(&call, self.limit()).await? {
            Reply::Method(class) => {
                Ok((op.read)(*class).expect("the channel checked which answer it is"))
            }
            Reply::Got(_) => unreachable!("only basic.get is answered by a message"),
        }
    }

    /// The requests that ask for no answer.
    pub fn no_wait(&self) -> NoWait<'_> {
        NoWait::new(self.core())
    }

    requests!(async .await);

    // --- consuming ---

    /// Starts a consumer.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`] with 404 if the queue does not exist, 403 if it is consumed exclusively;
    /// [`Error::Invalid`].
    pub async fn consume(&self, consume: Consume) -> Result<Consumer, Error> {
        let (state, call) = self.core().consume(&consume)?;
        // Made before the answer: dropped without one, it cancels the consumer.
        let consumer = Consumer::new(self.clone(), state);
        answered(&call, self.limit()).await?;
        Ok(consumer)
    }

    /// [`Channel::consume`] without an answer: if the server refuses, the channel closes, and the consumer yields that.
    ///
    /// # Errors
    /// [`Error::Invalid`], or the channel's end.
    pub fn consume_no_wait(&self, consume: Consume) -> Result<Consumer, Error> {
        let state = self.core().consume_no_wait(&consume)?;
        Ok(Consumer::new(self.clone(), state))
    }

    /// Takes one message from a queue, if there is one. For many, [`Channel::consume`].
    ///
    /// # Cancellation
    /// A message that comes later is given back.
    ///
    /// # Errors
    /// [`Error::ChannelClosed`] with 404 if the queue does not exist.
    pub async fn get(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        self.get_as(queue, false).await
    }

    /// [`Channel::get`] without acks: the message is gone from the queue at once.
    ///
    /// # Errors
    /// As [`Channel::get`].
    pub async fn get_no_ack(&self, queue: &str) -> Result<Option<Delivery>, Error> {
        self.get_as(queue, true).await
    }

    async fn get_as(&self, queue: &str, no_ack: bool) -> Result<Option<Delivery>, Error> {
        let op = ops::get(queue, no_ack)?;
        let call = self.core().call(&op.method, op.what, op.expects)?;
        let unclaimed = Unclaimed {
            call: &call,
            channel: self.core(),
            no_ack,
        };
        match answered(&call, self.limit()).await? {
            Reply::Got(None) => Ok(None),
            Reply::Got(Some((raw, _left))) => {
                std::mem::forget(unclaimed);
                Ok(Some(Delivery::new(self.core(), raw, no_ack)))
            }
            Reply::Method(_) => unreachable!("basic.get is answered by get-ok or get-empty"),
        }
    }

    /// Acks everything outstanding on the channel up to and including a tag.
    ///
    /// # Errors
    /// [`Error::AlreadySettled`] if `delivery_tag` itself is not outstanding, or the channel's end.
    pub fn ack_through(&self, delivery_tag: u64) -> Result<(), Error> {
        self.core().settle_through(delivery_tag, Settle::Ack)
    }

    /// How many deliveries of the channel are not settled.
    pub fn unsettled(&self) -> usize {
        self.core().unsettled()
    }

    /// Asks the server to pause (`false`) or resume (`true`) deliveries. RabbitMQ refuses to pause (540): use
    /// [`Channel::qos`].
    ///
    /// # Errors
    /// [`Error::ConnectionClosed`] with 540 on RabbitMQ.
    pub async fn flow(&self, active: bool) -> Result<bool, Error> {
        self.run(ops::flow(active)).await
    }

    // --- modes ---

    /// Closes the channel. What waits on it ends with [`Error::ClosedByUs`] at the call; the server gives what was
    /// not settled to somebody else.
    ///
    /// # Errors
    /// The reason, if it was closed before; [`Error::NoAnswer`].
    pub async fn close(&self) -> Result<(), Error> {
        let call = self.core().close(reply::SUCCESS, "Goodbye")?;
        answered(&call, self.limit()).await.map(drop)
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({}, closed: {:?})", self.id(), self.is_closed())
    }
}

/// A `basic.get` whose caller may go away before its answer comes, or between the answer and the caller's next turn.
struct Unclaimed<'a> {
    call: &'a Rc<Call>,
    channel: &'a core::Channel,
    no_ack: bool,
}

impl Drop for Unclaimed<'_> {
    fn drop(&mut self) {
        self.call.abandoned.set(true);
        let answer = self.call.poll(std::task::Waker::noop());
        if let std::task::Poll::Ready(Ok(Reply::Got(Some((Raw { tag, .. }, _))))) = answer
            && !self.no_ack
        {
            // An error means that the channel is closed: the server gives it back by itself.
            let _ = self.channel.settle(tag, Settle::Nack { requeue: true });
        }
    }
}

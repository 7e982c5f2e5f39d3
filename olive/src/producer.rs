//! Sending jobs, each confirmed by the broker, and receiving their results.
//!
//! Results come by RabbitMQ's *direct reply-to*: a pseudo-queue that belongs to this connection,
//! costs nothing to make and leaves nothing behind. When the connection goes, so do the results
//! that were on their way.

use std::fmt;

use amqp::client::{
    Channel, Confirm, ConnectOptions, Connection, Consume, Consumer, ConsumerEvent, Publish,
};
use amqp::codec::RawProperties;
use amqp::protocol::BasicProperties;
use amqp::{Error, PublishError};

use crate::config::Config;
use crate::worker;

/// RabbitMQ's name for "back to whoever published".
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Why nothing could be sent or received.
#[derive(Debug)]
pub enum SendError {
    /// The connection, or what it needs on the broker.
    Broker(Error),
    /// One job was not taken.
    Publish(PublishError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Broker(error) => write!(f, "{error}"),
            SendError::Publish(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SendError {}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        SendError::Broker(error)
    }
}

impl From<PublishError> for SendError {
    fn from(error: PublishError) -> Self {
        SendError::Publish(error)
    }
}

/// A connection that jobs are sent over.
pub struct Producer {
    connection: Connection,
    channel: Channel,
    exchange: String,
    routing_key: String,
    replies: Option<Consumer>,
}

impl Producer {
    /// Connects once, without trying again, and declares what jobs need to wait in: exchange,
    /// queue and binding of `config`.
    ///
    /// # Errors
    /// No broker there, a wrong password, a queue that exists with other arguments, …
    pub async fn connect(config: &Config, broker: ConnectOptions) -> Result<Self, Error> {
        let connection = Connection::open(broker).await?;
        let channel = connection.channel().await?;
        worker::declare(config, &channel).await?;
        channel.confirm_select().await?;
        Ok(Producer {
            connection,
            channel,
            exchange: config.exchange.clone(),
            routing_key: config.routing_key.clone(),
            replies: None,
        })
    }

    /// Asks for results: what is sent from now on is answered, see [`next_reply`](Self::next_reply).
    ///
    /// # Errors
    /// The connection's end.
    pub async fn with_replies(mut self) -> Result<Self, Error> {
        let consume = Consume::new(DIRECT_REPLY_TO).no_ack(true);
        self.replies = Some(self.channel.consume(consume).await?);
        Ok(self)
    }

    /// Sends one job, persistent; `tid` becomes its correlation id. The returned [`Confirm`] says
    /// when the broker has it.
    ///
    /// # Cancellation
    /// Safe: cancelled while it waits for room, nothing was sent.
    ///
    /// # Errors
    /// The broker blocks publishers or is gone.
    pub async fn send(&self, tid: &str, body: &[u8]) -> Result<Confirm, PublishError> {
        let properties = self.properties(tid);
        let publish = Publish::new(&self.exchange, &self.routing_key, body)
            .properties(&properties)
            .mandatory();
        self.channel.publish_pending(publish).await
    }

    fn properties(&self, tid: &str) -> RawProperties {
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_correlation_id(tid.into());
        if self.replies.is_some() {
            properties = properties.with_reply_to(DIRECT_REPLY_TO.into());
        }
        properties.into()
    }

    /// Waits for the next result: its correlation id and its body, a [`Reply`](crate::outcome::Reply).
    ///
    /// # Cancellation
    /// Safe.
    ///
    /// # Errors
    /// The connection's end.
    ///
    /// # Panics
    /// Without [`with_replies`](Self::with_replies).
    pub async fn next_reply(&mut self) -> Result<(String, Vec<u8>), Error> {
        let replies = self.replies.as_mut().expect("with_replies was called");
        match replies.next().await {
            ConsumerEvent::Delivery(delivery) => {
                let id = delivery.properties.fields().correlation_id.unwrap_or(b"");
                let id = String::from_utf8_lossy(id).into_owned();
                Ok((id, delivery.into_parts().0.body))
            }
            ConsumerEvent::Cancelled => Err(Error::ClosedByUs),
            ConsumerEvent::Closed(error) => Err(error),
        }
    }

    /// The channel, for what a producer wants beside sending.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Closes the connection in good order.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

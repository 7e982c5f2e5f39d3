//! Publishes numbered messages with confirms, many on their way at once.
//!
//! `cargo run -p amqp --example publisher -- amqp://guest:guest@127.0.0.1:5672/%2F 1000`

use amqp::client::{Connection, Publish, QueueDeclare};
use amqp::codec::RawProperties;
use amqp::protocol::BasicProperties;
use std::error::Error;

/// Publishes `count` messages to the queue `examples` and returns how many the broker confirmed.
pub async fn publish(url: &str, count: u32) -> Result<u32, Box<dyn Error>> {
    let connection = Connection::open(amqp::Uri::parse(url)?).await?;
    let channel = connection.channel().await?;
    channel.queue_declare(QueueDeclare::new("examples")).await?;
    channel.confirm_select().await?;
    // Encoded once: delivery mode 2 is kept over a restart of the broker.
    let properties = RawProperties::from(
        BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("text/plain".into()),
    );
    let mut confirms = Vec::new();
    for number in 0..count {
        let body = format!("message {number}");
        let message = Publish::new("", "examples", body.as_bytes())
            .properties(&properties)
            .mandatory();
        confirms.push(channel.publish_pending(message).await?);
    }
    let mut confirmed = 0;
    for confirm in confirms {
        match confirm.await {
            Ok(()) => confirmed += 1,
            Err(error) => eprintln!("{error}; trying again helps: {}", error.is_retryable()),
        }
    }
    connection.close().await;
    Ok(confirmed)
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or_else(|| "amqp://127.0.0.1".into());
    let count = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let confirmed = kernel::run(async move { publish(&url, count).await })??;
    println!("{confirmed} of {count} confirmed");
    Ok(())
}

//! Asks and answers over RabbitMQ's direct reply-to: no queue for the replies is needed.
//!
//! `cargo run -p amqp --example rpc -- amqp://guest:guest@127.0.0.1:5672/%2F`

use amqp::client::{Channel, Connection, Consume, ConsumerEvent, Publish, QueueDeclare};
use amqp::codec::RawProperties;
use amqp::protocol::BasicProperties;
use std::error::Error;

const REPLIES: &str = "amq.rabbitmq.reply-to";

/// Answers each request with its text in capitals, until the channel ends.
async fn serve(channel: Channel, queue: String) -> Result<(), amqp::Error> {
    let mut requests = channel.consume(Consume::new(queue)).await?;
    loop {
        let request = match requests.next().await {
            ConsumerEvent::Delivery(request) => request,
            ConsumerEvent::Cancelled => return Ok(()),
            ConsumerEvent::Closed(error) => return Err(error),
        };
        let answer = request.body.to_ascii_uppercase();
        let fields = request.properties.fields();
        let to = fields.reply_to.and_then(|to| std::str::from_utf8(to).ok());
        let mut properties = BasicProperties::default();
        if let Some(Ok(id)) = fields.correlation_id.map(std::str::from_utf8) {
            properties = properties.with_correlation_id(id.into());
        }
        if let Some(to) = to {
            let properties = RawProperties::from(properties);
            // Who asked may be gone; that is not this side's failure.
            let _ = channel
                .publish_unconfirmed(Publish::new("", to, &answer).properties(&properties))
                .await;
        }
        request.ack()?;
    }
}

/// Asks `questions` one after the other, of a server in the same program, and returns the answers.
pub async fn ask(url: &str, questions: &[&str]) -> Result<Vec<String>, Box<dyn Error>> {
    let connection = Connection::open(amqp::Uri::parse(url)?).await?;
    let server = connection.channel().await?;
    let queue = server
        .queue_declare(QueueDeclare::new("").exclusive())
        .await?
        .name;
    let serving = kernel::spawn(serve(server, queue.clone()));

    let client = connection.channel().await?;
    let mut replies = client.consume(Consume::new(REPLIES).no_ack(true)).await?;
    let mut answers = Vec::new();
    for (number, question) in questions.iter().enumerate() {
        let properties = BasicProperties::default()
            .with_reply_to(REPLIES.into())
            .with_correlation_id(number.to_string().into());
        let properties = RawProperties::from(properties);
        let message = Publish::new("", &queue, question.as_bytes())
            .properties(&properties)
            .mandatory();
        client.publish_unconfirmed(message).await?;
        match replies.next().await {
            ConsumerEvent::Delivery(reply) => {
                answers.push(String::from_utf8_lossy(&reply.body).into_owned())
            }
            ConsumerEvent::Cancelled => return Err("the replies were cancelled".into()),
            ConsumerEvent::Closed(error) => return Err(error.into()),
        }
    }
    connection.close().await;
    serving.join().await.ok();
    Ok(answers)
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "amqp://127.0.0.1".into());
    let answers = kernel::run(async move { ask(&url, &["hello", "how are you"]).await })??;
    println!("{answers:?}");
    Ok(())
}

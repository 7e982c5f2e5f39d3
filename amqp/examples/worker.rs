//! Works on messages, several at a time, and acks each when its work is done.
//!
//! `cargo run -p amqp --example worker -- amqp://guest:guest@127.0.0.1:5672/%2F`

use amqp::client::{Consume, ConsumerEvent, QueueDeclare, Session, Topology};
use std::error::Error;
use std::time::Duration;

/// Works until `count` messages of the queue `examples` are done. Losing the broker on the way only costs time: the
/// session comes back, and the broker gives what was not acked again.
pub async fn work(url: &str, count: u32) -> Result<(), Box<dyn Error>> {
    let topology = Topology::new()
        .queue(QueueDeclare::new("examples"))
        .prefetch(10)
        .consume(Consume::new("examples"));
    let mut session = Session::new(amqp::Uri::parse(url)?, topology);
    let mut done = 0;
    while done < count {
        let mut live = session.connect().await?;
        let consumer = &mut live.consumers[0];
        while done < count {
            match consumer.next().await {
                ConsumerEvent::Delivery(delivery) => {
                    // The message may go to a thread; the duty to settle it stays here.
                    let (message, acker) = delivery.into_parts();
                    let length = kernel::run_in_thread(move || {
                        std::thread::sleep(Duration::from_micros(100));
                        message.body.len()
                    });
                    assert!(length.await? > 0);
                    // An error means that the channel is gone: the message comes again.
                    done += u32::from(acker.ack().is_ok());
                }
                ConsumerEvent::Cancelled => return Err("somebody deleted the queue".into()),
                ConsumerEvent::Closed(error) if error.is_retryable() => break,
                ConsumerEvent::Closed(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "amqp://127.0.0.1".into());
    kernel::run(async move { work(&url, u32::MAX).await })??;
    Ok(())
}

//! Tells what happens to a session. Start it, then restart the broker.
//!
//! `cargo run -p amqp --example recovery -- amqp://guest:guest@127.0.0.1:5672/%2F`

use amqp::client::{QueueDeclare, Session, SessionEvent, Topology};
use std::error::Error;

/// Follows a session through `lives` connections; returns the line told for each change.
pub async fn follow(url: &str, lives: u64) -> Result<Vec<String>, Box<dyn Error>> {
    let topology = Topology::new().server_named_queue("mine", QueueDeclare::new("").exclusive());
    let mut session = Session::new(amqp::Uri::parse(url)?.named("recovery example"), topology);
    let mut lines = Vec::new();
    loop {
        let line = match session.next().await? {
            SessionEvent::Connected(live) => {
                let line = format!(
                    "connected, life {}, my queue is {}",
                    live.number, live.queues["mine"]
                );
                if live.number == lives {
                    lines.push(line);
                    return Ok(lines);
                }
                line
            }
            SessionEvent::Lost(error) => format!("lost: {error}"),
            SessionEvent::Blocked(reason) => format!("publishers are blocked: {reason}"),
            SessionEvent::Unblocked => "publishers may go on".to_owned(),
        };
        println!("{line}");
        lines.push(line);
    }
}

#[allow(dead_code, reason = "the tests use the function alone")]
fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "amqp://127.0.0.1".into());
    kernel::run(async move { follow(&url, u64::MAX).await })??;
    Ok(())
}

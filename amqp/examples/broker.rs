//! The embedded broker alone: `cargo run -p amqp --example broker -- 127.0.0.1:5673`.
//!
//! Prints the address it listens on, then serves until it is killed.

use amqp::broker::{Broker, Config, MemoryStore};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).unwrap_or("127.0.0.1:0".into());
    let config = Config::on(listen.parse()?);
    kernel::run(async {
        let broker = Broker::bind(config, MemoryStore::new()).await?;
        println!("listening on {}", broker.local_addr());
        broker.serve().await?;
        Ok(())
    })?
}

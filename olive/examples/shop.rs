//! A worker of one's own: three Rust functions under task names.
//!
//! ```sh
//! cargo run --example shop                                   # a worker, with a broker of its own
//! olive send shop.charge '{"item": "tea", "count": 2}' --wait
//! olive send shop.charge --kwargs '{"item": "tea", "count": 0}' --wait    # an error, dead-lettered
//! olive send shop.total '[250, 500]' 0.19 --wait
//! olive send shop.recount --timeout 1 --wait                 # killed: it runs in a process then
//! ```
//!
//! Configuration comes from the environment and `olive.toml`, as for the `olive` binary.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use olive::{App, Config};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Order {
    item: String,
    count: u32,
}

#[derive(Serialize)]
struct Receipt {
    text: String,
    cents: u64,
}

/// The type's name is what the reply and the dead letter give as the kind of error.
#[derive(Debug)]
enum ChargeError {
    NothingOrdered(String),
}

impl fmt::Display for ChargeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChargeError::NothingOrdered(item) = self;
        write!(f, "an order of no {item} at all")
    }
}

/// One parameter: taken from `args`, or from all of `kwargs`.
fn charge(order: Order) -> Result<Receipt, ChargeError> {
    if order.count == 0 {
        return Err(ChargeError::NothingOrdered(order.item));
    }
    Ok(Receipt {
        text: format!("{} x {}", order.count, order.item),
        cents: 250 * u64::from(order.count),
    })
}

/// Several parameters: taken from `args`, in order.
fn total(cents: Vec<u64>, tax: f64) -> Result<f64, String> {
    Ok(cents.iter().sum::<u64>() as f64 * (1.0 + tax))
}

/// Takes an hour, and knows nothing of timeouts: a job with one runs where it can be killed.
fn recount() -> Result<(), String> {
    std::thread::sleep(Duration::from_secs(3600));
    Ok(())
}

fn main() -> ExitCode {
    App::new(Config::load())
        .task("shop.charge", charge)
        .task("shop.total", total)
        .task("shop.recount", recount)
        .run()
}

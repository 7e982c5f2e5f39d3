//! The process pool with real processes, killed by real signals.
//!
//! This binary is its own worker program: `main` enters the hidden modes first, as every program
//! with tasks does. Python must be installed.

#[path = "pool/faults.rs"]
mod faults;
#[path = "pool/outcomes.rs"]
mod outcomes;
#[path = "pool/rates.rs"]
mod rates;
#[path = "pool/support.rs"]
mod support;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    let registry = support::registry();
    if let Some(code) = olive::pool::enter_hidden_mode(&registry) {
        return code;
    }
    if let Some(code) = faults::enter_scene() {
        return code;
    }
    support::capture_log();
    let trials: Vec<Trial> = [outcomes::trials(), faults::trials(), rates::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

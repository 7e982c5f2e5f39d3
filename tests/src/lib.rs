//! What the scenarios share: they run the real `olive` binary as a process of its own, on a broker that is a process
//! of its own, and look at both only as a user would: log lines, exit codes, signals, and messages on the wire.
//!
//! A scenario is a function of a [`Broker`], and [`on_both_brokers!`] makes two tests of it:
//!
//! ```no_run
//! use support::{Broker, Site, on_both_brokers};
//!
//! on_both_brokers! { a_job_is_answered }
//!
//! fn a_job_is_answered(broker: &Broker) {
//!     let site = Site::new(broker);
//!     let _worker = site.worker().start();
//!     let reply = site.call("olive.tasks.do_nothing", serde_json::json!([]));
//!     assert_eq!(reply.status(), "done");
//! }
//! # fn main() {}
//! ```
//!
//! Reading order: [`process`] (programs, their lines, their end), [`broker`], [`site`] (one test's corner of a
//! broker), [`worker`].
//!
//! Nothing here waits for time to pass: every wait is for a line, a message, an exit or a file, with [`PATIENCE`] as a
//! limit that only a hang reaches. Environment variables: `OLIVE_TEST_AMQP_URL` names the RabbitMQ node to use (`tests/run` sets it),
//! `OLIVE_TEST_BIN` an `olive` binary to use instead of building one.

mod binary;
pub mod broker;
mod folder;
pub mod net;
pub mod process;
mod rabbit;
pub mod site;
pub mod worker;

pub use binary::olive;
pub use broker::Broker;
pub use folder::{Folder, fixtures};
pub use process::{Finished, Program, run};
pub use rabbit::RabbitNode;
pub use site::{DeadLetter, Message, Reply, Site};
pub use worker::{Worker, WorkerSetup};

use std::time::{Duration, Instant};

/// How long a wait may take before it counts as a hang. Generous: a busy machine is no fault of what is tested.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks again and again until there is something to find, and returns that: for facts that nobody announces, such as
/// the content of a file that another process writes, or the end of a process that is not our child.
///
/// # Panics
/// When [`PATIENCE`] runs out, naming `what`.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes two tests of each scenario, a function of a [`&Broker`](Broker): one on an `olive broker` started for it,
/// one on RabbitMQ, ignored unless `tests/run` (or a person with `OLIVE_TEST_AMQP_URL`) asks for it. Once per file.
#[macro_export]
macro_rules! on_both_brokers {
    ($($scenario:ident),+ $(,)?) => {
        mod embedded {
            $(#[test]
            fn $scenario() {
                super::$scenario(&$crate::Broker::embedded());
            })+
        }

        mod rabbitmq {
            $(#[test]
            #[ignore = "needs RabbitMQ: run tests/run"]
            fn $scenario() {
                super::$scenario(&$crate::Broker::rabbitmq());
            })+
        }
    };
}

/// Every page of the notes, and the README: their Rust blocks run as doctests.
#[cfg(doctest)]
mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}

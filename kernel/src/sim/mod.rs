//! Whole programs in a test: no real time, a seeded order, pipes instead of sockets.
//!
//! Nothing in here is needed to run the kernel. It is offered to users of the crate because a
//! program on one thread, with time as a parameter, can be run again exactly.

mod everywhere;
mod pipe;

use std::future::Future;

use crate::{Kernel, ManualClock};

pub use everywhere::cancel_everywhere;
pub use pipe::{Pipe, pipe};

/// A kernel whose clock jumps from deadline to deadline and which runs ready tasks in an order
/// that only the seed decides.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// let hour = kernel::sim::Sim::new(7).run(async {
///     let start = kernel::now();
///     kernel::sleep(Duration::from_secs(3600)).await.unwrap();
///     kernel::now() - start
/// });
/// assert_eq!(hour, Duration::from_secs(3600)); // at once
/// ```
#[derive(Debug)]
pub struct Sim {
    kernel: Kernel,
    clock: ManualClock,
}

impl Sim {
    /// A simulation with this seed. The same seed and program give the same run.
    ///
    /// # Panics
    /// If the operating system gives no epoll.
    pub fn new(seed: u64) -> Sim {
        let clock = ManualClock::new();
        let kernel = Kernel::builder()
            .manual_clock(clock.clone())
            .shuffle(seed)
            .build();
        Sim {
            kernel: kernel.expect("a simulation needs an epoll descriptor as any kernel does"),
            clock,
        }
    }

    /// The clock, for tests that move it themselves.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// As [`Kernel::run`].
    #[track_caller]
    pub fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        self.kernel.run(main)
    }
}

//! Every primitive, disturbed at every await: nothing may be left behind, neither in the kernel
//! nor outside of it. `cancel_everywhere/table.rs` says which test is for which primitive, and
//! fails if one is missing.

#[cfg(all(feature = "futures-io", feature = "hyper"))]
#[path = "cancel_everywhere/guests.rs"]
mod guests;
#[path = "cancel_everywhere/outside.rs"]
mod outside;
#[path = "cancel_everywhere/planted.rs"]
mod planted;
#[cfg(feature = "process")]
#[path = "cancel_everywhere/processes.rs"]
mod processes;
#[path = "cancel_everywhere/sockets.rs"]
mod sockets;
#[path = "cancel_everywhere/streams.rs"]
mod streams;
#[path = "cancel_everywhere/support.rs"]
mod support;
#[path = "cancel_everywhere/sync.rs"]
mod sync;
#[cfg(all(feature = "process", feature = "futures-io", feature = "hyper"))]
#[path = "cancel_everywhere/table.rs"]
mod table;
#[path = "cancel_everywhere/tasks.rs"]
mod tasks;

/// What is tested; `from_outside.rs` puts its own in the place of these.
mod subject {
    pub use kernel::{ignore_after, shield, sync::Semaphore, timeout_after};
}

//! What threads share is built of the names in this file, so that a checker can put its own in
//! their place while the code that uses them stays the same.
//!
//! Usually they are std's and mio's. With `--cfg loom` they are those of the model checker loom,
//! which runs every order of the threads' steps: see `model.rs`. With `--cfg tsan` the lock is one
//! that ThreadSanitizer can follow although std was compiled without it.

#[cfg(loom)]
mod checked;
#[cfg(tsan)]
mod watched;

#[cfg(loom)]
pub(crate) use checked::{Alarm, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, local};
#[cfg(not(any(loom, tsan)))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicU64},
};
#[cfg(tsan)]
pub(crate) use watched::{AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard};

#[cfg(not(loom))]
pub(crate) use usual::{Alarm, local};

#[cfg(not(loom))]
mod usual {
    /// What wakes the kernel's thread out of its sleep: an eventfd.
    pub(crate) type Alarm = mio::Waker;

    /// A cell of each thread's own.
    macro_rules! local {
        ($name:ident: $type:ty = $value:expr) => {
            std::thread_local! {
                static $name: std::cell::Cell<$type> = const { std::cell::Cell::new($value) };
            }
        };
    }
    pub(crate) use local;
}

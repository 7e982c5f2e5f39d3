//! What threads share is built of the names in this file, so that a checker can put its own in
//! their place while the code that uses them stays the same.
//!
//! Usually they are std's and mio's. With `--cfg loom` they are those of the model checker loom,
//! which runs every order of the threads' steps: see `model.rs`. With `--cfg tsan` the lock is one
//! that ThreadSanitizer can follow although std was compiled without it. Under Miri, and with
//! `--cfg bare`, there is no reactor, and with it no system call but those of memory and threads.

#[cfg(any(miri, bare))]
mod bare;
#[cfg(loom)]
mod checked;
#[cfg(tsan)]
mod watched;

#[cfg(any(miri, bare))]
pub(crate) use bare::{Alarm, Events, Poll, Registry};
#[cfg(loom)]
pub(crate) use checked::{
    Alarm, AtomicPtr, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard, Whereabouts, Window, local,
    several_processors, thread,
};
#[cfg(not(any(miri, bare)))]
pub(crate) use mio::{Events, Poll, Registry};
#[cfg(not(any(loom, tsan)))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU8, AtomicU64},
};
#[cfg(tsan)]
pub(crate) use watched::{AtomicPtr, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard};

#[cfg(not(loom))]
pub(crate) use usual::{Whereabouts, Window, local, several_processors, thread};

/// What wakes the kernel's thread out of its sleep: an eventfd.
#[cfg(not(any(loom, miri, bare)))]
pub(crate) type Alarm = mio::Waker;

/// The answer to a question about the machine: whoever comes before it is known finds it out.
/// (std's own waits for whoever does, where a sanitizer does not see the order of the two.)
pub(crate) struct Known(std::sync::atomic::AtomicU8);

impl Known {
    pub(crate) const fn nothing() -> Known {
        Known(std::sync::atomic::AtomicU8::new(0))
    }

    pub(crate) fn get(&self, find_out: impl FnOnce() -> bool) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        match self.0.load(Relaxed) {
            0 => {
                let found = find_out();
                self.0.store(1 + u8::from(found), Relaxed);
                found
            }
            known => known == 2,
        }
    }
}

#[cfg(not(loom))]
mod usual {
    pub(crate) use std::thread;
    use std::{
        sync::atomic::Ordering,
        time::{Duration, Instant},
    };

    /// How long a thread looks for what it waits for before it sleeps: about what it costs to
    /// put one to sleep and to wake it on another processor.
    const LOOK: Duration = Duration::from_micros(20);

    /// The time in which a thread looks before it sleeps.
    pub(crate) struct Window(Instant);

    impl Window {
        pub(crate) fn open() -> Window {
            Window(Instant::now())
        }

        pub(crate) fn is_open(&self) -> bool {
            self.0.elapsed() < LOOK
        }
    }

    /// Whether two threads of ours can run at once, as it was when this was first asked.
    pub(crate) fn several_processors() -> bool {
        static SEVERAL: super::Known = super::Known::nothing();
        SEVERAL.get(|| thread::available_parallelism().is_ok_and(|n| n.get() > 1))
    }

    /// On which processor a thread ran when it last said so.
    pub(crate) struct Whereabouts(super::AtomicU64);

    impl Whereabouts {
        pub(crate) fn unknown() -> Whereabouts {
            Whereabouts(super::AtomicU64::new(u64::MAX))
        }

        pub(crate) fn tell(&self) {
            self.0.store(processor(), Ordering::Relaxed);
        }

        /// True if we run on the same one.
        pub(crate) fn is_here(&self) -> bool {
            self.0.load(Ordering::Relaxed) == processor()
        }
    }

    #[cfg(not(any(miri, bare)))]
    fn processor() -> u64 {
        // SAFETY: it takes nothing and gives a number, -1 where the system does not tell.
        unsafe { libc::sched_getcpu() as u64 }
    }

    /// As if each thread had one to itself.
    #[cfg(any(miri, bare))]
    fn processor() -> u64 {
        std::thread_local!(static HERE: u8 = const { 0 });
        HERE.with(|here| std::ptr::from_ref(here).addr() as u64)
    }

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

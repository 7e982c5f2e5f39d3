//! loom's names, and a sleep that loom can see.

pub(crate) use loom::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicPtr, AtomicU8, AtomicU64},
    },
    thread,
};
use std::{cell::Cell, io, time::Duration};

/// A thread looks once more before it sleeps: that another thread comes in between is then one of
/// the orders.
pub(crate) struct Window(Cell<bool>);

impl Window {
    pub(crate) fn open() -> Window {
        Window(Cell::new(true))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.replace(false)
    }
}

pub(crate) fn several_processors() -> bool {
    true
}

/// Each thread has a processor to itself.
pub(crate) struct Whereabouts;

impl Whereabouts {
    pub(crate) fn unknown() -> Whereabouts {
        Whereabouts
    }

    pub(crate) fn tell(&self) {}

    pub(crate) fn is_here(&self) -> bool {
        false
    }
}

/// In place of the eventfd, and of epoll asleep on it.
#[derive(Default)]
pub(crate) struct Alarm {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Alarm {
    pub(crate) fn new(_: &mio::Registry, _: mio::Token) -> io::Result<Alarm> {
        Ok(Alarm::default())
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
        Ok(())
    }

    /// Sleeps as epoll would; gives how long epoll is to sleep after that, which is not at all.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> Option<Duration> {
        let mut rung = self.rung.lock().unwrap();
        while timeout.is_none() && !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
        Some(Duration::ZERO)
    }
}

/// A cell of each of loom's threads' own: to the system, all of them are one thread.
macro_rules! local {
    ($name:ident: $type:ty = $value:expr) => {
        loom::thread_local! {
            static $name: std::cell::Cell<$type> = std::cell::Cell::new($value);
        }
    };
}
pub(crate) use local;

//! Scopes: timeouts and shields, each around a part of a task's tree of futures.
//!
//! A task in Rust is a tree (`join!`, `select!`), not the single chain of a Python coroutine. So
//! a timeout cannot belong to the task: it belongs to the future inside it. While that future is
//! polled its scope is *current*; each wait records the scope it stands in; an expiry answers
//! only the waits below it. Scopes form a tree through `parent`, and a walk from a wait to the
//! root meets, in this order, every timeout that has a say in it, until a shield ends the walk.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Instant,
};

use slab::Slab;

use crate::{error::Error, kernel::Core, timer::TimerKey, wait::NONE};

/// Whose deadline ended what stood in a scope, once one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Mine,
    Outer,
}

/// One timeout or shield.
pub(crate) struct Scope {
    parent: u32,
    task: u32,
    shield: bool,
    timer: Option<TimerKey>,
    /// The deadline has passed.
    expired: bool,
    /// The expiry was answered to a wait, so it is not answered again.
    delivered: bool,
    pub(crate) verdict: Option<Verdict>,
}

/// All open scopes of a kernel.
pub(crate) struct Scopes {
    slab: Slab<Scope>,
    /// How many have expired and are not delivered; 0 lets the usual trap skip the walk.
    undelivered: u32,
}

impl Scopes {
    pub(crate) fn new() -> Scopes {
        Scopes {
            slab: Slab::new(),
            undelivered: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn open(&mut self, parent: u32, task: u32, shield: bool) -> u32 {
        self.slab.insert(Scope {
            parent,
            task,
            shield,
            timer: None,
            expired: false,
            delivered: false,
            verdict: None,
        }) as u32
    }

    pub(crate) fn set_timer(&mut self, id: u32, timer: TimerKey) {
        self.slab[id as usize].timer = Some(timer);
    }

    pub(crate) fn close(&mut self, id: u32) -> Scope {
        let scope = self.slab.remove(id as usize);
        if scope.expired && !scope.delivered {
            self.undelivered -= 1;
        }
        scope
    }

    /// Notes that a deadline has passed; gives the task whose waits may have to be answered.
    pub(crate) fn expire(&mut self, id: u32) -> u32 {
        let scope = &mut self.slab[id as usize];
        (scope.expired, scope.timer) = (true, None);
        self.undelivered += 1;
        scope.task
    }

    pub(crate) fn verdict(&self, id: u32) -> Option<Verdict> {
        self.slab[id as usize].verdict
    }

    /// True if a shield stands between this scope and the task's root.
    pub(crate) fn is_shielded(&self, mut id: u32) -> bool {
        while id != NONE {
            let scope = &self.slab[id as usize];
            if scope.shield {
                return true;
            }
            id = scope.parent;
        }
        false
    }

    /// Delivers to a wait in scope `inner` the expiry that is due to it, if one is.
    ///
    /// Where several have passed, the outermost owns it. Every timeout on the way notes whose it
    /// was: its own verdict is needed when the error reaches it.
    pub(crate) fn deliver(&mut self, inner: u32) -> Option<Error> {
        if self.undelivered == 0 {
            return None;
        }
        let mut owner = NONE;
        let mut id = inner;
        while id != NONE {
            let scope = &self.slab[id as usize];
            if scope.shield {
                break;
            }
            if scope.expired && !scope.delivered {
                owner = id;
            }
            id = scope.parent;
        }
        if owner == NONE {
            return None;
        }
        let mut id = inner;
        loop {
            let scope = &mut self.slab[id as usize];
            scope.verdict = Some(if id == owner {
                Verdict::Mine
            } else {
                Verdict::Outer
            });
            if scope.expired && !scope.delivered && id != owner {
                // Overtaken by the outer one: it has nothing left to deliver.
                scope.delivered = true;
                self.undelivered -= 1;
            }
            if id == owner {
                break;
            }
            id = scope.parent;
        }
        Some(if inner == owner {
            Error::TaskTimeout
        } else {
            Error::TimeoutCancellation
        })
    }

    /// Settles that the owners of this turn's deliveries have delivered. Kept apart from
    /// `deliver` because one expiry answers all the waits below it.
    pub(crate) fn settle(&mut self, inner: u32) {
        let mut id = inner;
        while id != NONE {
            let scope = &mut self.slab[id as usize];
            if scope.verdict == Some(Verdict::Mine) && scope.expired && !scope.delivered {
                scope.delivered = true;
                self.undelivered -= 1;
            }
            id = scope.parent;
        }
    }
}

/// An open scope; closes when dropped.
pub(crate) struct OpenScope {
    pub(crate) id: u32,
    run: u32,
}

impl OpenScope {
    /// Opens a scope inside the current one, with a deadline or as a shield.
    pub(crate) fn open(deadline: Option<Instant>) -> OpenScope {
        let core = Core::current();
        OpenScope {
            id: core.open_scope(deadline),
            run: core.run_number(),
        }
    }

    /// Polls `future` inside the scope.
    pub(crate) async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let _inside = Inside::enter(self.id);
            future.as_mut().poll(cx)
        })
        .await
    }
}

impl Drop for OpenScope {
    fn drop(&mut self) {
        Core::with_current(|core| {
            if core.run_number() == self.run {
                core.close_scope(self.id);
            }
        });
    }
}

/// Makes a scope the current one until dropped, also by a panic.
struct Inside {
    before: u32,
}

impl Inside {
    fn enter(scope: u32) -> Inside {
        let before = Core::with_current(|core| core.scope.replace(scope));
        Inside {
            before: before.unwrap_or(NONE),
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        Core::with_current(|core| core.scope.set(self.before));
    }
}

impl Scope {
    pub(crate) fn timer(&self) -> Option<TimerKey> {
        self.timer
    }

    pub(crate) fn parent(&self) -> u32 {
        self.parent
    }

    pub(crate) fn task(&self) -> u32 {
        self.task
    }

    pub(crate) fn is_shield(&self) -> bool {
        self.shield
    }
}

impl OpenScope {
    /// Whose deadline ended what stood in it, if one did.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        Core::with_current(|core| core.scopes.borrow().verdict(self.id)).flatten()
    }
}

//! Scopes: timeouts and shields, each around a part of a task's tree of futures.
//!
//! A task in Rust is a tree (`join!`, `select!`), not the single chain of a Python coroutine. So
//! a timeout cannot belong to the task: it belongs to the future inside it. While that future is
//! polled its scope is *current*; each wait records the scope it stands in; an expiry answers
//! only the waits below it. Scopes form a tree through `parent`, and a walk from a wait to the
//! root meets, in this order, every timeout that has a say in it, until a shield ends the walk.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{cell::Task, error::Error, kernel::Core, timer::TimerKey, wait::NONE, with::With};

/// Whose deadline ended what stood in a scope, once one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Mine,
    Outer,
}

/// One timeout or shield.
pub(crate) struct Scope {
    parent: u32,
    task: Task,
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

    pub(crate) fn open(&mut self, parent: u32, task: Task, shield: bool) -> u32 {
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
    pub(crate) fn expire(&mut self, id: u32) -> Task {
        let scope = &mut self.slab[id as usize];
        (scope.expired, scope.timer) = (true, None);
        self.undelivered += 1;
        scope.task.clone()
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
    id: u32,
    run: u32,
}

impl OpenScope {
    /// Opens a scope inside the current one, with a deadline or as a shield.
    fn open(limit: Limit) -> OpenScope {
        let core = Core::current();
        let deadline = match limit {
            Limit::After(duration) => Some(after(core.clock.now(), duration)),
            Limit::At(instant) => Some(instant),
            Limit::Shield => None,
        };
        OpenScope {
            id: core.open_scope(deadline),
            run: core.run_number(),
        }
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

/// `now + duration`; beyond what the clock can name, about a hundred years will do.
pub(crate) fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration)
        .unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
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

    pub(crate) fn task(&self) -> &Task {
        &self.task
    }

    pub(crate) fn is_shield(&self) -> bool {
        self.shield
    }
}

/// What a scope is opened for, at the first poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    After(Duration),
    At(Instant),
    Shield,
}

/// Beside the future of a [`Scoped`]: its scope, once opened, and `judge`, which makes the result
/// of what the future came back with and of whose deadline ended it, if one did.
pub(crate) struct Around<J> {
    limit: Limit,
    scope: Option<OpenScope>,
    judge: J,
}

/// A future that is polled inside a scope of its own. (`With` drops the future, with all its
/// waits, before the scope.)
pub(crate) type Scoped<F, J> = With<F, Around<J>>;

pub(crate) fn scoped<F, J, T>(future: F, limit: Limit, judge: J) -> Scoped<F, J>
where
    F: Future,
    J: Fn(Option<Verdict>, F::Output) -> T,
{
    let scope = None;
    With::new(
        future,
        Around {
            limit,
            scope,
            judge,
        },
    )
}

impl<F, J, T> Future for Scoped<F, J>
where
    F: Future,
    J: Fn(Option<Verdict>, F::Output) -> T,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let (future, around) = self.split();
        let scope = around
            .scope
            .get_or_insert_with(|| OpenScope::open(around.limit));
        let polled = {
            let _inside = Inside::enter(scope.id);
            future.poll(cx)
        };
        let Poll::Ready(output) = polled else {
            return Poll::Pending;
        };
        let verdict = Core::current_ref(|core| core.scopes.borrow().verdict(scope.id));
        around.scope = None; // closed: its deadline is over before anyone goes on
        Poll::Ready((around.judge)(verdict, output))
    }
}

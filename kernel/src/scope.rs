//! Scopes: timeouts and shields, each around a part of a task's tree of futures.
//!
//! A task in Rust is a tree (`join!`, `select!`), not the single chain of a Python coroutine. So
//! a timeout cannot belong to the task: it belongs to the future inside it. While that future is
//! polled its scope is *current*; each wait records the scope it stands in; an expiry answers
//! only the waits below it. Scopes form a tree through `parent`, and a walk from a wait to the
//! root meets, in this order, every timeout that has a say in it, until a shield ends the walk.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    cell::Task, error::Error, kernel::Core, places::Places, timer::TimerKey, wait::NONE, with::With,
};

/// Whose deadline ended what stood in a scope, once one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Mine,
    Outer,
}

/// One timeout or shield.
pub(crate) struct Scope {
    parent: u32,
    /// None once it is closed.
    task: Option<Task>,
    shield: bool,
    timer: Option<TimerKey>,
    /// The deadline has passed.
    expired: bool,
    /// The expiry was answered to a wait, so it is not answered again.
    delivered: bool,
    /// The time for cleaning up after the expiry is over too.
    overdue: bool,
    /// How many open scopes stand directly inside.
    children: u32,
    pub(crate) verdict: Option<Verdict>,
}

/// All open scopes of a kernel.
pub(crate) struct Scopes {
    places: Places<Scope>,
    /// How many have expired and are not delivered; 0 lets the usual trap skip the walk.
    undelivered: u32,
    /// How many are shields.
    shields: u32,
    /// Wakers of scopes that are polled by a combinator with a waker of its own.
    wakers: HashMap<u32, Waker>,
}

impl Scopes {
    pub(crate) fn new() -> Scopes {
        Scopes {
            places: Places::new(),
            undelivered: 0,
            shields: 0,
            wakers: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    #[inline]
    pub(crate) fn open(&mut self, parent: u32, task: Task, shield: bool) -> u32 {
        self.shields += u32::from(shield);
        if parent != NONE {
            self.places[parent].children += 1;
        }
        self.places.put(Scope {
            parent,
            task: Some(task),
            shield,
            timer: None,
            expired: false,
            delivered: false,
            overdue: false,
            children: 0,
            verdict: None,
        })
    }

    pub(crate) fn set_timer(&mut self, id: u32, timer: TimerKey) {
        self.places[id].timer = Some(timer);
    }

    /// Closes a scope; gives its task, its timer, and the scope around it.
    #[inline]
    pub(crate) fn close(&mut self, id: u32) -> (Option<Task>, Option<TimerKey>, u32) {
        let scope = &mut self.places[id];
        if scope.expired && !scope.delivered {
            self.undelivered -= 1;
        }
        self.shields -= u32::from(scope.shield);
        let (parent, children) = (scope.parent, scope.children);
        let closed = (scope.task.take(), scope.timer, parent);
        if children > 0 {
            self.move_out(id, parent);
        }
        if parent != NONE {
            self.places[parent].children += children;
            self.places[parent].children -= 1;
        }
        self.places.give_back(id);
        closed
    }

    /// A scope that outlives the one in which it was opened stands in the one around that from now
    /// on: the number will be another's.
    #[cold]
    fn move_out(&mut self, of: u32, to: u32) {
        let open = self.places.iter_mut().filter(|scope| scope.task.is_some());
        open.filter(|scope| scope.parent == of)
            .for_each(|scope| scope.parent = to);
    }

    pub(crate) fn is_shield(&self, id: u32) -> bool {
        self.places[id].shield
    }

    /// Notes that a deadline has passed or, the second time, the budget for cleaning up after it;
    /// gives the task whose waits may have to be answered.
    pub(crate) fn expire(&mut self, id: u32) -> Option<Task> {
        let scope = &mut self.places[id];
        scope.timer = None;
        if scope.expired {
            scope.overdue = true;
        } else {
            scope.expired = true;
            self.undelivered += 1;
        }
        scope.task.clone()
    }

    /// True if the deadline has passed and the future below either was not told, for it waits in
    /// no trap, or was told and has had its time to clean up.
    pub(crate) fn may_be_given_up(&self, id: u32) -> bool {
        let scope = &self.places[id];
        scope.expired && (!scope.delivered || scope.overdue)
    }

    pub(crate) fn is_overdue(&self, id: u32) -> bool {
        self.places[id].overdue
    }

    /// Switches a timeout off; gives its timer, and the scope around it.
    pub(crate) fn disarm(&mut self, id: u32) -> (Option<TimerKey>, u32) {
        let scope = &mut self.places[id];
        if scope.expired && !scope.delivered {
            scope.delivered = true;
            self.undelivered -= 1;
        }
        scope.overdue = false;
        (scope.timer.take(), scope.parent)
    }

    /// True if a shield is open somewhere below this scope.
    fn shelters_a_shield(&self, id: u32) -> bool {
        let open_shield = |scope: &&Scope| scope.shield && scope.task.is_some();
        self.shields > 0
            && self.places.iter().filter(open_shield).any(|shield| {
                let mut above = shield.parent;
                while above != NONE && above != id {
                    above = self.places[above].parent;
                }
                above == id
            })
    }

    /// Gives up the future of a scope: whose deadline it was, if nothing holds it off.
    fn give_up(&mut self, id: u32) -> Option<Verdict> {
        if !self.may_be_given_up(id) || self.shelters_a_shield(id) {
            return None;
        }
        if self.deliver(id).is_some() {
            self.settle(id);
        }
        Some(self.verdict(id).unwrap_or(Verdict::Mine))
    }

    /// Takes out the waker with which to have the scope's future polled, if it is not the task's.
    pub(crate) fn take_waker(&mut self, id: u32) -> Option<Waker> {
        match self.wakers.is_empty() {
            true => None,
            false => self.wakers.remove(&id),
        }
    }

    pub(crate) fn verdict(&self, id: u32) -> Option<Verdict> {
        self.places[id].verdict
    }

    /// True if a shield stands between this scope and the task's root.
    pub(crate) fn is_shielded(&self, mut id: u32) -> bool {
        while id != NONE {
            let scope = &self.places[id];
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
            let scope = &self.places[id];
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
            let scope = &mut self.places[id];
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
            let scope = &mut self.places[id];
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
    #[inline]
    fn open(core: &Core, limit: Limit) -> OpenScope {
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

    /// The future is pending: is it to be given up? If not, notes who polls it, so that it can be
    /// polled when it is.
    #[inline]
    fn give_up(&self, core: &Core, waker: &Waker) -> Option<Verdict> {
        if !core.is_own_waker(waker) {
            self.note_waker(core, waker);
        }
        core.scopes.borrow_mut().give_up(self.id)
    }

    /// Clones and drops wakers, which may run foreign code, where nothing is borrowed.
    #[cold]
    fn note_waker(&self, core: &Core, waker: &Waker) {
        let known = core.scopes.borrow_mut().take_waker(self.id);
        let noted = match known {
            Some(known) if known.will_wake(waker) => known,
            _ => waker.clone(),
        };
        core.scopes.borrow_mut().wakers.insert(self.id, noted);
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
struct Inside<'a> {
    core: &'a Core,
    before: u32,
}

impl Inside<'_> {
    fn enter(core: &Core, scope: u32) -> Inside<'_> {
        let before = core.scope.replace(scope);
        Inside { core, before }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.core.scope.set(self.before);
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
/// of whose deadline ended the future, if one did, and of what it came back with, unless it was
/// given up.
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
    J: Fn(Option<Verdict>, Option<F::Output>) -> T,
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
    J: Fn(Option<Verdict>, Option<F::Output>) -> T,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let (future, around) = self.split();
        let (verdict, output) = std::task::ready!(Core::current_ref(|core| {
            let scope = around
                .scope
                .get_or_insert_with(|| OpenScope::open(core, around.limit));
            let polled = {
                let _inside = Inside::enter(core, scope.id);
                future.poll(cx)
            };
            match polled {
                Poll::Ready(output) => {
                    let verdict = core.scopes.borrow().verdict(scope.id);
                    Poll::Ready((verdict, Some(output)))
                }
                Poll::Pending => match scope.give_up(core, cx.waker()) {
                    None => Poll::Pending,
                    verdict => Poll::Ready((verdict, None)),
                },
            }
        }));
        around.scope = None; // closed: its deadline is over before anyone goes on
        Poll::Ready((around.judge)(verdict, output))
    }
}

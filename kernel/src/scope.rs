//! Scopes: timeouts and shields, each around a part of a task's tree of futures.
//!
//! A task in Rust is a tree (`join!`, `select!`), not the single chain of a Python coroutine. So
//! a timeout cannot belong to the task: it belongs to the future inside it. While that future is
//! polled its scope is *current*; each wait records the scope it stands in; an expiry answers
//! only the waits below it. Scopes form a tree through `parent`, and a walk from a wait to the
//! root meets, in this order, every timeout that has a say in it, until a shield ends the walk.

use std::{collections::HashMap, task::Waker};

use crate::{cell::Task, error::Error, places::Places, timer::TimerKey, trap::Verdict, wait::NONE};

/// One timeout or shield.
struct Scope {
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
    /// How many shields stand inside, at any depth.
    shields: u32,
    verdict: Option<Verdict>,
}

/// All open scopes of a kernel.
pub(crate) struct Scopes {
    places: Places<Scope>,
    /// How many have expired and are not delivered; 0 lets the usual trap skip the walk.
    undelivered: u32,
    /// Wakers of scopes that are polled by a combinator with a waker of its own.
    wakers: HashMap<u32, Waker>,
}

impl Scopes {
    pub(crate) fn new() -> Scopes {
        Scopes {
            places: Places::new(),
            undelivered: 0,
            wakers: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    #[inline]
    pub(crate) fn open(&mut self, parent: u32, task: Task, shield: bool) -> u32 {
        if shield {
            self.count_shields(parent, 1);
        }
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
            shields: 0,
            verdict: None,
        })
    }

    pub(crate) fn set_timer(&mut self, id: u32, timer: TimerKey) {
        self.places[id].timer = Some(timer);
    }

    /// The timer of a timeout that has not passed yet, if it has one; nothing for others.
    pub(crate) fn take_timer_to_come(&mut self, id: u32) -> Option<Option<TimerKey>> {
        let scope = &mut self.places[id];
        let may_pass = !scope.shield && !scope.expired;
        may_pass.then(|| scope.timer.take())
    }

    /// Closes a scope; gives its task, its timer, and the scope around it.
    #[inline]
    pub(crate) fn close(&mut self, id: u32) -> (Option<Task>, Option<TimerKey>, u32) {
        let scope = &mut self.places[id];
        if scope.expired && !scope.delivered {
            self.undelivered -= 1;
        }
        let (parent, children, shield) = (scope.parent, scope.children, scope.shield);
        let closed = (scope.task.take(), scope.timer, parent);
        if children > 0 {
            self.move_out(id, parent);
        }
        if parent != NONE {
            self.places[parent].children += children;
            self.places[parent].children -= 1;
        }
        if shield {
            self.count_shields(parent, -1);
        }
        self.places.give_back(id);
        closed
    }

    /// True if the scope stands where it is polled now.
    #[inline]
    pub(crate) fn stands_in(&self, id: u32, parent: u32, task: &Task) -> bool {
        let scope = &self.places[id];
        scope.parent == parent && scope.task.as_ref().is_some_and(|own| own.is(task))
    }

    /// Puts a scope, with all that stands in it, into another one and another task; gives the task in
    /// which it stood.
    pub(crate) fn relocate(&mut self, id: u32, parent: u32, task: Task) -> Option<Task> {
        let before = std::mem::replace(&mut self.places[id].parent, parent);
        let moved = self.places[id].shields + u32::from(self.places[id].shield);
        self.count_shields(before, -(moved as i32));
        self.count_shields(parent, moved as i32);
        if before != NONE {
            self.places[before].children -= 1;
        }
        if parent != NONE {
            self.places[parent].children += 1;
        }
        self.places[id].task.replace(task)
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

    /// Adds to the count of shields of a scope, and of all around it.
    fn count_shields(&mut self, mut id: u32, more: i32) {
        while id != NONE {
            let scope = &mut self.places[id];
            scope.shields = scope.shields.wrapping_add_signed(more);
            id = scope.parent;
        }
    }

    /// Gives up the future of a scope: whose deadline it was, if nothing holds it off.
    pub(crate) fn give_up(&mut self, id: u32) -> Option<Verdict> {
        if !self.may_be_given_up(id) || self.places[id].shields > 0 {
            return None;
        }
        if self.deliver(id).is_some() {
            self.settle(id);
        }
        Some(self.verdict(id).unwrap_or(Verdict::Mine))
    }

    pub(crate) fn set_waker(&mut self, id: u32, waker: Waker) {
        self.wakers.insert(id, waker);
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

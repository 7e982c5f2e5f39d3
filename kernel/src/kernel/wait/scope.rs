//! Scopes: timeouts and shields, each around a part of a task's tree of futures.
//!
//! A task in Rust is a tree (`join!`, `select!`), not the single chain of a Python coroutine. So
//! a timeout cannot belong to the task: it belongs to the future inside it. While that future is
//! polled its scope is *current*; each wait records the scope it stands in; an expiry answers
//! only the waits below it. Scopes form a tree through `parent`, and a walk from a wait to the
//! root meets, in this order, every timeout that has a say in it, until a shield ends the walk.

use std::{collections::HashMap, task::Waker};

use crate::{
    error::Error,
    kernel::{clock::timer::TimerKey, places::Places, task::cell::Task, wait::NONE},
    trap::Verdict,
};

/// Steps, at most, before a task, or what is below a timeout, is told that was interrupted when it was about
/// to run. A set of sets of futures begins two or more of them in each; foreign code that wakes itself at
/// every poll takes all.
pub(crate) const STEPS_TO_BE_TOLD: u8 = 16;

/// How far the deadline of a timeout has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadline {
    ToCome,
    /// It has passed while the task was about to run: it expires at the end of a poll, when every part of
    /// the future below stands where it can be told. That is the next, or, while the task wakes itself, one
    /// of this many.
    Late(u8),
    Expired,
}

/// One timeout or shield.
struct Scope {
    parent: u32,
    /// None once it is closed.
    task: Option<Task>,
    shield: bool,
    timer: Option<TimerKey>,
    deadline: Deadline,
    /// The number of the interruption that its expiry was, once it has expired.
    told_at: u64,
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

impl Scope {
    fn is_late(&self) -> bool {
        matches!(self.deadline, Deadline::Late(_))
    }

    /// It has expired, and nobody was told.
    fn is_undelivered(&self) -> bool {
        self.deadline == Deadline::Expired && !self.delivered
    }
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
            deadline: Deadline::ToCome,
            told_at: 0,
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

    /// Unsets the deadline of a timeout that has not expired, and gives its timer, if it has one;
    /// nothing for others.
    pub(crate) fn take_timer_to_come(&mut self, id: u32) -> Option<Option<TimerKey>> {
        let scope = &mut self.places[id];
        let may_pass = !scope.shield && scope.deadline != Deadline::Expired;
        may_pass.then(|| {
            scope.deadline = Deadline::ToCome;
            scope.timer.take()
        })
    }

    /// Closes a scope; gives its task, its timer, and the scope around it.
    #[inline]
    pub(crate) fn close(&mut self, id: u32) -> (Option<Task>, Option<TimerKey>, u32) {
        let scope = &mut self.places[id];
        if scope.is_undelivered() {
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

    /// True if a deadline is to come for a scope of this task. Searches among all.
    pub(crate) fn has_timer(&self, task: &Task) -> bool {
        let of_it = |scope: &Scope| scope.task.as_ref().is_some_and(|own| own.is(task));
        let mut places = self.places.iter();
        places.any(|scope| scope.timer.is_some() && of_it(scope))
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

    /// Notes that a deadline has passed, as the interruption of this number, or, the second time,
    /// that the budget for cleaning up after it has; gives the task whose waits may have to be
    /// answered.
    pub(crate) fn expire(&mut self, id: u32, number: u64) -> Option<Task> {
        let scope = &mut self.places[id];
        scope.timer = None;
        if scope.deadline == Deadline::Expired {
            scope.overdue = true;
        } else {
            scope.deadline = Deadline::Expired;
            scope.told_at = number;
            self.undelivered += 1;
        }
        scope.task.clone()
    }

    /// A deadline has passed: has it expire only at the end of the next poll. Gives the task.
    pub(crate) fn postpone(&mut self, id: u32) -> Option<Task> {
        let scope = &mut self.places[id];
        scope.timer = None;
        scope.deadline = Deadline::Late(STEPS_TO_BE_TOLD);
        scope.task.clone()
    }

    /// Has one that is late expire only after another poll; false if that was done often enough.
    pub(crate) fn postpone_again(&mut self, id: u32) -> bool {
        match &mut self.places[id].deadline {
            Deadline::Late(polls) if *polls > 1 => {
                *polls -= 1;
                true
            }
            _ => false,
        }
    }

    /// The task of a timeout whose deadline has passed this moment, or nothing if that is its
    /// budget for cleaning up.
    pub(crate) fn passed_in(&self, id: u32) -> Option<&Task> {
        let scope = &self.places[id];
        match scope.deadline {
            Deadline::Expired => None,
            Deadline::ToCome | Deadline::Late(_) => scope.task.as_ref(),
        }
    }

    /// True if it is to expire now that it was polled; one further out comes first.
    pub(crate) fn is_late(&self, id: u32) -> bool {
        self.places[id].is_late() && self.outermost(id, Scope::is_late) == Some(id)
    }

    /// True if this scope, or one around it, is to expire at the end of a poll.
    pub(crate) fn is_any_late(&self, inner: u32) -> bool {
        self.outermost(inner, Scope::is_late).is_some()
    }

    /// True if there is anything to do after a poll.
    #[inline]
    pub(crate) fn has_passed(&self, id: u32) -> bool {
        self.places[id].deadline != Deadline::ToCome
    }

    /// True if the deadline has passed and the future below either was not told, for it waits in
    /// no trap, or was told and has had its time to clean up.
    pub(crate) fn may_be_given_up(&self, id: u32) -> bool {
        let scope = &self.places[id];
        scope.is_undelivered() || scope.overdue
    }

    pub(crate) fn is_overdue(&self, id: u32) -> bool {
        self.places[id].overdue
    }

    /// Switches a timeout off; gives its timer, and the scope around it.
    pub(crate) fn disarm(&mut self, id: u32) -> (Option<TimerKey>, u32) {
        let scope = &mut self.places[id];
        if scope.is_undelivered() {
            self.undelivered -= 1;
        }
        if scope.deadline != Deadline::ToCome {
            scope.deadline = Deadline::Expired;
            scope.delivered = true;
        }
        (scope.told_at, scope.overdue) = (0, false);
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
        let owner = self.outermost(inner, Scope::is_undelivered)?;
        Some(self.blame(inner, owner))
    }

    /// The same for one that yielded in scope `inner` before an interruption that others have been
    /// told of since: `asked` is the number of the last one before.
    pub(crate) fn deliver_missed(&mut self, inner: u32, asked: u64) -> Option<Error> {
        let owner = self.outermost(inner, |scope| scope.told_at > asked)?;
        Some(self.blame(inner, owner))
    }

    /// The outermost of those, from `inner` to the first shield.
    fn outermost(&self, inner: u32, is: impl Fn(&Scope) -> bool) -> Option<u32> {
        let (mut owner, mut id) = (None, inner);
        while id != NONE && !self.places[id].shield {
            if is(&self.places[id]) {
                owner = Some(id);
            }
            id = self.places[id].parent;
        }
        owner
    }

    /// Notes from `inner` outward whose deadline it was; gives what is told.
    fn blame(&mut self, inner: u32, owner: u32) -> Error {
        let mut id = inner;
        while id != owner {
            let scope = &mut self.places[id];
            scope.verdict = Some(Verdict::Outer);
            if scope.is_undelivered() {
                self.undelivered -= 1;
            }
            if scope.deadline != Deadline::ToCome {
                // Overtaken by the outer one: it has nothing left to deliver.
                scope.deadline = Deadline::Expired;
                scope.delivered = true;
            }
            id = scope.parent;
        }
        self.places[owner].verdict = Some(Verdict::Mine);
        match inner == owner {
            true => Error::TaskTimeout,
            false => Error::TimeoutCancellation,
        }
    }

    /// Settles that the owners of this turn's deliveries have delivered. Kept apart from
    /// `deliver` because one expiry answers all the waits below it.
    pub(crate) fn settle(&mut self, inner: u32) {
        let mut id = inner;
        while id != NONE {
            let scope = &mut self.places[id];
            if scope.verdict == Some(Verdict::Mine) && scope.is_undelivered() {
                scope.delivered = true;
                self.undelivered -= 1;
            }
            id = scope.parent;
        }
    }
}

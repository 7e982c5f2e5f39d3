//! The table of waits: who waits, in which task, under which scopes, and how to undo it.
//!
//! A wait is one entry of a table. It sits in up to two lists, both linked through the table
//! itself: the list of its task's unanswered waits (so that a cancellation finds them) and the
//! queue of what it waits for (an event, a semaphore, a task's end). Entering and leaving either
//! list never searches. Pure: nothing here touches a descriptor or a clock.

use std::{cell::Cell, rc::Rc, task::Waker};

use crate::{cell::Task, error::Error, reactor::Source, timer::TimerKey};

/// No entry.
pub(crate) const NONE: u32 = u32::MAX;

/// What a trap comes back with.
pub(crate) type Answer = Result<(), Error>;

/// Index of a wait. Owned by exactly one leaf future, which takes it out again, so it is never
/// used after its entry was given to another.
pub(crate) type WaitId = u32;

/// How to take a wait out of where it was put. It travels with the wait, so no other code guesses.
pub(crate) enum Undo {
    /// Requested, and not yet seen by the kernel's loop.
    Requested,
    Timer(TimerKey),
    Reader(Rc<Source>),
    Writer(Rc<Source>),
    Queue(WaitQueue),
    Joiner(Task),
    Bell(u32),
    /// Answered; nothing left to undo.
    Answered(Answer),
    /// No wait: a place to be used again.
    Free,
}

/// A line of tasks that wait for something, served in order of arrival.
///
/// The building block of every scheduling primitive: [`Trap::Wait`](crate::Trap) puts the task
/// in, [`wake`](WaitQueue::wake) lets tasks go on. It may be made before a kernel runs.
/// Clones are the same line.
#[derive(Clone)]
pub struct WaitQueue {
    line: Rc<Line>,
}

struct Line {
    first: Cell<WaitId>,
    what: &'static str,
}

impl WaitQueue {
    /// An empty line.
    pub fn new() -> WaitQueue {
        WaitQueue::named("WaitQueue")
    }

    /// An empty line for what the text says; it stands in listings of tasks.
    pub fn named(what: &'static str) -> WaitQueue {
        let first = Cell::new(NONE);
        WaitQueue {
            line: Rc::new(Line { first, what }),
        }
    }

    pub(crate) fn what(&self) -> &'static str {
        self.line.what
    }

    /// True if nobody waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.line.first.get() == NONE
    }
}

impl Default for WaitQueue {
    fn default() -> WaitQueue {
        WaitQueue::new()
    }
}

impl std::fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WaitQueue")
            .field("empty", &self.is_empty())
            .finish()
    }
}

/// One wait.
pub(crate) struct Wait {
    /// The task in whose poll it was requested; none once it is answered, or the task has ended.
    pub(crate) task: Option<Task>,
    /// The innermost scope (timeout or shield) around it.
    pub(crate) scope: u32,
    pub(crate) undo: Undo,
    /// Neighbours in the task's list of unanswered waits.
    next: WaitId,
    prev: WaitId,
    /// Neighbours in the line it stands in, which is a ring: before the first is the last.
    after: WaitId,
    before: WaitId,
    /// True if `Waits::wakers` has an entry for it.
    foreign: bool,
}

impl Wait {
    /// The answer, once there is one.
    #[inline]
    pub(crate) fn answer(&self) -> Option<Answer> {
        match self.undo {
            Undo::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// True if answering it means making its task ready, and no more.
    pub(crate) fn is_plain(&self) -> bool {
        !self.foreign
    }
}

/// All waits of a kernel.
pub(crate) struct Waits {
    places: Vec<Wait>,
    /// The first of the places that may be used again; `next` leads to the others.
    free: WaitId,
    used: usize,
    /// Wakers of waits that were polled by a combinator with a waker of its own.
    wakers: std::collections::HashMap<WaitId, Waker>,
}

impl Waits {
    pub(crate) fn new() -> Waits {
        Waits {
            places: Vec::new(),
            free: NONE,
            used: 0,
            wakers: Default::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.used
    }

    pub(crate) fn ids(&self) -> Vec<WaitId> {
        let used = |wait: &Wait| !matches!(wait.undo, Undo::Free);
        (0..self.places.len())
            .filter(|id| used(&self.places[*id]))
            .map(|id| id as WaitId)
            .collect()
    }

    #[inline]
    pub(crate) fn get(&self, id: WaitId) -> &Wait {
        &self.places[id as usize]
    }

    #[inline]
    fn get_mut(&mut self, id: WaitId) -> &mut Wait {
        &mut self.places[id as usize]
    }

    /// Adds a wait to the front of its task's list.
    #[inline]
    pub(crate) fn insert(&mut self, task: Task, scope: u32) -> WaitId {
        let id = match self.free {
            NONE => self.grow(),
            free => free,
        };
        self.used += 1;
        let next = task.record.waits.replace(id);
        let wait = &mut self.places[id as usize];
        self.free = wait.next;
        (wait.next, wait.prev) = (next, NONE);
        wait.scope = scope;
        wait.undo = Undo::Requested;
        wait.task = Some(task);
        if next != NONE {
            self.get_mut(next).prev = id;
        }
        id
    }

    /// A new place, for want of a free one.
    #[cold]
    fn grow(&mut self) -> WaitId {
        self.places.push(Wait {
            task: None,
            scope: NONE,
            undo: Undo::Free,
            next: NONE,
            prev: NONE,
            after: NONE,
            before: NONE,
            foreign: false,
        });
        (self.places.len() - 1) as WaitId
    }

    /// Gives up the place of a wait that is in no list any more and has no waker left.
    #[inline]
    fn remove(&mut self, id: WaitId) {
        let free = self.free;
        let wait = self.get_mut(id);
        debug_assert!(!wait.foreign && wait.task.is_none());
        wait.undo = Undo::Free;
        wait.next = free;
        self.free = id;
        self.used -= 1;
    }

    /// Gives a wait its answer and takes it out of its task's list; gives the task, unless it has
    /// ended. Whoever answers a joiner holds the task that was joined: it is not dropped in here.
    #[inline]
    pub(crate) fn answer(&mut self, id: WaitId, answer: Answer) -> Option<Task> {
        self.suspend(id, Undo::Answered(answer));
        self.leave_task(id)
    }

    /// The answer, if it is there; the wait is then no more. Also gives the waker noted for it, to
    /// be dropped where nothing is borrowed.
    #[inline]
    pub(crate) fn take_answer(&mut self, id: WaitId) -> Option<(Answer, Option<Waker>)> {
        let answer = self.get(id).answer()?;
        Some((answer, self.forget(id)))
    }

    /// Removes a wait that stands nowhere any more; gives the waker noted for it.
    #[inline]
    pub(crate) fn forget(&mut self, id: WaitId) -> Option<Waker> {
        let waker = self.take_waker(id);
        self.remove(id);
        waker
    }

    /// Takes an unanswered wait out of its task's list; gives the task, unless it has ended.
    #[inline]
    pub(crate) fn leave_task(&mut self, id: WaitId) -> Option<Task> {
        let wait = self.get_mut(id);
        let task = wait.task.take()?;
        let (next, prev) = (wait.next, wait.prev);
        if next != NONE {
            self.get_mut(next).prev = prev;
        }
        match prev {
            NONE => task.record.waits.set(next),
            prev => self.get_mut(prev).next = next,
        }
        Some(task)
    }

    /// Puts a wait into the list of another task, whose poll it was found in.
    pub(crate) fn enter_task(&mut self, id: WaitId, task: Task) {
        let next = task.record.waits.replace(id);
        let wait = self.get_mut(id);
        (wait.task, wait.next, wait.prev) = (Some(task), next, NONE);
        if next != NONE {
            self.get_mut(next).prev = id;
        }
    }

    /// The task's unanswered waits, youngest first.
    pub(crate) fn of(&self, task: &Task) -> impl Iterator<Item = WaitId> {
        let present = |id: WaitId| (id != NONE).then_some(id);
        std::iter::successors(present(task.record.waits.get()), move |id| {
            present(self.get(*id).next)
        })
    }

    /// Notes how to undo a wait, where nothing has to be undone now. (Written in place: a `replace`
    /// moves sixteen bytes that were written in parts, and waits for them.)
    #[inline]
    pub(crate) fn suspend(&mut self, id: WaitId, undo: Undo) {
        self.get_mut(id).undo = undo;
    }

    pub(crate) fn set_undo(&mut self, id: WaitId, undo: Undo) -> Undo {
        std::mem::replace(&mut self.get_mut(id).undo, undo)
    }

    pub(crate) fn set_scope(&mut self, id: WaitId, scope: u32) {
        self.get_mut(id).scope = scope;
    }

    /// True if this waker is already the one noted.
    pub(crate) fn has_waker(&self, id: WaitId, waker: &Waker) -> bool {
        self.get(id).foreign && self.wakers.get(&id).is_some_and(|w| w.will_wake(waker))
    }

    /// Notes whom to wake for this wait, if not simply its task. Hands back the waker noted
    /// before: dropping one may run foreign code, so that must happen where nothing is borrowed.
    #[must_use]
    pub(crate) fn set_waker(&mut self, id: WaitId, waker: Option<Waker>) -> Option<Waker> {
        let old = self.take_waker(id);
        if let Some(waker) = waker {
            self.get_mut(id).foreign = true;
            self.wakers.insert(id, waker);
        }
        old
    }

    /// Takes out the waker noted for this wait.
    #[inline]
    pub(crate) fn take_waker(&mut self, id: WaitId) -> Option<Waker> {
        match std::mem::take(&mut self.get_mut(id).foreign) {
            true => self.wakers.remove(&id),
            false => None,
        }
    }

    /// Puts a wait at the end of a line that begins with `first`.
    #[inline]
    pub(crate) fn enqueue(&mut self, first: &Cell<WaitId>, id: WaitId) {
        let head = first.get();
        if head == NONE {
            first.set(id);
            let wait = self.get_mut(id);
            (wait.before, wait.after) = (id, id);
            return;
        }
        let last = std::mem::replace(&mut self.get_mut(head).before, id);
        self.get_mut(last).after = id;
        let wait = self.get_mut(id);
        (wait.before, wait.after) = (last, head);
    }

    /// Takes a wait out of the line it stands in.
    #[inline]
    pub(crate) fn dequeue(&mut self, first: &Cell<WaitId>, id: WaitId) {
        let &Wait { before, after, .. } = self.get(id);
        if after == id {
            return first.set(NONE);
        }
        self.get_mut(before).after = after;
        self.get_mut(after).before = before;
        if first.get() == id {
            first.set(after);
        }
    }

    /// Takes the first out of a line.
    #[inline]
    pub(crate) fn shift(&mut self, first: &Cell<WaitId>) -> Option<WaitId> {
        let id = first.get();
        (id != NONE).then(|| {
            self.dequeue(first, id);
            id
        })
    }

    /// `enqueue` for a shared line.
    pub(crate) fn join_line(&mut self, queue: &WaitQueue, id: WaitId) {
        self.enqueue(&queue.line.first, id);
    }

    /// `dequeue` for a shared line.
    pub(crate) fn leave_line(&mut self, queue: &WaitQueue, id: WaitId) {
        self.dequeue(&queue.line.first, id);
    }

    /// `shift` for a shared line.
    #[inline]
    pub(crate) fn first_of_line(&mut self, queue: &WaitQueue) -> Option<WaitId> {
        self.shift(&queue.line.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cell::Joint,
        task::{Record, TaskId},
    };

    fn task() -> Task {
        let record = Record::new(TaskId::from_bits(1), None, std::panic::Location::caller());
        Joint::new(async {}, record).task().clone()
    }

    #[test]
    fn a_line_keeps_its_order_when_the_middle_leaves() {
        let (mut waits, task, first) = (Waits::new(), task(), Cell::new(NONE));
        let ids: Vec<WaitId> = (0..4).map(|_| waits.insert(task.clone(), NONE)).collect();
        ids.iter().for_each(|id| waits.enqueue(&first, *id));
        waits.dequeue(&first, ids[1]);
        waits.dequeue(&first, ids[3]);
        assert_eq!(first.get(), ids[0]);
        waits.dequeue(&first, ids[0]);
        assert_eq!(first.get(), ids[2]);
        waits.enqueue(&first, ids[3]);
        waits.dequeue(&first, ids[2]);
        assert_eq!(first.get(), ids[3]);
        waits.dequeue(&first, ids[3]);
        assert_eq!(first.get(), NONE);
    }

    #[test]
    fn a_task_list_loses_any_of_its_waits() {
        let (mut waits, task) = (Waits::new(), task());
        let ids: Vec<WaitId> = (0..3).map(|_| waits.insert(task.clone(), NONE)).collect();
        assert!(waits.leave_task(ids[1]).is_some_and(|t| t.is(&task)));
        assert_eq!(task.record.waits.get(), ids[2]);
        assert!(waits.of(&task).eq([ids[2], ids[0]]));
        waits.leave_task(ids[2]);
        waits.leave_task(ids[0]);
        assert_eq!(task.record.waits.get(), NONE);
        assert!(waits.leave_task(ids[0]).is_none());
    }
}

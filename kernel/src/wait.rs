//! The table of waits: who waits, in which task, under which scopes, and how to undo it.
//!
//! A wait is one entry of a slab. It sits in up to two lists, both linked through the slab
//! itself: the list of its task's unanswered waits (so that a cancellation finds them) and the
//! queue of what it waits for (an event, a semaphore, a task's end). Entering and leaving either
//! list never searches. Pure: nothing here touches a descriptor or a clock.

use std::{cell::Cell, rc::Rc, task::Waker};

use slab::Slab;

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
    pub fn is_empty(&self) -> bool {
        self.first() == NONE
    }

    pub(crate) fn first(&self) -> WaitId {
        self.line.first.get()
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
    slab: Slab<Wait>,
    /// Wakers of waits that were polled by a combinator with a waker of its own.
    wakers: std::collections::HashMap<WaitId, Waker>,
}

impl Waits {
    pub(crate) fn new() -> Waits {
        Waits {
            slab: Slab::new(),
            wakers: Default::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn ids(&self) -> Vec<WaitId> {
        self.slab.iter().map(|(id, _)| id as WaitId).collect()
    }

    #[inline]
    pub(crate) fn get(&self, id: WaitId) -> &Wait {
        &self.slab[id as usize]
    }

    /// Adds a wait to the front of its task's list.
    pub(crate) fn insert(&mut self, task: Task, scope: u32) -> WaitId {
        let entry = self.slab.vacant_entry();
        let id = entry.key() as WaitId;
        let next = task.record.waits.replace(id);
        entry.insert(Wait {
            task: Some(task),
            scope,
            undo: Undo::Requested,
            next,
            prev: NONE,
            after: NONE,
            before: NONE,
            foreign: false,
        });
        if next != NONE {
            self.slab[next as usize].prev = id;
        }
        id
    }

    /// Takes an unanswered wait out of its task's list; gives the task, unless it has ended.
    pub(crate) fn leave_task(&mut self, id: WaitId) -> Option<Task> {
        let wait = &mut self.slab[id as usize];
        let task = wait.task.take()?;
        let (next, prev) = (wait.next, wait.prev);
        if next != NONE {
            self.slab[next as usize].prev = prev;
        }
        match prev {
            NONE => task.record.waits.set(next),
            prev => self.slab[prev as usize].next = next,
        }
        Some(task)
    }

    /// Puts a wait into the list of another task, whose poll it was found in.
    pub(crate) fn enter_task(&mut self, id: WaitId, task: Task) {
        let next = task.record.waits.replace(id);
        let wait = &mut self.slab[id as usize];
        (wait.task, wait.next, wait.prev) = (Some(task), next, NONE);
        if next != NONE {
            self.slab[next as usize].prev = id;
        }
    }

    /// The task's unanswered waits, youngest first.
    pub(crate) fn of(&self, task: &Task) -> impl Iterator<Item = WaitId> {
        let present = |id: WaitId| (id != NONE).then_some(id);
        std::iter::successors(present(task.record.waits.get()), move |id| {
            present(self.get(*id).next)
        })
    }

    pub(crate) fn set_undo(&mut self, id: WaitId, undo: Undo) -> Undo {
        std::mem::replace(&mut self.slab[id as usize].undo, undo)
    }

    pub(crate) fn set_scope(&mut self, id: WaitId, scope: u32) {
        self.slab[id as usize].scope = scope;
    }

    /// Removes a wait that is in no list any more and has no waker left.
    pub(crate) fn remove(&mut self, id: WaitId) -> Wait {
        let wait = self.slab.remove(id as usize);
        debug_assert!(!wait.foreign, "its waker was taken out before");
        wait
    }

    /// True if this waker is already the one noted.
    pub(crate) fn has_waker(&self, id: WaitId, waker: &Waker) -> bool {
        self.slab[id as usize].foreign && self.wakers.get(&id).is_some_and(|w| w.will_wake(waker))
    }

    /// Notes whom to wake for this wait, if not simply its task. Hands back the waker noted
    /// before: dropping one may run foreign code, so that must happen where nothing is borrowed.
    #[must_use]
    pub(crate) fn set_waker(&mut self, id: WaitId, waker: Option<Waker>) -> Option<Waker> {
        let old = self.take_waker(id);
        if let Some(waker) = waker {
            self.slab[id as usize].foreign = true;
            self.wakers.insert(id, waker);
        }
        old
    }

    /// Takes out the waker noted for this wait.
    pub(crate) fn take_waker(&mut self, id: WaitId) -> Option<Waker> {
        let foreign = &mut self.slab[id as usize].foreign;
        if !std::mem::take(foreign) {
            return None;
        }
        self.wakers.remove(&id)
    }

    /// Puts a wait at the end of a line that begins with `first`.
    pub(crate) fn enqueue(&mut self, first: &Cell<WaitId>, id: WaitId) {
        let head = first.get();
        if head == NONE {
            first.set(id);
            let wait = &mut self.slab[id as usize];
            (wait.before, wait.after) = (id, id);
            return;
        }
        let last = std::mem::replace(&mut self.slab[head as usize].before, id);
        self.slab[last as usize].after = id;
        let wait = &mut self.slab[id as usize];
        (wait.before, wait.after) = (last, head);
    }

    /// Takes a wait out of the line it stands in.
    pub(crate) fn dequeue(&mut self, first: &Cell<WaitId>, id: WaitId) {
        let Wait { before, after, .. } = self.slab[id as usize];
        if after == id {
            return first.set(NONE);
        }
        self.slab[before as usize].after = after;
        self.slab[after as usize].before = before;
        if first.get() == id {
            first.set(after);
        }
    }

    /// `enqueue` for a shared line.
    pub(crate) fn join_line(&mut self, queue: &WaitQueue, id: WaitId) {
        self.enqueue(&queue.line.first, id);
    }

    /// `dequeue` for a shared line.
    pub(crate) fn leave_line(&mut self, queue: &WaitQueue, id: WaitId) {
        self.dequeue(&queue.line.first, id);
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
        let record = Record::new(TaskId::FIRST, None, std::panic::Location::caller());
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

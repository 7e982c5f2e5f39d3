//! The table of waits: who waits, for what, in which task, and under which scopes.
//!
//! A wait is one entry of a table: the trap, as it was asked for, and how far it has come. It sits
//! in up to two lists, both linked through the table itself: the list of its task's unanswered
//! waits (so that a cancellation finds them) and the line of what it waits for (an event, a
//! semaphore, a task's end). Entering and leaving either list never searches. Pure: nothing here
//! touches a descriptor or a clock.

pub(crate) mod answer;
pub(crate) mod cancel;
pub(crate) mod scope;

use std::{
    cell::Cell,
    mem::{forget, replace},
    rc::Rc,
    task::Waker,
};

use crate::{
    error::Error,
    kernel::{clock::timer::TimerKey, task::cell::Task},
    trap::{BellKey, Trap},
};

/// No entry.
pub(crate) const NONE: u32 = u32::MAX;

/// What a trap comes back with.
pub(crate) type Answer = Result<(), Error>;

/// Index of a wait. Owned by exactly one leaf future, which takes it out again, so it is never
/// used after its entry was given to another.
pub(crate) type WaitId = u32;

/// How far a wait has come.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// No wait: a place to be used again.
    Free,
    /// It stands at the door: the kernel's loop has not seen it yet.
    Requested,
    /// It stands where its trap says, until it is answered.
    Suspended,
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

    /// The first in line, or none.
    #[inline]
    pub(crate) fn first(&self) -> &Cell<WaitId> {
        &self.line.first
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
    /// What was asked for. (A free place keeps one that owns nothing.)
    pub(crate) trap: Trap,
    /// The innermost scope (timeout or shield) around it.
    pub(crate) scope: u32,
    /// Neighbours in the task's list of unanswered waits. Once it is answered they keep the number of
    /// the last interruption before that.
    next: WaitId,
    prev: WaitId,
    /// Neighbours in the line it stands in, which is a ring: before the first is the last. A
    /// sleep stands in no line, and keeps the number of its timer in `after`. One that is only
    /// requested keeps its place at the door in `before`, and one that is answered its task's number in
    /// `after`.
    after: Cell<WaitId>,
    before: Cell<WaitId>,
    pub(crate) stage: Cell<Stage>,
    /// True if `Waits::wakers` has an entry for it.
    foreign: bool,
}

/// A trap that owns nothing.
const NO_TRAP: Trap = Trap::Bell(BellKey((NONE, 0)));

/// Writes where nothing lies that would have to be dropped: what the compiler cannot know.
#[inline(always)]
fn put<T>(place: &mut T, value: T) {
    forget(replace(place, value));
}

impl Wait {
    /// The answer, once there is one.
    #[inline]
    pub(crate) fn answer(&self) -> Option<Answer> {
        match self.stage.get() {
            Stage::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// The number of the last interruption before it was answered.
    pub(crate) fn answered_at(&self) -> u64 {
        u64::from(self.prev) << 32 | u64::from(self.next)
    }

    /// True if it was answered while it stood in this task and this scope.
    pub(crate) fn was_answered_in(&self, task: &Task, scope: u32) -> bool {
        self.after.get() == task.record.id.serial() && self.scope == scope
    }

    /// True if answering it means making its task ready, and no more.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        !self.foreign
    }

    /// Where it stands at the door, while it is requested.
    pub(crate) fn place_at_door(&self) -> usize {
        self.before.get() as usize
    }

    pub(crate) fn set_place_at_door(&self, place: usize) {
        self.before.set(place as u32);
    }

    /// The timer of a sleep.
    pub(crate) fn timer(&self) -> TimerKey {
        TimerKey(self.after.get())
    }

    pub(crate) fn set_timer(&self, timer: TimerKey) {
        self.after.set(timer.0);
    }
}

/// All waits of a kernel.
pub(crate) struct Waits {
    places: Vec<Wait>,
    /// The first of the places that may be used again; `next` leads to the others.
    free: WaitId,
    /// Wakers of waits that were polled by a combinator with a waker of its own.
    wakers: std::collections::HashMap<WaitId, Waker>,
}

impl Waits {
    pub(crate) fn new() -> Waits {
        Waits {
            places: Vec::new(),
            free: NONE,
            wakers: Default::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids().len()
    }

    pub(crate) fn ids(&self) -> Vec<WaitId> {
        let used = |wait: &Wait| !matches!(wait.stage.get(), Stage::Free);
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

    /// Adds a wait to the front of its task's list. (The trap is cloned by its parts into its
    /// place: moved there, it would be read back as a whole before its parts are written.)
    #[inline]
    pub(crate) fn insert(&mut self, trap: &Trap, task: &Task, scope: u32) -> WaitId {
        let id = match self.free {
            NONE => self.grow(),
            free => free,
        };
        let next = task.record.waits.replace(id);
        let wait = &mut self.places[id as usize];
        self.free = wait.next;
        (wait.next, wait.prev) = (next, NONE);
        wait.scope = scope;
        wait.stage.set(Stage::Requested);
        put(&mut wait.trap, trap.clone());
        put(&mut wait.task, Some(task.clone()));
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
            trap: NO_TRAP,
            scope: NONE,
            next: NONE,
            prev: NONE,
            after: Cell::new(NONE),
            before: Cell::new(NONE),
            stage: Cell::new(Stage::Free),
            foreign: false,
        });
        (self.places.len() - 1) as WaitId
    }

    /// Gives a wait its answer, after this interruption, and takes it out of its task's list; gives the
    /// task, unless it has ended. Whoever answers a joiner holds the task that was joined: it is not
    /// dropped in here.
    #[inline]
    pub(crate) fn answer(&mut self, id: WaitId, answer: Answer, after: u64) -> Option<Task> {
        self.get(id).stage.set(Stage::Answered(answer));
        let task = self.leave_task(id);
        let wait = self.get_mut(id);
        (wait.next, wait.prev) = (after as u32, (after >> 32) as u32);
        if let Some(task) = &task {
            wait.after.set(task.record.id.serial());
        }
        task
    }

    /// Removes a wait that stands nowhere any more; gives what is to be dropped where nothing is
    /// borrowed: its trap, and the waker noted for it.
    #[inline]
    pub(crate) fn forget(&mut self, id: WaitId) -> (Option<Trap>, Option<Waker>) {
        let waker = self.take_waker(id);
        let free = replace(&mut self.free, id);
        let wait = self.get_mut(id);
        debug_assert!(wait.task.is_none());
        wait.stage.set(Stage::Free);
        wait.next = free;
        let trap = match wait.trap {
            Trap::Sleep(_) | Trap::Join(_) | Trap::Bell(_) => None,
            _ => Some(replace(&mut wait.trap, NO_TRAP)),
        };
        (trap, waker)
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
        if !self.get(id).foreign {
            return None;
        }
        self.get_mut(id).foreign = false;
        self.remove_waker(id)
    }

    #[cold]
    fn remove_waker(&mut self, id: WaitId) -> Option<Waker> {
        self.wakers.remove(&id)
    }

    /// Puts a wait at the end of a line that begins with `first`.
    #[inline]
    pub(crate) fn enqueue(&self, first: &Cell<WaitId>, id: WaitId) {
        let wait = self.get(id);
        let head = first.get();
        if head == NONE {
            first.set(id);
            wait.before.set(id);
            wait.after.set(id);
            return;
        }
        let last = self.get(head).before.replace(id);
        self.get(last).after.set(id);
        wait.before.set(last);
        wait.after.set(head);
    }

    /// Takes a wait out of the line it stands in.
    #[inline]
    pub(crate) fn dequeue(&self, first: &Cell<WaitId>, id: WaitId) {
        let wait = self.get(id);
        let (before, after) = (wait.before.get(), wait.after.get());
        if after == id {
            return first.set(NONE);
        }
        self.get(before).after.set(after);
        self.get(after).before.set(before);
        if first.get() == id {
            first.set(after);
        }
    }

    /// How many stand in a line.
    pub(crate) fn count_line(&self, first: &Cell<WaitId>) -> usize {
        let head = first.get();
        let after = |id: &WaitId| Some(self.get(*id).after.get()).filter(|next| *next != head);
        std::iter::successors((head != NONE).then_some(head), after).count()
    }

    /// Takes the first out of a line.
    #[inline]
    pub(crate) fn shift(&self, first: &Cell<WaitId>) -> Option<WaitId> {
        let id = first.get();
        (id != NONE).then(|| {
            self.dequeue(first, id);
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::task::{Record, TaskId, cell::Joint};

    fn task() -> Task {
        let record = Record::new(TaskId::from_bits(1), None, std::panic::Location::caller());
        let blocks = crate::kernel::task::block::Blocks::new();
        Joint::new(async {}, record, &blocks).task().clone()
    }

    #[test]
    fn a_line_keeps_its_order_when_the_middle_leaves() {
        let (mut waits, task, first) = (Waits::new(), task(), Cell::new(NONE));
        let ids: Vec<WaitId> = (0..4)
            .map(|_| waits.insert(&NO_TRAP, &task, NONE))
            .collect();
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
        let ids: Vec<WaitId> = (0..3)
            .map(|_| waits.insert(&NO_TRAP, &task, NONE))
            .collect();
        assert!(waits.leave_task(ids[1]).is_some_and(|t| t.is(&task)));
        assert_eq!(task.record.waits.get(), ids[2]);
        assert!(waits.of(&task).eq([ids[2], ids[0]]));
        waits.leave_task(ids[2]);
        waits.leave_task(ids[0]);
        assert_eq!(task.record.waits.get(), NONE);
        assert!(waits.leave_task(ids[0]).is_none());
    }
}

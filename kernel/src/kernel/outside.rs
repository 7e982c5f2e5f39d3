//! The one path by which anything outside the kernel's thread reaches the kernel.
//!
//! Whoever is outside puts a [`Note`] into a shared list and, only if the kernel sleeps, wakes it
//! through mio's waker (an eventfd). A burst of notes costs one system call, and none while the
//! kernel is busy: it looks at `state` on every turn. What says the same twice is in the list once
//! (see [`Flag`]). Whatever a waker or handle reaches it owns by `Arc`, so it may outlive the
//! kernel; its notes then go nowhere.

pub(crate) mod bell;
pub(crate) mod handover;
pub(crate) mod remote;
pub(crate) mod waker;

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
};

use crate::{
    across::{Alarm, AtomicU8, Mutex, MutexGuard},
    kernel::{
        Core,
        outside::{bell::Rope, waker::TaskWaker},
        task::TaskId,
    },
};

/// The kernel runs tasks and will look at the list by itself.
const AWAKE: u8 = 0;
/// The kernel sleeps in `poll`, or is about to.
const ASLEEP: u8 = 1;
/// There is something in the list.
const NOTED: u8 = 2;

/// What the outside has to say.
pub(crate) enum Note {
    /// Make this waker's task ready.
    Wake(Arc<TaskWaker>),
    /// Make this task ready, which was woken while it was polled, by a waker that was only lent.
    Lent(TaskId),
    /// Ring this bell.
    Ring(Arc<Rope>),
    /// Run this on the kernel's thread.
    Call(Call),
    /// Run this, which starts a task, unless `main` has ended.
    Start(Call),
}

pub(crate) type Call = Box<dyn FnOnce() + Send>;

/// Raised while the note of one waker or one bell is in the list: a storm of wakes is one note.
#[derive(Default)]
pub(crate) struct Flag(AtomicU8);

impl Flag {
    /// True if it was down: who raises it puts the note into the list.
    pub(crate) fn raise(&self) -> bool {
        self.0.swap(1, Ordering::AcqRel) == 0
    }

    /// Before the kernel acts on the note, so that what comes later is noted again. A swap, for it
    /// has to see what was done before every `raise` that found the flag up and left no note.
    pub(crate) fn lower(&self) {
        self.0.swap(0, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Notes {
    list: VecDeque<Note>,
    /// The kernel is gone: nobody will read any more.
    closed: bool,
}

/// The part of a kernel that other threads may touch.
pub(crate) struct Shared {
    state: AtomicU8,
    notes: Mutex<Notes>,
    waker: Alarm,
    pub(crate) thread: ThreadId,
    /// True during a run; for messages only.
    runs: AtomicBool,
}

impl Shared {
    pub(crate) fn new(waker: Alarm) -> Arc<Shared> {
        Arc::new(Shared {
            state: AtomicU8::new(AWAKE),
            notes: Mutex::default(),
            waker,
            thread: thread::current().id(),
            runs: AtomicBool::new(false),
        })
    }

    pub(crate) fn runs(&self) -> bool {
        self.runs.load(Ordering::Relaxed)
    }

    pub(crate) fn set_runs(&self, runs: bool) {
        self.runs.store(runs, Ordering::Relaxed);
    }

    /// Leaves a note and sees to it that the kernel reads it.
    pub(crate) fn note(&self, note: Note) {
        if !self.put(note) {
            return;
        }
        // Release: the kernel that sees NOTED sees the note. If the kernel sleeps, exactly one of
        // the threads that come by finds ASLEEP and rings.
        if self.state.swap(NOTED, Ordering::AcqRel) == ASLEEP
            && let Err(e) = self.waker.wake()
        {
            log::error!("kernel: cannot wake the loop: {e}");
        }
    }

    /// True if the list should be read. One relaxed load: it is asked on every turn.
    pub(crate) fn is_noted(&self) -> bool {
        self.state.load(Ordering::Relaxed) == NOTED
    }

    /// Takes all notes, for nothing else. Called by the kernel's thread only.
    pub(crate) fn take(&self, into: &mut VecDeque<Note>) {
        self.state.swap(AWAKE, Ordering::AcqRel);
        std::mem::swap(into, &mut self.notes().list);
    }

    /// Puts a note into the list. False if the kernel is gone; the note is then dropped, without
    /// the lock, for it may be a closure that owns anything.
    fn put(&self, note: Note) -> bool {
        let mut notes = self.notes();
        if notes.closed {
            drop(notes);
            drop(note);
            return false;
        }
        notes.list.push_back(note);
        true
    }

    /// The kernel goes. Gives what nobody will read, to be dropped: so whoever waits for an answer
    /// to a note learns that none will come.
    #[must_use]
    pub(crate) fn close(&self) -> VecDeque<Note> {
        let mut notes = self.notes();
        notes.closed = true;
        std::mem::take(&mut notes.list)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Announces that the kernel goes to sleep. False if there is a note to read instead.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Sleeps in a way that the checker sees, in place of the reactor.
    #[cfg(any(loom, miri, bare))]
    pub(crate) fn sleep(
        &self,
        timeout: Option<std::time::Duration>,
    ) -> Option<std::time::Duration> {
        self.waker.sleep(timeout)
    }

    /// Ends what `fall_asleep` began, unless a note came in: then `is_noted` says so.
    pub(crate) fn wake_up(&self) {
        let _ = self
            .state
            .compare_exchange(ASLEEP, AWAKE, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

/// A kernel as seen from other threads.
///
/// May be kept as long as one likes: when the kernel is gone, what is sent to it goes nowhere, and
/// who waits for an answer is told so. Tasks are refused already when `main` has ended, so that a run
/// ends however many threads go on handing them in. What comes in the last moments of a run, when the
/// kernel has listened for the last time, waits for the next run or for the end of the kernel.
///
/// Nothing here waits for room: who sends faster than the kernel works fills the memory. The
/// kernel reads 128 notes a turn and serves its deadlines and descriptors in between, so its own
/// tasks go on; but what is sent later comes later. A thread that may be that fast has to wait for
/// what it sent: [`join`](crate::Submitted::join) every so often, [`Remote::call`](crate::Remote::call)
/// instead of `with`, or a bounded `std::sync::mpsc` channel that a task empties.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn of(shared: &Arc<Shared>) -> Handle {
        Handle {
            shared: shared.clone(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Runs this on the kernel's thread.
    #[cfg(feature = "hyper")]
    pub(crate) fn call(&self, call: impl FnOnce() + Send + 'static) {
        self.shared.note(Note::Call(Box::new(call)));
    }
}

/// The running kernel's handle.
///
/// # Panics
/// Outside a running kernel.
pub fn handle() -> Handle {
    Core::current_ref(|core| Handle::of(&core.shared))
}

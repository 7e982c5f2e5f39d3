//! A task in memory: one allocation for what the kernel keeps of it, its future, and its result.
//!
//! One of the crate's small unsafe modules. [`Task`] is a counted pointer to the cell, one
//! word wide, that does not know the future's type; [`Joint`] is the same pointer in the hands of
//! a join handle, which knows the type of the result. The ready queue, the waits and the table of
//! tasks hold `Task`s, so none of them ever looks a task up, and none can find it gone.
//!
//! Future and result share a place, the *stage*. The phase in the header says what is in it. The lock
//! on it is that only the loop polls and ends tasks, one at a time: those functions are unsafe.

use std::{
    cell::{Cell, UnsafeCell},
    future::Future,
    marker::PhantomData,
    mem::{ManuallyDrop, offset_of},
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    ptr::NonNull,
    task::{Context, Poll},
};

use crate::{
    error::{JoinError, Panic},
    kernel::task::{
        Cancellation, Record,
        block::{self, Blocks, Slot},
    },
};

/// What is in the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The future, which may be polled, or is.
    Parked,
    /// Something that is being dropped or written now.
    Busy,
    /// The result.
    Done,
    /// Nothing any more.
    Empty,
}

/// The front of a cell, the same for all tasks. In this order, so that what a step touches lies at the
/// end, beside the future.
#[repr(C)]
pub(crate) struct Header {
    pub(crate) record: Record,
    count: Cell<u32>,
    /// Which block it is in.
    slot: Slot,
    flags: Cell<Flags>,
    kind: &'static Kind,
}

/// All that a step asks of its task before it polls, in one byte: for the usual task it is one
/// comparison. (A byte, for the compiler would write parts of a word and then read the whole, which
/// the processor cannot forward.)
#[derive(Clone, Copy, PartialEq, Eq)]
struct Flags(u8);

impl Flags {
    const PHASE: u8 = 0b11;
    const CANCELLATION: u8 = 0b1100;
    /// It is in the ready queue, or its step runs now, which it left the queue for.
    const QUEUED: u8 = 0b1_0000;
    /// A join handle will ask for the result.
    const JOINABLE: u8 = 0b10_0000;
    /// It has a waker of its own, once foreign code has cloned one.
    const WAKER: u8 = 0b100_0000;
    /// Its end makes its parent ready, which joins it.
    const AWAITED: u8 = 0b1000_0000;

    /// A new task: parked, joinable, not cancelled, and about to be put in the ready queue.
    const NEW: Flags = Flags(Flags::JOINABLE | Flags::QUEUED);

    #[inline(always)]
    fn with(self, bits: u8, value: u8) -> Flags {
        Flags(self.0 & !bits | value)
    }

    #[inline(always)]
    fn phase(self) -> Phase {
        match self.0 & Flags::PHASE {
            0 => Phase::Parked,
            1 => Phase::Busy,
            2 => Phase::Done,
            _ => Phase::Empty,
        }
    }

    #[inline(always)]
    fn cancellation(self) -> Cancellation {
        match (self.0 & Flags::CANCELLATION) >> 2 {
            0 => Cancellation::None,
            1 => Cancellation::Pending,
            2 => Cancellation::Delivered,
            _ => Cancellation::Hard,
        }
    }
}

impl Header {
    #[inline(always)]
    fn set_flags(&self, bits: u8, value: u8) {
        self.flags.set(self.flags.get().with(bits, value));
    }

    #[inline(always)]
    fn set_phase(&self, phase: Phase) {
        self.set_flags(Flags::PHASE, phase as u8);
    }

    #[inline]
    pub(crate) fn cancellation(&self) -> Cancellation {
        self.flags.get().cancellation()
    }

    /// True if it was cancelled, and nothing in it was told yet.
    pub(crate) fn is_untold(&self) -> bool {
        match self.cancellation() {
            Cancellation::Pending => true,
            Cancellation::Hard => self.record.rare().is_some_and(|rare| rare.untold.get()),
            Cancellation::None | Cancellation::Delivered => false,
        }
    }

    pub(crate) fn set_cancellation(&self, cancellation: Cancellation) {
        self.set_flags(Flags::CANCELLATION, (cancellation as u8) << 2);
    }

    #[inline]
    pub(crate) fn is_queued(&self) -> bool {
        self.flags.get().0 & Flags::QUEUED != 0
    }

    /// Notes that it is in the ready queue. False if it was there.
    #[inline]
    pub(crate) fn enter_queue(&self) -> bool {
        let was_there = self.is_queued();
        self.set_flags(Flags::QUEUED, Flags::QUEUED);
        !was_there
    }

    /// Notes that its step is over, which it left the ready queue for.
    #[inline]
    pub(crate) fn leave_queue(&self) {
        self.set_flags(Flags::QUEUED, 0);
    }

    /// Notes that it has a waker of its own.
    pub(crate) fn has_waker(&self) {
        self.set_flags(Flags::WAKER, Flags::WAKER);
    }

    /// True if its end makes its parent ready, which joins it.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        self.flags.get().0 & Flags::AWAITED != 0
    }

    #[inline]
    pub(crate) fn set_awaited(&self, awaited: bool) {
        self.set_flags(Flags::AWAITED, if awaited { Flags::AWAITED } else { 0 });
    }

    /// Nobody will ask for the result.
    #[inline]
    pub(crate) fn detach(&self) {
        self.set_flags(Flags::JOINABLE, 0);
    }

    #[inline]
    fn is_joinable(&self) -> bool {
        self.flags.get().0 & Flags::JOINABLE != 0
    }

    /// True if the task has its future.
    #[inline]
    pub(crate) fn is_parked(&self) -> bool {
        self.flags.get().phase() == Phase::Parked
    }

    /// True once the task has ended, also if its result was taken.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.flags.get().0 & Flags::PHASE >= Phase::Done as u8
    }
}

/// What depends on the future's type.
struct Kind {
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Poll<()>,
    drop_future: unsafe fn(NonNull<Header>),
    fail: unsafe fn(NonNull<Header>, JoinError),
    free: unsafe fn(NonNull<Header>),
    /// Where the stage lies, in bytes from the header.
    stage: usize,
}

/// A whole cell. `repr(C)`, so that a pointer to it is a pointer to its header.
#[repr(C)]
struct TaskCell<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

/// `repr(C)`, so that the result lies where the stage does.
#[repr(C)]
union Stage<F: Future> {
    future: ManuallyDrop<F>,
    result: ManuallyDrop<Result<F::Output, JoinError>>,
}

/// A task. Clones are the same task.
#[repr(transparent)]
pub(crate) struct Task {
    cell: NonNull<Header>,
}

/// A task and the type of its result.
pub(crate) struct Joint<T> {
    task: Task,
    result: PhantomData<fn() -> T>,
}

impl<T> Joint<T> {
    #[inline(always)]
    pub(crate) fn new(
        future: impl Future<Output = T> + 'static,
        record: Record,
        blocks: &Blocks,
    ) -> Joint<T> {
        Joint {
            task: Task::new(future, record, blocks),
            result: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn task(&self) -> &Task {
        &self.task
    }

    /// Takes the result out, if the task has ended and nobody took it yet.
    #[inline]
    pub(crate) fn take(&self) -> Option<Result<T, JoinError>> {
        if self.task.flags.get().phase() != Phase::Done {
            return None;
        }
        self.task.set_phase(Phase::Empty);
        // SAFETY: the task was made with a future of output `T`, so this is where its result
        // lies, and the phase was `Done`: it is there. The phase says from now on that it is not,
        // so it is read once. No foreign code runs in between. (Read by its parts, for the reason
        // given at `Task::new`.)
        unsafe {
            let stage = self.task.cell.byte_add(self.task.kind.stage);
            Some(match stage.cast::<Result<T, JoinError>>().as_ref() {
                Ok(value) => Ok(std::ptr::read(value)),
                Err(error) => Err(std::ptr::read(error)),
            })
        }
    }
}

impl Task {
    /// Writes the cell where it will stay: put together on the stack and then moved, it would cost
    /// twice as much, for the processor cannot forward small stores to the wide loads of a move.
    #[inline(always)]
    fn new<F: Future + 'static>(future: F, record: Record, blocks: &Blocks) -> Task {
        let (block, slot) = blocks.take::<TaskCell<F>>();
        let cell = block.as_ptr();
        // SAFETY: the block was made for this type, and both its fields are written, once each.
        unsafe {
            (&raw mut (*cell).header).write(Header {
                kind: Kind::of::<F>(),
                count: Cell::new(1),
                flags: Cell::new(Flags::NEW),
                slot,
                record,
            });
            (&raw mut (*cell).stage).cast::<F>().write(future);
        }
        Task { cell: block.cast() }
    }

    /// Has the processor fetch the cell while it does something else: with ten thousand tasks that lie
    /// anywhere in memory, waiting for it would be a third of what their steps cost. (One line, where a
    /// step begins; its neighbours come with it.)
    #[inline]
    pub(crate) fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing and faults nowhere, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let cell = self.cell.as_ptr().cast::<i8>();
            _mm_prefetch(cell.wrapping_add(offset_of!(Header, kind)), _MM_HINT_T0);
        }
    }

    /// Where it lies.
    #[inline]
    pub(crate) fn cell(&self) -> NonNull<Header> {
        self.cell
    }

    /// The task that lies there, without a count of its own.
    ///
    /// # Safety
    /// `cell` gave it, this is that thread, and the task is counted elsewhere as long as this is used.
    #[inline]
    pub(crate) unsafe fn uncounted(cell: NonNull<Header>) -> ManuallyDrop<Task> {
        ManuallyDrop::new(Task { cell })
    }

    #[inline]
    pub(crate) fn is(&self, other: &Task) -> bool {
        self.cell == other.cell
    }

    /// Runs one step; keeps the result, if it was the last and somebody will ask for it.
    ///
    /// # Panics
    /// If the future does, or its drop, or the drop of a result that nobody wants. `end` then
    /// makes of the cell what a joiner is told.
    ///
    /// # Safety
    /// The task is parked, and until this returns nobody polls it or ends it.
    #[inline]
    pub(crate) unsafe fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `kind` belongs to this cell's future, which is there, since it is parked; the rest is
        // the caller's word. `&self` keeps the cell alive.
        unsafe { (self.kind.poll)(self.cell, cx) }
    }

    /// True of a task that comes out of the ready queue and is as usual: parked, not cancelled, and
    /// without a waker of its own.
    #[inline]
    pub(crate) fn is_usual(&self) -> bool {
        let any = Flags::JOINABLE | Flags::AWAITED;
        self.flags.get().0 & !any == Flags::QUEUED | Phase::Parked as u8
    }

    /// Drops the future, if it is still there, and keeps this error as the result. A panic of the
    /// drop takes the error's place. Gives it back if nobody will ask for it.
    ///
    /// # Safety
    /// It is not being polled.
    pub(crate) unsafe fn end(&self, mut error: JoinError) -> Option<JoinError> {
        match self.flags.get().phase() {
            Phase::Busy | Phase::Done => return None,
            Phase::Empty => {}
            Phase::Parked => {
                self.set_phase(Phase::Busy);
                // SAFETY: as in `poll`.
                let dropped = catch_unwind(AssertUnwindSafe(|| unsafe {
                    (self.kind.drop_future)(self.cell)
                }));
                if let Err(payload) = dropped {
                    error = JoinError::Panicked(Panic::new(payload));
                }
            }
        }
        self.set_phase(Phase::Empty);
        if !self.is_joinable() {
            return Some(error);
        }
        // SAFETY: `kind` belongs to this cell, and the stage is empty.
        unsafe { (self.kind.fail)(self.cell, error) };
        self.set_phase(Phase::Done);
        None
    }
}

impl Deref for Task {
    type Target = Header;

    #[inline]
    fn deref(&self) -> &Header {
        // SAFETY: a `Task` counts, so the cell is alive as long as `self`; nobody ever makes a
        // `&mut Header` before the last of them is gone.
        unsafe { self.cell.as_ref() }
    }
}

impl Clone for Task {
    #[inline]
    fn clone(&self) -> Task {
        // Cannot overflow: clones live in waits, queues and handles of eight bytes and more each,
        // and are never leaked, so memory ends before the count does.
        self.count.set(self.count.get() + 1);
        Task { cell: self.cell }
    }
}

impl Drop for Task {
    #[inline]
    fn drop(&mut self) {
        let left = self.count.get() - 1;
        self.count.set(left);
        if left == 0 {
            // SAFETY: this was the last of all pointers to the cell.
            unsafe { (self.kind.free)(self.cell) }
        }
    }
}

/// A place in the table of tasks, in one word: a task, or, while it is free, the number of the next
/// free one. (A list of the free ones beside the table would be 4 bytes more for each of a million.)
#[repr(transparent)]
pub(crate) struct Seat {
    /// A counted pointer to a cell, which is even, or a number, shifted, and 1.
    word: *const Header,
}

const _: () = assert!(align_of::<Header>() > 1);

impl Seat {
    pub(crate) fn free(next: u32) -> Seat {
        let word = std::ptr::without_provenance((next as usize) << 1 | 1);
        Seat { word }
    }

    fn is_free(&self) -> bool {
        self.word.addr() & 1 != 0
    }

    #[inline]
    pub(crate) fn task(&self) -> Option<&Task> {
        let word = &raw const self.word;
        // SAFETY: both are one pointer, and this is a counted one; it stays as long as `self` does.
        (!self.is_free()).then(|| unsafe { &*word.cast::<Task>() })
    }

    /// Puts a task into a free place; gives the number that was there.
    ///
    /// # Panics
    /// If it is not free.
    #[inline]
    pub(crate) fn sit(&mut self, task: Task) -> u32 {
        assert!(self.is_free(), "a task has this place");
        let next = (self.word.addr() >> 1) as u32;
        self.word = ManuallyDrop::new(task).cell.as_ptr();
        next
    }

    /// Takes the task out, if there is one, and puts a number there.
    #[inline]
    pub(crate) fn leave(&mut self, next: u32) -> Option<Task> {
        if self.is_free() {
            return None;
        }
        let left = ManuallyDrop::new(std::mem::replace(self, Seat::free(next)));
        let cell = NonNull::new(left.word.cast_mut());
        cell.map(|cell| Task { cell }) // with the count that was this place's
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        drop(self.leave(0));
    }
}

/// Sets the phase when it goes, also if a panic takes it away.
struct Leave<'a> {
    header: &'a Header,
    phase: Phase,
}

impl Drop for Leave<'_> {
    #[inline]
    fn drop(&mut self) {
        self.header.set_phase(self.phase);
    }
}

impl Kind {
    fn of<F: Future + 'static>() -> &'static Kind {
        const {
            &Kind {
                poll: poll::<F>,
                drop_future: drop_future::<F>,
                fail: fail::<F>,
                free: free::<F>,
                stage: offset_of!(TaskCell<F>, stage),
            }
        }
    }
}

/// The parts of a cell of this kind.
///
/// # Safety
/// `cell` points to a live `TaskCell<F>`, and comes from `Task::new`.
unsafe fn parts<'a, F: Future + 'static>(cell: NonNull<Header>) -> (&'a Header, *mut Stage<F>) {
    // SAFETY: the caller's word. The stage is behind an `UnsafeCell`, so a shared reference to
    // the whole says nothing about it.
    let cell = unsafe { cell.cast::<TaskCell<F>>().as_ref() };
    (&cell.header, cell.stage.get())
}

/// # Safety
/// As for `parts`; the future is in the stage, and nobody else touches that.
unsafe fn poll<F: Future + 'static>(cell: NonNull<Header>, cx: &mut Context<'_>) -> Poll<()> {
    // SAFETY: the caller's word.
    let (header, stage) = unsafe { parts::<F>(cell) };
    // SAFETY: the caller's word, so this is the only reference into the stage. The future lives in
    // its cell and is dropped where it stands: it never moves.
    let polled = unsafe { Pin::new_unchecked(&mut *(*stage).future) }.poll(cx);
    let Poll::Ready(value) = polled else {
        return Poll::Pending;
    };
    header.set_phase(Phase::Busy);
    let mut leave = Leave {
        header,
        phase: Phase::Empty,
    };
    // SAFETY: as above; the phase will not be `Parked` again, so it is dropped once.
    unsafe { ManuallyDrop::drop(&mut (*stage).future) };
    if header.is_joinable() {
        // SAFETY: as above; the stage is empty.
        unsafe { (*stage).result = ManuallyDrop::new(Ok(value)) };
        leave.phase = Phase::Done;
    }
    Poll::Ready(())
}

/// # Safety
/// As for `poll`; from now on the stage is empty, also after a panic.
unsafe fn drop_future<F: Future + 'static>(cell: NonNull<Header>) {
    // SAFETY: the caller's word.
    unsafe { ManuallyDrop::drop(&mut (*parts::<F>(cell).1).future) }
}

/// # Safety
/// As for `parts`; the stage is empty.
unsafe fn fail<F: Future + 'static>(cell: NonNull<Header>, error: JoinError) {
    // SAFETY: the caller's word.
    unsafe { (*parts::<F>(cell).1).result = ManuallyDrop::new(Err(error)) }
}

/// # Safety
/// As for `parts`; nobody uses the cell any more.
unsafe fn free<F: Future + 'static>(cell: NonNull<Header>) {
    let cell = cell.cast::<TaskCell<F>>();
    // SAFETY: the caller's word; nobody uses the value after this.
    unsafe {
        let slot = cell.as_ref().header.slot;
        let block = Block { cell, slot };
        cell.drop_in_place();
        std::mem::forget(block); // once more by itself, for the compiler to inline it
        block::free(cell, slot);
    }
}

/// The memory of a cell that is no more. It goes back also if the drop of what was in it panics.
struct Block<F: Future> {
    cell: NonNull<TaskCell<F>>,
    slot: Slot,
}

impl<F: Future> Drop for Block<F> {
    fn drop(&mut self) {
        // SAFETY: `Task::new` took it for this type, and only `free` makes a `Block` of it.
        unsafe { block::free(self.cell, self.slot) }
    }
}

impl<F: Future> Drop for TaskCell<F> {
    fn drop(&mut self) {
        let stage = self.stage.get_mut();
        // SAFETY: the phase says what is in the stage. A busy cell is never dropped: whoever made
        // it busy holds a `Task`.
        unsafe {
            match self.header.flags.get().phase() {
                Phase::Parked => ManuallyDrop::drop(&mut stage.future),
                Phase::Done => ManuallyDrop::drop(&mut stage.result),
                Phase::Busy | Phase::Empty => {}
            }
        }
    }
}

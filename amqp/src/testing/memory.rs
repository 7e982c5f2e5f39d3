//! A count of what a piece of work allocates: the system's allocator with a tally for each thread, so that tests that
//! run beside each other do not see one another.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Bytes this thread has allocated less those it has freed; negative where it frees what others allocated.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most there were since it was last set back.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no tally any more, and nobody asks for it.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator as it came; counting touches only `Cell`s without destructors, and
// allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // While it moves, the old and the new place may both exist.
        count(new_size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

/// Runs `work`; tells the most bytes that this thread held at once beyond those it held before.
pub(crate) fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let value = work();
    (value, (PEAK.get() - before) as usize)
}

#[test]
fn the_most_at_once_is_counted() {
    let ((), peak) = peak_bytes(|| {
        drop(vec![0u8; 5000]);
        let mut grown: Vec<u8> = Vec::with_capacity(1000);
        grown.reserve_exact(3000);
    });
    assert!((5000..6000).contains(&peak), "{peak}");
    let (_kept, peak) = peak_bytes(|| vec![0u8; 7000]);
    assert!((7000..8000).contains(&peak), "{peak}");
}

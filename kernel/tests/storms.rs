//! What other threads say without pause takes a bounded place, is given back, and holds nobody up.
//!
//! Memory is counted by an allocator of this file's own, so its tests run one after another.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use kernel::{Bell, Kernel, ManualClock, handle, sleep, spawn, yield_now};

struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static ALONE: Mutex<()> = Mutex::new(());

// SAFETY: it is the system's allocator, with a count beside it.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Many times what a note takes, and little beside what a storm of them would.
const LITTLE: usize = 256 * 1024;
const MANY: usize = 100_000;

fn assert_little_more_than(before: usize) {
    let more = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert!(more < LITTLE, "{more} bytes more");
}

/// Has another thread do something many times during one step of a task. (Joined, and not left to the end of
/// the scope: ThreadSanitizer sees only that what happened in a thread comes before its join.)
fn storm(what: impl Fn() + Send) {
    thread::scope(|scope| {
        let storm = scope.spawn(move || (0..MANY).for_each(|_| what()));
        storm.join().expect("it does not panic");
    });
}

#[test]
fn wakes_of_one_task() {
    let _alone = alone();
    kernel::run(async {
        let before = HELD.load(Ordering::Relaxed);
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            if polls == 1 {
                let waker = cx.waker().clone();
                storm(|| waker.wake_by_ref());
                assert_little_more_than(before);
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(polls, 2, "woken, and once");
    })
    .unwrap();
}

#[test]
fn wakes_by_a_waker_that_is_only_lent() {
    let _alone = alone();
    kernel::run(async {
        let before = HELD.load(Ordering::Relaxed);
        // Two tasks in one turn, three times each.
        let one = || {
            let mut polls = 0;
            poll_fn(move |cx| {
                polls += 1;
                let waker = cx.waker();
                storm(|| waker.wake_by_ref());
                match polls {
                    4 => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            })
        };
        let (a, b) = (spawn(one()), spawn(one()));
        a.join().await.unwrap();
        b.join().await.unwrap();
        assert_little_more_than(before);
    })
    .unwrap();
}

#[test]
fn rings_of_one_bell() {
    let _alone = alone();
    let mut kernel = Kernel::builder().build().unwrap();
    let bell = kernel.run(async { Bell::new() });
    let (first, second) = (bell.ringer(), bell.ringer());
    let before = HELD.load(Ordering::Relaxed);
    storm(|| first.ring());
    storm(|| second.ring());
    assert_little_more_than(before);
    kernel.run(async move {
        bell.wait().await.unwrap();
        yield_now().await.unwrap();
        storm(|| first.ring());
        assert_little_more_than(before);
        bell.wait().await.unwrap();
    });
}

#[test]
fn what_a_flood_of_tasks_took_is_given_back() {
    let _alone = alone();
    kernel::run(async {
        let ran = Arc::new(AtomicUsize::new(0));
        let before = HELD.load(Ordering::Relaxed);
        let handle = handle();
        storm(|| {
            let ran = ran.clone();
            handle.spawn(move || async move { ran.fetch_add(1, Ordering::Relaxed) });
        });
        while ran.load(Ordering::Relaxed) < MANY {
            yield_now().await.unwrap();
        }
        yield_now().await.unwrap();
        assert_little_more_than(before);
    })
    .unwrap();
}

/// A deadline that has passed is looked at after one turn, whatever lies in the list.
#[test]
fn a_flood_of_tasks_does_not_hold_a_deadline_up() {
    let _alone = alone();
    let clock = ManualClock::paused();
    let mut kernel = Kernel::builder().manual_clock(clock.clone()).build();
    kernel.as_mut().unwrap().run(async move {
        let ran = Arc::new(AtomicUsize::new(0));
        let seen = Rc::new(Cell::new(0));
        let (count, saw) = (ran.clone(), seen.clone());
        let sleeper = spawn(async move {
            sleep(Duration::from_secs(1)).await.unwrap();
            saw.set(count.load(Ordering::Relaxed));
        });
        yield_now().await.unwrap();
        let handle = handle();
        storm(|| {
            let ran = ran.clone();
            handle.spawn(move || async move { ran.fetch_add(1, Ordering::Relaxed) });
        });
        clock.advance(Duration::from_secs(1));
        sleeper.join().await.unwrap();
        assert!(seen.get() <= 1024, "{} tasks came first", seen.get());
        while ran.load(Ordering::Relaxed) < MANY {
            yield_now().await.unwrap();
        }
    });
}

/// What is left of a flood keeps the kernel awake until it is read.
#[test]
fn all_of_a_flood_is_read_by_a_kernel_that_has_nothing_else_to_do() {
    let _alone = alone();
    kernel::run(async {
        let (handle, bell) = (handle(), Bell::new());
        let (ringer, last) = (bell.ringer(), AtomicBool::new(false));
        storm(|| handle.spawn(|| async {}));
        handle.spawn(move || async move {
            last.store(true, Ordering::Relaxed);
            ringer.ring();
        });
        bell.wait().await.unwrap();
    })
    .unwrap();
}

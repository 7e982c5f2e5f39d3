//! The cross-thread wake path under loom: each model runs in every order that its threads' steps
//! can take, up to a number of preemptions.
//!
//! What runs is the kernel itself: its loop, wakers, bells and inboxes, on loom's locks and
//! atomics (see `across/`); only the sleep in epoll is replaced. A wake-up that gets lost leaves
//! the kernel asleep for ever, which loom reports as a deadlock.
//!
//! `tests/long loom` runs it, and breaks the protocol in several ways to see that each is found.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::{Poll, Waker},
};

use loom::{
    cell::UnsafeCell,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::{Bell, Kernel, ManualClock, Ringer, inbox, run_in_thread, spawn, yield_now};

/// Runs the model in every order.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.max_branches = 10_000;
    builder.check(model);
}

fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    // Nothing here may depend on the time of day.
    let builder = Kernel::builder().manual_clock(ManualClock::paused());
    builder.build().unwrap().run(main)
}

/// What a future of the ecosystem does: looks at a flag, leaves its waker, looks again.
#[derive(Default)]
struct Foreign {
    done: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Foreign {
    fn finish(&self) {
        self.done.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn finished(&self) {
        poll_fn(|cx| {
            if self.done.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            match self.done.load(Ordering::Acquire) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await
    }
}

#[test]
fn a_waker_is_heard() {
    explore(|| {
        let foreign = Arc::new(Foreign::default());
        let other = foreign.clone();
        let thread = thread::spawn(move || other.finish());
        run(async move { foreign.finished().await });
        thread.join().unwrap();
    });
}

#[test]
fn two_threads_wake_two_tasks() {
    explore(|| {
        let foreign: [Arc<Foreign>; 2] = Default::default();
        let threads = foreign
            .clone()
            .map(|other| thread::spawn(move || other.finish()));
        run(async move {
            let [a, b] = foreign;
            let task = spawn(async move { a.finished().await });
            b.finished().await;
            task.join().await.unwrap();
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

/// What one of them did before its wake is seen by the task that runs because of the other's.
#[test]
fn two_threads_wake_one_task_by_one_waker() {
    explore(|| {
        let done: [Arc<AtomicBool>; 2] = Default::default();
        let mut threads = None;
        run(poll_fn(move |cx| {
            let all = threads.get_or_insert_with(|| {
                done.clone().map(|done| {
                    let waker = cx.waker().clone();
                    thread::spawn(move || {
                        done.store(true, Ordering::Relaxed);
                        waker.wake();
                    })
                })
            });
            if done.iter().any(|done| !done.load(Ordering::Relaxed)) {
                return Poll::Pending;
            }
            let joined = std::mem::replace(all, [0, 1].map(|_| thread::spawn(|| ())));
            joined.into_iter().for_each(|t| t.join().unwrap());
            Poll::Ready(())
        }));
    });
}

#[test]
fn bells_are_heard_and_what_was_put_before_them_seen() {
    explore(|| {
        run(async {
            let (first, second) = (Bell::new(), Bell::new());
            let ringers = [first.ringer(), second.ringer()];
            let value = Arc::new(UnsafeCell::new(0));
            let written = value.clone();
            let thread = thread::spawn(move || {
                // SAFETY: whether this and the read below are ordered is what loom checks.
                written.with_mut(|value| unsafe { *value = 7 });
                ringers.iter().for_each(Ringer::ring);
            });
            second.wait().await.unwrap();
            first.wait().await.unwrap(); // it was rung before, with nobody waiting
            // SAFETY: as above.
            assert_eq!(value.with(|value| unsafe { *value }), 7);
            thread.join().unwrap();
        });
    });
}

#[test]
fn an_inbox_gives_everything_and_ends() {
    explore(|| {
        let (to, from) = inbox();
        let threads = [1, 2].map(|n| {
            let to = to.clone();
            thread::spawn(move || to.send(n).unwrap())
        });
        drop(to);
        let sum = run(async move {
            let mut sum = 0;
            while let Some(n) = from.recv().await.unwrap() {
                sum += n;
            }
            sum
        });
        assert_eq!(sum, 3);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_waker_may_be_used_while_the_kernel_is_dropped() {
    explore(|| {
        let foreign = Arc::new(Foreign::default());
        let other = foreign.clone();
        let thread = thread::spawn(move || other.finish());
        run(async move {
            spawn(async move { foreign.finished().await }).detach();
            yield_now().await.unwrap();
        });
        thread.join().unwrap();
    });
}

/// One thread of the pool looks when the next job comes, or has fallen asleep over it.
#[test]
fn jobs_are_taken_and_their_results_seen() {
    explore(|| {
        run(async {
            for n in 0..4 {
                let value = run_in_thread(move || UnsafeCell::new(n)).await.unwrap();
                // SAFETY: whether it was written before is what loom checks.
                assert_eq!(value.with(|value| unsafe { *value }), n);
            }
        });
    });
}

#[test]
fn two_jobs_at_once_and_one_thread_for_them() {
    explore(|| {
        let mut kernel = Kernel::builder()
            .manual_clock(ManualClock::paused())
            .max_threads(1)
            .build()
            .unwrap();
        let sum = kernel.run(async {
            let other = spawn(run_in_thread(|| 1));
            let sum = run_in_thread(|| 2).await.unwrap();
            sum + other.join().await.unwrap().unwrap()
        });
        assert_eq!(sum, 3);
    });
}

//! A waker, a handle and a ringer outlive their kernel, and are used while it ends.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    task::{Poll, Waker},
    thread,
};

#[test]
fn threads_wake_while_the_kernel_is_dropped() {
    for round in 0..if cfg!(miri) { 5 } else { 200 } {
        let (give, take) = mpsc::channel::<Waker>();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let waking = thread::spawn(move || {
            let mut wakers = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                wakers.extend(take.try_iter());
                wakers.iter().for_each(Waker::wake_by_ref);
            }
            wakers.into_iter().for_each(Waker::wake); // the kernel is gone
        });
        kernel::run(async move {
            for _ in 0..4 {
                let give = give.clone();
                kernel::spawn(poll_fn(move |cx| {
                    give.send(cx.waker().clone()).ok();
                    Poll::<()>::Pending
                }))
                .cancel();
            }
            drop(give);
            for _ in 0..round % 5 {
                kernel::yield_now().await.unwrap();
            }
            // The tasks are foreign code: hard, or each would use up its budget.
            kernel::ps()
                .iter()
                .skip(1)
                .for_each(|task| drop(kernel::cancel(task.id)));
        })
        .unwrap();
        stop.store(true, Ordering::Relaxed);
        waking.join().unwrap();
    }
}

#[test]
fn a_borrowed_waker_is_used_by_another_thread_during_the_poll() {
    kernel::run(async {
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            if polls == 50 {
                return Poll::Ready(());
            }
            let waker = cx.waker();
            thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let real = waker.clone();
                    waker.wake_by_ref();
                    real.wake();
                });
                other.join().expect("it does not panic"); // ThreadSanitizer sees no other order
            });
            Poll::Pending
        })
        .await;
    })
    .unwrap();
}

#[test]
fn a_handle_may_outlive_its_kernel() {
    let handle = kernel::run(async { kernel::handle() }).unwrap();
    let ran = Arc::new(AtomicU64::new(0));
    let count = ran.clone();
    handle.spawn(move || async move {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}

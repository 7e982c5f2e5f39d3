//! The pool of threads behind `run_in_thread`.

use std::{
    collections::HashSet,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use kernel::{Error, Kernel, run_in_thread, spawn, yield_now};

/// One thread, which is busy; then a thousand functions in line, of which every second one's task
/// is cancelled. Those never run, and the others run in their order.
#[test]
fn what_was_cancelled_in_line_never_runs() {
    const LINE: usize = if cfg!(miri) { 30 } else { 1000 };
    let ran = Arc::new(AtomicUsize::new(0));
    let counter = ran.clone();
    let mut kernel = Kernel::builder().max_threads(1).build().unwrap();
    kernel.run(async move {
        let (go, wait) = mpsc::channel::<()>();
        let busy = spawn(run_in_thread(move || wait.recv().is_err()));
        let tasks: Vec<_> = (0..LINE)
            .map(|n| {
                let ran = counter.clone();
                spawn(run_in_thread(move || {
                    (n, ran.fetch_add(1, Ordering::Relaxed))
                }))
            })
            .collect();
        yield_now().await.unwrap();
        for task in tasks.iter().skip(1).step_by(2) {
            task.cancel().await.unwrap();
        }
        drop(go);
        assert_eq!(busy.join().await.unwrap(), Ok(true));
        for (n, task) in tasks.into_iter().enumerate() {
            let expected = match n % 2 {
                0 => Ok((n, n / 2)),
                _ => Err(Error::Cancelled),
            };
            assert_eq!(task.join().await.unwrap(), expected);
        }
    });
    assert_eq!(ran.load(Ordering::Relaxed), LINE / 2);
}

#[test]
fn never_more_threads_than_allowed() {
    let mut kernel = Kernel::builder().max_threads(3).build().unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    kernel.run(async move {
        let work = || {
            let (now, most) = (now.clone(), most.clone());
            spawn(run_in_thread(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            }))
        };
        for task in (0..300).map(|_| work()).collect::<Vec<_>>() {
            task.join().await.unwrap().unwrap();
        }
    });
    assert!((1..=3).contains(&seen.load(Ordering::SeqCst)));
}

/// A thread is free before its result is announced, whether it then sleeps or looks for the next job.
#[test]
fn calls_one_after_another_need_one_thread() {
    let threads = kernel::run(async {
        let mut threads = HashSet::new();
        for n in 0..if cfg!(miri) { 20 } else { 300 } {
            threads.insert(run_in_thread(|| std::thread::current().id()).await.unwrap());
            for _ in 0..n % 7 {
                yield_now().await.unwrap();
            }
        }
        threads
    });
    assert_eq!(threads.unwrap().len(), 1);
}

/// The function needs more stack than a thread has by default (and a debug build copies).
#[test]
fn the_size_of_the_stack_is_settable() {
    const DEEP: usize = 8 << 20;
    let mut kernel = Kernel::builder().thread_stack(4 * DEEP).build().unwrap();
    let sum = kernel.run(run_in_thread(|| {
        let big = black_box([1u8; DEEP]);
        big.iter().map(|byte| usize::from(*byte)).sum::<usize>()
    }));
    assert_eq!(sum, Ok(DEEP));
}

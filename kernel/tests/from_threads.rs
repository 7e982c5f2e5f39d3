//! What a std thread can do with a kernel through its `Send` handles.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use kernel::{
    Error, Handle, JoinError, Kernel, Remote, at_shutdown, handle, remote, run_in_thread, shield,
    sleep, spawn, sync::Event,
};

fn assert_send_and_sync<T: Send + Sync>() {}

#[test]
fn the_handles_may_go_anywhere() {
    assert_send_and_sync::<Handle>();
    assert_send_and_sync::<Remote<Rc<RefCell<u32>>>>();
    assert_send_and_sync::<kernel::Submitted<u32>>();
}

/// Runs the closure on a std thread while the kernel runs; its panic is the test's.
fn beside<T: Send + 'static>(f: impl FnOnce(Handle) -> T + Send + 'static) -> T {
    kernel::run(async {
        let handle = handle();
        run_in_thread(move || f(handle)).await.unwrap()
    })
    .unwrap()
}

#[test]
fn a_submitted_task_gives_its_value_its_panic_or_its_end_back() {
    beside(|handle| {
        let sum = handle.submit(|| async {
            let own = Rc::new(2); // the future is not Send
            sleep(Duration::from_millis(1)).await.unwrap();
            *own + 2
        });
        assert_eq!(sum.join().unwrap(), 4);
        let panics = handle.submit(|| async { std::panic::resume_unwind(Box::new("on purpose")) });
        assert_eq!(
            panics.join().unwrap_err().panic_message(),
            Some("on purpose")
        );
        let making = handle.submit(|| {
            let stop = true;
            assert!(!stop, "while it is made");
            async {}
        });
        assert_eq!(
            making.join().unwrap_err().panic_message(),
            Some("while it is made")
        );
        let polite = handle.submit(|| sleep(Duration::from_secs(3600)));
        let polite = polite.join_by(Instant::now()).unwrap_err();
        polite.cancel();
        assert_eq!(polite.join().unwrap(), Err(Error::Cancelled));
        let foreign = handle.submit(std::future::pending::<()>);
        foreign.cancel();
        foreign.cancel();
        assert!(matches!(foreign.join(), Err(JoinError::Cancelled)));
    });
}

#[test]
fn a_task_still_running_at_the_end_gives_what_it_ends_with() {
    let submitted = kernel::run(async {
        let handle = handle();
        run_in_thread(move || handle.submit(|| sleep(Duration::from_secs(3600))))
            .await
            .unwrap()
    });
    assert_eq!(submitted.unwrap().join().unwrap(), Err(Error::Cancelled));
}

#[test]
fn who_waits_for_a_kernel_that_goes_is_told() {
    let mut kernel = Kernel::builder().build().unwrap();
    let (handle, number) = kernel.run(async { (handle(), remote(7)) });
    let (before, after) = (handle.submit(|| async { 1 }), handle.clone());
    let asking = number.clone();
    let thread = thread::spawn(move || asking.call(|n| *n));
    drop(kernel);
    assert!(matches!(before.join(), Err(JoinError::Cancelled)));
    assert!(matches!(
        after.submit(|| async { 1 }).join(),
        Err(JoinError::Cancelled)
    ));
    assert_eq!(thread.join().unwrap(), Err(Error::Closed));
    assert_eq!(number.call(|n| *n), Err(Error::Closed));
    number.with(|_| unreachable!());
}

#[test]
fn what_is_submitted_between_two_runs_waits_for_the_next() {
    let mut kernel = Kernel::builder().build().unwrap();
    let handle = kernel.run(async { handle() });
    let early = handle.submit(|| async { 1 });
    assert!(early.join_by(Instant::now()).is_err());
    let early = handle.submit(|| async { 2 });
    kernel.run(async { kernel::yield_now().await.unwrap() });
    assert_eq!(early.join().unwrap(), 2);
}

/// The story: a thread that went on handing in tasks kept the run, for each new one was started, told to
/// end, and had a cleanup budget of its own.
#[test]
fn a_task_handed_in_when_main_has_ended_is_refused() {
    let (tell, told) = mpsc::channel();
    let mut kernel = Kernel::builder().build().unwrap();
    let handle = kernel.run(async {
        let (hand_in, number) = (handle(), remote(7));
        let kept = hand_in.clone();
        at_shutdown(async move {
            let thread = move || {
                hand_in.spawn(|| async { unreachable!("main has ended") });
                let refused = hand_in.submit(|| async { unreachable!("main has ended") });
                refused.cancel();
                let refused: Result<(), JoinError> = refused.join();
                tell.send((refused, number.call(|n| *n))).unwrap();
            };
            run_in_thread(thread).await.unwrap();
        });
        kept
    });
    let (refused, answer) = told.recv().unwrap();
    assert!(matches!(refused, Err(JoinError::Cancelled)), "{refused:?}");
    assert_eq!(answer, Ok(7)); // a cleanup may wait for that
    let next = handle.submit(|| async { 1 });
    kernel.run(async { kernel::yield_now().await.unwrap() });
    assert_eq!(next.join().unwrap(), 1);
}

/// The story: `main` blocked the thread until it ended, so no turn came by, and what was handed in meanwhile
/// went into the next run. Who waits for an answer would hang until then.
#[test]
fn what_came_before_the_end_of_main_is_answered_in_its_run() {
    for with_another_left in [false, true] {
        let mut kernel = Kernel::builder().build().unwrap();
        let done = Rc::new(RefCell::new(Vec::new()));
        let says = done.clone();
        let submitted = kernel.run(async move {
            if with_another_left {
                spawn(sleep(Duration::from_secs(3600))).daemon();
            }
            let (handle, list) = (handle(), remote(says));
            let thread = move || {
                let submit = |_| handle.submit(|| async { unreachable!("main has ended") });
                let submitted: Vec<kernel::Submitted<()>> = (0..1000).map(submit).collect();
                list.with(|list| {
                    list.borrow_mut().push("call");
                    let (task, hook) = (list.clone(), list.clone());
                    spawn(async move { task.borrow_mut().push("task") });
                    at_shutdown(async move { hook.borrow_mut().push("hook") });
                });
                submitted
            };
            thread::spawn(thread).join().unwrap()
        });
        done.borrow_mut().sort();
        assert_eq!(*done.borrow(), ["call", "hook", "task"]);
        for submitted in submitted {
            let refused = submitted.join_by(Instant::now());
            assert!(matches!(refused, Ok(Err(JoinError::Cancelled))));
        }
        assert_eq!(
            Rc::strong_count(&done),
            1,
            "the run has left nothing behind"
        );
    }
}

/// Kept for a next run, what such a thread waits for would hold up the task that waits for the thread:
/// under a shield, for ever.
#[test]
fn a_task_that_waits_under_a_shield_for_a_thread_that_hands_in_tasks_goes_on() {
    let (done, is_done) = mpsc::channel();
    kernel::run(async {
        let (handle, (tell, main_ends)) = (handle(), mpsc::channel());
        at_shutdown(async move { tell.send(()).unwrap() });
        spawn(async move {
            let thread = move || {
                main_ends.recv().unwrap();
                for _ in 0..100 {
                    let refused = handle.submit(|| sleep(Duration::from_secs(3600))).join();
                    assert!(matches!(refused, Err(JoinError::Cancelled)), "{refused:?}");
                }
            };
            shield(run_in_thread(thread)).await.unwrap();
            done.send(()).unwrap();
        });
        kernel::yield_now().await.unwrap();
    })
    .unwrap();
    is_done.recv().expect("no task was started");
}

#[test]
fn a_thread_sets_an_event_fills_a_mailbox_and_runs_tasks_on_what_stays_here() {
    kernel::run(async {
        let event = Event::new();
        let (to, from) = kernel::sync::mailbox::<u32>();
        let list = Rc::new(RefCell::new(Vec::new()));
        let (set, send, keep) = (remote(event.clone()), remote(to), remote(list.clone()));
        let thread = thread::spawn(move || {
            send.with(|to| to.send(1).unwrap());
            send.with(|to| to.send(2).unwrap());
            assert_eq!(keep.call(|list| list.borrow().len()), Ok(0));
            let pushed = keep.submit(|list| async move {
                sleep(Duration::from_millis(1)).await.unwrap();
                list.borrow_mut().push(3);
                list.borrow().len()
            });
            assert_eq!(pushed.join().unwrap(), 1);
            set.with(|event| event.set());
        });
        event.wait().await.unwrap();
        assert_eq!(
            (from.recv().await, from.recv().await),
            (Ok(Some(1)), Ok(Some(2)))
        );
        assert_eq!(
            from.recv().await,
            Ok(None),
            "the sender went with its remote"
        );
        run_in_thread(|| thread.join().unwrap()).await.unwrap();
        assert_eq!(*list.borrow(), [3]);
        assert_eq!(Rc::strong_count(&list), 1);
    })
    .unwrap();
}

#[test]
fn a_closure_that_panics_takes_nobody_with_it() {
    kernel::run(async {
        let number = remote(1);
        run_in_thread(move || {
            number.with(|_| std::panic::resume_unwind(Box::new("on purpose")));
            let asked = std::panic::AssertUnwindSafe(|| {
                number.call(|_| -> u32 { std::panic::resume_unwind(Box::new("told")) })
            });
            let panic = std::panic::catch_unwind(asked).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"told"));
            assert_eq!(number.call(|n| *n), Ok(1));
        })
        .await
        .unwrap();
    })
    .unwrap();
}

#[test]
fn waiting_for_ones_own_kernel_is_refused() {
    kernel::run(async {
        let task = spawn(async {
            let _ = remote(1).call(|n| *n);
        });
        let refused = task.join().await.unwrap_err();
        assert!(
            refused
                .panic_message()
                .unwrap()
                .contains("the kernel's thread")
        );
    })
    .unwrap();
}

/// Between two runs, what is there is given; what is not would never come.
#[test]
fn waiting_between_two_runs_for_ones_own_kernel_is_refused() {
    let refused = |wait: &mut dyn FnMut()| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(wait)).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("the kernel's thread"), "{text}");
    };
    let mut kernel = Kernel::builder().build().unwrap();
    let (handle, number) = kernel.run(async { (handle(), remote(7)) });
    refused(&mut || drop(handle.submit(|| async { 1 }).join()));
    refused(&mut || {
        let _ = number.call(|n| *n);
    });
    let there = handle.submit(|| async { 1 });
    kernel.run(async { kernel::yield_now().await.unwrap() });
    assert_eq!(there.join().unwrap(), 1);
}

#[test]
fn many_threads_at_once() {
    const THREADS: usize = 8;
    const EACH: u32 = if cfg!(miri) { 3 } else { 200 };
    let stop = Arc::new(AtomicBool::new(false));
    let total = kernel::run(async move {
        let count = remote(std::cell::Cell::new(0u32));
        let (done, all) = mpsc::channel();
        for _ in 0..THREADS {
            let (count, done, stop, handle) = (count.clone(), done.clone(), stop.clone(), handle());
            thread::spawn(move || {
                for _ in 0..EACH {
                    count.with(|n| n.set(n.get() + 1));
                    let one = handle.submit(|| async { kernel::yield_now().await });
                    one.join().unwrap().unwrap();
                }
                stop.store(true, Ordering::Relaxed);
                done.send(()).unwrap();
            });
        }
        drop(done);
        run_in_thread(move || all.iter().count()).await.unwrap();
        run_in_thread(move || count.call(|n| n.get()).unwrap())
            .await
            .unwrap()
    });
    assert_eq!(total.unwrap(), EACH * THREADS as u32);
}

#[test]
fn a_thread_uses_locks_groups_and_timeouts_of_the_kernel() {
    beside(|handle| {
        let sums = handle.submit(|| async {
            let sum = Rc::new(kernel::sync::Lock::new(0));
            let mut group = kernel::TaskGroup::<(), Error>::new();
            for n in 1..=4 {
                let sum = sum.clone();
                group.spawn(async move {
                    let mut sum = sum.lock().await?;
                    kernel::yield_now().await?;
                    *sum += n;
                    Ok(())
                });
            }
            group.join().await.unwrap();
            let held = sum.lock().await.unwrap();
            let late = kernel::timeout_after(Duration::from_millis(1), sum.lock()).await;
            (*held, late.is_err_and(|e| e == Error::TaskTimeout))
        });
        assert_eq!(sums.join().unwrap(), (10, true));
    });
}

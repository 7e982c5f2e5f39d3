//! Primitives between tasks, and into the kernel from threads.

use std::{cell::RefCell, rc::Rc, time::Duration};

use kernel::{
    Error, Kernel, ManualClock, sleep, spawn,
    sync::{Barrier, Condition, Event, Lock, Semaphore, mailbox, mailbox_bounded, oneshot},
    timeout_after, yield_now,
};

fn virtual_run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    Kernel::builder()
        .manual_clock(ManualClock::new())
        .build()
        .unwrap()
        .run(async {
            let value = main.await;
            let stats = kernel::stats();
            assert_eq!(
                (stats.timers, stats.waits, stats.bells),
                (0, 0, 0),
                "something leaked"
            );
            value
        })
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_permit_handed_to_a_dropped_waiter_goes_to_the_next() {
    virtual_run(async {
        let semaphore = Semaphore::new(1);
        let held = semaphore.acquire().await.unwrap();
        let first = semaphore.clone();
        let first = spawn(async move { first.acquire().await.map(drop) });
        let second = semaphore.clone();
        let second = spawn(async move { second.acquire().await.map(drop) });
        yield_now().await.unwrap();
        drop(held); // handed to the first, which has not run yet
        first.cancel();
        first.cancel(); // and is dropped with it
        second.join().await.unwrap().unwrap();
        assert_eq!(semaphore.available(), 1);
        drop(first);
    });
}

#[test]
fn a_cancelled_waiter_leaves_the_line() {
    virtual_run(async {
        let lock = Rc::new(Lock::new(0));
        let guard = lock.lock().await.unwrap();
        let waiting = lock.clone();
        let waiting = spawn(async move { waiting.lock().await.map(|mut n| *n += 1) });
        yield_now().await.unwrap();
        waiting.cancel().await.unwrap();
        drop(guard);
        assert!(!lock.is_locked());
        assert_eq!(waiting.join().await.unwrap(), Err(Error::Cancelled));
    });
}

#[test]
fn set_in_the_same_step_is_seen_by_a_wait_asked_before() {
    virtual_run(async {
        let event = Event::new();
        let (waited, ()) = futures::join!(event.wait(), async { event.set() });
        assert_eq!(waited, Ok(()));
    });
}

#[test]
fn a_bounded_mailbox_holds_its_senders_up() {
    virtual_run(async {
        let (sender, receiver) = mailbox_bounded(2);
        let sending = spawn(async move {
            for n in 0..5 {
                sender.send(n).await.unwrap();
            }
        });
        for _ in 0..5 {
            yield_now().await.unwrap();
        }
        assert_eq!(receiver.len(), 2);
        let mut got = Vec::new();
        while let Some(n) = receiver.recv().await.unwrap() {
            got.push(n);
        }
        assert_eq!(got, [0, 1, 2, 3, 4]);
        sending.join().await.unwrap();
    });
}

#[test]
fn a_closed_mailbox_gives_the_item_back() {
    virtual_run(async {
        let (sender, receiver) = mailbox();
        drop(receiver);
        let error = sender.send("x").unwrap_err();
        assert_eq!((error.item, error.reason), ("x", Error::Closed));
    });
}

#[test]
fn a_oneshot_gives_its_value_or_none() {
    virtual_run(async {
        let (sender, receiver) = oneshot();
        spawn(async move { sender.send(5) }).detach();
        assert_eq!(receiver.recv().await, Ok(Some(5)));
        let (sender, receiver) = oneshot::<u8>();
        spawn(async move { drop(sender) }).detach();
        assert_eq!(receiver.recv().await, Ok(None));
    });
}

#[test]
fn items_from_a_thread_come_in_order() {
    const ITEMS: u32 = if cfg!(miri) { 200 } else { 10_000 };
    let (sender, inbox) = kernel::inbox();
    let thread = std::thread::spawn(move || {
        for n in 0..ITEMS {
            sender.send(n).unwrap();
        }
    });
    let got = kernel::run(async move {
        let mut got = Vec::new();
        while inbox.ready().await.unwrap() {
            inbox.drain_into(&mut got);
        }
        got
    })
    .unwrap();
    thread.join().unwrap();
    assert_eq!(got, (0..ITEMS).collect::<Vec<_>>());
}

#[test]
fn run_in_thread_gives_results_and_panics() {
    kernel::run(async {
        let tasks: Vec<_> = (0..200u64)
            .map(|n| spawn(kernel::run_in_thread(move || n * n)))
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.join().await.unwrap(), Ok((n * n) as u64));
        }
        let bad = spawn(kernel::run_in_thread(|| panic!("in the thread")))
            .join()
            .await;
        assert_eq!(bad.unwrap_err().panic_message(), Some("in the thread"));
        assert_eq!(kernel::stats().bells, 0);
    })
    .unwrap();
}

#[test]
fn queued_thread_work_is_taken_back_by_cancellation() {
    let mut kernel = Kernel::builder().max_threads(1).build().unwrap();
    kernel.run(async {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = spawn(kernel::run_in_thread(move || wait.recv().is_err()));
        yield_now().await.unwrap();
        let second = spawn(kernel::run_in_thread(|| panic!("must not run")));
        yield_now().await.unwrap();
        second.cancel().await.unwrap();
        drop(go);
        assert_eq!(first.join().await.unwrap(), Ok(true));
        assert_eq!(second.join().await.unwrap(), Err::<(), _>(Error::Cancelled));
    });
}

#[test]
fn a_thread_can_start_tasks() {
    let log = kernel::run(async {
        let (sender, inbox) = kernel::inbox();
        let handle = kernel::handle();
        std::thread::spawn(move || {
            handle.spawn(move || async move {
                let not_send = Rc::new(RefCell::new(1));
                yield_now().await.unwrap();
                *not_send.borrow_mut() += 1;
                sender.send(*not_send.borrow()).unwrap();
            });
        });
        inbox.recv().await.unwrap()
    });
    assert_eq!(log.unwrap(), Some(2));
}

#[test]
fn combinators_with_wakers_of_their_own_work() {
    use futures::stream::{FuturesUnordered, StreamExt};
    virtual_run(async {
        let mut all: FuturesUnordered<_> = [3u32, 1, 2]
            .into_iter()
            .map(|s| async move {
                sleep(SECOND * s).await.unwrap();
                s
            })
            .collect();
        let mut order = Vec::new();
        while let Some(s) = all.next().await {
            order.push(s);
        }
        assert_eq!(order, [1, 2, 3]);
    });
}

#[test]
fn a_select_drops_the_loser_and_its_trap() {
    virtual_run(async {
        let winner =
            futures::future::select(Box::pin(sleep(SECOND)), Box::pin(sleep(SECOND * 60))).await;
        assert!(matches!(winner, futures::future::Either::Left(_)));
        drop(winner);
        assert_eq!(kernel::stats().timers, 0);
    });
}

#[test]
fn a_foreign_thread_may_wake_and_will_wake_says_yes() {
    use std::{future::poll_fn, sync::Arc, sync::Mutex, task::Poll, task::Waker};
    let stored: Arc<Mutex<Option<Waker>>> = Arc::default();
    let theirs = stored.clone();
    kernel::run(async move {
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            let mut stored = theirs.lock().unwrap();
            match polls {
                1 => *stored = Some(cx.waker().clone()),
                _ => assert!(stored.as_ref().unwrap().will_wake(cx.waker())),
            }
            let waker = cx.waker().clone();
            std::thread::spawn(move || waker.wake());
            if polls < 20 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    })
    .unwrap();
    // The kernel is gone: waking does nothing.
    stored.lock().unwrap().take().unwrap().wake();
}

#[test]
fn a_barrier_does_not_count_a_waiter_that_was_told_and_has_not_run() {
    virtual_run(async {
        let barrier = Barrier::new(2);
        let other = barrier.clone();
        let other = spawn(async move { other.wait().await });
        yield_now().await.unwrap();
        drop(other.cancel());
        // We come alone; and what the other has left behind confuses nobody who comes later.
        let alone = timeout_after(SECOND, barrier.wait()).await;
        assert_eq!(alone, Err(Error::TaskTimeout));
        assert_eq!(other.join().await.unwrap(), Err(Error::Cancelled));
        let (first, last) = futures::join!(barrier.wait(), barrier.wait());
        assert_eq!((first, last), (Ok(false), Ok(true)));
    });
}

#[test]
fn a_barrier_does_not_count_a_waiter_that_timed_out_at_that_very_moment() {
    virtual_run(async {
        let barrier = Barrier::new(2);
        let (early, late) = (barrier.clone(), barrier.clone());
        let late = spawn(async move {
            sleep(SECOND).await?;
            timeout_after(SECOND, late.wait()).await
        });
        let early = spawn(async move { timeout_after(SECOND, early.wait()).await });
        assert_eq!(early.join().await.unwrap(), Err(Error::TaskTimeout));
        assert_eq!(late.join().await.unwrap(), Err(Error::TaskTimeout));
    });
}

#[test]
fn a_notification_heard_by_a_task_that_then_does_not_get_the_lock_goes_to_the_next() {
    virtual_run(async {
        let shared = Rc::new((Lock::new(()), Condition::new()));
        let wait = |shared: Rc<(Lock<()>, Condition)>| async move {
            let guard = shared.0.lock().await?;
            shared.1.wait(guard).await.map(drop)
        };
        let (first, second) = (spawn(wait(shared.clone())), spawn(wait(shared.clone())));
        yield_now().await.unwrap();
        let guard = shared.0.lock().await.unwrap();
        shared.1.notify(1);
        yield_now().await.unwrap(); // the first has heard it, and waits for the lock
        first.cancel().await.unwrap();
        drop(guard);
        assert_eq!(first.join().await.unwrap(), Err(Error::Cancelled));
        let second = timeout_after(SECOND, async { Ok::<_, Error>(second.join().await) });
        assert_eq!(second.await.unwrap().unwrap(), Ok(()));
    });
}

#[test]
fn a_bounded_sender_that_waits_is_overtaken_by_nobody() {
    virtual_run(async {
        let (to, from) = mailbox_bounded(1);
        to.send(0).await.unwrap();
        let waiting = to.clone();
        let waiting = spawn(async move { waiting.send(1).await });
        yield_now().await.unwrap();
        assert_eq!(from.try_recv(), Some(0));
        // There is room for one, and it is promised.
        assert_eq!(to.try_send(2).unwrap_err().reason, Error::Busy);
        let late = timeout_after(SECOND, async { Ok::<_, Error>(to.send(3).await?) }).await;
        assert_eq!(late, Err(Error::TaskTimeout));
        waiting.join().await.unwrap().unwrap();
        assert_eq!(from.try_recv(), Some(1));
        assert!(from.is_empty() && to.try_send(4).is_ok());
    });
}

#[test]
fn room_promised_to_a_sender_that_is_dropped_goes_to_the_next() {
    virtual_run(async {
        let (to, from) = mailbox_bounded(1);
        to.send(0).await.unwrap();
        let [first, second] = [1, 2].map(|n| {
            let to = to.clone();
            spawn(async move { to.send(n).await })
        });
        yield_now().await.unwrap();
        assert_eq!(from.try_recv(), Some(0));
        drop(first.cancel());
        first.cancel().await.unwrap(); // hard, before it has run
        second.join().await.unwrap().unwrap();
        assert_eq!(from.try_recv(), Some(2));
        to.try_send(3).unwrap();
        assert_eq!(to.try_send(4).unwrap_err().reason, Error::Busy);
    });
}

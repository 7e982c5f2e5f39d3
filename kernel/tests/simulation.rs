//! One seed, one run: whatever the machine does meanwhile.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread,
    time::Duration,
};

use kernel::{
    Bell, remote, run_in_thread,
    sim::Sim,
    sleep, spawn,
    sync::{Event, Lock},
    yield_now,
};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_seed_gives_one_order() {
    let order = |seed| {
        Sim::new(seed).run(async {
            let log = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..8)
                .map(|n| {
                    let log = log.clone();
                    spawn(async move {
                        yield_now().await.unwrap();
                        log.borrow_mut().push(n);
                    })
                })
                .collect();
            for task in tasks {
                task.join().await.unwrap();
            }
            log.take()
        })
    };
    assert_eq!(order(3), order(3));
    assert!((0..10).any(|seed| order(seed) != order(3)));
}

/// The loop looks around a few times more, or less, until a thread has its result.
#[test]
fn how_long_a_thread_takes_does_not_decide() {
    let order = |time| {
        Sim::new(7).run(async move {
            run_in_thread(move || thread::sleep(time)).await.unwrap();
            let log = Rc::new(RefCell::new(Vec::new()));
            let tasks: Vec<_> = (0..12)
                .map(|n| {
                    let log = log.clone();
                    spawn(async move { log.borrow_mut().push(n) })
                })
                .collect();
            for task in tasks {
                task.join().await.unwrap();
            }
            log.take()
        })
    };
    let first = order(Duration::ZERO);
    for us in [0, 5, 10, 50, 200, 1000, 3000] {
        assert_eq!(order(Duration::from_micros(us)), first, "{us} us");
    }
}

/// The bound on the time of a turn is for real clocks. Where a turn ends decides when those who
/// were cancelled hard are dropped: with a virtual clock a slow machine must not move that.
#[test]
fn a_slow_machine_gives_the_same_run() {
    struct Last(Rc<RefCell<Vec<i32>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.borrow_mut().push(-1);
        }
    }
    let order = |slow: bool| {
        Sim::new(7).run(async move {
            let log = Rc::new(RefCell::new(Vec::new()));
            for n in 0..300 {
                let last = Last(log.clone());
                let victim = spawn(async move {
                    let _last = last;
                    std::future::pending::<()>().await
                });
                let log = log.clone();
                spawn(async move {
                    yield_now().await.unwrap();
                    if slow {
                        std::thread::sleep(Duration::from_micros(20));
                    }
                    log.borrow_mut().push(n);
                    victim.cancel();
                    victim.cancel();
                });
            }
            sleep(SECOND).await.unwrap();
            log.take()
        })
    };
    assert_eq!(order(false), order(true));
}

/// What a run panics with.
fn dead_end(main: impl Future<Output = ()> + 'static) -> String {
    let run = AssertUnwindSafe(|| Sim::new(1).run(main));
    let panic = catch_unwind(run).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn a_dead_end_says_who_waits_for_what() {
    let text = dead_end(async {
        let (event, lock) = (Event::new(), Rc::new(Lock::new(())));
        let _held = lock.lock().await.unwrap();
        let other = lock.clone();
        spawn(async move { other.lock().await.map(drop) }).name("second");
        sleep(SECOND).await.unwrap();
        event.wait().await.unwrap();
    });
    assert!(text.contains("a dead end"), "{text}");
    assert!(text.contains("2 tasks"), "{text}");
    assert!(text.contains("waiting Wait(Event) main, spawned"), "{text}");
    assert!(
        text.contains("waiting Wait(Lock) second, spawned"),
        "{text}"
    );
    let text = dead_end(std::future::pending());
    assert!(text.contains("foreign main"), "{text}");
}

/// Each of these is, for a moment, all that keeps the run from being a dead end.
#[test]
fn whoever_may_still_ring_is_waited_for() {
    Sim::new(1).run(async {
        for _ in 0..20 {
            run_in_thread(thread::yield_now).await.unwrap();
            let bell = Bell::new();
            let ringer = bell.ringer();
            thread::spawn(move || ringer.ring());
            bell.wait().await.unwrap();
            let event = Event::new();
            let set = remote(event.clone());
            thread::spawn(move || set.with(Event::set));
            event.wait().await.unwrap();
            woken_by_a_thread().await;
        }
    });
}

async fn woken_by_a_thread() {
    let done = Arc::new(AtomicBool::new(false));
    let mut other = Some(done.clone());
    poll_fn(|cx| {
        if let Some(done) = other.take() {
            let waker = cx.waker().clone();
            thread::spawn(move || {
                done.store(true, Ordering::Release);
                waker.wake();
            });
        }
        match done.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await
}

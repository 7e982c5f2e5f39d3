//! What Curio's tests of its primitives, queues and workers check, where no test of ours did so
//! yet. docs/src/kernel/curio.md says which is which.

use std::{
    cell::RefCell, collections::VecDeque, pin::Pin, rc::Rc, sync::mpsc, thread, time::Duration,
};

use kernel::{
    Bell, Error, Kernel, ManualClock, inbox, run_in_thread, sleep, spawn,
    sync::{Barrier, Condition, Event, Lock, Semaphore, mailbox, mailbox_bounded, oneshot},
    timeout_after, yield_now,
};

const SECOND: Duration = Duration::from_secs(1);

fn virtual_run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let mut kernel = Kernel::builder()
        .manual_clock(ManualClock::new())
        .build()
        .unwrap();
    kernel.run(main)
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.borrow_mut().push(what.into());
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

type Wait = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// Each kind of wait that a primitive offers, on one that will not let it through.
fn waits() -> Vec<(&'static str, Wait)> {
    let held = Rc::new(Lock::new(()));
    let none = Semaphore::new(0);
    let (full, unread) = mailbox_bounded(1);
    full.try_send(0).unwrap();
    let (sender, empty) = mailbox::<u8>();
    let (unsent, value) = oneshot::<u8>();
    let (other_thread, from_threads) = inbox::<u8>();
    let condition = Condition::new();
    vec![
        ("event", Box::pin(async { Event::new().wait().await })),
        ("lock", {
            Box::pin(async move {
                let _guard = held.try_lock().unwrap();
                held.lock().await.map(drop)
            })
        }),
        ("semaphore", {
            Box::pin(async move { none.acquire().await.map(drop) })
        }),
        ("condition", {
            Box::pin(async move {
                let lock = Lock::new(());
                let guard = lock.lock().await?;
                let answer = condition.wait(guard).await.map(drop);
                assert!(!lock.is_locked());
                answer
            })
        }),
        ("barrier", {
            Box::pin(async { Barrier::new(2).wait().await.map(drop) })
        }),
        ("get", {
            Box::pin(async move { empty.recv().await.map(|_| drop(sender)) })
        }),
        ("put", {
            Box::pin(async move {
                let answer = full.send(1).await.map_err(Error::from);
                assert_eq!((unread.try_recv(), unread.try_recv()), (Some(0), None));
                answer
            })
        }),
        ("result", {
            Box::pin(async move { value.recv().await.map(|_| drop(unsent)) })
        }),
        ("inbox", {
            Box::pin(async move { from_threads.recv().await.map(|_| drop(other_thread)) })
        }),
        ("bell", Box::pin(async { Bell::new().wait().await })),
    ]
}

#[test]
fn every_wait_can_be_cancelled() {
    virtual_run(async {
        for (what, wait) in waits() {
            let task = spawn(wait);
            yield_now().await.unwrap();
            assert!(!task.is_finished(), "{what} does not wait");
            task.cancel().await.unwrap();
            assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled), "{what}");
        }
    });
}

#[test]
fn every_wait_can_time_out() {
    virtual_run(async {
        for (what, wait) in waits() {
            let late = timeout_after(SECOND, wait).await;
            assert_eq!(late, Err(Error::TaskTimeout), "{what}");
        }
    });
}

#[test]
fn an_event_lets_all_go_and_holds_again_once_cleared() {
    let log = Log::default();
    let out = log.clone();
    virtual_run(async move {
        let event = Event::new();
        let waiters: Vec<_> = (0..3)
            .map(|n| {
                let (event, log) = (event.clone(), log.clone());
                spawn(async move {
                    event.wait().await.unwrap();
                    log.note(format!("{n} of the first round"));
                    timeout_after(SECOND, event.wait()).await
                })
            })
            .collect();
        yield_now().await.unwrap();
        assert!(!event.is_set());
        event.set();
        event.clear(); // those it let go go on all the same
        event.clear();
        let again = waiters.into_iter().map(|waiter| waiter.join());
        for held in futures::future::join_all(again).await {
            assert_eq!(held.unwrap(), Err(Error::TaskTimeout));
        }
        event.set();
        event.wait().await.unwrap(); // set before: no waiting
    });
    assert_eq!(
        out.take(),
        [
            "0 of the first round",
            "1 of the first round",
            "2 of the first round"
        ]
    );
}

/// Three workers through a door for `permits`; each stays for so many seconds.
fn through_a_door(permits: usize, seconds: [u32; 3]) -> Vec<String> {
    let log = Log::default();
    let out = log.clone();
    virtual_run(async move {
        let door = Semaphore::new(permits);
        let workers = seconds.into_iter().zip(1..).map(|(seconds, n)| {
            let (door, log) = (door.clone(), log.clone());
            spawn(async move {
                let _permit = door.acquire().await.unwrap();
                log.note(format!("{n} in"));
                sleep(SECOND * seconds).await.unwrap();
                log.note(format!("{n} out"));
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.join().await.unwrap();
        }
        assert_eq!(door.available(), permits);
    });
    out.take()
}

#[test]
fn permits_are_given_in_order_of_arrival() {
    assert_eq!(
        through_a_door(1, [3, 2, 1]),
        ["1 in", "1 out", "2 in", "2 out", "3 in", "3 out"]
    );
    assert_eq!(
        through_a_door(2, [1, 3, 4]),
        ["1 in", "2 in", "1 out", "3 in", "2 out", "3 out"]
    );
}

#[test]
fn a_lock_is_free_for_the_next_when_its_guard_is_dropped() {
    virtual_run(async {
        let lock = Rc::new(Lock::new(Vec::new()));
        let workers: Vec<_> = (0..3)
            .map(|n| {
                let lock = lock.clone();
                spawn(async move {
                    let mut list = lock.lock().await.unwrap();
                    list.push((n, "in"));
                    sleep(SECOND).await.unwrap(); // held across the await
                    list.push((n, "out"));
                })
            })
            .collect();
        yield_now().await.unwrap();
        assert!(lock.is_locked() && lock.try_lock().is_none());
        for worker in workers {
            worker.join().await.unwrap();
        }
        let in_turn = [
            (0, "in"),
            (0, "out"),
            (1, "in"),
            (1, "out"),
            (2, "in"),
            (2, "out"),
        ];
        assert_eq!(*lock.try_lock().unwrap(), in_turn);
    });
}

/// A queue made of a lock and a condition, as the textbooks do it.
#[test]
fn a_condition_hands_one_notification_to_one_waiter() {
    let log = Log::default();
    let out = log.clone();
    virtual_run(async move {
        let queue = Rc::new((Lock::new(VecDeque::new()), Condition::new()));
        let consumers: Vec<_> = ["first", "second"]
            .into_iter()
            .map(|name| {
                let (queue, log) = (queue.clone(), log.clone());
                spawn(async move {
                    let (items, filled) = &*queue;
                    loop {
                        let some = |items: &mut VecDeque<Option<u32>>| !items.is_empty();
                        let guard = items.lock().await.unwrap();
                        let mut guard = filled.wait_until(guard, some).await.unwrap();
                        match guard.pop_front().unwrap() {
                            Some(n) => log.note(format!("{name} takes {n}")),
                            None => return,
                        }
                    }
                })
            })
            .collect();
        let (items, filled) = &*queue;
        for item in [Some(0), Some(1), Some(2), Some(3), None, None] {
            sleep(SECOND).await.unwrap();
            items.lock().await.unwrap().push_back(item);
            filled.notify(1);
        }
        for consumer in consumers {
            consumer.join().await.unwrap();
        }
    });
    assert_eq!(
        out.take(),
        [
            "first takes 0",
            "second takes 1",
            "first takes 2",
            "second takes 3"
        ]
    );
}

#[test]
fn notify_all_reaches_everybody_and_wait_until_looks_again() {
    virtual_run(async {
        let shared = Rc::new((Lock::new(0), Condition::new()));
        let waiters: Vec<_> = [1, 2, 2]
            .into_iter()
            .map(|least| {
                let shared = shared.clone();
                spawn(async move {
                    let (count, changed) = &*shared;
                    let guard = count.lock().await.unwrap();
                    *changed.wait_until(guard, |n| *n >= least).await.unwrap()
                })
            })
            .collect();
        let (count, changed) = &*shared;
        for _ in 0..2 {
            sleep(SECOND).await.unwrap();
            *count.lock().await.unwrap() += 1;
            changed.notify_all();
        }
        let mut seen = Vec::new();
        for waiter in waiters {
            seen.push(waiter.join().await.unwrap());
        }
        assert_eq!(seen, [1, 2, 2]);
    });
}

#[test]
fn a_result_may_be_an_error() {
    virtual_run(async {
        let (to, result) = oneshot();
        spawn(async move { to.send("12a".parse::<u32>()) });
        assert!(result.recv().await.unwrap().unwrap().is_err());
    });
}

#[test]
fn consumers_of_one_mailbox_take_turns_and_see_its_end() {
    let log = Log::default();
    let out = log.clone();
    virtual_run(async move {
        let (to, from) = mailbox();
        let consumers: Vec<_> = ["first", "second"]
            .into_iter()
            .map(|name| {
                let (from, log) = (from.clone(), log.clone());
                spawn(async move {
                    while let Some(n) = from.recv().await.unwrap() {
                        log.note(format!("{name} takes {n}"));
                    }
                })
            })
            .collect();
        for n in 0..4 {
            sleep(SECOND).await.unwrap();
            to.send(n).unwrap();
        }
        drop(to);
        for consumer in consumers {
            consumer.join().await.unwrap();
        }
    });
    assert_eq!(
        out.take(),
        [
            "first takes 0",
            "second takes 1",
            "first takes 2",
            "second takes 3"
        ]
    );
}

#[test]
fn an_unbounded_mailbox_never_holds_its_sender_up() {
    const ITEMS: usize = if cfg!(miri) { 200 } else { 10_000 };
    virtual_run(async {
        let (to, from) = mailbox();
        for n in 0..ITEMS {
            to.send(n).unwrap();
        }
        assert_eq!((to.len(), from.len()), (ITEMS, ITEMS));
        drop(to);
        for n in 0..ITEMS {
            assert_eq!(from.recv().await, Ok(Some(n)));
        }
        assert_eq!(from.recv().await, Ok(None));
    });
}

/// The sender is a thread, the receiver gives up again and again: nothing is lost, nothing twice.
#[test]
fn a_receiver_that_times_out_loses_nothing() {
    let (to_kernel, from_thread) = inbox();
    let (ask_for_more, asked) = mpsc::channel::<()>();
    let sender = thread::spawn(move || {
        for (n, ()) in asked.iter().take(10).enumerate() {
            to_kernel.send(n).unwrap();
        }
    });
    let got = kernel::run(async move {
        let mut got = Vec::new();
        loop {
            match timeout_after(Duration::from_millis(1), from_thread.recv()).await {
                Ok(Some(n)) => got.push(n),
                Ok(None) => return got,
                Err(Error::TaskTimeout) => {
                    let _ = ask_for_more.send(()); // a task may send to a thread: it does not block
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
    sender.join().unwrap();
    assert_eq!(got.unwrap(), (0..10).collect::<Vec<_>>());
}

#[test]
fn kernels_on_several_threads_are_fed_by_one() {
    let (kernels, inputs): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let (give, given) = mpsc::channel();
            let kernel = thread::spawn(move || {
                kernel::run(async move {
                    let (to_kernel, numbers) = inbox::<u32>();
                    give.send(to_kernel).unwrap();
                    let mut taken = Vec::new();
                    while let Some(n) = numbers.recv().await.unwrap() {
                        taken.push(n);
                    }
                    taken
                })
            });
            (kernel, given.recv().unwrap())
        })
        .unzip();
    for (n, input) in (0..1000).zip(inputs.iter().cycle()) {
        input.send(n).unwrap();
    }
    drop(inputs);
    let taken = kernels
        .into_iter()
        .map(|kernel| kernel.join().unwrap().unwrap());
    let mut taken: Vec<_> = taken.flatten().collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..1000).collect::<Vec<_>>());
}

#[test]
fn tasks_go_on_while_a_thread_works() {
    kernel::run(async {
        let (let_go, held) = mpsc::channel();
        let working = spawn(run_in_thread(move || held.recv().unwrap()));
        for _ in 0..100 {
            yield_now().await.unwrap();
        }
        assert!(!working.is_finished());
        let_go.send("done").unwrap();
        assert_eq!(working.join().await.unwrap(), Ok("done"));
    })
    .unwrap();
}

#[test]
fn who_gives_a_thread_s_work_up_does_not_wait_for_it() {
    let (let_go, held) = mpsc::channel::<()>();
    let held = std::sync::Arc::new(std::sync::Mutex::new(held));
    kernel::run(async move {
        let work = move || {
            let held = held.clone();
            run_in_thread(move || held.lock().unwrap().recv().is_err())
        };
        let cancelled = spawn(work());
        yield_now().await.unwrap();
        cancelled.cancel().await.unwrap();
        assert_eq!(cancelled.join().await.unwrap(), Err(Error::Cancelled));
        let late = timeout_after(Duration::from_millis(5), work()).await;
        assert_eq!(late, Err(Error::TaskTimeout));
    })
    .unwrap();
    drop(let_go); // only now the threads come to their end
}

#[test]
fn everything_can_be_printed() {
    virtual_run(async {
        let printed = [
            format!("{:?}", Event::new()),
            format!("{:?}", Lock::new(1)),
            format!("{:?}", Semaphore::new(2)),
            format!("{:?}", Condition::new()),
            format!("{:?}", Barrier::new(2)),
            format!("{:?}", mailbox::<u8>()),
            format!("{:?}", mailbox_bounded::<u8>(1)),
            format!("{:?}", oneshot::<u8>()),
            format!("{:?}", Bell::new()),
            format!("{:?}", spawn(async {})),
            format!("{:?}", kernel::handle()),
        ];
        assert!(printed.iter().all(|text| !text.is_empty()));
    });
}

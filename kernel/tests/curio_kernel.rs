//! What Curio's tests of its kernel, tasks and groups check, where no test of ours did so yet.
//! docs/src/kernel/curio.md says which is which.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::Duration,
};

use kernel::{
    AsyncFd, Bell, Error, GroupError, Kernel, ManualClock, TaskGroup, Trap, WaitQueue, ask, now,
    shield, sleep, spawn, stats,
    sync::{Event, mailbox},
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
struct Log(Rc<RefCell<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.borrow_mut().push(what);
    }

    fn take(&self) -> Vec<&'static str> {
        self.0.take()
    }
}

#[test]
fn run_and_join_give_values() {
    let value = kernel::run(async { spawn(async { 37 }).join().await.unwrap() + 1 });
    assert_eq!(value.unwrap(), 38);
}

#[test]
fn a_kernel_runs_again_and_one_that_never_ran_is_dropped() {
    let mut kernel = Kernel::builder().build().unwrap();
    for round in 0..3 {
        let seen = kernel.run(async move {
            spawn(async { Event::new().wait().await })
                .cancel()
                .await
                .unwrap();
            (round, stats().tasks)
        });
        assert_eq!(seen, (round, 1));
    }
    drop(Kernel::builder().build().unwrap());
}

#[test]
fn a_kernel_inside_a_kernel_is_refused() {
    kernel::run(async {
        let inner = catch_unwind(|| kernel::run(async {}).is_ok());
        assert!(inner.is_err());
        yield_now().await.unwrap(); // the outer one goes on
    })
    .unwrap();
}

#[test]
fn who_joins_a_task_that_another_cancelled_gets_what_it_came_back_with() {
    virtual_run(async {
        let task = Rc::new(spawn(async { Event::new().wait().await }));
        let cancelled = task.clone();
        let canceller = spawn(async move { cancelled.cancel().await });
        canceller.join().await.unwrap().unwrap();
        let task = Rc::into_inner(task).unwrap();
        assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled));
    });
}

#[test]
fn a_chain_of_tasks_ends_from_the_innermost() {
    let log = Log::default();
    let noted = log.clone();
    virtual_run(async move {
        let outermost = spawn(async move {
            let middle_log = noted.clone();
            let middle = spawn(async move {
                let inner_log = middle_log.clone();
                let inner = spawn(async move {
                    sleep(SECOND).await.unwrap_err();
                    inner_log.note("inner");
                });
                sleep(SECOND).await.unwrap_err();
                inner.cancel().await.unwrap();
                middle_log.note("middle");
            });
            sleep(SECOND).await.unwrap_err();
            middle.cancel().await.unwrap();
            noted.note("outermost");
        });
        sleep(SECOND / 2).await.unwrap();
        outermost.cancel().await.unwrap();
    });
    assert_eq!(log.take(), ["inner", "middle", "outermost"]);
}

#[test]
fn giving_up_the_wait_for_a_cancelled_task_leaves_its_cleanup_alone() {
    virtual_run(async {
        let task = spawn(async {
            sleep(SECOND * 9).await.unwrap_err();
            sleep(SECOND * 3).await // cleaning up
        });
        yield_now().await.unwrap();
        let impatient = timeout_after(SECOND, task.cancel()).await;
        assert_eq!(impatient, Err(Error::TaskTimeout));
        assert_eq!(task.join().await.unwrap(), Ok(()));
    });
}

#[test]
fn cancelling_a_task_that_has_ended_changes_nothing() {
    virtual_run(async {
        let task = spawn(async { 5 });
        yield_now().await.unwrap();
        assert!(task.is_finished());
        task.cancel().await.unwrap();
        assert_eq!(task.join().await.unwrap(), 5);
    });
}

#[test]
#[cfg_attr(any(miri, bare), ignore = "needs a system")]
fn each_kind_of_trap_comes_back_with_a_pending_cancellation() {
    kernel::run(async {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let fd = Rc::new(AsyncFd::new(ours).unwrap());
        type Wait = std::pin::Pin<Box<dyn Future<Output = Result<(), Error>>>>;
        let io = |fd: Rc<AsyncFd<_>>| async move {
            let error = fd.readable().await.unwrap_err();
            Err(Error::in_io(&error).unwrap())
        };
        let waits: [Wait; 6] = [
            Box::pin(sleep(SECOND * 3600)),
            Box::pin(yield_now()),
            Box::pin(ask(Trap::Wait(WaitQueue::new()))),
            Box::pin(async { spawn(sleep(SECOND * 3600)).wait().await }),
            Box::pin(async { Bell::new().wait().await }),
            Box::pin(io(fd)),
        ];
        for wait in waits {
            let task = spawn(wait);
            task.cancel(); // before it has come to its trap
            assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled));
        }
    })
    .unwrap();
}

#[test]
fn a_timeout_that_did_not_pass_leaves_nothing_behind() {
    virtual_run(async {
        let in_time = timeout_after(SECOND * 2, sleep(SECOND)).await;
        assert_eq!((in_time, stats().timers), (Ok(()), 0));
        assert_eq!(sleep(SECOND * 5).await, Ok(()));
    });
}

#[test]
fn the_longest_timeout_never_passes_but_one_around_it_does() {
    virtual_run(async {
        let forever = timeout_after(Duration::MAX, sleep(SECOND * 1_000_000)).await;
        assert_eq!(forever, Ok(()));
        let inside = timeout_after(SECOND, timeout_after(Duration::MAX, sleep(SECOND * 9)));
        assert_eq!(inside.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn a_timeout_that_passed_without_a_trap_is_no_error_then_or_later() {
    let clock = ManualClock::paused();
    let moved = clock.clone();
    let mut kernel = Kernel::builder().manual_clock(clock).build().unwrap();
    kernel.run(async move {
        let computed = timeout_after(SECOND, async {
            moved.advance(SECOND * 2);
            Ok::<_, Error>(1)
        });
        assert_eq!(computed.await, Ok(1));
        assert_eq!(yield_now().await, Ok(()));
    });
}

#[test]
fn a_sleep_that_ends_in_the_same_look_as_its_timeout_keeps_its_answer() {
    let clock = ManualClock::paused();
    let moved = clock.clone();
    let mut kernel = Kernel::builder().manual_clock(clock).build().unwrap();
    kernel.run(async move {
        let sleeper = spawn(timeout_after(SECOND * 2, sleep(SECOND)));
        yield_now().await.unwrap();
        moved.advance(SECOND * 3); // the loop was held up: both have passed when it looks
        assert_eq!(sleeper.join().await.unwrap(), Ok(()));
        assert_eq!((stats().timers, stats().scopes), (0, 0));
    });
}

#[test]
fn two_tasks_that_play_ping_pong_leave_the_others_their_turns() {
    virtual_run(async {
        let ((to_a, a), (to_b, b)) = (mailbox(), mailbox());
        to_a.send(()).unwrap();
        let there = spawn(async move { while a.recv().await.is_ok() && to_b.send(()).is_ok() {} });
        let back = spawn(async move { while b.recv().await.is_ok() && to_a.send(()).is_ok() {} });
        let survivor = spawn(async {
            for _ in 0..10 {
                yield_now().await.unwrap();
            }
        });
        survivor.join().await.unwrap();
        there.cancel().await.unwrap();
        back.cancel().await.unwrap();
    });
}

#[test]
fn shields_nest() {
    virtual_run(async {
        let task = spawn(async {
            let inside = shield(async {
                let innermost = shield(sleep(SECOND)).await;
                (innermost, sleep(SECOND).await) // the outer shield still stands
            });
            (inside.await, yield_now().await)
        });
        yield_now().await.unwrap();
        task.cancel().await.unwrap();
        let all_well = (Ok(()), Ok(()));
        assert_eq!(
            task.join().await.unwrap(),
            (all_well, Err(Error::Cancelled))
        );
    });
}

fn three_waiters(log: &Log) -> TaskGroup<(), Error> {
    let mut group = TaskGroup::new();
    for _ in 0..3 {
        let log = log.clone();
        group.spawn(async move {
            let cancelled = Event::new().wait().await;
            log.note("cancelled");
            cancelled
        });
    }
    group
}

#[test]
fn a_timeout_around_a_group_cancels_its_tasks() {
    virtual_run(async {
        let log = Log::default();
        let group = three_waiters(&log);
        let ended = timeout_after(SECOND, async {
            match group.join().await {
                Err(GroupError::Join(kernel::JoinError::Interrupted(e))) => Err(e),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(ended.await, Err::<(), _>(Error::TaskTimeout));
        assert_eq!((log.take().len(), stats().tasks), (3, 1));
    });
}

#[test]
fn what_is_left_of_a_group_is_cancelled() {
    virtual_run(async {
        let log = Log::default();
        let mut group = three_waiters(&log);
        group.spawn(async { Ok(()) });
        assert!(matches!(group.next().await, Ok(Some(Ok(())))));
        group.cancel_all().await;
        assert_eq!((log.take().len(), stats().tasks), (3, 1));
        assert!(matches!(group.next().await, Ok(None)));
        group.cancel_all().await; // also when there is nothing left
        group.spawn(sleep(SECOND));
        group.cancel_all().await; // and before it has begun
        assert_eq!(stats().tasks, 1);
    });
}

#[test]
fn an_empty_group() {
    virtual_run(async {
        assert_eq!(TaskGroup::<u8>::new().join().await.unwrap(), []);
        assert_eq!(TaskGroup::<u8>::new().join_any().await.unwrap(), None);
        assert_eq!(TaskGroup::<u8>::new().join_first().await.unwrap(), None);
    });
}

#[test]
fn a_panic_is_caught_at_the_task_and_the_loop_goes_on() {
    virtual_run(async {
        let start = now();
        let sleeper = spawn(sleep(SECOND));
        let bad = spawn(async {
            let inner = catch_unwind(AssertUnwindSafe(|| panic!("caught by the task itself")));
            assert!(inner.is_err());
            panic!("caught by the kernel")
        });
        let error = bad.join().await.unwrap_err();
        assert_eq!(error.panic_message(), Some("caught by the kernel"));
        sleeper.join().await.unwrap().unwrap();
        assert_eq!(now() - start, SECOND);
    });
}

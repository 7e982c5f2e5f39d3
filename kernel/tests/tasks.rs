//! Spawning, joining, cancelling, panics.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use kernel::{Error, JoinError, Kernel, ManualClock, sleep, spawn, yield_now};

fn virtual_run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    Kernel::builder()
        .manual_clock(ManualClock::new())
        .build()
        .unwrap()
        .run(main)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn tasks_run_in_the_order_they_become_ready() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let out = log.clone();
    virtual_run(async move {
        let handles: Vec<_> = (0..3)
            .map(|n| {
                let log = log.clone();
                spawn(async move {
                    for round in 0..2 {
                        log.borrow_mut().push((round, n));
                        yield_now().await.unwrap();
                    }
                })
            })
            .collect();
        for handle in handles {
            handle.join().await.unwrap();
        }
    });
    assert_eq!(
        *out.borrow(),
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    );
}

#[test]
fn sleeping_tasks_wake_by_their_deadlines() {
    let order = virtual_run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let handles: Vec<_> = [5u64, 1, 3, 1]
            .into_iter()
            .map(|s| {
                let log = log.clone();
                spawn(async move {
                    let start = kernel::now();
                    sleep(SECOND * s as u32).await.unwrap();
                    assert_eq!(kernel::now() - start, SECOND * s as u32);
                    log.borrow_mut().push(s);
                })
            })
            .collect();
        for handle in handles {
            handle.join().await.unwrap();
        }
        log.take()
    });
    assert_eq!(order, [1, 1, 3, 5]);
}

#[test]
fn a_cancelled_task_cleans_up_with_awaits_and_keeps_its_value() {
    virtual_run(async {
        let task = spawn(async {
            assert_eq!(sleep(SECOND * 100).await, Err(Error::Cancelled));
            sleep(SECOND).await.unwrap(); // cleaning up
            7
        });
        yield_now().await.unwrap();
        let start = kernel::now();
        task.cancel().await.unwrap();
        assert_eq!(kernel::now() - start, SECOND);
        assert_eq!(task.join().await.unwrap(), 7);
        assert_eq!(kernel::stats().timers, 0);
    });
}

#[test]
fn cancel_acts_at_the_call_and_reaches_the_next_trap_of_a_task_not_yet_begun() {
    virtual_run(async {
        let task = spawn(async { sleep(SECOND).await });
        task.cancel(); // not awaited
        assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled));
    });
}

#[test]
fn an_answered_wait_keeps_its_answer_and_the_next_trap_is_cancelled() {
    virtual_run(async {
        let event = kernel::sync::Event::new();
        let waited = event.clone();
        let task = spawn(async move { (waited.wait().await, yield_now().await) });
        yield_now().await.unwrap();
        event.set();
        task.cancel().await.unwrap();
        assert_eq!(task.join().await.unwrap(), (Ok(()), Err(Error::Cancelled)));
    });
}

#[test]
fn a_second_cancel_drops_the_task() {
    virtual_run(async {
        let task = spawn(async {
            let _ = sleep(SECOND * 100).await;
            sleep(SECOND * 100).await
        });
        yield_now().await.unwrap();
        task.cancel();
        yield_now().await.unwrap();
        let start = kernel::now();
        task.cancel().await.unwrap();
        assert_eq!(kernel::now(), start);
        assert!(matches!(task.join().await, Err(JoinError::Cancelled)));
        assert_eq!((kernel::stats().timers, kernel::stats().waits), (0, 0));
    });
}

#[test]
fn the_cleanup_budget_ends() {
    virtual_run(async {
        let task = spawn(async {
            let _ = sleep(SECOND * 100).await;
            sleep(SECOND * 100).await
        });
        yield_now().await.unwrap();
        let start = kernel::now();
        task.cancel().await.unwrap();
        assert_eq!(kernel::now() - start, SECOND * 5);
        assert!(matches!(task.join().await, Err(JoinError::Cancelled)));
    });
}

/// Lengths that lead beyond what a clock can name are about a hundred years.
#[test]
fn a_budget_and_a_step_of_the_clock_without_end() {
    let clock = ManualClock::new();
    let builder = Kernel::builder().manual_clock(clock.clone());
    let mut kernel = builder.cleanup_budget(Duration::MAX).build().unwrap();
    kernel.run(async {
        let task = spawn(sleep(SECOND * 100));
        yield_now().await.unwrap();
        task.cancel().await.unwrap();
        assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled));
    });
    let far = SECOND * 99 * 365 * 86_400;
    clock.advance(Duration::MAX);
    assert!(clock.elapsed() > far);
    clock.advance(Duration::from_secs(i64::MAX as u64 - far.as_secs()));
    clock.advance(Duration::MAX);
    assert!(clock.now() > std::time::Instant::now() + far);
    assert_eq!(kernel.run(async { sleep(SECOND).await }), Ok(()));
}

#[test]
fn a_shield_holds_off_cancellation_until_its_end() {
    virtual_run(async {
        let task = spawn(async {
            let inside = kernel::shield(sleep(SECOND)).await;
            (inside, yield_now().await)
        });
        yield_now().await.unwrap();
        task.cancel().await.unwrap();
        assert_eq!(task.join().await.unwrap(), (Ok(()), Err(Error::Cancelled)));
    });
}

#[test]
fn a_shield_wins_over_a_second_cancel_too() {
    virtual_run(async {
        let done = Rc::new(Cell::new(false));
        let seen = done.clone();
        let task = spawn(async move {
            kernel::shield(async {
                sleep(SECOND * 10).await.unwrap();
                seen.set(true);
            })
            .await;
            std::future::pending::<()>().await
        });
        yield_now().await.unwrap();
        task.cancel();
        task.cancel().await.unwrap();
        assert!(done.get());
        assert!(matches!(task.join().await, Err(JoinError::Cancelled)));
    });
}

/// It never waits outside of a shield, so it is never found where it could be dropped.
#[test]
fn what_goes_from_shield_to_shield_is_told_between_them() {
    virtual_run(async {
        for again in [false, true] {
            let worker = spawn(async {
                let mut rounds = 0;
                loop {
                    kernel::shield(sleep(SECOND * 10)).await.unwrap();
                    rounds += 1;
                    if kernel::trap::check().is_err() {
                        assert_eq!(kernel::trap::check(), Ok(()), "it is told once");
                        return rounds;
                    }
                }
            });
            sleep(SECOND).await.unwrap();
            let cancelled = worker.cancel();
            if again {
                worker.cancel().await.unwrap(); // or else the budget is over before the shield
            }
            cancelled.await.unwrap();
            assert_eq!(worker.join().await.unwrap(), 1);
        }
    });
}

/// What is under a shield but can never go on: stuck, or moved out of its task and put aside.
#[test]
fn a_shield_keeps_no_task_that_nothing_can_wake() {
    virtual_run(async {
        let start = kernel::now();
        let put_aside = Rc::new(RefCell::new(None));
        let aside = put_aside.clone();
        let moved = spawn(async move {
            let mut shielded = Box::pin(kernel::shield(sleep(SECOND)));
            assert!(futures::poll!(&mut shielded).is_pending());
            aside.replace(Some(shielded));
            std::future::pending::<()>().await
        });
        let stuck = spawn(kernel::shield(std::future::pending::<()>()));
        let bounded = spawn(kernel::shield(kernel::timeout_after(
            SECOND,
            std::future::pending::<Result<(), Error>>(),
        )));
        yield_now().await.unwrap();
        for task in [&moved, &stuck] {
            task.cancel();
            task.cancel().await.unwrap();
        }
        bounded.cancel();
        bounded.cancel().await.unwrap();
        // This one had a deadline to come, and the first a wait.
        let told = bounded.join().await.unwrap();
        assert_eq!(told, Err(Error::TaskTimeout));
        assert_eq!(kernel::now() - start, SECOND);
        put_aside.take();
    });
}

#[test]
fn a_task_can_neither_cancel_nor_join_itself() {
    virtual_run(async {
        let me = kernel::current_task().unwrap();
        assert_eq!(kernel::cancel(me).await, Err(Error::OneSelf));
        assert_eq!(yield_now().await, Ok(()));
    });
}

#[test]
fn every_wait_of_a_join_is_answered_by_one_cancellation() {
    virtual_run(async {
        let task =
            spawn(async { futures::join!(sleep(SECOND), sleep(SECOND * 2), yield_forever()) });
        for _ in 0..3 {
            yield_now().await.unwrap();
        }
        task.cancel().await.unwrap();
        let (a, b, _) = task.join().await.unwrap();
        assert_eq!((a, b), (Err(Error::Cancelled), Err(Error::Cancelled)));
    });
}

async fn yield_forever() -> Result<(), Error> {
    kernel::sync::Event::new().wait().await
}

#[test]
fn a_panic_reaches_the_joiner_and_nobody_else() {
    virtual_run(async {
        let task = spawn(async { panic!("boom") }).name("bomb");
        let error = task.join().await.unwrap_err();
        assert_eq!(error.panic_message(), Some("boom"));
        yield_now().await.unwrap();
    });
}

/// What boxes, `io::Error` and `anyhow` ask of an error.
#[test]
fn errors_go_where_errors_go() {
    fn is_an_error<E: std::error::Error + Send + Sync + 'static>() {}
    is_an_error::<Error>();
    is_an_error::<JoinError>();
    is_an_error::<kernel::GroupError<std::io::Error>>();
    is_an_error::<kernel::sync::SendError<u8>>();
    virtual_run(async {
        let bad = spawn(async { std::panic::panic_any(7) }).join().await;
        let error = bad.unwrap_err();
        assert_eq!(error.panic_message(), Some("(a panic without a text)"));
        let JoinError::Panicked(panic) = error else {
            panic!("{error}");
        };
        assert_eq!(panic.into_payload().downcast_ref(), Some(&7));
    });
}

#[test]
#[should_panic(expected = "from main")]
fn a_panic_of_main_goes_on_in_run() {
    virtual_run(async { panic!("from main") })
}

#[test]
fn run_ends_the_tasks_that_are_left() {
    let cleaned = Rc::new(Cell::new(0));
    let seen = cleaned.clone();
    virtual_run(async move {
        for _ in 0..3 {
            let seen = seen.clone();
            spawn(async move {
                assert_eq!(sleep(SECOND).await, Err(Error::Cancelled));
                sleep(SECOND).await.unwrap();
                seen.set(seen.get() + 1);
            });
        }
        yield_now().await.unwrap();
    });
    assert_eq!(cleaned.get(), 3);
}

#[test]
fn a_task_in_a_bare_foreign_future_is_dropped_when_its_budget_ends() {
    virtual_run(async {
        let (_keep, never) = futures::channel::oneshot::channel::<()>();
        let task = spawn(async move { never.await.is_ok() });
        yield_now().await.unwrap();
        let start = kernel::now();
        task.cancel().await.unwrap();
        assert_eq!(kernel::now() - start, SECOND * 5);
    });
}

#[test]
fn foreign_gives_a_future_up_at_once() {
    virtual_run(async {
        let (keep, never) = futures::channel::oneshot::channel::<()>();
        let task = spawn(async move { kernel::foreign(never).await.map(|_| ()) });
        yield_now().await.unwrap();
        task.cancel().await.unwrap();
        assert!(keep.is_canceled());
        assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled));
    });
}

#[test]
fn a_dropped_join_handle_detaches() {
    virtual_run(async {
        let done = Rc::new(Cell::new(false));
        let seen = done.clone();
        drop(spawn(async move {
            sleep(SECOND).await.unwrap();
            seen.set(true);
        }));
        sleep(SECOND * 2).await.unwrap();
        assert!(done.get());
    });
}

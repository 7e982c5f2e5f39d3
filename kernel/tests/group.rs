//! Task groups: children end together.

use std::{cell::RefCell, rc::Rc, time::Duration};

use kernel::{Error, GroupError, TaskGroup, sim::Sim, sleep, spawn, stats, yield_now};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn all_values_in_order_of_spawning() {
    Sim::new(1).run(async {
        let mut group = TaskGroup::new();
        for n in [3u32, 1, 2] {
            group.spawn(async move {
                sleep(SECOND * n).await?;
                Ok::<_, Error>(n)
            });
        }
        assert_eq!(group.join().await.unwrap(), [3, 1, 2]);
    });
}

#[test]
fn next_goes_by_completion() {
    Sim::new(1).run(async {
        let mut group = TaskGroup::new();
        for n in [3u32, 1, 2] {
            group.spawn(async move { sleep(SECOND * n).await.map(|()| n) });
        }
        let mut order = Vec::new();
        while let Some(n) = group.next().await.unwrap() {
            order.push(n.unwrap());
        }
        assert_eq!(order, [1, 2, 3]);
    });
}

#[test]
fn the_first_error_cancels_the_rest_and_awaits_their_cleanup() {
    Sim::new(1).run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut group = TaskGroup::<(), &str>::new();
        let seen = log.clone();
        group.spawn(async move {
            let cancelled = sleep(SECOND * 9).await;
            sleep(SECOND).await.unwrap();
            seen.borrow_mut().push(cancelled);
            Ok(())
        });
        group.spawn(async {
            sleep(SECOND).await.unwrap();
            Err("broken")
        });
        assert!(matches!(
            group.join().await,
            Err(GroupError::Task("broken"))
        ));
        assert_eq!(*log.borrow(), [Err(Error::Cancelled)]);
        assert_eq!(stats().tasks, 1);
    });
}

#[test]
fn any_and_first_result() {
    Sim::new(1).run(async {
        let make = || {
            let mut group = TaskGroup::<u32, &str>::new();
            group.spawn(async {
                sleep(SECOND).await.unwrap();
                Err("early")
            });
            group.spawn(async {
                sleep(SECOND * 2).await.unwrap();
                Ok(2)
            });
            group.spawn(async {
                let _ = sleep(SECOND * 3).await;
                Ok(3)
            });
            group
        };
        assert!(matches!(
            make().join_any().await,
            Err(GroupError::Task("early"))
        ));
        assert_eq!(make().join_first().await.unwrap(), Some(2));
        assert_eq!(stats().tasks, 1);
    });
}

#[test]
fn cancelling_the_waiter_cancels_the_group() {
    Sim::new(1).run(async {
        let waiter = spawn(async {
            let mut group = TaskGroup::<(), Error>::new();
            group.spawn(sleep(SECOND * 9));
            group.join().await
        });
        yield_now().await.unwrap();
        yield_now().await.unwrap();
        waiter.cancel().await.unwrap();
        assert_eq!(stats().tasks, 1);
        assert!(waiter.join().await.unwrap().is_err());
    });
}

#[test]
fn a_dropped_group_drops_its_tasks() {
    Sim::new(1).run(async {
        let mut group = TaskGroup::<(), Error>::new();
        group.spawn(sleep(SECOND * 9));
        yield_now().await.unwrap();
        drop(group);
        sleep(SECOND).await.unwrap();
        assert_eq!((stats().tasks, stats().timers), (1, 0));
    });
}

#[test]
fn a_panic_in_a_group_is_its_error() {
    Sim::new(1).run(async {
        let mut group = TaskGroup::<(), Error>::new();
        group.spawn(async { panic!("in the group") });
        let Err(GroupError::Join(error)) = group.join().await else {
            panic!("the group ended well");
        };
        assert_eq!(error.panic_message(), Some("in the group"));
    });
}

#[test]
fn whose_error_or_panic_it_is_can_be_told() {
    Sim::new(1).run(async {
        let mut group = TaskGroup::<u32, &str>::new();
        let well = group.spawn(async { Ok(1) });
        let fails = group.spawn(async { Err("broken") });
        let panics = group.spawn(async { std::panic::resume_unwind(Box::new("on purpose")) });
        let mut told = [None, None, None];
        while let Some((id, result)) = group.next_with_id().await.unwrap() {
            let place = [well, fails, panics]
                .iter()
                .position(|spawned| *spawned == id);
            told[place.unwrap()] = Some(result.map_err(|e| e.to_string()));
        }
        let panicked = "the joined task panicked: on purpose".to_owned();
        let results = [Ok(1), Err("broken".to_owned()), Err(panicked)];
        assert_eq!(told, results.map(Some));
    });
}

/// By the order of spawning, not by that of a hash map: else one seed would not give one run.
#[test]
fn tasks_are_cancelled_in_one_order() {
    let order = || {
        Sim::new(5).run(async {
            let log = Rc::new(RefCell::new(Vec::new()));
            let mut group = TaskGroup::<(), Error>::new();
            for n in 0..20 {
                let log = log.clone();
                group.spawn(async move {
                    let cancelled = sleep(SECOND).await;
                    log.borrow_mut().push(n);
                    cancelled
                });
            }
            yield_now().await.unwrap();
            sleep(SECOND / 2).await.unwrap();
            group.cancel_all().await;
            log.take()
        })
    };
    assert_eq!(order(), order());
}

#[test]
fn a_task_that_cleans_up_already_is_not_cancelled_a_second_time() {
    Sim::new(1).run(async {
        let done = Rc::new(RefCell::new(false));
        let mut group = TaskGroup::<(), Error>::new();
        let cleaned = done.clone();
        let first = group.spawn(async move {
            let told = sleep(SECOND * 100).await;
            sleep(SECOND).await?;
            *cleaned.borrow_mut() = true;
            told
        });
        yield_now().await.unwrap();
        yield_now().await.unwrap();
        drop(kernel::cancel(first));
        group.cancel_all().await; // the second time would be hard
        assert!(*done.borrow());
    });
}

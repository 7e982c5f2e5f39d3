//! Every primitive, cancelled at every await: nothing may be left behind.

use std::{cell::RefCell, rc::Rc, time::Duration};

use kernel::{
    Error, TaskGroup, WaitQueue, run_in_thread,
    sim::{Sim, cancel_everywhere, pipe},
    sleep, spawn,
    sync::{Barrier, Condition, Event, Lock, mailbox, mailbox_bounded, oneshot},
    yield_now,
};

use crate::subject::{Semaphore, ignore_after, shield, timeout_after};

/// What is tested; `from_outside.rs` puts its own in the place of these.
#[allow(unused_imports)]
mod subject {
    pub use kernel::{ignore_after, shield, sync::Semaphore, timeout_after};
}

const SECOND: Duration = Duration::from_secs(1);

fn nothing() {}

#[test]
fn sleep_and_timeouts() {
    let awaits = cancel_everywhere(
        || async {
            sleep(SECOND).await?;
            timeout_after(SECOND * 3, sleep(SECOND)).await?;
            ignore_after(SECOND, sleep(SECOND * 2)).await?;
            yield_now().await?;
            shield(sleep(SECOND)).await?;
            futures::join!(sleep(SECOND), sleep(SECOND * 2)).0
        },
        nothing,
    );
    assert!(awaits >= 6, "{awaits}");
}

#[test]
fn semaphore_keeps_its_permits() {
    let semaphore = Rc::new(RefCell::new(Semaphore::new(1)));
    let (used, checked) = (semaphore.clone(), semaphore.clone());
    cancel_everywhere(
        move || {
            *used.borrow_mut() = Semaphore::new(1);
            let semaphore = used.borrow().clone();
            async move {
                let held = semaphore.clone();
                let other = spawn(async move {
                    let _permit = held.acquire().await?;
                    sleep(SECOND).await
                });
                yield_now().await?;
                let permit = semaphore.acquire().await?;
                sleep(SECOND).await?;
                drop(permit);
                let _again = semaphore.acquire().await?;
                other.wait().await
            }
        },
        move || assert_eq!(checked.borrow().available(), 1),
    );
}

/// The window of one step in which a permit was handed over and its new owner has not run yet.
#[test]
fn a_permit_that_is_just_being_handed_over() {
    let semaphore = Rc::new(RefCell::new(Semaphore::new(1)));
    for patience in 0..8 {
        let (used, checked) = (semaphore.clone(), semaphore.clone());
        cancel_everywhere(
            move || {
                *used.borrow_mut() = Semaphore::new(1);
                let semaphore = used.borrow().clone();
                async move {
                    let held = semaphore.acquire().await?;
                    spawn(async move {
                        for _ in 0..patience {
                            let _ = yield_now().await;
                        }
                        drop(held);
                    });
                    semaphore.acquire().await
                }
            },
            move || assert_eq!(checked.borrow().available(), 1),
        );
    }
}

#[test]
fn lock_and_condition() {
    let last: Rc<RefCell<Option<Rc<Lock<u32>>>>> = Rc::default();
    let (used, checked) = (last.clone(), last.clone());
    cancel_everywhere(
        move || {
            let lock = Rc::new(Lock::new(0));
            *used.borrow_mut() = Some(lock.clone());
            async move {
                let condition = Condition::new();
                let (other, notify) = (lock.clone(), condition.clone());
                spawn(async move {
                    for _ in 0..3 {
                        sleep(SECOND).await?;
                        *other.lock().await? += 1;
                        notify.notify_all();
                    }
                    Ok::<_, Error>(())
                });
                let guard = lock.lock().await?;
                let guard = condition.wait_until(guard, |n| *n == 3).await?;
                sleep(SECOND).await?;
                drop(guard);
                Ok::<_, Error>(())
            }
        },
        move || assert!(!checked.borrow().as_ref().unwrap().is_locked()),
    );
}

#[test]
fn mailboxes() {
    cancel_everywhere(
        || async {
            let (to, from) = mailbox_bounded(1);
            spawn(async move {
                for n in 0..4 {
                    to.send(n).await?;
                }
                Ok::<_, Error>(())
            });
            while from.recv().await?.is_some() {
                yield_now().await?;
            }
            let (to, from) = mailbox();
            spawn(async move {
                sleep(SECOND).await?;
                to.send(1).map_err(Error::from)
            });
            from.recv().await?;
            let (to, from) = oneshot();
            spawn(async move {
                let _ = sleep(SECOND).await;
                to.send(1)
            });
            from.recv().await
        },
        nothing,
    );
}

#[test]
fn a_bounded_sender_is_cancelled() {
    cancel_everywhere(
        || async {
            let (to, from) = mailbox_bounded(1);
            spawn(async move {
                while from.recv().await?.is_some() {
                    sleep(SECOND).await?;
                }
                Ok::<_, Error>(())
            });
            for n in 0..4 {
                to.send(n).await?;
            }
            Ok::<_, Error>(())
        },
        nothing,
    );
}

#[test]
fn event_barrier_and_line() {
    cancel_everywhere(
        || async {
            let (event, barrier, line) = (Event::new(), Barrier::new(2), WaitQueue::new());
            let (other, meet, next) = (event.clone(), barrier.clone(), line.clone());
            let task = spawn(async move {
                sleep(SECOND).await?;
                other.set();
                timeout_after(SECOND, async { meet.wait().await }).await?;
                sleep(SECOND).await?;
                next.wake(1);
                Ok::<_, Error>(())
            });
            event.wait().await?;
            barrier.wait().await?;
            kernel::ask(kernel::Trap::Wait(line)).await?;
            task.wait().await
        },
        nothing,
    );
}

#[test]
fn pipes() {
    cancel_everywhere(
        || async {
            let (a, b) = pipe(4);
            spawn(async move {
                let mut buf = [0; 3];
                while let Ok(n @ 1..) = b.read(&mut buf).await {
                    if b.write_all(&buf[..n]).await.is_err() {
                        return;
                    }
                }
            });
            for _ in 0..3 {
                a.write_all(b"hello").await?;
                let (mut buf, mut got) = ([0; 5], 0);
                while got < 5 {
                    got += a.read(&mut buf[got..]).await?;
                }
                assert_eq!(&buf, b"hello");
            }
            std::io::Result::Ok(())
        },
        nothing,
    );
}

#[test]
fn groups_and_joins() {
    cancel_everywhere(
        || async {
            let mut group = TaskGroup::<(), Error>::new();
            for n in 1..4 {
                group.spawn(sleep(SECOND * n));
            }
            sleep(SECOND).await.map_err(kernel::GroupError::from)?;
            group.join().await?;
            spawn(sleep(SECOND))
                .join()
                .await
                .map_err(kernel::GroupError::Join)??;
            Ok::<_, kernel::GroupError<Error>>(())
        },
        nothing,
    );
}

#[test]
fn sockets() {
    use kernel::net::{TcpListener, TcpStream};
    cancel_everywhere(
        || async {
            let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap())?;
            let address = listener.local_addr()?;
            spawn(async move {
                let (stream, _) = listener.accept().await?;
                let mut buf = [0; 64];
                let n = stream.read(&mut buf).await?;
                stream.write_all(&buf[..n]).await
            });
            let stream = TcpStream::connect(address).await?;
            stream.write_all(b"hello").await?;
            let mut buf = [0; 5];
            stream.read_exact(&mut buf).await
        },
        nothing,
    );
}

#[test]
fn threads() {
    cancel_everywhere(
        || async {
            run_in_thread(|| ()).await?;
            run_in_thread(|| ()).await
        },
        nothing,
    );
}

#[test]
fn the_helper_finds_a_leak() {
    let found = std::panic::catch_unwind(|| {
        cancel_everywhere(
            || async {
                let lost = spawn(std::future::pending::<()>());
                let _ = sleep(SECOND).await;
                lost.detach(); // outlives its parent
            },
            nothing,
        )
    });
    assert!(found.is_err());
}

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

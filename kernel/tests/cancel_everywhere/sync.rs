//! What tasks wait for from each other.

use std::{cell::RefCell, rc::Rc};

use kernel::{
    Error, WaitQueue, sleep, spawn,
    sync::{Barrier, Condition, Event, Lock, mailbox, mailbox_bounded, oneshot},
    trap::{Trap, ask},
    yield_now,
};

use crate::{
    subject::{Semaphore, timeout_after},
    support::{SECOND, everywhere, nothing},
};

#[test]
fn semaphore_keeps_its_permits() {
    let semaphore = Rc::new(RefCell::new(Semaphore::new(1)));
    let (used, checked) = (semaphore.clone(), semaphore.clone());
    let scenario = move || {
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
    };
    everywhere(3, scenario, move || {
        assert_eq!(checked.borrow().available(), 1)
    });
}

/// The window of one step in which a permit was handed over and its new owner has not run yet.
#[test]
fn a_permit_that_is_just_being_handed_over() {
    for patience in 0..8 {
        let semaphore = Rc::new(RefCell::new(Semaphore::new(1)));
        let (used, checked) = (semaphore.clone(), semaphore.clone());
        let scenario = move || {
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
        };
        everywhere(0, scenario, move || {
            assert_eq!(checked.borrow().available(), 1)
        });
    }
}

#[test]
fn lock_and_condition() {
    let last: Rc<RefCell<Option<Rc<Lock<u32>>>>> = Rc::default();
    let (used, checked) = (last.clone(), last.clone());
    let scenario = move || {
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
            let guard = condition.wait(guard).await?;
            let guard = condition.wait_until(guard, |n| *n == 3).await?;
            sleep(SECOND).await?;
            drop(guard);
            let other = lock.clone();
            let holder = spawn(async move {
                let _guard = other.lock().await?;
                sleep(SECOND).await
            });
            yield_now().await?;
            drop(lock.lock().await?);
            holder.wait().await
        }
    };
    everywhere(5, scenario, move || {
        assert!(!checked.borrow().as_ref().unwrap().is_locked())
    });
}

#[test]
fn mailboxes() {
    let scenario = || async {
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
    };
    everywhere(6, scenario, nothing);
}

/// What a cancelled receiver was woken for is there for the next one.
#[test]
fn an_item_is_never_lost_with_its_receiver() {
    let received = Rc::new(RefCell::new(Vec::new()));
    let (used, checked) = (received.clone(), received.clone());
    let scenario = move || {
        let received = used.clone();
        received.borrow_mut().clear();
        let (to, from) = mailbox();
        let from = Rc::new(from);
        let (late, all) = (from.clone(), received.clone());
        let sending = async move {
            for n in 0..4 {
                let _ = yield_now().await;
                let _ = to.send(n);
            }
        };
        let taking_the_rest = async move {
            sleep(SECOND * 10).await?;
            while let Some(n) = late.recv().await? {
                all.borrow_mut().push(n);
            }
            Ok::<_, Error>(())
        };
        async move {
            spawn(sending);
            spawn(taking_the_rest);
            for _ in 0..4 {
                let item = from.recv().await?;
                received.borrow_mut().extend(item);
            }
            Ok::<_, Error>(())
        }
    };
    everywhere(1, scenario, move || {
        assert_eq!(*checked.borrow(), [0, 1, 2, 3])
    });
}

#[test]
fn a_bounded_sender_is_cancelled() {
    let scenario = || async {
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
    };
    everywhere(2, scenario, nothing);
}

#[test]
fn event_barrier_and_line() {
    let scenario = || async {
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
        ask(Trap::Wait(line)).await?;
        task.wait().await
    };
    everywhere(2, scenario, nothing);
}

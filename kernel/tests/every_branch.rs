//! An interruption reaches every branch of a task that is a tree (`join!`, sets of futures), each
//! once, whatever the branch does at that moment; and it leaves what they clean up with alone.

use std::{rc::Rc, time::Duration};

use futures::{StreamExt, join, stream::FuturesUnordered};
use kernel::{
    Error, JoinHandle, Kernel, ManualClock, now, sleep, spawn,
    sync::{Event, mailbox},
    timeout_after, yield_now,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(100_000);

/// What a branch was told, and what came of the two waits with which it cleaned up.
type Told = [Result<(), Error>; 3];

const CANCELLED: Told = [Err(Error::Cancelled), Ok(()), Ok(())];
const TIMED_OUT: Told = [Err(Error::TaskTimeout), Ok(()), Ok(())];

fn virtual_run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let builder = Kernel::builder().manual_clock(ManualClock::new());
    builder.build().unwrap().run(async {
        let value = main.await;
        let stats = kernel::stats();
        assert_eq!((stats.timers, stats.scopes, stats.waits), (0, 0, 0));
        value
    })
}

/// What a branch does after it was told.
async fn clean_up(told: Result<(), Error>) -> Told {
    [told, sleep(SECOND).await, yield_now().await]
}

async fn wait_long() -> Told {
    clean_up(sleep(LONG).await).await
}

/// Waits for an event, and then for a long time.
async fn wait_and_wait(event: Rc<Event>) -> Told {
    event.wait().await.unwrap();
    wait_long().await
}

/// Receives from a mailbox that is never empty: it never waits.
async fn be_busy() -> Told {
    let (to, from) = mailbox();
    loop {
        to.send(()).unwrap();
        if let Err(told) = from.recv().await {
            return clean_up(Err(told)).await;
        }
    }
}

async fn be_busy_yielding() -> Told {
    loop {
        if let Err(told) = yield_now().await {
            return clean_up(Err(told)).await;
        }
    }
}

/// Has all that is ready run for more than a turn, so that deadlines are looked at too.
async fn let_run() {
    for _ in 0..3000 {
        yield_now().await.unwrap();
    }
}

async fn cancel<T: 'static>(task: JoinHandle<T>) -> T {
    task.cancel().await.unwrap();
    task.join().await.expect("it is not dropped")
}

#[test]
fn of_a_task_that_has_not_begun() {
    virtual_run(async {
        let task = spawn(async { join!(wait_long(), wait_long(), be_busy_yielding()) });
        assert_eq!(cancel(task).await, (CANCELLED, CANCELLED, CANCELLED));
    });
}

#[test]
fn one_that_was_just_answered() {
    virtual_run(async {
        for order in [false, true] {
            let event = Rc::new(Event::new());
            let waiter = wait_and_wait(event.clone());
            let task = match order {
                false => spawn(async { join!(wait_long(), waiter) }),
                true => spawn(async { join!(waiter, wait_long()) }),
            };
            let_run().await;
            event.set();
            assert_eq!(cancel(task).await, (CANCELLED, CANCELLED));
        }
    });
}

#[test]
fn one_that_was_just_answered_and_ends() {
    virtual_run(async {
        let event = Rc::new(Event::new());
        let answered = event.clone();
        let task = spawn(async move {
            let both = join!(sleep(LONG), answered.wait());
            (both, sleep(SECOND).await, sleep(SECOND).await)
        });
        let_run().await;
        event.set();
        let told = cancel(task).await;
        // Nothing is told a second time to whoever goes on after the branches.
        assert_eq!(told, ((Err(Error::Cancelled), Ok(())), Ok(()), Ok(())));
    });
}

#[test]
fn those_that_never_wait() {
    virtual_run(async {
        let task = spawn(async { join!(be_busy(), wait_long(), be_busy_yielding(), be_busy()) });
        let_run().await;
        let all = cancel(task).await;
        assert_eq!(all, (CANCELLED, CANCELLED, CANCELLED, CANCELLED));
    });
}

#[test]
fn those_of_a_set_with_wakers_of_its_own() {
    virtual_run(async {
        let event = Rc::new(Event::new());
        let all = FuturesUnordered::new();
        for _ in 0..3 {
            all.push(futures::future::Either::Left(wait_long()));
            all.push(futures::future::Either::Right(wait_and_wait(event.clone())));
        }
        let task = spawn(all.collect::<Vec<_>>());
        let_run().await;
        event.set(); // nobody but the kernel knows it yet
        assert_eq!(cancel(task).await, [CANCELLED; 6]);
    });
}

#[test]
fn by_a_timeout_at_whose_moment_one_was_answered() {
    virtual_run(async {
        let start = now();
        let after_a_sleep = async {
            sleep(SECOND).await.unwrap();
            wait_long().await
        };
        let all = timeout_after(SECOND, async {
            Ok::<_, Error>(join!(wait_long(), after_a_sleep, wait_long()))
        });
        // All have a value, so there is one in spite of the timeout.
        assert_eq!(all.await, Ok((TIMED_OUT, TIMED_OUT, TIMED_OUT)));
        assert_eq!(now() - start, SECOND * 2);
    });
}

#[test]
fn by_the_outer_of_two_timeouts_of_the_same_moment() {
    virtual_run(async {
        let both = timeout_after(SECOND, async {
            let after_a_sleep = async {
                sleep(SECOND).await.unwrap();
                wait_long().await
            };
            let inner = timeout_after(SECOND, async {
                Ok::<_, Error>(join!(wait_long(), after_a_sleep))
            });
            Ok::<_, Error>(join!(wait_long(), inner))
        });
        let given_up = [Err(Error::TimeoutCancellation), Ok(()), Ok(())];
        let inner = Ok((given_up, given_up));
        assert_eq!(both.await, Ok((TIMED_OUT, inner)));
    });
}

#[test]
fn by_a_timeout_while_others_never_wait() {
    let clock = ManualClock::paused();
    let builder = Kernel::builder().manual_clock(clock.clone());
    builder.build().unwrap().run(async move {
        let task = spawn(timeout_after(SECOND, async {
            Ok::<_, Error>(join!(be_busy(), wait_long(), be_busy_yielding()))
        }));
        let_run().await;
        clock.advance(SECOND);
        let_run().await;
        clock.advance(SECOND); // what they clean up with
        let told = task.join().await.unwrap();
        assert_eq!(told, Ok((TIMED_OUT, TIMED_OUT, TIMED_OUT)));
    });
}

#[test]
fn by_a_timeout_that_has_passed_before_it_begins() {
    virtual_run(async {
        for length in [Duration::ZERO, SECOND] {
            let start = now();
            let all = kernel::timeout_at(start - length, async {
                Ok::<_, Error>(join!(wait_long(), be_busy_yielding(), be_busy()))
            });
            assert_eq!(all.await, Ok((TIMED_OUT, TIMED_OUT, TIMED_OUT)));
            assert_eq!(now() - start, SECOND);
        }
        // What comes to an end without waiting does.
        let ready = timeout_after(Duration::ZERO, async { Ok::<_, Error>(1) });
        assert_eq!(ready.await, Ok(1));
    });
}

#[test]
fn a_timeout_that_has_passed_is_told_at_the_first_yield() {
    virtual_run(async {
        let mut yields = 0;
        let told = kernel::timeout_at(now() - SECOND, async {
            loop {
                yield_now().await?;
                yields += 1;
            }
            #[allow(unreachable_code)]
            Ok::<(), Error>(())
        });
        assert_eq!(told.await, Err(Error::TaskTimeout));
        assert_eq!(yields, 0);
    });
}

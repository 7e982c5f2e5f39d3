//! The combinators of the `futures` crate over our traps, and tasks cancelled while they are
//! parked in them.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use futures::{
    FutureExt, SinkExt, StreamExt, TryStreamExt,
    future::{Either, join_all, select, try_join},
    stream::{self, FuturesOrdered, FuturesUnordered},
};
use kernel::{
    Error, ignore_after,
    sim::{Sim, cancel_everywhere},
    sleep, spawn,
    sync::{Event, Semaphore, mailbox},
    timeout_after, yield_now,
};

const SECOND: Duration = Duration::from_secs(1);

/// Sleeps so many seconds and gives the number.
async fn after(seconds: u32) -> Result<u32, Error> {
    sleep(SECOND * seconds).await?;
    Ok(seconds)
}

fn seconds_since(start: std::time::Instant) -> u64 {
    (kernel::now() - start).as_secs()
}

/// Many waits asked for and dropped in one step, the oldest first: each leaves without a search
/// through the others. (With one, this takes minutes in a build for tests.)
#[test]
fn waits_asked_for_and_dropped_in_one_step() {
    const MANY: usize = if cfg!(miri) { 500 } else { 200_000 };
    let began = std::time::Instant::now();
    Sim::new(1).run(async {
        let event = Event::new();
        let mut waits: Vec<_> = (0..MANY).map(|_| Box::pin(event.wait())).collect();
        let mut last = waits.pop().unwrap();
        poll_fn(|cx| {
            for wait in &mut waits {
                assert!(wait.as_mut().poll(cx).is_pending());
            }
            assert!(last.as_mut().poll(cx).is_pending());
            waits.clear();
            Poll::Ready(())
        })
        .await;
        event.set();
        last.await.unwrap();
    });
    assert!(began.elapsed() < SECOND * 60);
}

#[test]
fn joins_wait_for_all_at_once() {
    Sim::new(1).run(async {
        let start = kernel::now();
        let (a, b, c) = futures::join!(after(3), after(1), after(2));
        assert_eq!((a, b, c), (Ok(3), Ok(1), Ok(2)));
        assert_eq!(seconds_since(start), 3);
        assert_eq!(futures::try_join!(after(1), after(2)), Ok((1, 2)));
        let failed = try_join(after(5), async { Err::<(), _>(Error::Closed) }).await;
        assert_eq!(failed, Err(Error::Closed)); // at once: the sleep is withdrawn
        assert_eq!(seconds_since(start), 5);
        assert_eq!(join_all((1..=4).map(after)).await.len(), 4);
        assert_eq!(seconds_since(start), 9);
        assert_eq!((kernel::stats().waits, kernel::stats().timers), (0, 0));
    });
}

#[test]
fn select_withdraws_what_lost() {
    Sim::new(1).run(async {
        let event = Event::new();
        let (mut slow, mut quick) = (pin!(after(9).fuse()), pin!(after(1).fuse()));
        let mut told = pin!(event.wait().fuse());
        let won = futures::select! {
            n = slow => n,
            n = quick => n,
            _ = told => Err(Error::Closed),
        };
        assert_eq!(won, Ok(1));
        let Either::Right((Ok(2), rest)) = select(slow, pin!(after(2))).await else {
            panic!("the shorter one comes first");
        };
        assert_eq!(rest.await, Ok(9)); // it was never given up
        event.set();
        assert_eq!(told.await, Ok(()));
        assert_eq!((kernel::stats().waits, kernel::stats().timers), (0, 0));
    });
}

/// Both give each of their parts a waker of its own.
#[test]
fn sets_of_futures_give_results_as_they_come() {
    Sim::new(1).run(async {
        let unordered: FuturesUnordered<_> = [5, 1, 4, 2, 3].map(after).into_iter().collect();
        let came: Vec<_> = unordered.try_collect().await.unwrap();
        assert_eq!(came, [1, 2, 3, 4, 5]);
        let ordered: FuturesOrdered<_> = [3, 1, 2].map(after).into_iter().collect();
        let came: Vec<_> = ordered.try_collect().await.unwrap();
        assert_eq!(came, [3, 1, 2]);
    });
}

#[test]
fn buffered_streams_run_so_many_at_once() {
    Sim::new(1).run(async {
        let (most, now) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(0)));
        let start = kernel::now();
        let work = |n| {
            let (most, now) = (most.clone(), now.clone());
            async move {
                *now.borrow_mut() += 1;
                let busy = *now.borrow();
                most.replace_with(|most| busy.max(*most));
                let done = after(n).await;
                *now.borrow_mut() -= 1;
                done
            }
        };
        let sum = stream::iter(std::iter::repeat_n(2, 12))
            .map(work)
            .buffer_unordered(4)
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await;
        assert_eq!((sum, *most.borrow()), (Ok(24), 4));
        assert_eq!(seconds_since(start), 6);
        let in_order: Vec<_> = stream::iter([3, 1, 2])
            .map(after)
            .buffered(3)
            .try_collect()
            .await
            .unwrap();
        assert_eq!(in_order, [3, 1, 2]);
    });
}

/// A channel of the `futures` crate, which wakes through real wakers, beside our own mailbox.
#[test]
fn foreign_channels_and_ours_in_one_select() {
    Sim::new(1).run(async {
        let (mut foreign, mut strangers) = futures::channel::mpsc::channel(1);
        let (ours, natives) = mailbox();
        // So that the end of neither is among what it gives.
        let _open = (foreign.clone(), ours.clone());
        spawn(async move {
            for n in 0..10 {
                sleep(SECOND).await.unwrap();
                foreign.send(n).await.unwrap();
            }
        });
        spawn(async move {
            for n in 0..10 {
                sleep(SECOND).await.unwrap();
                ours.send(n).unwrap();
            }
        });
        let (mut a, mut b) = (0, 0);
        while a + b < 20 {
            let native = natives.recv();
            futures::select_biased! {
                n = strangers.select_next_some() => { assert_eq!(n, a); a += 1 }
                n = Box::pin(native).fuse() => { assert_eq!(n, Ok(Some(b))); b += 1 }
            }
        }
        assert_eq!((a, b), (10, 10));
    });
}

#[test]
fn timeouts_inside_and_around() {
    Sim::new(1).run(async {
        let inside = futures::join!(
            ignore_after(SECOND, after(9)),
            timeout_after(SECOND * 2, after(9)),
            after(3),
        );
        assert_eq!(inside, (Ok(None), Err(Error::TaskTimeout), Ok(3)));
        let around = timeout_after(SECOND, async {
            let all: FuturesUnordered<_> = (2..5).map(after).collect();
            all.try_collect::<Vec<_>>().await
        });
        assert_eq!(around.await, Err(Error::TaskTimeout));
        assert_eq!((kernel::stats().waits, kernel::stats().timers), (0, 0));
    });
}

/// Every branch hears of the cancellation, and may clean up.
#[test]
fn a_task_parked_in_a_join_is_cancelled_in_all_its_branches() {
    Sim::new(1).run(async {
        let log = Rc::new(RefCell::new(Vec::new()));
        let branch = |name: &'static str, log: Rc<RefCell<Vec<_>>>| async move {
            let answer = after(9).await;
            yield_now().await.unwrap(); // traps work again
            log.borrow_mut().push((name, answer));
        };
        let (a, b, c) = (log.clone(), log.clone(), log.clone());
        let task = spawn(async move {
            let mut set: FuturesUnordered<_> = [branch("c", c)].into_iter().collect();
            futures::join!(branch("a", a), branch("b", b), set.next());
        });
        sleep(SECOND).await.unwrap(); // by then it is parked, in whatever order tasks run
        task.cancel().await.unwrap();
        let expected = ["a", "b", "c"].map(|name| (name, Err(Error::Cancelled)));
        let mut heard = log.take();
        heard.sort_by_key(|(name, _)| *name);
        assert_eq!(heard, expected);
    });
}

#[test]
fn cancelled_at_every_await_nothing_is_left() {
    let semaphore = Semaphore::new(2);
    let used = semaphore.clone();
    cancel_everywhere(
        move || {
            let semaphore = used.clone();
            async move {
                let work = |n| {
                    let semaphore = semaphore.clone();
                    async move {
                        let _permit = semaphore.acquire().await?;
                        after(n).await
                    }
                };
                futures::try_join!(work(1), work(2), work(3))?;
                let done = stream::iter(1..5).map(work).buffer_unordered(3);
                done.try_collect::<Vec<_>>().await?;
                let (a, b) = (pin!(work(1)), pin!(work(2)));
                select(a, b).await.factor_first().0?;
                let mut set: FuturesUnordered<_> = (1..5).map(work).collect();
                set.next().await;
                Ok::<_, Error>(())
            }
        },
        move || assert_eq!(semaphore.available(), 2),
    );
}

#[test]
fn a_task_that_puts_another_waker_into_its_context_hurts_nobody_else() {
    kernel::run(async {
        let bad = kernel::spawn(std::future::poll_fn(|cx| {
            *cx = std::task::Context::from_waker(std::task::Waker::noop());
            std::task::Poll::Ready(())
        }));
        let good = kernel::spawn(kernel::sleep(Duration::from_millis(1)));
        bad.join().await.unwrap();
        good.join().await.unwrap().unwrap();
    })
    .unwrap();
}

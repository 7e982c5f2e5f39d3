//! An interruption reaches every branch of a task that is a tree (`join!`, sets of futures), each
//! once, whatever the branch does at that moment; and it leaves what they clean up with alone.

use std::{cell::Cell, pin::Pin, rc::Rc, time::Duration};

use futures::{
    StreamExt,
    channel::{mpsc, oneshot},
    join,
    stream::FuturesUnordered,
};
use kernel::{
    Error, JoinHandle, Kernel, ManualClock, Trap, WaitQueue, ask, foreign, now, shield,
    sim::Sim,
    sleep, spawn,
    sync::{Event, Semaphore, mailbox, mailbox_bounded},
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

async fn sleep_and_sleep() -> Told {
    loop {
        if let Err(told) = sleep(Duration::from_micros(3)).await {
            return clean_up(Err(told)).await;
        }
    }
}

async fn wait_for_children() -> Told {
    loop {
        if let Err(told) = spawn(async {}).wait().await {
            return clean_up(Err(told)).await;
        }
    }
}

/// Hands on a permit whenever it runs.
async fn give(permits: Semaphore) -> Told {
    loop {
        permits.release();
        if let Err(told) = yield_now().await {
            return clean_up(Err(told)).await;
        }
    }
}

async fn take(permits: Semaphore) -> Told {
    loop {
        match permits.acquire().await {
            Ok(permit) => permit.forget(),
            Err(told) => return clean_up(Err(told)).await,
        }
    }
}

/// Takes and gives back permits until it is told what this gives.
async fn use_permits(permits: Semaphore) -> Error {
    loop {
        let permit = match permits.acquire().await {
            Ok(permit) => permit,
            Err(told) => return told,
        };
        if let Err(told) = yield_now().await {
            return told;
        }
        drop(permit);
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

#[test]
fn one_that_is_answered_by_another_in_its_last_step() {
    virtual_run(async {
        for order in [false, true] {
            let permits = Semaphore::new(0);
            let (give, take) = (give(permits.clone()), take(permits.clone()));
            let task = match order {
                false => spawn(async { join!(give, take, wait_long()) }),
                true => spawn(async { join!(take, give, wait_long()) }),
            };
            let_run().await;
            assert_eq!(cancel(task).await, (CANCELLED, CANCELLED, CANCELLED));
        }
    });
}

#[test]
fn once_by_a_timeout_one_that_is_answered_by_another_in_its_last_step() {
    for limit in [Duration::ZERO, SECOND] {
        let mut sim = Sim::new(1);
        let clock = sim.clock().clone();
        let told = sim.run(async move {
            let task = spawn(timeout_after(limit, async {
                let permits = Semaphore::new(0);
                Ok::<_, Error>(join!(take(permits.clone()), give(permits)))
            }));
            let_run().await;
            clock.advance(SECOND);
            let_run().await;
            clock.advance(SECOND); // what they clean up with
            task.join().await.unwrap()
        });
        assert_eq!(told, Ok((TIMED_OUT, TIMED_OUT)));
    }
}

#[test]
fn one_that_was_answered_with_an_error_by_another_in_its_last_step() {
    virtual_run(async {
        let line = WaitQueue::new();
        let failing = line.clone();
        let stubborn = async move {
            loop {
                match ask(Trap::Wait(line.clone())).await {
                    Err(Error::Closed) => {}
                    told => return clean_up(told).await,
                }
            }
        };
        let fail = async move {
            loop {
                failing.fail(Error::Closed);
                if let Err(told) = yield_now().await {
                    return clean_up(Err(told)).await;
                }
            }
        };
        let task = spawn(async { join!(stubborn, fail) });
        let_run().await;
        assert_eq!(cancel(task).await, (CANCELLED, CANCELLED));
    });
}

#[test]
fn one_whose_foreign_future_is_ready_by_then() {
    virtual_run(async {
        let (to, mut from) = mpsc::unbounded();
        let receive = async move {
            loop {
                if let Err(told) = foreign(from.next()).await {
                    return clean_up(Err(told)).await;
                }
            }
        };
        let send = async move {
            loop {
                to.unbounded_send(()).unwrap();
                if let Err(told) = yield_now().await {
                    return clean_up(Err(told)).await;
                }
            }
        };
        let task = spawn(async { join!(receive, send, wait_long()) });
        let_run().await;
        assert_eq!(cancel(task).await, (CANCELLED, CANCELLED, CANCELLED));
    });
}

/// A wait that was granted elsewhere is nobody's who was interrupted.
#[test]
fn not_one_that_was_granted_outside_of_what_was_interrupted() {
    virtual_run(async {
        let permits = Semaphore::new(0);
        let mut ticket = Box::pin(permits.acquire());
        assert!(futures::poll!(&mut ticket).is_pending());
        let giver = permits.clone();
        spawn(async move { giver.release() });
        let under_a_timeout = timeout_after(SECOND, async {
            assert_eq!(sleep(LONG).await, Err(Error::TaskTimeout));
            ticket.await.map(drop)
        });
        assert_eq!(under_a_timeout.await, Ok(()));

        let slot = Rc::new(Cell::new(None));
        let (put, take) = (slot.clone(), slot);
        let waiter = permits.clone();
        let first = spawn(async move {
            let granted = waiter.acquire().await.unwrap();
            let mut ticket = Box::pin({
                let waiter = waiter.clone();
                async move { waiter.acquire().await.map(drop) }
            });
            assert!(futures::poll!(&mut ticket).is_pending());
            drop(granted); // to the ticket
            put.set(Some(ticket));
            sleep(LONG).await
        });
        let second = spawn(async move {
            assert_eq!(sleep(LONG).await, Err(Error::Cancelled));
            take.take().unwrap().await
        });
        let_run().await;
        assert_eq!(cancel(second).await, Ok(()));
        assert_eq!(cancel(first).await, Err(Error::Cancelled));
    });
}

/// Two that hand each other items: while the one waits, the other was just answered. Neither sees the other
/// go, for both ends are kept.
#[test]
fn both_that_talk_with_each_other() {
    virtual_run(async {
        for room in 1..4 {
            let (to, from) = mailbox_bounded(room);
            let ends = Rc::new((to, from));
            let (talker, listener) = (ends.clone(), ends.clone());
            let talk = async move {
                loop {
                    if let Err(told) = talker.0.send(()).await {
                        return clean_up(Err(told.reason)).await;
                    }
                }
            };
            let listen = async move {
                loop {
                    if let Err(told) = listener.1.recv().await {
                        return clean_up(Err(told)).await;
                    }
                }
            };
            let task = spawn(async { join!(talk, listen) });
            let_run().await;
            assert_eq!(cancel(task).await, (CANCELLED, CANCELLED));
            let fill = async {
                while ends.1.len() < room {
                    ends.0.send(()).await?;
                }
                Ok::<_, Error>(())
            };
            assert_eq!(timeout_after(SECOND, fill).await, Ok(()), "room is lost");
        }
    });
}

type Part = Pin<Box<dyn Future<Output = Told>>>;

/// A set of futures, which polls only some of those that are ready at a time.
async fn all(parts: Vec<Part>) -> Vec<Told> {
    parts
        .into_iter()
        .collect::<FuturesUnordered<_>>()
        .collect()
        .await
}

#[test]
fn those_of_a_set_that_were_answered_behind_others_that_yield() {
    virtual_run(async {
        let event = Rc::new(Event::new());
        let mut parts: Vec<Part> = Vec::new();
        for _ in 0..100 {
            parts.push(Box::pin(be_busy_yielding()));
            (0..10).for_each(|_| parts.push(Box::pin(wait_and_wait(event.clone()))));
        }
        let task = spawn(all(parts));
        let_run().await;
        event.set();
        assert_eq!(cancel(task).await, vec![CANCELLED; 1100]);
    });
}

#[test]
fn those_of_a_set_that_have_not_begun_or_were_woken_by_strangers() {
    virtual_run(async {
        let (to, from) = oneshot::channel();
        let after_the_stranger = async move {
            from.await.unwrap();
            wait_long().await
        };
        let mut parts: Vec<Part> = vec![Box::pin(after_the_stranger)];
        (0..9).for_each(|_| parts.push(Box::pin(be_busy_yielding())));
        let task = spawn(all(parts));
        let_run().await;
        to.send(()).unwrap();
        assert_eq!(cancel(task).await, [CANCELLED; 10]);

        let mut parts: Vec<Part> = Vec::new();
        (0..9).for_each(|_| parts.push(Box::pin(be_busy_yielding())));
        parts.push(Box::pin(wait_long()));
        assert_eq!(cancel(spawn(all(parts))).await, [CANCELLED; 10]);
    });
}

#[test]
fn those_of_sets_in_sets_that_have_not_begun() {
    virtual_run(async {
        let set = || -> Vec<Part> { (0..6).map(|_| Box::pin(wait_long()) as Part).collect() };
        let in_it = |inner: Vec<Part>| -> Part {
            Box::pin(async move {
                let told = all(inner).await;
                told.into_iter()
                    .find(|told| *told != CANCELLED)
                    .unwrap_or(CANCELLED)
            })
        };
        let sets = |_| in_it((0..6).map(|_| in_it(set())).collect());
        let task = spawn(all((0..4).map(sets).collect()));
        assert_eq!(cancel(task).await, [CANCELLED; 4]);
    });
    virtual_run(async {
        let told = Rc::new(Cell::new(0));
        let wait = || -> Part {
            let told = told.clone();
            Box::pin(async move {
                let what = wait_long().await;
                told.set(told.get() + u32::from(what == TIMED_OUT));
                what
            })
        };
        let set = |_| -> Part {
            let parts = (0..6).map(|_| wait()).collect();
            Box::pin(async move { all(parts).await[0] })
        };
        let sets = all((0..6).map(set).collect());
        let sets = async { Ok::<_, Error>(join!(wait(), sets)) };
        assert!(timeout_after(Duration::ZERO, sets).await.is_ok());
        assert_eq!(told.get(), 37);
    });
}

/// Numbers drawn from a seed.
struct Dice(Cell<u64>);

impl Dice {
    /// One below `sides`.
    fn roll(&self, sides: u64) -> u64 {
        let next = self.0.get().wrapping_mul(0x5851_F42D_4C95_7F2D) | 1;
        self.0.set(next.wrapping_add(0x1405_7B7E_F767_814E));
        (next >> 33) % sides
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.roll(60))
    }
}

/// Parts of all kinds, in any number and order.
fn parts(dice: &Dice) -> Vec<Part> {
    let permits = Semaphore::new(0);
    let part = |_| -> Part {
        match dice.roll(6) {
            0 => Box::pin(be_busy_yielding()),
            1 => Box::pin(sleep_and_sleep()),
            2 => Box::pin(wait_for_children()),
            3 => Box::pin(give(permits.clone())),
            4 => Box::pin(take(permits.clone())),
            _ => Box::pin(wait_long()),
        }
    };
    (0..=dice.roll(12)).map(part).collect()
}

/// Interrupts such a set, in many orders of the tasks that are ready. Those who never wait keep the clock
/// from jumping, so it is moved.
fn in_many_orders<T: 'static, W: Future<Output = T> + 'static>(
    work: impl Fn(&Dice) -> W,
    interrupt: impl AsyncFnOnce(JoinHandle<T>) + Copy + 'static,
) {
    for seed in 0..100 {
        let mut sim = Sim::new(seed);
        let (dice, clock) = (Dice(Cell::new(seed)), sim.clock().clone());
        let work = work(&dice);
        sim.run(async move {
            let task = spawn(work);
            for _ in 0..dice.roll(4) {
                for _ in 0..dice.roll(500) {
                    yield_now().await.unwrap();
                }
                clock.advance(dice.time());
            }
            let mover = spawn(async move {
                for _ in 0..300 {
                    yield_now().await.unwrap();
                    clock.advance(Duration::from_nanos(300));
                }
            });
            interrupt(task).await;
            mover.join().await.unwrap();
        });
    }
}

fn are_all(told: &[Told], what: Told) {
    told.iter().for_each(|told| assert_eq!(*told, what));
}

#[test]
fn those_of_any_set_by_a_cancel() {
    in_many_orders(
        |dice| all(parts(dice)),
        async |task| are_all(&cancel(task).await, CANCELLED),
    );
}

#[test]
fn those_of_any_set_by_a_timeout() {
    in_many_orders(
        |dice| {
            let (limit, work) = (dice.time(), all(parts(dice)));
            async move { timeout_after(limit, async { Ok::<_, Error>(work.await) }).await }
        },
        async |task| {
            let told = task.join().await.unwrap();
            are_all(&told.expect("nobody is dropped"), TIMED_OUT);
        },
    );
}

#[test]
fn those_of_any_set_by_the_outer_of_two_timeouts() {
    in_many_orders(
        |dice| {
            let outer = dice.time();
            let inner = [outer, LONG][dice.roll(2) as usize];
            let (work, others) = (all(parts(dice)), all(parts(dice)));
            async move {
                let work = async { Ok::<_, Error>(work.await) };
                let both = async { Ok::<_, Error>(join!(timeout_after(inner, work), others)) };
                timeout_after(outer, both).await
            }
        },
        async |task| {
            let told = task.join().await.unwrap();
            let (inner, others) = told.expect("nobody is dropped");
            are_all(&others, TIMED_OUT);
            let inner = inner.expect("nobody is dropped");
            let whose = inner[0][0];
            let timeouts = [Err(Error::TaskTimeout), Err(Error::TimeoutCancellation)];
            assert!(timeouts.contains(&whose));
            are_all(&inner, [whose, Ok(()), Ok(())]);
        },
    );
}

/// What was handed to one that was told goes to the next.
#[test]
fn and_nothing_that_was_handed_over_is_lost() {
    in_many_orders(
        |dice| {
            let permits = Semaphore::new(1 + dice.roll(3) as usize);
            let (free, limit) = (permits.available(), dice.time());
            let users: FuturesUnordered<_> = (0..=dice.roll(12))
                .map(|_| use_permits(permits.clone()))
                .collect();
            async move {
                let all = async { Ok::<Vec<Error>, Error>(users.collect().await) };
                let told = timeout_after(limit, all).await;
                (told, permits.available() == free)
            }
        },
        async |task| {
            let (told, all_are_back) = task.join().await.unwrap();
            let told = told.expect("nobody is dropped");
            assert!(told.iter().all(|told| *told == Error::TaskTimeout));
            assert!(all_are_back);
        },
    );
}

#[test]
fn none_that_are_shielded() {
    in_many_orders(
        |dice| {
            let mut parts = parts(dice);
            for _ in 0..=dice.roll(3) {
                let (time, place) = (dice.time(), dice.roll(parts.len() as u64));
                let inside =
                    async move { [sleep(time).await, yield_now().await, sleep(time).await] };
                parts.insert(place as usize, Box::pin(shield(inside)));
            }
            all(parts)
        },
        async |task| {
            let mut told = cancel(task).await;
            told.retain(|told| *told != [Ok(()); 3]);
            are_all(&told, CANCELLED);
        },
    );
}

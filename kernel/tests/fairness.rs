//! The stated bounds: nobody who never waits keeps deadlines and other I/O from being served.
//!
//! Lateness is counted in what the others did meanwhile, not in time, so that a busy machine
//! changes nothing: a deadline that passes is looked at after at most one turn, and whom it
//! answers has only those before it who were ready before it.

use std::{cell::Cell, future::poll_fn, rc::Rc, task::Poll, time::Duration};

use kernel::{
    Kernel, ManualClock,
    net::UnixStream,
    sleep, spawn,
    sync::{Barrier, Condition, Event, Lock, Semaphore, oneshot},
    yield_now,
};

/// The most steps in one turn.
const TURN: u64 = 1024;
/// The most operations in one step: those that need not wait, and the one at which it yields.
const STEP: u64 = 128 + 1;

/// What those do who never wait, counted by themselves.
type Count = Rc<Cell<u64>>;

fn add_one(count: &Count) {
    count.set(count.get() + 1);
}

/// Has others be busy, lets a deadline pass in the midst of it, then has bytes come in. Gives what
/// the others did until the first was answered, and until the second was.
fn lateness(busy: impl FnOnce(Count) + 'static) -> (u64, u64) {
    let clock = ManualClock::paused();
    let builder = Kernel::builder().manual_clock(clock.clone());
    let mut kernel = builder.build().unwrap();
    kernel.run(async move {
        let count = Count::default();
        let (a, b) = UnixStream::pair().unwrap();
        let (slept, read) = (count.clone(), count.clone());
        let sleeper = spawn(async move {
            sleep(Duration::from_millis(20)).await.unwrap();
            slept.get()
        });
        let reader = spawn(async move {
            a.read(&mut [0; 8]).await.unwrap();
            read.get()
        });
        busy(count.clone());
        while count.get() < 1000 {
            yield_now().await.unwrap();
        }
        clock.advance(Duration::from_millis(20));
        let due = count.get();
        let answered = sleeper.join().await.unwrap();
        let sent = count.get();
        b.write_all(b"x").await.unwrap();
        (answered - due, reader.join().await.unwrap() - sent)
    })
}

/// The bound for tasks that are ready all the time, and do so much in a step.
#[track_caller]
fn assert_bounded((deadline, io): (u64, u64), ready: u64, in_a_step: u64) {
    // A turn that has just begun, and the queue before the one that is answered.
    let bound = (TURN + ready + 2) * in_a_step;
    assert!(deadline <= bound, "a deadline: {deadline} > {bound}");
    assert!(io <= bound, "bytes: {io} > {bound}");
}

fn yielders(number: u64) -> (u64, u64) {
    lateness(move |count| {
        for _ in 0..number {
            let count = count.clone();
            spawn(async move {
                while yield_now().await.is_ok() {
                    add_one(&count);
                }
            });
        }
    })
}

#[test]
fn tasks_that_yield_for_ever() {
    assert_bounded(yielders(1), 1, 1);
    assert_bounded(yielders(10_000), 10_000, 1);
}

#[test]
#[ignore = "long"]
fn long_a_million_ready_tasks() {
    assert_bounded(yielders(1_000_000), 1_000_000, 1);
}

#[test]
fn a_socket_that_is_always_ready() {
    let late = lateness(|count| {
        let (a, b) = UnixStream::pair().unwrap();
        // Writes and reads its own bytes: neither ever has to wait.
        spawn(async move {
            while a.write_all(&[0; 64]).await.is_ok() && b.read_exact(&mut [0; 64]).await.is_ok() {
                add_one(&count);
            }
        });
    });
    assert_bounded(late, 1, STEP);
}

#[test]
fn a_mailbox_that_is_never_empty() {
    let late = lateness(|count| {
        let (to, from) = kernel::sync::mailbox();
        to.send(()).unwrap();
        spawn(async move {
            while from.recv().await.is_ok() {
                to.send(()).unwrap();
                add_one(&count);
            }
        });
    });
    assert_bounded(late, 1, STEP);
}

/// A task that repeats an operation which finds at once what it wants.
#[track_caller]
fn assert_breathes<F: Future<Output = bool>>(operation: impl Fn() -> F + 'static) {
    let late = lateness(|count| {
        spawn(async move {
            while operation().await {
                add_one(&count);
            }
        });
    });
    assert_bounded(late, 1, STEP);
}

/// A shared thing for each repetition.
fn shared<T: 'static, F: Future>(
    thing: T,
    operation: impl Fn(Rc<T>) -> F + 'static,
) -> impl Fn() -> F + 'static {
    let thing = Rc::new(thing);
    move || operation(thing.clone())
}

#[test]
fn an_event_that_is_set() {
    let event = Event::new();
    event.set();
    assert_breathes(shared(
        event,
        |event| async move { event.wait().await.is_ok() },
    ));
}

#[test]
fn permits_and_locks_that_are_free() {
    assert_breathes(shared(Semaphore::new(1), |semaphore| async move {
        semaphore.acquire().await.is_ok()
    }));
    assert_breathes(shared(Lock::new(()), |lock| async move {
        lock.lock().await.is_ok()
    }));
}

#[test]
fn a_barrier_for_one() {
    assert_breathes(shared(Barrier::new(1), |barrier| async move {
        barrier.wait().await.is_ok()
    }));
}

#[test]
fn a_oneshot_whose_sender_is_gone() {
    let (sender, receiver) = oneshot::<()>();
    drop(sender);
    assert_breathes(shared(receiver, |receiver| async move {
        receiver.recv().await.is_ok()
    }));
}

#[test]
fn an_empty_group() {
    assert_breathes(|| async {
        let mut group = kernel::TaskGroup::<()>::new();
        group.next().await.is_ok()
    });
}

#[test]
fn a_condition_that_holds() {
    assert_breathes(shared(
        (Lock::new(()), Condition::new()),
        |both| async move {
            let Some(guard) = both.0.try_lock() else {
                unreachable!("nobody else takes it");
            };
            both.1.wait_until(guard, |()| true).await.is_ok()
        },
    ));
}

#[test]
fn the_end_of_a_task_that_has_ended() {
    let task = Rc::new(Cell::new(None));
    assert_breathes(move || {
        let task = task.clone();
        async move {
            let ended = match task.take() {
                Some(ended) => ended,
                None => {
                    let begun = spawn(async {});
                    yield_now().await.unwrap();
                    begun
                }
            };
            let told = ended.wait().await;
            task.set(Some(ended));
            told.is_ok()
        }
    });
}

#[test]
fn joining_tasks_that_have_ended() {
    let rounds = Rc::new(Cell::new(0));
    let mut kernel = Kernel::builder()
        .manual_clock(ManualClock::new())
        .build()
        .unwrap();
    kernel.run(async move {
        let ended: Vec<_> = (0..STEP * 10).map(|_| spawn(async {})).collect();
        yield_now().await.unwrap();
        let others = rounds.clone();
        spawn(async move {
            while yield_now().await.is_ok() {
                others.set(others.get() + 1);
            }
        });
        for task in ended {
            task.join().await.unwrap();
        }
        assert!(rounds.get() >= 8, "{}", rounds.get());
    });
}

#[test]
fn a_stream_that_is_readable() {
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    let stream = Rc::new(std::cell::OnceCell::new());
    std::io::Write::write_all(&mut &b, b"x").unwrap();
    assert_breathes(move || {
        let (stream, a) = (stream.clone(), a.try_clone());
        let _open = &b;
        async move {
            let stream = stream.get_or_init(|| UnixStream::from_std(a.unwrap()).unwrap());
            stream.readable().await.is_ok()
        }
    });
}

#[test]
fn a_task_that_wakes_itself_by_its_waker() {
    let late = lateness(|count| {
        spawn(poll_fn(move |cx| {
            add_one(&count);
            cx.waker().wake_by_ref();
            // It comes to no trap, and the clock stands: nothing else would end it.
            match count.get() < 100_000 {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        }));
    });
    assert_bounded(late, 1, 1);
}

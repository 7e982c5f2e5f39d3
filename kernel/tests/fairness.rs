//! The stated bounds: nobody who never waits keeps deadlines and other I/O from being served.
//!
//! Lateness is counted in what the others did meanwhile, not in time, so that a busy machine
//! changes nothing: a deadline that passes is looked at after at most one turn, and whom it
//! answers has only those before it who were ready before it.

use std::{cell::Cell, future::poll_fn, rc::Rc, task::Poll, time::Duration};

use kernel::{Kernel, ManualClock, net::UnixStream, sleep, spawn, yield_now};

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

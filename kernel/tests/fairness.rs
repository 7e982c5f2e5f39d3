//! The stated bounds: nobody who never waits keeps deadlines and other I/O from being served.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use kernel::{net::UnixStream, sleep, spawn, yield_now};

/// How late a sleep of 20 ms comes back.
async fn lateness() -> Duration {
    let start = Instant::now();
    sleep(Duration::from_millis(20)).await.unwrap();
    start.elapsed() - Duration::from_millis(20)
}

/// Generous: this asserts that something bounds it at all, on a machine that does other things too.
const LATE: Duration = Duration::from_millis(500);

#[test]
fn tasks_that_yield_for_ever() {
    kernel::run(async {
        for _ in 0..10_000 {
            spawn(async { while yield_now().await.is_ok() {} });
        }
        let (a, b) = UnixStream::pair().unwrap();
        let reader = spawn(async move { a.read(&mut [0; 8]).await });
        assert!(lateness().await < LATE);
        b.write_all(b"x").await.unwrap();
        assert_eq!(reader.join().await.unwrap().unwrap(), 1);
    })
    .unwrap();
}

#[test]
fn a_socket_that_is_always_ready() {
    kernel::run(async {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, b) = (Rc::new(a), Rc::new(b));
        // Writes and reads its own bytes: neither ever has to wait.
        spawn(async move {
            loop {
                if a.write_all(&[0; 64]).await.is_err() || b.read_exact(&mut [0; 64]).await.is_err()
                {
                    return;
                }
            }
        });
        assert!(lateness().await < LATE);
    })
    .unwrap();
}

#[test]
fn a_mailbox_that_is_never_empty() {
    kernel::run(async {
        let (to, from) = kernel::sync::mailbox();
        let taken = Rc::new(Cell::new(0u64));
        let seen = taken.clone();
        to.send(()).unwrap();
        spawn(async move {
            while from.recv().await.is_ok() {
                to.send(()).unwrap();
                seen.set(seen.get() + 1);
            }
        });
        assert!(lateness().await < LATE);
        assert!(taken.get() > 1000);
    })
    .unwrap();
}

#[test]
fn a_task_that_wakes_itself_by_its_waker() {
    // It never comes to a trap, so at the end it is dropped when its cleanup budget is spent.
    let budget = Duration::from_millis(50);
    let mut kernel = kernel::Kernel::builder()
        .cleanup_budget(budget)
        .build()
        .unwrap();
    kernel.run(async {
        spawn(std::future::poll_fn::<(), _>(|cx| {
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }));
        assert!(lateness().await < LATE);
    });
}

//! Several runs on one thread, of one kernel or of several: none gets into another.

use std::{
    cell::{Cell, RefCell},
    future::{Future, pending, poll_fn},
    io::{self, Write as _},
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use kernel::{
    Ask, AsyncFd, Bell, Error, Kernel, ManualClock, ask, at_shutdown,
    net::UnixStream,
    sleep, spawn,
    sync::{Event, Permit, Semaphore},
    timeout_after,
    trap::{Direction, Registered, Trap},
    yield_now,
};

const LONG: Duration = Duration::from_secs(30);

fn kernel() -> Kernel {
    Kernel::builder().build().unwrap()
}

/// A kernel whose clock jumps, and whose first run has broken off where nothing could happen any more.
fn after_a_dead_end(main: impl Future<Output = ()> + 'static) -> Kernel {
    let builder = Kernel::builder().manual_clock(ManualClock::new());
    let mut kernel = builder.build().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| kernel.run(main))).is_err());
    kernel
}

/// A wait that is asked for now and kept.
async fn asked<F: Future + Unpin>(mut wait: F) -> F {
    poll_fn(|cx| {
        assert!(Pin::new(&mut wait).poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    wait
}

#[test]
fn a_stream_dropped_in_another_kernel_s_run_is_its_own() {
    let theirs = kernel::run(async { UnixStream::pair() }).unwrap().unwrap();
    kernel::run(async move {
        let (a, b) = UnixStream::pair()?;
        assert_eq!(kernel::stats().sources, 2);
        drop(theirs);
        assert_eq!(kernel::stats().sources, 2);
        let reader = spawn(async move { timeout_after(LONG, a.read(&mut [0; 8])).await });
        yield_now().await?;
        b.write_all(b"hi").await?;
        assert_eq!(reader.join().await.unwrap()?, 2);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_stream_of_another_kernel_says_so_instead_of_waiting() {
    let (a, b) = kernel::run(async { UnixStream::pair() }).unwrap().unwrap();
    kernel::run(async move {
        let error = timeout_after(LONG, a.read(&mut [0; 8])).await.unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::OtherRun));
        assert!(error.to_string().contains("make it inside the run"));
        b.try_write(b"x").unwrap();
        assert_eq!(
            a.try_read(&mut [0; 8]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    })
    .unwrap();
    let (ours, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let source = kernel::run(async move {
        let source = Registered::new(&ours, false).unwrap();
        (source, ours)
    });
    let (source, _ours) = source.unwrap();
    let error = kernel::run(async move {
        let error = source.rearm(Direction::Read).unwrap_err();
        source.release();
        error
    });
    assert_eq!(Error::in_io(&error.unwrap()), Some(Error::OtherRun));
}

#[test]
fn streams_dropped_between_the_runs_of_a_kernel_are_out_of_it() {
    let (theirs, _peer) = io::pipe().unwrap();
    let mut kernel = kernel();
    let theirs = Rc::new(theirs);
    for _ in 0..3 {
        let descriptor = theirs.clone();
        let kept = kernel.run(async move {
            assert_eq!(kernel::stats().sources, 0);
            let fd = AsyncFd::watch(descriptor.as_fd().try_clone_to_owned()?)?;
            io::Result::Ok((fd, UnixStream::pair()?))
        });
        drop(kept.unwrap());
    }
}

/// A stream may be used in all the runs of its own kernel.
#[test]
fn a_stream_goes_on_in_the_next_run_of_its_kernel() {
    let mut kernel = kernel();
    let (a, mut b) = std::os::unix::net::UnixStream::pair().unwrap();
    let a = kernel.run(async { UnixStream::from_std(a) }).unwrap();
    b.write_all(b"between").unwrap();
    let read = kernel.run(async move {
        let read = a.read(&mut [0; 64]).await?;
        let late = timeout_after(Duration::from_millis(1), a.read(&mut [0; 64])).await;
        assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
        io::Result::Ok(read)
    });
    assert_eq!(read.unwrap(), 7);
}

#[test]
fn a_handle_of_an_ended_task_cancels_nobody_else() {
    for mut kernel in [
        kernel(),
        Kernel::builder()
            .manual_clock(Default::default())
            .build()
            .unwrap(),
    ] {
        let old = kernel::run(async { spawn(async { 1 }) }).unwrap();
        let id = old.id();
        kernel.run(async move {
            let victim = spawn(async { sleep(Duration::from_millis(1)).await });
            yield_now().await.unwrap();
            assert!(old.is_finished());
            old.cancel().await.unwrap();
            if victim.id() != id {
                kernel::cancel(id).await.unwrap();
            }
            assert_eq!(victim.join().await.unwrap(), Ok(()));
        });
    }
}

#[test]
fn tasks_are_numbered_through_the_kernels_of_a_thread() {
    let id = || kernel::run(async { spawn(async {}).id() }).unwrap();
    let (first, second) = (id(), id());
    assert_ne!(first, second);
    let sim = || kernel::sim::Sim::new(1).run(async { spawn(async {}).id() });
    assert_eq!(sim(), sim()); // one seed, one run
}

#[test]
fn an_inbox_goes_from_kernel_to_kernel() {
    let (sender, inbox) = kernel::inbox();
    let mut inbox = Some(inbox);
    for n in 0..3 {
        let (inbox_now, sender) = (inbox.take().unwrap(), sender.clone());
        let back = kernel::run(async move {
            let others = [Bell::new(), Bell::new()];
            let (give, take) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                take.recv().unwrap();
                sender.send(n).unwrap();
            });
            spawn(async move { give.send(()).unwrap() }); // runs when we wait
            assert_eq!(timeout_after(LONG, inbox_now.recv()).await, Ok(Some(n)));
            thread.join().unwrap();
            drop(others);
            inbox_now
        });
        inbox = Some(back.unwrap());
    }
}

#[test]
fn a_bell_of_another_kernel_says_so() {
    let bell = kernel::run(async { Bell::new() }).unwrap();
    kernel::run(async move {
        let own = Bell::new();
        assert_ne!(own.key(), bell.key());
        assert_eq!(bell.wait().await, Err(Error::OtherRun));
        assert_eq!(ask(Trap::Bell(bell.key())).await, Err(Error::Closed));
    })
    .unwrap();
}

#[test]
fn who_waits_for_a_bell_that_is_dropped_learns_it() {
    kernel::run(async {
        let bell = Bell::new();
        let waiter = spawn(ask(Trap::Bell(bell.key())));
        yield_now().await.unwrap();
        drop(bell);
        let told = timeout_after(LONG, async { Ok::<_, Error>(waiter.join().await.unwrap()) });
        assert_eq!(told.await, Ok(Err(Error::Closed)));
    })
    .unwrap();
}

/// A wait that a ring has answered and nobody has polled since.
async fn rung_for(bell: &Bell) -> Ask {
    let mut wait = ask(Trap::Bell(bell.key()));
    assert!(futures::poll!(&mut wait).is_pending());
    bell.ringer().ring();
    while !wait.was_granted() {
        yield_now().await.unwrap();
    }
    wait
}

#[test]
fn a_ring_whose_waiter_was_dropped_before_it_ran_is_heard_by_the_next() {
    kernel::run(async {
        let bell = Bell::new();
        let first = rung_for(&bell).await;
        drop(first);
        assert_eq!(timeout_after(LONG, bell.wait()).await, Ok(()));

        let first = rung_for(&bell).await;
        let mut second = ask(Trap::Bell(bell.key()));
        assert!(futures::poll!(&mut second).is_pending());
        yield_now().await.unwrap();
        drop(first);
        assert_eq!(timeout_after(LONG, second).await, Ok(()));
    })
    .unwrap();
}

#[test]
fn a_ring_whose_waiter_outlives_the_run_is_heard_once() {
    let mut kernel = kernel();
    let (bell, first) = kernel.run(async {
        let bell = Bell::new();
        let first = rung_for(&bell).await;
        (bell, first)
    });
    kernel.run(async move {
        assert_eq!(timeout_after(LONG, bell.wait()).await, Ok(()));
        assert!(!first.was_granted());
        assert_eq!(first.await, Err(Error::OtherRun));
    });
}

#[test]
fn a_wait_kept_from_an_earlier_run_takes_nobody_s_answer() {
    let mut kernel = kernel();
    let kept = kernel.run(asked(ask(Trap::Sleep(Instant::now() + LONG))));
    kernel.run(async move {
        let others: Vec<_> = (0..3)
            .map(|n| spawn(async move { sleep(Duration::from_millis(n)).await }))
            .collect();
        yield_now().await.unwrap();
        assert_eq!(kept.await, Err(Error::OtherRun));
        for other in others {
            assert_eq!(other.join().await.unwrap(), Ok(()));
        }
        assert_eq!(kernel::stats().timers, 0);
    });
}

type Granted = Pin<Box<dyn Future<Output = Result<Permit, Error>>>>;

/// A wait for the one permit, which it got, and does not know yet.
async fn granted(semaphore: Semaphore) -> Granted {
    let held = semaphore.try_acquire().unwrap();
    let waits = Box::pin(async move { semaphore.acquire().await });
    let waits = asked(waits as Granted).await;
    drop(held);
    waits
}

/// Of two futures that own a permit when their run ends, one gives it back and one uses it.
#[test]
fn what_was_granted_in_a_run_that_is_over_is_not_lost() {
    let (mut kernel, semaphore) = (kernel(), Semaphore::new(1));
    for claimed in [false, true] {
        let granted = kernel.run(granted(semaphore.clone()));
        assert_eq!(semaphore.available(), 0);
        match claimed {
            true => drop(kernel.run(granted).unwrap()),
            false => drop(granted),
        }
        assert_eq!(semaphore.available(), 1);
    }
}

#[test]
fn a_hook_left_while_the_run_ends_runs_in_this_run() {
    let mut kernel = kernel();
    let ran = Rc::new(Cell::new(0));
    let count = ran.clone();
    kernel.run(async move {
        spawn(async move {
            let _told = sleep(LONG).await;
            at_shutdown(async move {
                sleep(Duration::from_millis(1)).await.unwrap();
                count.set(count.get() + 1);
                at_shutdown(async move { count.set(count.get() + 1) });
            });
        });
        yield_now().await.unwrap();
    });
    assert_eq!(ran.get(), 2);
    kernel.run(async {});
    assert_eq!(ran.get(), 2);
}

#[test]
fn after_a_panic_went_through_a_run_the_next_begins_clean() {
    let builder = Kernel::builder().manual_clock(ManualClock::new());
    let mut kernel = builder.build().unwrap();
    let (event, log) = (Event::new(), Rc::new(RefCell::new(Vec::new())));
    let (there, told) = (event.clone(), log.clone());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        kernel.run(async move {
            at_shutdown({
                let told = told.clone();
                async move { told.borrow_mut().push("the old hook") }
            });
            let (old, waits) = (told.clone(), there.clone());
            spawn(async move {
                waits.wait().await.unwrap();
                old.borrow_mut().push("the old waiter");
            });
            there.wait().await.unwrap(); // a dead end: nobody sets it
            told.borrow_mut().push("the old main");
        })
    }));
    assert!(panicked.is_err());
    for _ in 0..2 {
        let event = event.clone();
        kernel.run(async move {
            assert_eq!(kernel::ps().len(), 1);
            let stats = kernel::stats();
            assert_eq!((stats.sources, stats.timers, stats.waits), (0, 0, 0));
            event.set();
            sleep(Duration::from_millis(3)).await.unwrap();
        });
    }
    assert_eq!(*log.borrow(), [""; 0]);
}

/// A waker that was to be called when the run broke off is called in no other: it would keep that awake.
#[test]
fn a_waker_left_from_a_dead_end_does_not_keep_the_next_run_awake() {
    let mut kernel = after_a_dead_end(async {
        let child = spawn(pending::<()>());
        let waits = async {
            let mut join = pin!(child.join());
            let mut other = Context::from_waker(Waker::noop());
            poll_fn(|_| join.as_mut().poll(&mut other).map(drop)).await;
        };
        spawn(waits).detach();
        pending::<()>().await
    });
    kernel.run(async { sleep(LONG).await.unwrap() }); // its clock jumps: it has nothing else to do
}

/// Who is dropped as a run breaks off may have used up all operations of a step that never was.
#[test]
fn the_run_after_a_dead_end_has_its_operations() {
    struct Spender;
    impl Drop for Spender {
        fn drop(&mut self) {
            while kernel::trap::spend() {}
        }
    }
    let mut kernel = after_a_dead_end(async {
        let _spender = Spender;
        pending::<()>().await
    });
    kernel.run(async {
        kernel::trap::spend();
        yield_now().await.unwrap();
        assert!(kernel::trap::spend());
    });
}

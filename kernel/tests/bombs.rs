//! What panics where no task is to blame is logged, and takes nobody with it.

use std::{
    future::{Future, poll_fn},
    panic::{panic_any, resume_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use kernel::{Bell, Kernel, ManualClock, handle, remote, run_in_thread, sim::Sim, sleep, spawn};

/// Panics when it is dropped, without the noise on standard error.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            resume_unwind(Box::new("a bomb"));
        }
    }
}

/// An innocent task beside the main one, on a kernel on which `bomb` goes off meanwhile.
fn beside(bomb: impl AsyncFnOnce() + 'static) {
    kernel::run(async {
        let innocent = spawn(async {
            sleep(Duration::from_millis(1)).await.unwrap();
            7
        });
        bomb().await;
        assert_eq!(innocent.join().await.unwrap(), 7);
    })
    .unwrap();
}

#[test]
fn a_remote_value() {
    beside(async || {
        let value = remote(Bomb);
        run_in_thread(move || drop(value)).await.unwrap();
    });
}

#[test]
fn what_a_closure_from_outside_owns() {
    beside(async || {
        let (number, handle) = (remote(1), handle());
        run_in_thread(move || {
            let (one, other) = (Bomb, Bomb);
            number.with(move |_| {
                let _ = &one;
            });
            handle.spawn(move || {
                let _ = &other;
                async {}
            });
            assert_eq!(number.call(|n| *n), Ok(1));
        })
        .await
        .unwrap();
    });
}

#[test]
fn what_is_left_in_a_kernel_that_goes() {
    let mut kernel = Kernel::builder().build().unwrap();
    let (handle, _kept) = kernel.run(async { (handle(), [remote(Bomb), remote(Bomb)]) });
    for _ in 0..2 {
        let bomb = Bomb;
        handle.spawn(move || {
            let _ = &bomb;
            async {}
        });
    }
    drop(kernel);
}

#[test]
fn what_a_task_panicked_with() {
    beside(async || {
        spawn(async { panic_any(Bomb) }).detach();
        let joined = spawn(async { panic_any(Bomb) });
        drop(joined.join().await);
    });
}

#[test]
fn a_waker() {
    struct Bang;

    impl Wake for Bang {
        fn wake(self: Arc<Self>) {
            resume_unwind(Box::new("a waker"));
        }
    }

    Sim::new(1).run(async {
        let waits = spawn(async {
            let waker = Waker::from(Arc::new(Bang));
            let mut wait = pin!(sleep(Duration::from_millis(1)));
            poll_fn(|_| {
                let _ = wait.as_mut().poll(&mut Context::from_waker(&waker));
                Poll::<()>::Pending
            })
            .await
        });
        sleep(Duration::from_millis(2)).await.unwrap();
        drop(waits.cancel());
        waits.cancel().await.unwrap();
    });
}

/// A pool of one thread, whose result nobody takes: the thread is there for the next.
#[test]
fn a_threads_result() {
    let clock = ManualClock::new();
    let builder = Kernel::builder().manual_clock(clock).max_threads(1);
    builder.build().unwrap().run(async {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let begun = Bell::new();
        let ringer = begun.ringer();
        let task = spawn(run_in_thread(move || {
            ringer.ring();
            gone.recv().unwrap_err();
            Bomb
        }));
        begun.wait().await.unwrap();
        task.cancel().await.unwrap();
        drop(go);
        assert_eq!(run_in_thread(|| 5).await, Ok(5));
    });
}

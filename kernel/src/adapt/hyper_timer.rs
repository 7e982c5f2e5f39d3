//! `Timer` of `hyper::rt`.
//!
//! hyper asks for sleeps that are `Send` and `Sync`; ours belong to one thread. So a sleep stays
//! in a table of its thread, and what hyper gets is its number there. Polled elsewhere it panics;
//! dropped elsewhere it lets its thread know.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use ::hyper::rt;
use slab::Slab;

use crate::{
    Handle, handle,
    trap::{Ask, Trap, ask},
};

thread_local! {
    /// `None` while it is polled: nothing is borrowed then, for a waker is somebody else's code.
    static SLEEPS: RefCell<Slab<Option<Ask>>> = const { RefCell::new(Slab::new()) };
}

/// Lets hyper sleep on the running kernel, by its clock.
///
/// hyper cannot be told that a sleep was cut short: if the task is cancelled or its time is over,
/// the sleep ends early.
///
/// # Panics
/// Outside a running kernel, as do its sleeps on any other thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer;

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(crate::trap::after(duration))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        let sleep = ask(Trap::Sleep(deadline));
        Box::pin(Sleep {
            key: SLEEPS.with_borrow_mut(|sleeps| sleeps.insert(Some(sleep))),
            thread: thread::current().id(),
            kernel: handle(),
        })
    }

    fn now(&self) -> Instant {
        crate::now()
    }
}

/// A sleep in the table of its thread.
struct Sleep {
    key: usize,
    thread: ThreadId,
    kernel: Handle,
}

impl rt::Sleep for Sleep {}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        assert_eq!(
            thread::current().id(),
            self.thread,
            "a sleep of one kernel was polled on another thread"
        );
        let sleep = SLEEPS.with_borrow_mut(|sleeps| sleeps[self.key].take());
        let Some(mut sleep) = sleep else {
            return Poll::Ready(()); // polled once more after its end
        };
        match Pin::new(&mut sleep).poll(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => {
                SLEEPS.with_borrow_mut(|sleeps| sleeps[self.key] = Some(sleep));
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let key = self.key;
        let forget = move || {
            // Taken out first: its own drop runs where nothing is borrowed. At the very end of a
            // thread the table may be gone already.
            let sleep = SLEEPS.try_with(|sleeps| sleeps.borrow_mut().try_remove(key));
            drop(sleep);
        };
        match thread::current().id() == self.thread {
            true => forget(),
            false => self.kernel.call(forget),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::hyper::rt::Timer as _;

    const HOUR: Duration = Duration::from_secs(3600);

    fn kept() -> usize {
        SLEEPS.with_borrow(Slab::len)
    }

    #[test]
    fn it_goes_by_the_kernel_s_clock_and_leaves_nothing() {
        crate::sim::Sim::new(1).run(async {
            let start = Timer.now();
            Timer.sleep(HOUR).await;
            assert_eq!(Timer.now() - start, HOUR);
            let mut sleep = Timer.sleep(HOUR);
            Timer.reset(&mut sleep, Timer.now() + HOUR * 2);
            sleep.await;
            assert_eq!(Timer.now() - start, HOUR * 3);
            drop(Timer.sleep(HOUR)); // never polled
            let mut given_up = Timer.sleep(HOUR);
            let waker = std::task::Waker::noop();
            let mut cx = Context::from_waker(waker);
            assert!(given_up.as_mut().poll(&mut cx).is_pending());
            assert_eq!(kept(), 1);
            drop(given_up);
            assert_eq!((kept(), crate::stats().timers), (0, 0));
        });
    }

    #[test]
    fn dropped_on_another_thread_it_is_forgotten_on_its_own() {
        crate::run(async {
            let sleep = Timer.sleep(HOUR);
            assert_eq!(kept(), 1);
            crate::run_in_thread(move || drop(sleep)).await.unwrap();
            while kept() > 0 {
                crate::yield_now().await.unwrap();
            }
        })
        .unwrap();
    }

    #[test]
    fn polled_on_another_thread_it_panics() {
        let joined = crate::run(async {
            let mut sleep = Timer.sleep(HOUR);
            let poll = move || {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                sleep.as_mut().poll(&mut cx).is_ready()
            };
            crate::spawn(crate::run_in_thread(poll)).join().await
        });
        let error = joined.unwrap().unwrap_err();
        assert!(error.panic_message().unwrap().contains("another thread"));
    }
}

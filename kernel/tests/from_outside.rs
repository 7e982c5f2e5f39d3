//! Whatever the crate builds on its traps, anybody can: timeouts, a shield and a semaphore made here of
//! what is public in `kernel::trap` pass the very tests that the crate's own pass.

#[path = "cancel_everywhere/sync.rs"]
mod sync;
#[path = "cancel_everywhere/tasks.rs"]
mod tasks;
#[path = "timeouts.rs"]
mod timeouts;

/// As in `cancel_everywhere/support.rs`, but looks at the kernel only: here tests run side by side.
mod support {
    pub const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

    pub fn nothing() {}

    pub fn everywhere<F: Future + 'static>(
        least: usize,
        scenario: impl Fn() -> F,
        check: impl Fn() + 'static,
    ) {
        let awaits = kernel::sim::cancel_everywhere(scenario, check);
        assert!(awaits >= least, "only {awaits} awaits");
    }
}

/// A scope belongs to the run in which it was opened: in the next one its number is another's.
#[test]
fn a_scope_of_an_earlier_run_is_refused() {
    use kernel::{Kernel, sleep, trap::Scope};
    let second = std::time::Duration::from_secs(1);
    let mut kernel = Kernel::builder().build().unwrap();
    let mut scope = kernel.run(async move { Scope::after(second) });
    let error = kernel.run(async move {
        let later = kernel::spawn(async move {
            let mut future = std::pin::pin!(sleep(second));
            std::future::poll_fn(|cx| scope.poll(future.as_mut(), cx).map(drop)).await;
        });
        later.join().await.unwrap_err()
    });
    let said = error.panic_message().unwrap();
    assert!(said.contains("another run"), "{said}");
}

mod subject {
    use std::{
        cell::Cell,
        future::poll_fn,
        pin::{Pin, pin},
        rc::Rc,
        task::{Context, Poll},
        time::Duration,
    };

    use kernel::{
        Error, WaitQueue,
        trap::{Ask, Ended, Scope, Trap, Verdict, ask, check},
    };

    async fn inside<T>(mut scope: Scope, future: Pin<&mut impl Future<Output = T>>) -> Ended<T> {
        let mut future = future;
        poll_fn(|cx| scope.poll(future.as_mut(), cx)).await
    }

    // Boxed, for an `async fn` that pins its argument keeps it twice. (The crate's own is neither.)
    pub fn timeout_after<T, E: From<Error> + 'static>(
        duration: Duration,
        future: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, E>> {
        let mut future = Box::pin(future);
        async move {
            let scope = Scope::after(duration);
            inside(scope, future.as_mut()).await.judge()
        }
    }

    pub async fn ignore_after<T>(
        duration: Duration,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        let ended = inside(Scope::after(duration), pin!(future)).await;
        let mine = matches!(
            ended,
            Ended::Value(_, Some(Verdict::Mine)) | Ended::GivenUp(Verdict::Mine)
        );
        match ended.judge() {
            Err(Error::TaskTimeout) if mine => Ok(None),
            other => other.map(Some),
        }
    }

    pub async fn shield<F: Future>(future: F) -> F::Output {
        match inside(Scope::shield(), pin!(future)).await {
            Ended::Value(value, _) => value,
            Ended::GivenUp(_) => unreachable!("a shield has no deadline"),
        }
    }

    #[derive(Clone)]
    pub struct Semaphore {
        free: Rc<Cell<usize>>,
        line: WaitQueue,
    }

    impl Semaphore {
        pub fn new(permits: usize) -> Semaphore {
            let free = Rc::new(Cell::new(permits));
            let line = WaitQueue::named("a semaphore from outside");
            Semaphore { free, line }
        }

        pub fn available(&self) -> usize {
            self.free.get()
        }

        pub async fn acquire(&self) -> Result<Permit, Error> {
            if let Some(left) = self.free.get().checked_sub(1) {
                check()?;
                self.free.set(left);
                return Ok(Permit(self.clone()));
            }
            Acquire(self, ask(Trap::Wait(self.line.clone()))).await
        }

        fn release(&self) {
            if self.line.wake(1) == 0 {
                self.free.set(self.free.get() + 1);
            }
        }
    }

    pub struct Permit(Semaphore);

    impl Drop for Permit {
        fn drop(&mut self) {
            self.0.release();
        }
    }

    /// Whoever is woken owns a permit, and passes it on if it is dropped before it knows.
    struct Acquire<'a>(&'a Semaphore, Ask);

    impl Future for Acquire<'_> {
        type Output = Result<Permit, Error>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let answer = Pin::new(&mut self.1).poll(cx);
            answer.map_ok(|()| Permit(self.0.clone()))
        }
    }

    impl Drop for Acquire<'_> {
        fn drop(&mut self) {
            if self.1.was_granted() {
                self.0.release();
            }
        }
    }
}

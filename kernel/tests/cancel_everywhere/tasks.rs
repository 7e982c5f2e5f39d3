//! Time, tasks, groups, and the end of a run.

use std::{cell::Cell, rc::Rc};

use kernel::{
    Error, GroupError, JoinError, TaskGroup, at_shutdown, foreign, now, sleep, sleep_until, spawn,
    timeout_at,
    trap::{Trap, ask, breathe},
    yield_now,
};

use crate::{
    subject::{ignore_after, shield, timeout_after},
    support::{SECOND, everywhere, nothing},
};

#[test]
fn sleeps_and_timeouts() {
    let scenario = || async {
        sleep(SECOND).await?;
        sleep_until(now() + SECOND).await?;
        ask(Trap::Sleep(now() + SECOND)).await?;
        timeout_after(SECOND * 3, sleep(SECOND)).await?;
        timeout_at(now() + SECOND * 3, sleep(SECOND)).await?;
        ignore_after(SECOND, sleep(SECOND * 2)).await?;
        yield_now().await?;
        shield(sleep(SECOND)).await?;
        futures::join!(sleep(SECOND), sleep(SECOND * 2)).0
    };
    everywhere(10, scenario, nothing);
}

/// Nothing to wait for, but a step of so many operations is enough.
#[test]
fn operations_that_need_not_wait() {
    let scenario = || async {
        for _ in 0..300 {
            breathe().await?;
        }
        Ok::<_, Error>(())
    };
    everywhere(2, scenario, nothing);
}

/// A cleanup that takes a moment: the sleep that is disturbed is not the last await.
#[test]
fn cleaning_up() {
    let scenario = || async {
        let slept = timeout_after(SECOND, sleep(SECOND * 2)).await;
        sleep(SECOND).await?;
        match slept {
            Err(Error::TaskTimeout) => Ok(()),
            other => other,
        }
    };
    everywhere(2, scenario, nothing);
}

/// Futures that know nothing of us, woken by their own wakers.
#[test]
fn foreign_futures() {
    let scenario = || async {
        for bare in [false, true] {
            let (to, from) = futures::channel::oneshot::channel();
            let giver = spawn(async move {
                sleep(SECOND).await?;
                to.send(7).map_err(|_| Error::Closed)
            });
            let got = match bare {
                true => from.await,
                false => foreign(from).await?,
            };
            assert_eq!(got, Ok(7));
            giver.join().await??;
        }
        Ok::<_, JoinError>(())
    };
    everywhere(2, scenario, nothing);
}

#[test]
fn joining_and_cancelling() {
    let scenario = || async {
        spawn(sleep(SECOND)).join().await??;
        let waited = spawn(sleep(SECOND));
        waited.wait().await?;
        waited.join().await??;
        let cancelled = spawn(async {
            let _ = sleep(SECOND * 9).await;
            sleep(SECOND).await // cleaning up
        });
        cancelled.cancel().await?;
        cancelled.join().await??;
        let dropped = spawn(async {
            let _ = sleep(SECOND * 9).await;
            sleep(SECOND).await
        });
        yield_now().await?;
        dropped.cancel();
        kernel::cancel(dropped.id()).await?;
        match dropped.join().await {
            Err(JoinError::Cancelled) => Ok(()),
            other => other.map(drop),
        }
    };
    everywhere(4, scenario, nothing);
}

#[test]
fn daemons() {
    let scenario = || async {
        let serve = async { while sleep(SECOND).await.is_ok() {} };
        // It would stay until the run ends: the scenario has to end it.
        let daemon = CancelledOnDrop(spawn(serve).daemon());
        sleep(SECOND * 3).await?;
        daemon.0.cancel().await
    };
    everywhere(2, scenario, nothing);
}

struct CancelledOnDrop(kernel::JoinHandle<()>);

impl Drop for CancelledOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// As many hooks run as were registered, whatever became of who registered them.
#[test]
fn shutdown_hooks() {
    let counts = Rc::new((Cell::new(0), Cell::new(0)));
    let (used, checked) = (counts.clone(), counts.clone());
    let scenario = move || {
        let counts = used.clone();
        async move {
            sleep(SECOND).await?;
            counts.0.set(counts.0.get() + 1);
            at_shutdown(async move {
                sleep(SECOND).await.expect("it has five");
                counts.1.set(counts.1.get() + 1);
            });
            sleep(SECOND).await
        }
    };
    // The last kernel's hooks have not run when this is called.
    let check = move || assert!(checked.0.get() - checked.1.get() <= 1);
    everywhere(2, scenario, check);
    assert!(counts.0.get() > 0);
    assert_eq!(counts.0, counts.1);
}

/// A group of three, each of which has a child of its own, so that there is something to lose.
fn group() -> TaskGroup<u64, Error> {
    let mut group = TaskGroup::new();
    for n in 1..4 {
        group.spawn(async move {
            let below = spawn(sleep(SECOND * n as u32));
            let waited = below.wait().await;
            below.cancel().await?;
            waited.map(|()| n)
        });
    }
    group
}

#[test]
fn groups() {
    let scenario = || async {
        assert_eq!(group().join().await?.len(), 3);
        assert_eq!(group().join_any().await?, Some(1));
        assert_eq!(group().join_first().await?, Some(1));
        let mut one_by_one = group();
        while let Some(result) = one_by_one.next().await? {
            result?;
        }
        let mut known = group();
        while let Some((_id, result)) = known.next_with_id().await? {
            result?;
        }
        let mut given_up = group();
        sleep(SECOND).await?;
        given_up.cancel_all().await;
        Ok::<_, GroupError<Error>>(())
    };
    everywhere(7, scenario, nothing);
}

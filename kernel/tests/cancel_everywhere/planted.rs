//! Leaks on purpose: what finds none has to be seen finding some.

use std::{cell::Cell, rc::Rc};

use kernel::{
    Error, WaitQueue,
    sim::cancel_everywhere,
    sleep, spawn,
    trap::{Trap, ask},
    yield_now,
};

#[cfg(not(tsan))]
use crate::support::{Held, settled};
use crate::support::{SECOND, alone, nothing};

/// True if the scenario is refused.
fn is_found<F: Future<Output = Result<(), Error>> + 'static>(scenario: impl Fn() -> F) -> bool {
    said_of(scenario).is_some()
}

fn said_of<F: Future<Output = Result<(), Error>> + 'static>(
    scenario: impl Fn() -> F,
) -> Option<String> {
    let _alone = alone();
    let run = || cancel_everywhere(scenario, nothing);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).err()?;
    Some(*panic.downcast().expect("it says what was left"))
}

#[test]
fn what_is_found_is_told_in_words() {
    let said = said_of(|| async {
        let slept = sleep(SECOND).await;
        if slept == Err(Error::TaskTimeout) {
            spawn(std::future::pending::<()>()).name("lost").detach();
        }
        slept
    });
    let said = said.unwrap();
    let begin = "a scenario that timed out at await 1, as soon as it waited, in the order of seed 2, \
                 has left behind 2 tasks (1 before)\n";
    assert!(said.starts_with(begin), "{said}");
    assert!(said.contains(" foreign lost, spawned at "), "{said}");
}

/// Each of these leaves something behind after one sort of disturbance only.
#[test]
fn what_one_sort_of_disturbance_leaves_behind_is_found() {
    async fn leaving_behind_after(bad: Error) -> Result<(), Error> {
        let slept = sleep(SECOND).await;
        if slept == Err(bad) {
            spawn(std::future::pending::<()>()).detach();
        }
        slept
    }
    assert!(is_found(|| leaving_behind_after(Error::Cancelled)));
    assert!(is_found(|| leaving_behind_after(Error::TaskTimeout)));
    assert!(!is_found(|| leaving_behind_after(Error::Closed)));
    // Dropped in the middle, so only by a hard cancel.
    struct Litter;
    impl Drop for Litter {
        fn drop(&mut self) {
            spawn(std::future::pending::<()>()).detach();
        }
    }
    assert!(is_found(|| async {
        let litter = Litter;
        let slept = sleep(SECOND).await;
        std::mem::forget(litter);
        slept
    }));
}

/// A semaphore that forgets a permit which was handed to a waiter that never took it.
#[test]
fn what_is_lost_between_wake_and_run_is_found() {
    let free = Rc::new(Cell::new(true));
    let (used, checked) = (free.clone(), free.clone());
    let scenario = move || {
        let (free, line) = (used.clone(), WaitQueue::new());
        free.set(true);
        async move {
            free.set(false); // somebody has it
            let (back, next) = (free.clone(), line.clone());
            spawn(async move {
                let _ = yield_now().await;
                if next.wake(1) == 0 {
                    back.set(true);
                }
            });
            ask(Trap::Wait(line)).await?;
            free.set(true);
            Ok::<_, Error>(())
        }
    };
    let check = move || assert!(checked.get(), "a permit is lost");
    let _alone = alone();
    let run = || cancel_everywhere(scenario, check);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
}

/// Outside of the kernel.
#[cfg(not(tsan))] // see `Held::now`
#[test]
fn what_the_process_holds_is_counted() {
    let _alone = alone();
    let before = settled(|held| held.threads == 0 && !held.children);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_ne!(Held::now(), before);
    drop(file);
    assert_eq!(Held::now(), before);
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("kernel-thread".into());
    let thread = thread.spawn(move || told.recv().is_err()).unwrap();
    settled(|held| held.threads == 1); // it gives itself its name when it runs
    drop(tell);
    thread.join().unwrap();
    settled(|held| *held == before);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    assert!(Held::now().children);
    child.wait().unwrap();
    assert_eq!(Held::now(), before);
}

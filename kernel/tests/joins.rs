//! Joining by the parent (which stands in no table), by others, and by what turns from one into the other.

use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use futures::{FutureExt, StreamExt, future::join3, join, stream::FuturesUnordered};
use kernel::{
    Error, Join, JoinError, JoinHandle, Kernel, ManualClock, TaskState, shield, sleep, spawn,
    sync::{Event, oneshot},
    timeout_after, yield_now,
};

const SECOND: Duration = Duration::from_secs(1);
const INTERRUPTED: Result<u32, JoinError> = Err(JoinError::Interrupted(Error::Cancelled));

fn virtual_run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let builder = Kernel::builder().manual_clock(ManualClock::new());
    builder.build().unwrap().run(async {
        let value = main.await;
        sleep(SECOND * 10_000).await.unwrap(); // those that nobody joined any more end too
        let stats = kernel::stats();
        assert_eq!((stats.timers, stats.scopes, stats.waits), (0, 0, 0));
        value
    })
}

fn after(seconds: u32) -> JoinHandle<u32> {
    spawn(async move {
        sleep(SECOND * seconds).await.unwrap();
        seconds
    })
}

/// Polls a join once, and finds it pending.
async fn begin(join: &mut Join<u32>) {
    poll_fn(|cx| {
        assert!(join.poll_unpin(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

async fn let_run() {
    for _ in 0..3 {
        yield_now().await.unwrap();
    }
}

fn told(result: Result<u32, JoinError>) -> bool {
    format!("{result:?}") == format!("{INTERRUPTED:?}")
}

#[test]
fn a_parent_that_joins_is_listed_as_waiting_and_holds_no_wait() {
    virtual_run(async {
        let parent = spawn(async { after(1).join().await.unwrap() });
        let_run().await;
        assert_eq!(kernel::stats().waits, 1, "the child's sleep");
        let all = kernel::ps();
        let line = all.iter().find(|task| task.id == parent.id()).unwrap();
        let child = all
            .iter()
            .find(|task| task.parent == Some(parent.id()))
            .unwrap();
        assert_eq!(line.state, TaskState::Waiting);
        assert_eq!(line.waits[0].to_string(), format!("Join({})", child.id));
        assert_eq!(parent.join().await.unwrap(), 1);
    });
}

#[test]
fn a_join_that_is_dropped_is_forgotten_and_its_task_goes_on() {
    virtual_run(async {
        let ended = Rc::new(Cell::new(false));
        let (end, me) = (ended.clone(), kernel::current_task());
        let child = spawn(async move {
            sleep(SECOND).await.unwrap();
            end.set(true);
            1
        });
        let mut join = child.join();
        begin(&mut join).await;
        drop(join);
        let all = kernel::ps();
        assert!(
            all.iter()
                .find(|task| Some(task.id) == me)
                .unwrap()
                .waits
                .is_empty()
        );
        sleep(SECOND * 2).await.unwrap();
        assert!(ended.get());
    });
}

#[test]
fn a_cancel_reaches_each_of_several_joins_and_none_is_told_twice() {
    virtual_run(async {
        let event = Event::new();
        let set = event.clone();
        let parent = spawn(async move {
            let branch = |seconds| async move {
                let result = after(seconds).join().await;
                (told(result), sleep(SECOND).await)
            };
            let wait = async { (event.wait().await == Err(Error::Cancelled), Ok(())) };
            join3(branch(1000), branch(2000), wait).await
        });
        let_run().await;
        parent.cancel().await.unwrap();
        let (one, two, three) = parent.join().await.unwrap();
        assert_eq!([one, two, three], [(true, Ok(())); 3]);
        drop(set);
    });
}

#[test]
fn a_cancelled_join_alone_comes_back_and_the_child_goes_on() {
    virtual_run(async {
        let (to, from) = oneshot();
        let parent = spawn(async move {
            let child = spawn(async move {
                sleep(SECOND).await.unwrap();
                to.send("done").unwrap();
                1
            });
            let result = told(child.join().await);
            (result, sleep(Duration::from_millis(1)).await)
        });
        let_run().await;
        parent.cancel().await.unwrap();
        assert_eq!(parent.join().await.unwrap(), (true, Ok(())));
        assert_eq!(from.recv().await.unwrap(), Some("done"));
    });
}

#[test]
fn a_cancel_after_the_childs_end_leaves_the_result() {
    virtual_run(async {
        let event = Event::new();
        let set = event.clone();
        let parent = spawn(async move {
            let child = spawn(async move {
                event.wait().await.unwrap();
                7
            });
            (child.join().await.unwrap(), sleep(SECOND).await)
        });
        let_run().await;
        set.set();
        // The child ends in the turn that begins now, and makes its parent ready; we are before it.
        yield_now().await.unwrap();
        parent.cancel().await.unwrap();
        assert_eq!(parent.join().await.unwrap(), (7, Err(Error::Cancelled)));
    });
}

#[test]
fn a_join_that_has_begun_goes_on_under_a_timeout_a_shield_and_foreign_wakers() {
    virtual_run(async {
        let mut join = after(10).join();
        begin(&mut join).await;
        let early = timeout_after(SECOND, async { Ok::<_, Error>((&mut join).await) }).await;
        assert!(matches!(
            early,
            Ok(Err(JoinError::Interrupted(Error::TaskTimeout)))
        ));

        let mut join = after(10).join();
        begin(&mut join).await;
        assert_eq!(shield(&mut join).await.unwrap(), 10);

        let mut all: FuturesUnordered<_> = (1..4).map(|n| after(n).join()).collect();
        assert_eq!(all.next().await.unwrap().unwrap(), 1);
        let rest: Vec<_> = all.map(Result::unwrap).collect().await;
        assert_eq!(rest, [2, 3]);
    });
}

#[test]
fn a_join_that_has_begun_may_go_on_in_another_task() {
    virtual_run(async {
        let mut join = after(3).join();
        begin(&mut join).await;
        let other = spawn(join);
        assert_eq!(other.join().await.unwrap().unwrap(), 3);

        // The other is cancelled, not we.
        let mut join = after(3000).join();
        begin(&mut join).await;
        let other = spawn(join);
        let_run().await;
        other.cancel().await.unwrap();
        assert!(told(other.join().await.unwrap()));
    });
}

#[test]
fn a_child_that_panics_or_is_dropped_makes_its_parent_ready_too() {
    virtual_run(async {
        let bad = spawn(async {
            sleep(SECOND).await.unwrap();
            panic!("as planned")
        });
        let dropped = spawn(std::future::pending::<u32>());
        dropped.cancel().await.unwrap();
        let (bad, dropped): (Result<u32, _>, _) = join!(bad.join(), dropped.join());
        assert!(matches!(bad, Err(JoinError::Panicked(_))));
        assert!(matches!(dropped, Err(JoinError::Cancelled)));
    });
}

#[test]
fn a_parent_that_ends_while_it_joins_leaves_its_child_alone() {
    virtual_run(async {
        let (to, from) = oneshot();
        let parent = spawn(async move {
            let child = spawn(async move {
                sleep(SECOND).await.unwrap();
                to.send(1).unwrap();
                1
            });
            let mut join = pin!(child.join());
            begin(&mut join).await;
        });
        parent.join().await.unwrap();
        spawn(async {}).join().await.unwrap(); // in the parent's place
        assert_eq!(from.recv().await.unwrap(), Some(1));
    });
}

//! Timeouts: whose it was.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use kernel::{Error, Kernel, ManualClock, now, sleep};

use crate::subject::{ignore_after, shield, timeout_after};

/// What is tested; `from_outside.rs` puts its own in the place of these.
#[allow(unused_imports)]
mod subject {
    pub use kernel::{ignore_after, shield, timeout_after};
}

fn virtual_run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    let clock = ManualClock::new();
    Kernel::builder()
        .manual_clock(clock)
        .build()
        .unwrap()
        .run(async {
            let value = main.await;
            let stats = kernel::stats();
            assert_eq!(
                (stats.timers, stats.scopes, stats.waits),
                (0, 0, 0),
                "something leaked"
            );
            value
        })
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn in_time_is_no_timeout() {
    assert_eq!(
        virtual_run(timeout_after(SECOND, async {
            sleep(SECOND / 2).await?;
            Ok::<_, Error>(3)
        })),
        Ok(3)
    );
}

#[test]
fn ones_own_timeout() {
    virtual_run(async {
        let start = now();
        assert_eq!(
            timeout_after(SECOND, sleep(SECOND * 9)).await,
            Err(Error::TaskTimeout)
        );
        assert_eq!(now() - start, SECOND);
    });
}

#[test]
fn an_outer_timeout_gives_the_inner_block_up() {
    virtual_run(async {
        let outer = timeout_after(SECOND, async {
            let inner = timeout_after(SECOND * 5, sleep(SECOND * 9)).await;
            assert_eq!(inner, Err(Error::TimeoutCancellation));
            inner
        });
        assert_eq!(outer.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn an_inner_timeout_that_nobody_handles_is_uncaught_outside() {
    virtual_run(async {
        let outer = timeout_after(SECOND * 5, async {
            let inner = timeout_after(SECOND, sleep(SECOND * 9)).await;
            assert_eq!(inner, Err(Error::TaskTimeout));
            inner
        });
        assert_eq!(outer.await, Err(Error::UncaughtTimeout));
    });
}

#[test]
fn where_several_have_passed_the_outermost_owns_it() {
    virtual_run(async {
        let outer = timeout_after(SECOND, async {
            let inner = timeout_after(SECOND, sleep(SECOND * 9)).await;
            assert_eq!(inner, Err(Error::TimeoutCancellation));
            inner
        });
        assert_eq!(outer.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn an_expiry_answers_only_the_waits_below_it() {
    virtual_run(async {
        let (short, long) =
            futures::join!(timeout_after(SECOND, sleep(SECOND * 9)), sleep(SECOND * 3));
        assert_eq!((short, long), (Err(Error::TaskTimeout), Ok(())));
    });
}

#[test]
fn it_is_delivered_once_and_cleaning_up_may_wait() {
    virtual_run(async {
        let result = timeout_after(SECOND, async {
            assert_eq!(sleep(SECOND * 9).await, Err(Error::TaskTimeout));
            sleep(SECOND * 2).await?;
            Ok::<_, Error>("saved")
        });
        assert_eq!(result.await, Ok("saved"));
    });
}

#[test]
fn it_reaches_a_task_that_was_busy_when_it_passed_at_the_next_trap() {
    let clock = ManualClock::paused();
    let moved = clock.clone();
    Kernel::builder()
        .manual_clock(clock)
        .build()
        .unwrap()
        .run(async move {
            let result = timeout_after(SECOND, async {
                moved.advance(SECOND * 2); // a long computation
                for _ in 0..10_000 {
                    kernel::yield_now().await?; // the kernel looks at the time once a turn
                }
                Ok::<_, Error>(())
            });
            assert_eq!(result.await, Err(Error::TaskTimeout));
        });
}

#[test]
fn ignore_after_makes_its_own_expiry_no_error() {
    virtual_run(async {
        assert_eq!(ignore_after(SECOND, sleep(SECOND * 9)).await, Ok(None));
        assert_eq!(ignore_after(SECOND * 9, sleep(SECOND)).await, Ok(Some(())));
        let outer = timeout_after(SECOND, ignore_after(SECOND * 2, sleep(SECOND * 9)));
        assert_eq!(outer.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn a_shield_keeps_timeouts_from_outside_out_and_those_inside_work() {
    virtual_run(async {
        let result = timeout_after(SECOND, async {
            let inside = shield(async {
                sleep(SECOND * 3).await?;
                timeout_after(SECOND, sleep(SECOND * 3)).await
            });
            assert_eq!(inside.await, Err(Error::TaskTimeout));
            kernel::yield_now().await
        });
        assert_eq!(result.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn io_errors_carry_it_and_are_never_interrupted() {
    virtual_run(async {
        let result: io::Result<()> = timeout_after(SECOND, async {
            sleep(SECOND * 9).await?;
            Ok(())
        })
        .await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Other);
        assert_eq!(Error::in_io(&error), Some(Error::TaskTimeout));
    });
}

#[test]
fn another_error_raised_while_cleaning_up_stays_itself() {
    virtual_run(async {
        let result: io::Result<()> = timeout_after(SECOND, async {
            let _ = sleep(SECOND * 9).await;
            Err(io::ErrorKind::ConnectionReset.into())
        })
        .await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_boxed_error_carries_it_through_whatever_it_carries() {
    type Boxed = Box<dyn std::error::Error + Send + Sync>;
    virtual_run(async {
        let outer = timeout_after(SECOND, async {
            let inner = timeout_after(SECOND * 5, async {
                sleep(SECOND * 9).await.map_err(io::Error::from)?; // in an `io::Error` in a box
                Ok::<_, Boxed>(())
            })
            .await;
            let error = inner.unwrap_err();
            assert_eq!(Error::in_chain(&*error), Some(Error::TimeoutCancellation));
            Err::<(), _>(io::Error::other(error)) // and again
        });
        let error = outer.await.unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::TaskTimeout));
    });
}

#[derive(Debug, PartialEq)]
enum Mine {
    Kernel(Error),
}
impl From<Error> for Mine {
    fn from(e: Error) -> Mine {
        Mine::Kernel(e)
    }
}

#[test]
fn an_error_type_of_ones_own_needs_only_from() {
    virtual_run(async {
        let outer = timeout_after(SECOND, async {
            let inner = timeout_after(SECOND * 5, async {
                Ok::<_, Mine>(sleep(SECOND * 9).await?)
            })
            .await;
            assert_eq!(inner, Err(Mine::Kernel(Error::TimeoutCancellation)));
            inner
        });
        assert_eq!(outer.await, Err(Mine::Kernel(Error::TaskTimeout)));
    });
}

/// The five-level example of the founding documents: f3's deadline, +4 s, comes first.
#[test]
fn five_levels_each_learn_whose_it_was() {
    use std::{cell::RefCell, rc::Rc};
    type Log = Rc<RefCell<Vec<(&'static str, Error)>>>;
    async fn level(
        name: &'static str,
        seconds: u32,
        log: &Log,
        inner: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let result = timeout_after(SECOND * seconds, inner).await;
        log.borrow_mut().push((name, result.unwrap_err()));
        result
    }
    let log = Log::default();
    let seen = log.clone();
    virtual_run(async move {
        let f5 = level("f5", 8, &seen, sleep(SECOND * 100));
        let f4 = level("f4", 7, &seen, f5);
        let f3 = level("f3", 4, &seen, f4);
        let f2 = level("f2", 6, &seen, f3);
        let f1 = level("f1", 5, &seen, f2);
        assert_eq!(f1.await, Err(Error::UncaughtTimeout));
    });
    assert_eq!(
        *log.borrow(),
        [
            ("f5", Error::TimeoutCancellation),
            ("f4", Error::TimeoutCancellation),
            ("f3", Error::TaskTimeout),
            ("f2", Error::UncaughtTimeout),
            ("f1", Error::UncaughtTimeout),
        ]
    );
}

#[test]
fn a_timeout_is_awaited_again_after_it_was_handled_inside() {
    virtual_run(async {
        let result = timeout_after(SECOND * 3, async {
            assert_eq!(
                timeout_after(SECOND, sleep(SECOND * 9)).await,
                Err(Error::TaskTimeout)
            );
            sleep(SECOND * 9).await // the outer deadline still stands
        });
        assert_eq!(result.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn a_cancellation_inside_a_timeout_stays_a_cancellation() {
    virtual_run(async {
        let task = kernel::spawn(timeout_after(SECOND * 3, sleep(SECOND * 9)));
        kernel::yield_now().await.unwrap();
        task.cancel().await.unwrap();
        assert_eq!(task.join().await.unwrap(), Err(Error::Cancelled));
    });
}

/// `async fn timeout_after(future)` keeps its argument twice, so that the size of the future doubled
/// with each of the four layers below it: five levels overflowed the stack of a test thread.
#[test]
fn nested_timeouts_do_not_multiply_the_size_of_the_future() {
    fn layer(
        future: impl Future<Output = Result<(), Error>>,
    ) -> impl Future<Output = Result<(), Error>> {
        timeout_after(SECOND, future)
    }
    let ten = layer(layer(layer(layer(layer(layer(layer(layer(layer(
        layer(sleep(SECOND)),
    )))))))));
    assert!(size_of_val(&ten) < 1024, "{} bytes", size_of_val(&ten));
}

/// Found against Curio, which tells the block again: an attempt that is given up because of the
/// outer deadline looks like one that has failed, and the loop went on for ever.
#[test]
fn a_retry_loop_under_a_timeout_ends() {
    virtual_run(async {
        let start = now();
        let result = timeout_after(SECOND * 10, async {
            loop {
                if timeout_after(SECOND * 3, sleep(SECOND * 9)).await.is_ok() {
                    return Ok(());
                }
            }
        });
        assert_eq!(result.await, Err(Error::TaskTimeout));
        assert_eq!(now() - start, SECOND * 15); // with the cleanup budget
    });
}

#[test]
fn what_waits_in_no_trap_is_given_up_at_once() {
    use std::future::pending;
    virtual_run(async {
        let start = now();
        let foreign = timeout_after(SECOND, pending::<Result<(), Error>>());
        assert_eq!(foreign.await, Err(Error::TaskTimeout));
        let ignored = ignore_after(SECOND, pending::<Result<(), Error>>());
        assert_eq!(ignored.await, Ok(None));
        assert_eq!(now() - start, SECOND * 2);
    });
    // The same under a combinator that has a waker of its own.
    virtual_run(async {
        use futures::stream::{FuturesUnordered, StreamExt};
        let start = now();
        let mut all: FuturesUnordered<_> = (1..=3)
            .map(|seconds| timeout_after(SECOND * seconds, pending::<Result<(), Error>>()))
            .collect();
        while let Some(ended) = all.next().await {
            assert_eq!(ended, Err(Error::TaskTimeout));
        }
        assert_eq!(now() - start, SECOND * 3);
    });
}

#[test]
fn of_two_that_pass_over_foreign_code_the_outermost_owns_it() {
    virtual_run(async {
        let outer = timeout_after(SECOND, async {
            let inner = timeout_after(SECOND, std::future::pending::<Result<(), Error>>()).await;
            assert_eq!(inner, Err(Error::TimeoutCancellation));
            inner
        });
        assert_eq!(outer.await, Err(Error::TaskTimeout));
    });
}

#[test]
fn a_part_in_foreign_code_is_given_up_when_the_other_has_had_its_time() {
    virtual_run(async {
        let start = now();
        let both = timeout_after(SECOND, async {
            let (told, ()) = futures::join!(sleep(SECOND * 9), std::future::pending::<()>());
            told
        });
        assert_eq!(both.await, Err(Error::TaskTimeout));
        assert_eq!(now() - start, SECOND * 6);
    });
}

#[test]
fn a_shield_is_not_given_up() {
    virtual_run(async {
        let start = now();
        let shielded = timeout_after(SECOND, async {
            shield(sleep(SECOND * 20)).await.unwrap();
            std::future::pending::<Result<(), Error>>().await
        });
        assert_eq!(shielded.await, Err(Error::TaskTimeout));
        assert_eq!(now() - start, SECOND * 20);
    });
}

/// As in Curio: the cancelled task's cleanup is bounded by its budget, by nothing else.
#[test]
fn a_cancellation_switches_the_timeouts_around_it_off() {
    virtual_run(async {
        for begun in [true, false] {
            let task = kernel::spawn(timeout_after(SECOND, async {
                assert_eq!(sleep(SECOND * 9).await, Err(Error::Cancelled));
                sleep(SECOND * 3).await?; // cleaning up
                timeout_after(SECOND, sleep(SECOND * 9)).await // a new one works
            }));
            if begun {
                kernel::yield_now().await.unwrap();
            }
            task.cancel().await.unwrap();
            assert_eq!(task.join().await.unwrap(), Err(Error::UncaughtTimeout));
        }
    });
}

/// A timeout that was begun inside another and outlives it must not take whatever gets the other's
/// number for its own surroundings.
#[test]
fn a_timeout_outlives_the_one_it_was_begun_in() {
    virtual_run(async {
        let start = now();
        let mut long = Box::pin(timeout_after(SECOND * 60, async {
            let told = sleep(SECOND * 9).await;
            assert_eq!(told, Err(Error::TimeoutCancellation));
            sleep(SECOND * 200).await
        }));
        let short = timeout_after(SECOND, &mut long).await;
        assert_eq!(
            (short, now() - start),
            (Err(Error::TaskTimeout), SECOND * 6)
        );
        let (other, long) = futures::join!(
            timeout_after(SECOND, std::future::pending::<Result<(), Error>>()),
            long
        );
        assert_eq!(other, Err(Error::TaskTimeout));
        assert_eq!(
            (long, now() - start),
            (Err(Error::TaskTimeout), SECOND * 60)
        );
    });
}

/// A timeout that was begun somewhere stands where it is polled: one around it that was opened later
/// has a say in it, in its own task or another's.
#[test]
fn a_timeout_moves_into_another_that_was_opened_later() {
    virtual_run(async {
        for elsewhere in [false, true] {
            let start = now();
            let mut long = Box::pin(timeout_after(SECOND * 60, sleep(SECOND * 90)));
            assert!(futures::poll!(&mut long).is_pending());
            let short = timeout_after(SECOND, long);
            let told = match elsewhere {
                false => short.await,
                true => kernel::spawn(short).join().await.unwrap(),
            };
            assert_eq!((told, now() - start), (Err(Error::TaskTimeout), SECOND));
        }
    });
}

/// The same for a shield: the cancellation of the task that polls it has to wait.
#[test]
fn a_shield_moves_into_another_task() {
    virtual_run(async {
        let mut shielded = Box::pin(shield(sleep(SECOND)));
        assert!(futures::poll!(&mut shielded).is_pending());
        let task = kernel::spawn(async move {
            let inside = shielded.await;
            (inside, sleep(SECOND).await)
        });
        kernel::yield_now().await.unwrap();
        let _twice = (task.cancel(), task.cancel());
        assert!(!task.is_finished(), "a shield wins over a second cancel");
        let ended = task.wait().await;
        assert_eq!(ended, Ok(()));
    });
}

/// Has a future polled once here, then goes on with it in another task.
async fn in_another_task<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let mut future = Box::pin(future);
    assert!(futures::poll!(&mut future).is_pending());
    kernel::spawn(future).join().await.unwrap()
}

#[test]
fn a_timeout_moves_into_another_task() {
    virtual_run(async {
        let start = now();
        let mine = in_another_task(timeout_after(SECOND, sleep(SECOND * 9))).await;
        assert_eq!(mine, Err(Error::TaskTimeout));
        assert_eq!(now() - start, SECOND);
    });
}

#[test]
fn a_task_out_of_which_a_shield_was_moved_can_be_dropped() {
    virtual_run(async {
        let (give, take) = kernel::sync::oneshot();
        let task = kernel::spawn(async move {
            let mut shielded = Box::pin(shield(sleep(SECOND)));
            assert!(futures::poll!(&mut shielded).is_pending());
            assert!(give.send(shielded).is_ok());
            std::future::pending::<()>().await
        });
        let shielded = take.recv().await.unwrap().unwrap();
        let moved = kernel::spawn(shielded);
        kernel::yield_now().await.unwrap();
        drop(task.cancel());
        let dropped = timeout_after(SECOND / 2, task.cancel()).await;
        assert_eq!(dropped, Ok(()));
        assert_eq!(moved.join().await.unwrap(), Ok(()));
    });
}

#[test]
fn many_timeouts_over_shields_expire_quickly() {
    let begin = std::time::Instant::now();
    virtual_run(async {
        let tasks: Vec<_> = (0..40_000)
            .map(|_| kernel::spawn(timeout_after(SECOND, shield(sleep(SECOND * 2)))))
            .collect();
        for task in tasks {
            task.join().await.unwrap().unwrap();
        }
    });
    // Each of them searched among the shields of all the others. (Memcheck takes half a minute.)
    assert!(begin.elapsed() < Duration::from_secs(120));
}

/// The waker of a combinator that polled it once must not be the one that is called.
#[test]
fn one_that_a_combinator_polled_before_passes_in_time() {
    virtual_run(async {
        let start = now();
        let foreign = async {
            pending::<()>().await;
            Ok::<(), Error>(())
        };
        let mut timeout = pin!(timeout_after(Duration::from_millis(10), foreign));
        poll_fn(|_| {
            let other = &mut Context::from_waker(Waker::noop());
            assert!(timeout.as_mut().poll(other).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(timeout.await.is_err());
        assert_eq!(now() - start, Duration::from_millis(10));
    });
}

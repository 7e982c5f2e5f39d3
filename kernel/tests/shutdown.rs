//! The end of a run: hooks, tasks that are left, daemons; and what the log says of them.

use std::{cell::RefCell, future::pending, rc::Rc, sync::Once, time::Duration};

use kernel::{Builder, Kernel, ManualClock, at_shutdown, sleep, spawn, sync::Event, yield_now};

thread_local! {
    /// What the kernel has logged on this thread: tests share the logger.
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Keep;

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        LINES.with_borrow_mut(|lines| lines.push(line));
    }

    fn flush(&self) {}
}

/// Runs it on a clock that jumps; gives the warnings and errors that were logged meanwhile.
fn logged(main: impl Future<Output = ()> + 'static) -> Vec<String> {
    logged_by(Kernel::builder(), main)
}

fn logged_by(builder: Builder, main: impl Future<Output = ()> + 'static) -> Vec<String> {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Keep).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    let builder = builder.manual_clock(ManualClock::new());
    builder.build().unwrap().run(main);
    LINES.take()
}

type Order = Rc<RefCell<Vec<&'static str>>>;

#[test]
fn a_task_that_is_left_is_cancelled_and_named() {
    let order = Order::default();
    let seen = order.clone();
    let lines = logged(async move {
        spawn(async move {
            assert_eq!(
                sleep(Duration::from_secs(60)).await,
                Err(kernel::Error::Cancelled)
            );
            yield_now().await.unwrap(); // cleaning up
            seen.borrow_mut().push("cleaned up");
        })
        .name("straggler");
        yield_now().await.unwrap();
    });
    assert_eq!(*order.borrow(), ["cleaned up"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("WARN kernel: main has ended before task #2 straggler, spawned at"),
        "{lines:?}"
    );
    assert!(lines[0].contains("tests/shutdown.rs:"), "{lines:?}");
}

#[cfg(feature = "process")]
#[test]
#[cfg_attr(any(miri, bare), ignore = "needs a system")]
fn the_kernels_own_reaper_is_not_mentioned() {
    let lines = logged(async {
        let mut command = kernel::process::Command::new("sleep");
        drop(command.arg("100").spawn().unwrap());
    });
    assert_eq!(lines, [""; 0]);
}

#[test]
fn a_crowd_that_is_left_takes_few_lines() {
    let lines = logged(async {
        (0..11).for_each(|_| drop(spawn(sleep(Duration::from_secs(60)))));
    });
    assert!(
        lines[10].contains("before one more task, which is"),
        "{lines:?}"
    );
}

#[test]
fn a_large_crowd_that_is_left_takes_as_few_lines() {
    let lines = logged(async {
        for _ in 0..1000 {
            spawn(sleep(Duration::from_secs(60)));
        }
    });
    assert_eq!(lines.len(), 11, "{lines:?}");
    assert!(lines[10].contains("990 more tasks"), "{lines:?}");
}

#[test]
fn a_daemon_serves_the_others_to_their_end_and_is_not_mentioned() {
    let order = Order::default();
    let (served, serving) = (order.clone(), order.clone());
    let lines = logged(async move {
        let (to, from) = kernel::sync::mailbox::<&str>();
        let open = to.clone(); // the daemon is not to end because nobody can send any more
        spawn(async move {
            while let Ok(Some(said)) = from.recv().await {
                served.borrow_mut().push(said);
            }
            served.borrow_mut().push("daemon ends");
            drop(open);
        })
        .daemon();
        spawn(async move {
            let _ = sleep(Duration::from_secs(60)).await; // cancelled
            to.send("goodbye").unwrap();
            yield_now().await.unwrap();
            serving.borrow_mut().push("task ends");
        })
        .name("straggler");
        yield_now().await.unwrap();
        assert!(kernel::ps().iter().any(|task| task.daemon));
    });
    assert_eq!(*order.borrow(), ["goodbye", "task ends", "daemon ends"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("straggler"), "{lines:?}");
}

#[test]
fn hooks_run_last_first_while_tasks_still_do() {
    let order = Order::default();
    let (a, b, ended) = (order.clone(), order.clone(), order.clone());
    let lines = logged(async move {
        let asked = Event::new();
        let answered = Event::new();
        let (ask, answer) = (asked.clone(), answered.clone());
        let served = spawn(async move {
            asked.wait().await.unwrap();
            answer.set();
        });
        at_shutdown(async move { a.borrow_mut().push("first registered") });
        at_shutdown(async move {
            sleep(Duration::from_secs(2)).await.unwrap(); // less than it may take
            ask.set();
            answered.wait().await.unwrap();
            served.join().await.unwrap();
            b.borrow_mut().push("second registered");
        });
        ended.borrow_mut().push("main");
    });
    assert_eq!(
        *order.borrow(),
        ["main", "second registered", "first registered"]
    );
    assert_eq!(lines, [] as [String; 0]);
}

#[test]
fn a_hook_that_hangs_or_panics_is_named_and_the_next_one_runs() {
    let order = Order::default();
    let (polite, last) = (order.clone(), order.clone());
    let lines = logged(async move {
        at_shutdown(async move { last.borrow_mut().push("last") });
        at_shutdown(async { std::panic::resume_unwind(Box::new("on purpose")) });
        at_shutdown(pending());
        at_shutdown(async move {
            let late = sleep(Duration::from_secs(3600)).await;
            assert_eq!(late, Err(kernel::Error::TaskTimeout));
            polite.borrow_mut().push("polite");
        });
    });
    assert_eq!(*order.borrow(), ["polite", "last"]);
    let hooks: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("shutdown hook"))
        .collect();
    assert_eq!(hooks.len(), 2, "{lines:?}");
    assert!(
        hooks[0].starts_with("WARN") && hooks[0].contains("did not end in time"),
        "{lines:?}"
    );
    assert!(
        hooks[1].starts_with("ERROR") && hooks[1].ends_with("panicked: on purpose"),
        "{lines:?}"
    );
}

#[test]
fn hooks_run_also_if_main_panics() {
    let order = Order::default();
    let seen = order.clone();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        logged(async move {
            at_shutdown(async move { seen.borrow_mut().push("hook") });
            std::panic::resume_unwind(Box::new("on purpose"))
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(*order.borrow(), ["hook"]);
}

#[test]
fn a_panic_that_nobody_joins_is_loud_and_one_that_is_joined_is_not() {
    let lines = logged(async {
        let fail = || async { std::panic::resume_unwind(Box::new("on purpose")) };
        spawn(async move { fail().await }).name("alone").detach();
        let joined = spawn(async move { fail().await })
            .name("joined")
            .join()
            .await;
        let error: kernel::JoinError = joined.unwrap_err();
        assert_eq!(error.panic_message(), Some("on purpose"));
        let kept = spawn(async move { fail().await }).name("kept");
        kept.wait().await.unwrap();
        let _: &kernel::JoinHandle<()> = &kept;
        drop(kept); // it was never asked
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, name) in lines.iter().zip(["alone", "kept"]) {
        let begin = format!(
            "ERROR kernel task #{} {name}, spawned at ",
            if name == "alone" { 2 } else { 4 }
        );
        assert!(line.starts_with(&begin), "{line}");
        assert!(
            line.ends_with("panicked and nobody joins it: on purpose"),
            "{line}"
        );
    }
}

#[test]
fn tasks_that_come_from_other_threads_too_late_are_counted() {
    let lines = logged(async {
        let handle = kernel::handle();
        at_shutdown(async {
            let thread = move || (0..3).for_each(|_| handle.spawn(pending::<()>));
            kernel::run_in_thread(thread).await.unwrap();
        });
    });
    let said = "WARN kernel: main had ended before 3 tasks from other threads were taken up: they \
                were not started";
    assert_eq!(lines, [said]);
}

/// One that was handed in in time, but found no turn, is counted as well.
#[test]
fn a_task_that_came_while_main_blocked_is_mentioned() {
    let lines = logged(async {
        let handle = kernel::handle();
        let thread = std::thread::spawn(move || handle.spawn(pending::<()>));
        thread.join().unwrap();
    });
    let said = "WARN kernel: main had ended before a task from another thread was taken up: it was not started";
    assert_eq!(lines, [said]);
}

/// It does not say that a task is dropped which goes on, and ends with its value.
#[test]
fn a_shielded_task_that_takes_too_long_to_clean_up_is_said_to_go_on() {
    let lines = logged(async {
        let shielded = spawn(async {
            kernel::shield(sleep(Duration::from_secs(60)))
                .await
                .unwrap();
            7
        });
        yield_now().await.unwrap();
        shielded.cancel().await.unwrap();
        assert_eq!(shielded.join().await.unwrap(), 7);
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let said = "is used up, and it is dropped once its shield ends, unless it ends by itself: #2 ";
    assert!(lines[0].contains(said), "{lines:?}");
}

#[test]
fn a_task_that_takes_too_long_to_clean_up_is_listed_with_what_it_waits_for() {
    let lines = logged(async {
        let deaf = spawn(async {
            let _told = sleep(Duration::from_secs(60)).await;
            let _goes_on = sleep(Duration::from_secs(3600)).await;
        });
        yield_now().await.unwrap();
        deaf.cancel().await.unwrap();
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    let begin = "WARN kernel: the cleanup budget of a cancelled task is used up, and it is dropped: \
                 #2     waiting Sleep(3595.0s) (no name), spawned at ";
    assert!(lines[0].starts_with(begin), "{lines:?}");
    assert!(lines[0].ends_with(" by #1, cancelled"), "{lines:?}");
}

/// It is no task's step, and in the way of all.
#[test]
fn a_slow_closure_from_another_thread_is_named_by_where_it_was_sent() {
    let lines = logged_by(Kernel::builder().slow_step(Duration::ZERO), async {
        let remote = kernel::remote(());
        let thread = move || remote.call(|()| ()).unwrap();
        kernel::run_in_thread(thread).await.unwrap();
    });
    let sent = "WARN kernel: a closure that another thread sent at ";
    let line = lines.iter().find(|line| line.starts_with(sent));
    let line = line.unwrap_or_else(|| panic!("{lines:?}"));
    assert!(line.contains("tests/shutdown.rs:"), "{line}");
    assert!(
        line.ends_with("without a pause; nothing else could"),
        "{line}"
    );
}

#[test]
fn what_is_spawned_while_the_run_ends_does_not_keep_it() {
    // The story: a task that was spawned by another's cleanup, and waits in a foreign future, had
    // no cleanup budget and kept the run for ever.
    logged(async {
        spawn(async {
            let _ = sleep(Duration::from_secs(60)).await;
            spawn(pending::<()>());
        });
        yield_now().await.unwrap();
    });
}

/// A task in foreign code that wakes itself without end is never told; the clock of a test must not wait
/// for it to be idle.
#[test]
fn a_clock_that_stands_still_does_not_keep_a_run_from_ending() {
    for clock in [ManualClock::new(), ManualClock::paused()] {
        let mut kernel = Kernel::builder().manual_clock(clock).build().unwrap();
        kernel.run(async {
            spawn(std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                std::task::Poll::<()>::Pending
            }))
            .detach();
        });
    }
}

//! What can be seen of a running kernel: listings, accounts, observers, slow steps.

use std::{
    cell::RefCell,
    future::pending,
    os::fd::{AsFd, AsRawFd},
    rc::Rc,
    time::Duration,
};

use kernel::{
    Kernel, Observed, Observer, TaskInfo, TaskState, foreign, net::UnixStream, ps, sleep, spawn,
    sync::Event, yield_now,
};

fn line(name: &str) -> TaskInfo {
    let all = ps();
    let line = all.iter().find(|task| task.name == name);
    line.unwrap_or_else(|| panic!("no task {name} in {all:?}"))
        .clone()
}

fn waits(name: &str) -> Vec<String> {
    line(name).waits.iter().map(ToString::to_string).collect()
}

#[test]
fn a_listing_says_who_waits_for_what() {
    let clock = kernel::ManualClock::paused();
    let mut kernel = Kernel::builder().manual_clock(clock).build().unwrap();
    kernel.run(async {
        let (socket, _other) = UnixStream::pair().unwrap();
        let fd = socket.as_fd().as_raw_fd();
        let event = Event::new();
        let asleep = spawn(sleep(Duration::from_millis(1500))).name("asleep");
        let asleep_id = asleep.id();
        spawn(async move { socket.read(&mut [0; 8]).await.map(drop) }).name("reader");
        spawn(async move { event.wait().await }).name("listener");
        spawn(async move { asleep.join().await.map(drop) }).name("joiner");
        spawn(async { foreign(pending::<()>()).await }).name("elsewhere");
        spawn(pending::<()>()).name("lost");
        spawn(async {
            let (a, b) = (
                Box::pin(sleep(Duration::from_secs(1))),
                Box::pin(sleep(Duration::from_secs(2))),
            );
            futures::future::select(a, b).await;
        })
        .name("both");
        let me = kernel::current_task();
        for _ in 0..3 {
            yield_now().await.unwrap();
        }
        assert_eq!(waits("asleep"), ["Sleep(1.5s)"]);
        assert_eq!(waits("reader"), [format!("Readable(fd {fd})")]);
        assert_eq!(waits("listener"), ["Wait(Event)"]);
        assert_eq!(waits("joiner"), [format!("Join({asleep_id})")]);
        assert_eq!(waits("both"), ["Sleep(1.0s)", "Sleep(2.0s)"]);
        assert_eq!(waits("elsewhere"), ["Wait(foreign future)"]);
        assert_eq!(
            (waits("lost"), line("lost").state),
            (vec![], TaskState::Foreign)
        );
        assert_eq!(line("reader").state, TaskState::Waiting);
        assert_eq!(line("main").state, TaskState::Running);
        assert_eq!(line("reader").parent, me);
        assert!(line("reader").spawned_at.file().ends_with("seeing.rs"));
        spawn(async {}).name("fresh");
        assert_eq!(line("fresh").state, TaskState::Ready);
        assert!(line("fresh").account.is_none(), "nobody asked for accounts");
    });
}

/// A name may come from anywhere; a listing has one line a task, and is read on terminals.
#[test]
fn a_name_does_not_break_its_line() {
    kernel::run(async {
        let name = "a \"b\"\nfoo\r\x1b[2J\u{7f}\u{85} \\ ü";
        let escaped = r#"a "b"\nfoo\r\u{1b}[2J\u{7f}\u{85} \ ü"#;
        let id = spawn(pending::<()>()).name(name).id();
        let listed = ps();
        let line = listed.iter().find(|task| task.id == id).unwrap();
        assert_eq!(line.name, escaped);
        assert!(!line.to_string().contains(char::is_control), "{line}");
        assert!(line.to_string().contains(escaped), "{line}");
    })
    .unwrap();
}

#[test]
fn accounts_are_kept_when_asked_for() {
    let clock = kernel::ManualClock::paused();
    let moved = clock.clone();
    let mut kernel = Kernel::builder()
        .manual_clock(clock)
        .accounts()
        .build()
        .unwrap();
    kernel.run(async move {
        spawn(async { while yield_now().await.is_ok() {} }).name("busy");
        for _ in 0..10 {
            yield_now().await.unwrap();
        }
        moved.advance(Duration::from_secs(7));
        let account = line("busy").account.unwrap();
        assert_eq!((account.age, account.polls), (Duration::from_secs(7), 10));
        assert!(account.busy > Duration::ZERO && account.cpu > Duration::ZERO);
        assert!(line("busy").to_string().contains("age 7.0s, 10 polls"));
    });
}

/// Writes down all it is told.
#[derive(Clone, Default)]
struct Diary(Rc<RefCell<Vec<String>>>);

impl Diary {
    fn note(&self, what: &str, task: &Observed<'_>) {
        let line = format!("{what} {}", task.name());
        self.0.borrow_mut().push(line);
    }
}

impl Observer for Diary {
    fn created(&self, task: &Observed<'_>) {
        self.note("created", task); // it has no name yet
    }

    fn running(&self, task: &Observed<'_>) {
        self.note("running", task);
    }

    fn suspended(&self, task: &Observed<'_>) {
        let alone = kernel::current_task().is_none();
        let listed = ps().iter().any(|line| line.id == task.id());
        self.note(
            if alone && listed {
                "suspended"
            } else {
                "wrong"
            },
            task,
        );
    }

    fn terminated(&self, task: &Observed<'_>) {
        self.note("terminated", task);
    }

    fn slow_step(&self, task: &Observed<'_>, took: Duration) {
        assert!(took > Duration::ZERO);
        assert!(task.to_string().contains("spawned at"), "{task}");
        self.note("slow", task);
    }
}

#[test]
fn an_observer_is_told_of_every_event_in_order() {
    let diary = Diary::default();
    let mut kernel = Kernel::builder().observer(diary.clone()).build().unwrap();
    kernel.run(async {
        let twice = spawn(async { yield_now().await }).name("twice");
        twice.join().await.unwrap().unwrap();
        let panics = spawn(async { std::panic::resume_unwind(Box::new("on purpose")) });
        panics.name("panics").join().await.unwrap_err();
        let dropped = spawn(pending::<()>()).name("dropped");
        drop(dropped.cancel());
        dropped.cancel().await.unwrap();
    });
    let diary = diary.0.borrow();
    let of = |name: &str| -> Vec<&str> {
        let lines = diary.iter().filter_map(|line| line.strip_suffix(name));
        lines.map(str::trim).collect()
    };
    assert_eq!(
        of("twice"),
        ["running", "suspended", "running", "terminated"]
    );
    assert_eq!(of("panics"), ["running", "terminated"]);
    assert_eq!(of("dropped"), ["terminated"]);
    assert_eq!(of("main").first(), Some(&"running"));
    assert_eq!(of("main").last(), Some(&"terminated"));
    assert_eq!(diary.iter().filter(|line| *line == "created ").count(), 4);
}

#[test]
fn an_observer_that_panics_ends_nobody() {
    struct Clumsy;

    impl Observer for Clumsy {
        fn created(&self, _: &Observed<'_>) {
            std::panic::resume_unwind(Box::new("created"));
        }

        fn running(&self, _: &Observed<'_>) {
            std::panic::resume_unwind(Box::new("running"));
        }

        fn suspended(&self, _: &Observed<'_>) {
            std::panic::resume_unwind(Box::new("suspended"));
        }

        fn terminated(&self, _: &Observed<'_>) {
            std::panic::resume_unwind(Box::new("terminated"));
        }
    }

    let mut kernel = Kernel::builder().observer(Clumsy).build().unwrap();
    let joined = kernel.run(async { spawn(yield_now()).join().await });
    assert_eq!(joined.unwrap(), Ok(()));
}

#[test]
fn a_slow_step_is_reported_and_a_quick_one_is_not() {
    for (bound, slow) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let diary = Diary::default();
        let builder = Kernel::builder().observer(diary.clone()).slow_step(bound);
        builder.build().unwrap().run(async {
            std::hint::black_box((0..10_000).sum::<u64>());
        });
        let told = diary.0.borrow().iter().any(|line| line == "slow main");
        assert_eq!(told, slow, "{bound:?}");
    }
}

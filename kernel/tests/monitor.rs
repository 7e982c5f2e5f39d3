//! The monitor answers over its socket, also when the kernel is stuck, and then names the culprit.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    sync::{Arc, Barrier, mpsc},
    thread,
    time::Duration,
};

use kernel::{Kernel, run_in_thread, sleep, spawn, yield_now};

/// A path that no other test uses.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kernel-{name}-{}", std::process::id()))
}

struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    fn new(path: &PathBuf) -> Client {
        let stream = UnixStream::connect(path).unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap());
        Client { stream, lines }
    }

    fn say(&mut self, command: &str) -> String {
        writeln!(self.stream, "{command}").unwrap();
        let mut answer = String::new();
        while self.lines.read_line(&mut answer).unwrap() > 1 {}
        answer.trim_end().to_owned()
    }

    /// On a machine that is slow enough, a healthy loop may miss its time: asks again.
    fn say_healthy(&mut self, command: &str) -> String {
        loop {
            let answer = self.say(command);
            if !answer.contains("STUCK") {
                return answer;
            }
        }
    }
}

#[test]
fn it_lists_counts_and_cancels() {
    let path = path("healthy");
    let mut kernel = Kernel::builder().monitor(&path).accounts().build().unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let there = path.clone();
    kernel.run(async move {
        let lazy = spawn(sleep(Duration::from_secs(3600))).name("lazy");
        let id = lazy.id();
        let asking = spawn(run_in_thread(move || {
            let (mut client, mut other) = (Client::new(&there), Client::new(&there));
            let tasks = client.say_healthy("ps");
            assert!(tasks.contains("waiting Sleep(3"), "{tasks}");
            assert!(tasks.contains("lazy, spawned at "), "{tasks}");
            assert!(tasks.contains(" polls, busy "), "{tasks}");
            let some = other.say_healthy("ps 1");
            assert!(some.contains("and 2 more"), "{some}");
            assert!(client.say_healthy("stats").contains("tasks: 3"));
            assert!(!client.say("now").is_empty());
            assert!(client.say("help").contains("cancel ID"));
            assert!(client.say("make tea").contains("not understood"));
            assert!(client.say("cancel tea").contains("needs the number"));
            assert_eq!(other.say_healthy("cancel 99999"), "there is no task #99999");
            let cancelled = other.say_healthy(&format!("cancel {id}"));
            assert_eq!(cancelled, format!("task {id} is cancelled"));
        }));
        let cancelled = lazy.join().await.unwrap();
        assert_eq!(cancelled, Err(kernel::Error::Cancelled));
        asking.join().await.unwrap().unwrap();
    });
    drop(kernel);
    assert!(!path.exists());
}

#[test]
fn it_names_the_task_that_blocks_the_loop() {
    let path = path("stuck");
    let mut kernel = Kernel::builder().monitor(&path).build().unwrap();
    let (release, blocked) = mpsc::channel::<()>();
    let there = path.clone();
    let story = kernel.run(async move {
        let mut client = run_in_thread(move || {
            let mut client = Client::new(&there);
            client.say_healthy("ps");
            client
        })
        .await
        .unwrap();
        // Asks until it is told of the task that blocks, and only then lets that one go on.
        let asking = thread::spawn(move || {
            loop {
                let answer = client.say("ps");
                if answer.contains("culprit") && answer.contains("STUCK") {
                    let now = client.say("now");
                    release.send(()).unwrap();
                    return (answer, now, client.say_healthy("ps"));
                }
            }
        });
        let culprit = spawn(async move { blocked.recv().unwrap() }).name("culprit");
        culprit.join().await.unwrap();
        run_in_thread(|| asking.join().unwrap()).await.unwrap()
    });
    let (stuck, now, healthy) = story;
    assert!(stuck.contains("the loop has not answered for 1"), "{stuck}");
    assert!(stuck.contains("culprit, spawned at "), "{stuck}");
    assert!(stuck.contains("has been running for"), "{stuck}");
    assert!(stuck.contains("the last listing, "), "{stuck}");
    assert!(stuck.contains("tests/monitor.rs:"), "{stuck}");
    assert!(now.contains("culprit, spawned at"), "{now}");
    assert!(!healthy.contains("culprit"), "{healthy}");
}

/// What another thread sends is no task's, and is named by where it was sent.
#[test]
fn it_names_the_closure_that_blocks_the_loop() {
    let path = path("sent");
    let mut kernel = Kernel::builder().monitor(&path).build().unwrap();
    let (release, blocked) = mpsc::channel::<()>();
    let now = kernel.run(async move {
        let remote = kernel::remote(());
        let thread = move || {
            let mut client = Client::new(&path);
            remote.with(move |()| blocked.recv().unwrap());
            loop {
                let now = client.say("now");
                if now.contains("a closure") {
                    release.send(()).unwrap();
                    return now;
                }
            }
        };
        run_in_thread(thread).await.unwrap()
    });
    assert!(
        now.starts_with("a closure that another thread sent at ")
            && now.contains("tests/monitor.rs:"),
        "{now}"
    );
    assert!(now.contains("has been running for"), "{now}");
}

#[test]
fn a_cancel_that_finds_the_loop_stuck_says_that_it_is_in_line() {
    let path = path("cancel");
    let mut kernel = Kernel::builder().monitor(&path).build().unwrap();
    let cancelled = kernel.run(async move {
        let victim = spawn(async {
            let told = sleep(Duration::from_secs(3600)).await;
            (told, yield_now().await) // it can clean up: the cancel was carried out once
        });
        let id = victim.id();
        yield_now().await.unwrap();
        // One step, which lasts until the monitor has waited in vain.
        let asking = thread::spawn(move || Client::new(&path).say(&format!("cancel {id}")));
        let answer = asking.join().unwrap();
        assert!(answer.contains("STUCK"), "{answer}");
        assert!(answer.contains("the cancel is in line"), "{answer}");
        victim.join().await.unwrap()
    });
    assert_eq!(cancelled, (Err(kernel::Error::Cancelled), Ok(())));
}

#[test]
fn a_path_belongs_to_one_monitor_and_what_a_dead_one_left_is_replaced() {
    let path = path("twice");
    drop(UnixListener::bind(&path).unwrap()); // leaves its file
    let kernel = Kernel::builder().monitor(&path).build().unwrap();
    let refused = Kernel::builder().monitor(&path).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AddrInUse);
    let mut waiting = Client::new(&path);
    let asking = thread::spawn(move || waiting.say("ps"));
    let answer = asking.join().unwrap();
    assert!(
        answer.contains("the kernel is outside of `run`"),
        "{answer}"
    );
    assert!(
        answer.contains("no listing was asked for before"),
        "{answer}"
    );
    drop(kernel);
    assert!(!path.exists());
}

/// The story: to find out whether anybody listens, it was connected to, and that waited for room.
#[test]
fn a_socket_that_is_full_of_clients_is_alive() {
    let path = path("full");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: it only makes the line of those who wait shorter, to one.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _first = UnixStream::connect(&path).unwrap();
    let (tell, told) = mpsc::channel();
    let there = path.clone();
    thread::spawn(move || tell.send(Kernel::builder().monitor(&there).build().map(drop)));
    let refused = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::AddrInUse);
    std::fs::remove_file(&path).unwrap();
}

/// The story: each found the dead one's socket, and the slower took away what the faster had put there.
#[test]
fn of_two_that_find_a_dead_socket_one_gets_its_place() {
    let path = Arc::new(path("race"));
    for _ in 0..100 {
        drop(UnixListener::bind(&*path).unwrap());
        let both = Arc::new(Barrier::new(2));
        let threads = [(); 2].map(|()| {
            let (path, both) = (path.clone(), both.clone());
            thread::spawn(move || {
                both.wait();
                let built = Kernel::builder().monitor(&*path).build();
                both.wait();
                let answer = (built.is_ok()).then(|| Client::new(&path).say("help"));
                (
                    built.map(drop).map_err(|e| (e.kind(), e.to_string())),
                    answer,
                )
            })
        });
        let mut ends = threads.map(|thread| thread.join().unwrap());
        ends.sort();
        let [
            (Ok(()), Some(answer)),
            (Err((ErrorKind::AddrInUse, text)), None),
        ] = &ends
        else {
            panic!("{ends:?}");
        };
        assert!(answer.contains("cancel ID"), "{answer}");
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(!path.exists());
    }
}

#[test]
fn a_socket_that_another_has_put_there_since_stays() {
    let path = path("since");
    let kernel = Kernel::builder().monitor(&path).build().unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(kernel);
    UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
}

/// The story: to connect to a regular file is refused as to a socket that nobody listens on, so the file
/// was taken for one, and deleted.
#[test]
fn what_is_no_socket_is_left_alone() {
    let (file, folder, link) = (path("file"), path("folder"), path("link"));
    std::fs::write(&file, "precious").unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for (path, what) in [
        (&file, "a regular file"),
        (&folder, "a directory"),
        (&link, "a symbolic link"),
    ] {
        let refused = Kernel::builder().monitor(path).build().unwrap_err();
        let (path, text) = (path.to_str().unwrap(), refused.to_string());
        assert!(text.contains(path) && text.contains(what), "{text}");
    }
    assert_eq!(std::fs::read_to_string(&link).unwrap(), "precious");
    std::fs::remove_file(&link).unwrap();
    std::fs::remove_dir(&folder).unwrap();

    std::fs::remove_file(&file).unwrap();
    let kernel = Kernel::builder().monitor(&file).build().unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "put there since").unwrap();
    drop(kernel);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "put there since");
    std::fs::remove_file(&file).unwrap();

    let lock = file.with_file_name(format!("{}.starting", file.file_name().unwrap().display()));
    std::fs::write(&lock, "precious").unwrap();
    let refused = Kernel::builder().monitor(&file).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{refused}");
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), "precious");
    std::fs::write(&lock, "").unwrap(); // as one that died would leave it
    drop(Kernel::builder().monitor(&file).build().unwrap());
    assert!(!lock.exists() && !file.exists());
}

#[test]
fn a_kernel_that_is_dropped_lets_its_clients_go() {
    let path = path("dropped");
    let mut kernel = Kernel::builder().monitor(&path).build().unwrap();
    let mut client = Client::new(&path);
    assert!(client.say("help").contains("ps [N]"));
    kernel.run(async {
        yield_now().await.unwrap();
    });
    drop(kernel);
    let mut answer = String::new();
    assert_eq!(client.lines.read_line(&mut answer).unwrap(), 0, "{answer}");
}

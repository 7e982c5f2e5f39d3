//! Child processes: none is left behind, whatever happens.
#![cfg(feature = "process")]

use std::{
    cell::RefCell, collections::BTreeSet, io, os::unix::process::ExitStatusExt, path::Path,
    process::Stdio, rc::Rc, time::Duration,
};

use kernel::{
    Error,
    io::BufReader,
    process::{Child, Command, Pool, Worker},
    signal::SIGTERM,
    spawn, timeout_after, yield_now,
};

const LONG: Duration = Duration::from_secs(60);

fn run<F: Future<Output = io::Result<()>> + 'static>(test: F) {
    kernel::run(async {
        test.await.unwrap();
        assert_eq!(kernel::stats().timers, 0);
    })
    .unwrap();
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A zombie exists too: this says that somebody has reaped it.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn output_of(child: &mut Child) -> BufReader<kernel::process::ChildStdout> {
    BufReader::new(child.stdout.take().unwrap())
}

#[test]
fn the_status_says_how_it_ended() {
    run(async {
        assert!(Command::new("true").status().await?.success());
        assert_eq!(shell("exit 5").status().await?.code(), Some(5));
        assert_eq!(shell("kill -9 $$").status().await?.signal(), Some(9));
        let mut child = shell("read line; exit 6").spawn()?;
        assert_eq!(child.try_wait()?, None);
        assert_eq!(child.wait().await?.code(), Some(6)); // its input ended by that
        assert_eq!(child.wait().await?.code(), Some(6));
        assert_eq!(child.try_wait()?.unwrap().code(), Some(6));
        child.signal(SIGTERM)?; // and reaches nobody
        assert!(!exists(child.id()));
        // Under valgrind a program that does not exist is found out only after the fork.
        match Command::new("/no/such/program").status().await {
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::NotFound);
                assert!(e.to_string().starts_with("/no/such/program: "), "{e}");
            }
            Ok(status) => assert_eq!(status.code(), Some(127)),
        }
        Ok(())
    });
}

#[test]
fn pipes_are_streams() {
    run(async {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let (input, bytes) = (child.stdin.take().unwrap(), sent.clone());
        let writer = spawn(async move { input.write_all(&bytes).await });
        let back = output_of(&mut child).read_to_end().await?.to_vec();
        assert!(back == sent);
        writer.join().await.unwrap()?;
        assert!(child.wait().await?.success());
        assert_eq!(kernel::stats().sources, 0);
        Ok(())
    });
}

#[test]
fn output_takes_both_streams_up_to_a_limit() {
    run(async {
        let output = shell("echo out; echo err >&2; exit 1").output().await?;
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b"out\n"[..], &b"err\n"[..])
        );
        assert_eq!(output.status.code(), Some(1));
        let mut endless = shell("echo out; while :; do echo line >&2; done");
        let error = endless.output_limit(100_000).output().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let text = "sh: standard error is longer than the limit of 100000 bytes";
        assert_eq!(error.to_string(), text);
        // What it leaves behind holds its pipes open, but ends with it.
        let output = timeout_after(LONG, shell("sleep 1000 & echo started").output()).await?;
        assert_eq!(output.stdout, b"started\n");
        Ok(())
    });
}

#[test]
fn what_came_before_a_timeout_is_kept_by_who_wants_it() {
    run(async {
        let mut patience = Duration::from_millis(20);
        let (mut out, mut err) = (b"before, ".to_vec(), Vec::new());
        while out == b"before, " {
            patience *= 2; // the machine may be slow
            let mut command = shell("echo so far; sleep 1000");
            let output = command.output_into(&mut out, &mut err);
            let late = timeout_after(patience, output).await.unwrap_err();
            assert_eq!(Error::in_io(&late), Some(Error::TaskTimeout));
        }
        assert_eq!((&out[..], &err[..]), (&b"before, so far\n"[..], &b""[..]));
        Ok(())
    });
}

#[test]
fn it_leads_a_group_of_its_own() {
    run(async {
        let mut child = shell("read line").spawn()?;
        // SAFETY: getpgid(2) takes and gives an integer.
        let group = unsafe { libc::getpgid(child.id() as i32) };
        assert_eq!(group as u32, child.id());
        child.kill().await.map(drop)
    });
}

/// The grandchild holds the pipe's other end: the end of the stream is its end.
#[test]
fn kill_takes_its_children_along() {
    run(async {
        let mut child = shell("sleep 1000 & echo ready; wait").spawn()?;
        let mut output = output_of(&mut child);
        assert_eq!(output.read_line().await?, Some("ready"));
        assert_eq!(child.kill().await?.signal(), Some(9));
        assert_eq!(timeout_after(LONG, output.read_line()).await?, None);
        Ok(())
    });
}

#[test]
fn terminate_asks_first() {
    run(async {
        let mut polite =
            shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done").spawn()?;
        output_of(&mut polite).read_line().await?;
        assert_eq!(polite.terminate(LONG).await?.code(), Some(7));
        let mut deaf = shell("trap '' TERM; echo ready; while :; do sleep 1000; done").spawn()?;
        output_of(&mut deaf).read_line().await?;
        let status = deaf.terminate(Duration::from_millis(20)).await?;
        assert_eq!(status.signal(), Some(9));
        Ok(())
    });
}

/// Dropped by hand, by a cancelled task, by a timeout, and left running when `main` ends: when
/// `run` returns, all are dead and reaped, with what they had started.
#[test]
fn nothing_is_left_when_run_returns() {
    let pids = Rc::new(RefCell::new(BTreeSet::new()));
    let seen = pids.clone();
    let start = move || {
        let child = shell("trap '' TERM; sleep 1000 & sleep 1000")
            .spawn()
            .unwrap();
        seen.borrow_mut().insert(child.id());
        child
    };
    run(async move {
        drop(start());
        let mut child = start();
        let waiting = spawn(async move { child.wait().await });
        yield_now().await?;
        waiting.cancel().await?;
        let error = waiting.join().await.unwrap().unwrap_err();
        assert_eq!(Error::in_io(&error), Some(Error::Cancelled));
        let mut child = start();
        let late = timeout_after(Duration::from_millis(5), child.wait()).await;
        assert_eq!(Error::in_io(&late.unwrap_err()), Some(Error::TaskTimeout));
        assert_eq!(child.try_wait()?, None); // it runs on, for its handle is still there
        let mut left = start();
        spawn(async move { left.wait().await }).detach();
        let killed_hard = start();
        let task = spawn(async move {
            let _child = killed_hard;
            std::future::pending::<()>().await
        });
        yield_now().await?;
        drop(task.cancel());
        task.cancel().await?;
        Ok(())
    });
    let pids = pids.take();
    assert_eq!(pids.len(), 5);
    assert!(pids.into_iter().all(|pid| !exists(pid)));
}

#[test]
fn a_child_dropped_outside_of_a_kernel_is_reaped_on_the_spot() {
    let child = kernel::run(async { shell("sleep 1000").spawn() });
    let child = child.unwrap().unwrap();
    let pid = child.id();
    assert!(exists(pid));
    drop(child);
    assert!(!exists(pid));
}

/// A hundred at once, each with an end of its own.
#[test]
fn many_at_once() {
    run(async {
        let tasks: Vec<_> = (0..100)
            .map(|n| spawn(async move { shell(&format!("exit {n}")).status().await }))
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.join().await.unwrap()?.code(), Some(n as i32));
        }
        assert_eq!(kernel::stats().sources, 0);
        Ok(())
    });
}

// ------------------------------------------------------------------------------------- the pool

/// Answers each line with its process number and the line; ends when it is told to.
fn pool(max: usize) -> Pool {
    Pool::new(max, || {
        shell("while read line; do [ \"$line\" = die ] && exit 1; echo \"$$ $line\"; done")
    })
}

async fn request(worker: &mut Worker, line: &str) -> io::Result<String> {
    worker
        .requests
        .write_all(format!("{line}\n").as_bytes())
        .await?;
    worker.requests.flush().await?;
    let id = worker.id().to_string();
    let reply = worker.replies.read_line().await?;
    let reply = reply.ok_or(io::ErrorKind::UnexpectedEof)?;
    let (pid, text) = reply.split_once(' ').unwrap();
    assert_eq!(pid, id);
    Ok(text.to_owned())
}

#[test]
fn a_pool_keeps_its_processes_and_never_has_more_than_allowed() {
    run(async {
        let pool = pool(3);
        let pids = Rc::new(RefCell::new(BTreeSet::new()));
        let tasks: Vec<_> = (0..30)
            .map(|n| {
                let (pool, pids) = (pool.clone(), pids.clone());
                spawn(async move {
                    let line = format!("request {n}");
                    let reply = pool.call(async |worker| {
                        pids.borrow_mut().insert(worker.id());
                        request(worker, &line).await
                    });
                    assert_eq!(reply.await?, line);
                    io::Result::Ok(())
                })
            })
            .collect();
        for task in tasks {
            task.join().await.unwrap()?;
        }
        assert_eq!((pids.borrow().len(), pool.idle()), (3, 3));
        let statuses = pool.close(LONG).await?; // their input ended, so their loop did
        assert_eq!(statuses.len(), 3);
        assert!(statuses.iter().all(|status| status.success()));
        assert_eq!(kernel::stats().sources, 0);
        Ok(())
    });
}

#[test]
fn a_process_that_dies_is_replaced() {
    run(async {
        let pool = pool(1);
        let first = pool.call(async |worker| {
            request(worker, "one").await?;
            Ok(worker.id())
        });
        let first = first.await?;
        let died = pool.call(async |worker| request(worker, "die").await).await;
        assert_eq!(died.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(!exists(first));
        let second = pool.call(async |worker| {
            assert_eq!(request(worker, "two").await?, "two");
            Ok(worker.id())
        });
        let second = second.await?;
        assert_ne!(first, second);
        // Now one dies while it has nothing to do.
        // SAFETY: kill(2) takes integers; the process is a child of ours that nobody has reaped.
        assert_eq!(unsafe { libc::kill(second as i32, libc::SIGKILL) }, 0);
        while !std::fs::read_to_string(format!("/proc/{second}/stat"))?.contains(") Z") {
            yield_now().await?;
        }
        let reply = pool.call(async |worker| request(worker, "three").await);
        assert_eq!(reply.await?, "three");
        assert!(!exists(second));
        Ok(())
    });
}

#[test]
fn a_cancelled_request_kills_its_process_and_the_next_gets_another() {
    run(async {
        let pool = pool(1);
        let (clone, pid) = (pool.clone(), Rc::new(RefCell::new(0)));
        let seen = pid.clone();
        let stuck = spawn(async move {
            let exchange = async |worker: &mut Worker| {
                *seen.borrow_mut() = worker.id();
                worker.replies.read_line().await.map(drop) // it was not asked, and says nothing
            };
            clone.call(exchange).await
        });
        while *pid.borrow() == 0 {
            yield_now().await?;
        }
        stuck.cancel().await?;
        assert!(!exists(*pid.borrow()));
        let reply = pool.call(async |worker| request(worker, "next").await);
        assert_eq!(reply.await?, "next");
        Ok(())
    });
}

#[test]
fn closing_kills_what_does_not_end_by_itself() {
    run(async {
        let pool = Pool::new(1, || shell("read line; echo \"$$ $line\"; exec sleep 1000"));
        pool.call(async |worker| request(worker, "hello").await)
            .await?;
        let statuses = pool.close(Duration::from_millis(20)).await?;
        assert_eq!(statuses[0].signal(), Some(9));
        Ok(())
    });
}

#[test]
fn who_writes_to_a_closed_input_learns_it() {
    run(async {
        let mut child = shell("exec <&-; echo closed; exec sleep 1000").spawn()?;
        let to = child.stdin.take().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(said.read_line().await?, Some("closed"));
        let error = loop {
            // A child that another thread of this test is about to start has its end open too, until
            // it begins its program.
            match to.write_all(b"hello").await {
                Ok(()) => kernel::sleep(Duration::from_millis(1)).await?,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        child.kill().await.map(drop)
    });
}

#[test]
fn tasks_go_on_while_a_process_works() {
    run(async {
        let mut child = shell("read line").spawn()?;
        let to = child.stdin.take().unwrap();
        let waiting = spawn(async move { child.wait().await });
        for _ in 0..100 {
            yield_now().await?;
        }
        assert!(!waiting.is_finished());
        to.write_all(b"now\n").await?;
        assert!(waiting.join().await.unwrap()?.success());
        Ok(())
    });
}

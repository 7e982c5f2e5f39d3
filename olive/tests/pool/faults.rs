//! Processes that die, hang and multiply, and a main process that is killed.

use super::support::*;
use libtest_mimic::Trial;
use olive::outcome::Outcome;
use olive::pool::{ProcessPool, Request, Runner};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    let all: &[(&str, fn())] = &[
        (
            "a_killed_process_is_told_and_replaced",
            a_killed_process_is_told_and_replaced,
        ),
        (
            "an_idle_process_that_died_is_replaced",
            an_idle_process_that_died_is_replaced,
        ),
        (
            "an_exit_is_told_with_its_code",
            an_exit_is_told_with_its_code,
        ),
        (
            "a_timeout_kills_the_whole_family",
            a_timeout_kills_the_whole_family,
        ),
        (
            "the_clock_starts_with_the_job",
            the_clock_starts_with_the_job,
        ),
        ("a_cancelled_job_is_killed", a_cancelled_job_is_killed),
        (
            "a_job_that_waits_can_be_cancelled",
            a_job_that_waits_can_be_cancelled,
        ),
        (
            "a_killed_supervisor_takes_its_process_along",
            a_killed_supervisor_takes_its_process_along,
        ),
        (
            "a_supervisor_reaps_orphans_and_ignores_signals",
            a_supervisor_reaps_orphans_and_ignores_signals,
        ),
        (
            "a_job_outlasts_the_signals_to_the_service",
            a_job_outlasts_the_signals_to_the_service,
        ),
        (
            "a_machine_short_of_descriptors_fails_no_job",
            a_machine_short_of_descriptors_fails_no_job,
        ),
        (
            "only_the_main_process_has_more_descriptors",
            only_the_main_process_has_more_descriptors,
        ),
        ("shutdown_ends_what_runs", shutdown_ends_what_runs),
        (
            "nothing_is_left_open_or_unreaped",
            nothing_is_left_open_or_unreaped,
        ),
        (
            "nothing_outlives_a_killed_main_process",
            nothing_outlives_a_killed_main_process,
        ),
    ];
    let trial = |&(name, run): &(&'static str, fn())| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    all.iter().map(trial).collect()
}

fn python_request(name: &str, args: &str) -> Request {
    request(&format!("pool_tasks.{name}"), args)
}

/// Starts a job in the background.
fn start(pool: &ProcessPool, runner: Runner, request: Request) -> kernel::JoinHandle<Outcome> {
    let pool = pool.clone();
    kernel::spawn(async move { pool.run(runner, request).await.unwrap() })
}

fn sleeper(announce: &Path) -> Request {
    python_request("sleep", &format!("[600, {:?}]", announce))
}

fn family(announce: &Path) -> Request {
    python_request("family", &format!("[{:?}]", announce))
}

fn parent(pid: Pid) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let parent = after_name.split_whitespace().nth(1).unwrap();
    Pid::from_raw(parent.parse().unwrap()).unwrap()
}

fn a_killed_process_is_told_and_replaced() {
    with_pool(config(1), async |pool| {
        for _ in 0..5 {
            let folder = Folder::new();
            let job = start(&pool, Runner::Python, sleeper(&folder.path("up")));
            let pid = announced(&folder.path("up")).await[0];
            kill_process(pid, Signal::KILL).unwrap();
            assert_eq!(died(job.join().await.unwrap()), (Some(9), None));
            assert_eq!(value(python(&pool, "add", "[1]").await), "1");
        }
        assert_eq!(died(python(&pool, "crash", "[]").await), (Some(11), None));
        assert_eq!(died(rust(&pool, "abort", "[]").await), (Some(6), None));
        value(rust(&pool, "pid", "[]").await);
    });
}

fn an_idle_process_that_died_is_replaced() {
    with_pool(config(1), async |pool| {
        let first: i32 = value(python(&pool, "pid", "[]").await).parse().unwrap();
        let pid = Pid::from_raw(first).unwrap();
        let watched = watch(&[pid, parent(pid)]);
        kill_process(pid, Signal::KILL).unwrap();
        await_ends(&watched[..1]);
        let next = python(&pool, "pid", "[]").await;
        // Either it was known already, or the job met its death and is given back.
        if let Outcome::Died { signal, .. } = next {
            assert_eq!(signal, Some(9));
        }
        let second: i32 = value(python(&pool, "pid", "[]").await).parse().unwrap();
        assert_ne!(first, second);
        let process = Pid::from_raw(second).unwrap();
        let watched = watch(&[process, parent(process)]);
        kill_process(parent(process), Signal::KILL).unwrap();
        // The process follows its supervisor a moment later, and could serve a job until then.
        await_ends(&watched);
        let _ = python(&pool, "pid", "[]").await;
        value(python(&pool, "pid", "[]").await);
    });
}

fn an_exit_is_told_with_its_code() {
    with_pool(config(1), async |pool| {
        for code in [0, 1, 77] {
            let args = format!("[{code}]");
            assert_eq!(
                died(python(&pool, "leave", &args).await),
                (None, Some(code))
            );
            assert_eq!(died(rust(&pool, "exit", &args).await), (None, Some(code)));
        }
    });
}

fn a_timeout_kills_the_whole_family() {
    with_pool(config(1), async |pool| {
        let folder = Folder::new();
        let mut request = family(&folder.path("up"));
        request.timeout = Some(Duration::from_secs(2));
        let job = start(&pool, Runner::Python, request);
        let watched = watch(&announced(&folder.path("up")).await);
        assert!(matches!(job.join().await.unwrap(), Outcome::TimedOut));
        await_ends(&watched);
        let mut request = request_sh();
        request.timeout = Some(Duration::from_millis(300));
        let outcome = pool.run(sh("sleep 600 & sleep 600"), request).await;
        assert!(matches!(outcome, Ok(Outcome::TimedOut)));
        assert_eq!(value(rust(&pool, "add", "[1, 1]").await), "2");
    });
}

fn request_sh() -> Request {
    request("script", "[]")
}

fn the_clock_starts_with_the_job() {
    with_pool(config(1), async |pool| {
        // A process and an import take longer than this; the job itself does not.
        let mut request = python_request("add", "[1]");
        request.timeout = Some(Duration::from_millis(20));
        let outcomes = async |pool: &ProcessPool| {
            let run = pool.run(Runner::Python, request.clone()).await;
            assert_eq!(value(run.unwrap()), "1");
        };
        outcomes(&pool).await;
    });
}

fn a_cancelled_job_is_killed() {
    with_pool(config(1), async |pool| {
        let folder = Folder::new();
        let running = (pool.clone(), family(&folder.path("up")));
        let job = kernel::spawn(async move {
            let (pool, request) = running;
            pool.run(Runner::Python, request).await.map(value)
        });
        let watched = watch(&announced(&folder.path("up")).await);
        drop(job.cancel());
        assert_eq!(job.join().await.unwrap(), Err(kernel::Error::Cancelled));
        await_ends(&watched);
        assert_eq!(value(python(&pool, "add", "[1]").await), "1");
    });
}

fn a_job_that_waits_can_be_cancelled() {
    with_pool(config(1), async |pool| {
        let folder = Folder::new();
        let first = start(&pool, Runner::Python, sleeper(&folder.path("up")));
        let pid = announced(&folder.path("up")).await[0];
        let mut waiting = Vec::new();
        for _ in 0..10 {
            let pool = pool.clone();
            waiting.push(kernel::spawn(async move {
                let run = pool.run(Runner::Rust, request("pid", "[]")).await;
                run.map(value)
            }));
        }
        kernel::yield_now().await.unwrap();
        for job in &waiting[..9] {
            drop(job.cancel());
        }
        kill_process(pid, Signal::KILL).unwrap();
        assert_eq!(died(first.join().await.unwrap()), (Some(9), None));
        let last = waiting.pop().unwrap();
        assert!(last.join().await.unwrap().is_ok());
    });
}

fn a_killed_supervisor_takes_its_process_along() {
    with_pool(config(1), async |pool| {
        let folder = Folder::new();
        let job = start(&pool, Runner::Python, sleeper(&folder.path("up")));
        let pid = announced(&folder.path("up")).await[0];
        let watched = watch(&[pid]);
        kill_process(parent(pid), Signal::KILL).unwrap();
        assert_eq!(died(job.join().await.unwrap()), (Some(9), None));
        await_ends(&watched);
        assert_eq!(value(python(&pool, "add", "[1]").await), "1");
    });
}

/// What a service manager sends to a whole service must not stop a worker that drains.
fn a_supervisor_reaps_orphans_and_ignores_signals() {
    with_pool(config(1), async |pool| {
        value(python(&pool, "orphans", "[20]").await);
        let pid: i32 = value(python(&pool, "pid", "[]").await).parse().unwrap();
        let supervisor = parent(Pid::from_raw(pid).unwrap());
        let children = || {
            let number = supervisor.as_raw_nonzero();
            std::fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap()
        };
        while children().trim() != pid.to_string() {
            kernel::sleep(Duration::from_millis(5)).await.unwrap();
        }
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            kill_process(supervisor, signal).unwrap();
        }
        assert_eq!(value(python(&pool, "pid", "[]").await), pid.to_string());
    });
}

/// A service manager may send them to every process of the service, not to the main one alone.
fn a_job_outlasts_the_signals_to_the_service() {
    with_pool(config(2), async |pool| {
        let folder = Folder::new();
        let (up, go) = (folder.path("up"), folder.path("go"));
        let request = |name| python_request(name, &format!("[{up:?}, {go:?}]"));
        let in_python = start(&pool, Runner::Python, request("wait_for"));
        let interrupted = async |pid| {
            for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
                kill_process(pid, signal).unwrap();
                kernel::sleep(Duration::from_millis(20)).await.unwrap();
            }
        };
        interrupted(announced(&up).await[0]).await;
        std::fs::write(&go, "").unwrap();
        value(in_python.join().await.unwrap());

        let pid: i32 = value(rust(&pool, "pid", "[]").await).parse().unwrap();
        let nap = super::support::request("nap", "[200]");
        let in_rust = start(&pool, Runner::Rust, nap);
        kernel::sleep(Duration::from_millis(20)).await.unwrap();
        interrupted(Pid::from_raw(pid).unwrap()).await;
        assert_eq!(value(in_rust.join().await.unwrap()), pid.to_string());

        // What a job starts or forks dies by them as ever.
        assert_eq!(
            value(python(&pool, "ends_of_children", "[]").await),
            "[-15,-15]"
        );
    });
}

fn a_machine_short_of_descriptors_fails_no_job() {
    assert_scene("short");
}

fn only_the_main_process_has_more_descriptors() {
    assert_scene("raised");
}

fn assert_scene(name: &str) {
    let output = scene(name, "").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

fn shutdown_ends_what_runs() {
    with_pool(config(3), async |pool| {
        value(rust(&pool, "pid", "[]").await);
        let folder = Folder::new();
        let job = start(&pool, Runner::Python, family(&folder.path("up")));
        let watched = watch(&announced(&folder.path("up")).await);
        pool.shutdown().await.unwrap();
        await_ends(&watched);
        assert_eq!(died(job.join().await.unwrap()), (Some(9), None));
        let late = pool.run(Runner::Rust, request("pid", "[]")).await;
        assert_eq!(late.unwrap_err(), kernel::Error::Closed);
    });
}

/// In a process of its own (a scene), for it counts what the process has.
fn nothing_is_left_open_or_unreaped() {
    assert_scene("count");
}

fn nothing_outlives_a_killed_main_process() {
    for round in 0..5 {
        let folder = Folder::new();
        let up = folder.path("up");
        let mut main = scene("hold", up.to_str().unwrap()).spawn().unwrap();
        let (mut pids, ready) = kernel::run(async move {
            let first = announced(&up.with_extension("first")).await;
            let second = announced(&up.with_extension("second")).await;
            (first, second)
        })
        .unwrap();
        pids.extend(ready);
        let supervisors: Vec<Pid> = vec![parent(pids[0]), parent(pids[4])];
        pids.extend(supervisors);
        let watched = watch(&pids);
        assert_eq!(watched.len(), 10, "round {round}");
        main.kill().unwrap(); // SIGKILL
        main.wait().unwrap();
        await_ends(&watched);
    }
}

/// This binary once more, as a main process to be observed from outside.
fn scene(name: &str, argument: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["__scene", name, argument])
        .stdout(Stdio::null())
        .stderr(if name == "hold" {
            Stdio::inherit()
        } else {
            Stdio::piped()
        });
    command
}

pub fn enter_scene() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1..)? {
        [mode, name, argument] if mode == "__scene" => {
            match &name[..] {
                "count" => count(),
                "short" => short(),
                "raised" => raised(),
                _ => hold(argument.into()),
            }
            Some(ExitCode::SUCCESS)
        }
        _ => None,
    }
}

/// Two jobs with families, for ever.
fn hold(up: PathBuf) {
    with_pool(config(2), async move |pool| {
        let first = start(&pool, Runner::Python, family(&up.with_extension("first")));
        let second = start(&pool, Runner::Python, family(&up.with_extension("second")));
        let _ = (first.join().await, second.join().await);
    });
}

fn limit_open_files(soft: u64, hard: Option<u64>) {
    let limit = Rlimit {
        current: Some(soft),
        maximum: hard,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Room for some six processes where twenty may be.
fn short() {
    limit_open_files(40, Some(40));
    with_pool(config(20), async |pool| {
        let jobs: Vec<_> = (0..60)
            .map(|n| {
                let (runner, request) = match n % 10 {
                    0 => (sh("echo $$"), request_sh()),
                    5 => (Runner::Rust, request("pid", "[]")),
                    _ => (Runner::Python, python_request("add", "[1]")),
                };
                start(&pool, runner, request)
            })
            .collect();
        for job in jobs {
            value(job.join().await.unwrap());
        }
        let nowhere = Runner::Executable(vec!["/nowhere/at-all".into()]);
        let outcome = pool.run(nowhere, request_sh()).await.unwrap();
        assert_eq!(error(outcome).kind, "WorkerStartError");
    });
}

fn raised() {
    let hard = getrlimit(Resource::Nofile).maximum;
    limit_open_files(64, hard);
    with_pool(config(1), async move |pool| {
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(value(shell(&pool, "ulimit -S -n", "[]").await), "64");
        assert_eq!(value(python(&pool, "open_files_max", "[]").await), "64");
    });
}

fn count() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || {
        let listed = std::fs::read_to_string("/proc/thread-self/children");
        listed.unwrap().split_whitespace().count()
    };
    kernel::run(async move {
        let round = async || {
            let pool = ProcessPool::new(config(3));
            for _ in 0..3 {
                value(rust(&pool, "pid", "[]").await);
                value(python(&pool, "pid", "[]").await);
                value(shell(&pool, "true", "[]").await);
                died(python(&pool, "leave", "[1]").await);
                let mut late = request("olive.tasks.sleep_n", "[600]");
                late.timeout = Some(Duration::from_millis(10));
                pool.run(Runner::Rust, late).await.unwrap();
            }
            let idle = descriptors();
            for _ in 0..20 {
                value(shell(&pool, "true", "[]").await);
                value(rust(&pool, "pid", "[]").await);
            }
            assert!(descriptors() <= idle + 6, "they grow with the jobs");
            pool.shutdown().await.unwrap();
            kernel::yield_now().await.unwrap();
        };
        round().await;
        let (open, alive) = (descriptors(), children());
        round().await;
        assert_eq!((descriptors(), children()), (open, alive));
        assert_eq!(alive, 0);
    })
    .unwrap();
}

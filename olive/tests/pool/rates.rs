//! How many no-op jobs a second: `cargo test --release -p olive --test pool_processes -- --ignored`.

use super::support::*;
use libtest_mimic::Trial;
use olive::pool::{ProcessPool, Request, Runner};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Instant;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("start_of_a_supervisor", start_of_a_supervisor).with_ignored_flag(true),
        Trial::test("rate_of_rust", || {
            measure("Rust", Runner::Rust, "olive.tasks.do_nothing", 20_000)
        })
        .with_ignored_flag(true),
        Trial::test("rate_of_python", || {
            measure("Python", Runner::Python, "pool_tasks.add", 20_000)
        })
        .with_ignored_flag(true),
        Trial::test("rate_of_executables", || {
            measure(
                "executables",
                Runner::Executable(vec!["true".into()]),
                "true",
                1_000,
            )
        })
        .with_ignored_flag(true),
    ]
}

/// Has all processes started.
async fn warm_up(pool: &ProcessPool, runner: &Runner, func: &'static str, workers: usize) {
    let mut tasks = Vec::new();
    for _ in 0..workers {
        let (pool, runner) = (pool.clone(), runner.clone());
        tasks.push(kernel::spawn(async move {
            value(pool.run(runner, job(func)).await.unwrap());
        }));
    }
    for task in tasks {
        task.join().await.unwrap();
    }
}

/// How long the main thread stands still when a supervisor is started.
fn start_of_a_supervisor() -> Result<(), libtest_mimic::Failed> {
    let mut times: Vec<_> = (0..200)
        .map(|_| {
            let mut command = Command::new("/proc/self/exe");
            command.arg("__supervise").process_group(0);
            command.stdin(Stdio::null()).stderr(Stdio::null());
            let start = Instant::now();
            let mut child = command.spawn().unwrap();
            let took = start.elapsed();
            child.wait().unwrap();
            took
        })
        .collect();
    times.sort();
    eprintln!(
        "a supervisor: median {:.1?}, longest {:.1?}",
        times[100], times[199]
    );
    Ok(())
}

fn job(func: &str) -> Request {
    request(
        func,
        if func == "pool_tasks.add" {
            "[1]"
        } else {
            "[]"
        },
    )
}

fn measure(
    name: &'static str,
    runner: Runner,
    func: &'static str,
    jobs: usize,
) -> Result<(), libtest_mimic::Failed> {
    for workers in [1, 2, 20] {
        let runner = runner.clone();
        with_pool(config(workers), async move |pool| {
            let first = Instant::now();
            value(pool.run(runner.clone(), job(func)).await.unwrap());
            let first = first.elapsed();
            warm_up(&pool, &runner, func, workers).await;
            let mut tasks = Vec::new();
            let start = Instant::now();
            for _ in 0..workers {
                let (pool, runner) = (pool.clone(), runner.clone());
                tasks.push(kernel::spawn(async move {
                    for _ in 0..jobs / workers {
                        value(pool.run(runner.clone(), job(func)).await.unwrap());
                    }
                }));
            }
            for task in tasks {
                task.join().await.unwrap();
            }
            let rate = jobs as f64 / start.elapsed().as_secs_f64();
            eprintln!("{name}, {workers} processes: {rate:.0} jobs/s; first one after {first:.1?}");
        });
    }
    Ok(())
}

//! How many no-op jobs a second: `cargo test --release -p olive --test pool_processes -- --ignored`.

use super::support::*;
use libtest_mimic::Trial;
use olive::pool::{Request, Runner};
use std::time::Instant;

pub fn trials() -> Vec<Trial> {
    vec![
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

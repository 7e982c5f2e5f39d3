//! Requests to a pool of long-lived processes: this same program, started as a worker.
//!
//! `cargo run -p kernel --example process_pool -- 30 35 40`
//!
//! A worker counts in a way that would keep a kernel's thread for long, and it can be killed in
//! the middle of it: a request that takes too long costs its process, and nothing else.

use std::{
    io::{self, BufRead},
    time::Duration,
};

use kernel::{
    TaskGroup,
    process::{Command, Pool},
    timeout_after,
};

/// Asks for all of these numbers at once; gives, for each, what came of it.
pub async fn ask_all(
    pool: &Pool,
    numbers: Vec<u64>,
    patience: Duration,
) -> io::Result<Vec<(u64, String)>> {
    let mut requests = TaskGroup::<_, kernel::Error>::new();
    for n in numbers {
        let pool = pool.clone();
        requests.spawn(async move {
            let answer = timeout_after(patience, ask(&pool, n)).await;
            Ok((n, answer.unwrap_or_else(|e| e.to_string())))
        });
    }
    requests
        .join()
        .await
        .map_err(|e| io::Error::other(e.to_string()))
}

/// One line there, one line back.
async fn ask(pool: &Pool, n: u64) -> io::Result<String> {
    let exchange = async |worker: &mut kernel::process::Worker| {
        let request = format!("{n}\n");
        worker.requests.write_all(request.as_bytes()).await?;
        worker.requests.flush().await?;
        let reply = worker.replies.read_line().await?.map(str::to_owned);
        reply.ok_or_else(|| io::Error::other("the process died"))
    };
    pool.call(exchange).await
}

/// What a worker does, until its input ends.
pub fn work(input: impl BufRead, mut output: impl io::Write) -> io::Result<()> {
    for line in input.lines() {
        match line?.parse() {
            Ok(n) => writeln!(output, "{}", fibonacci(n))?,
            Err(e) => writeln!(output, "not a number: {e}")?,
        }
        output.flush()?;
    }
    Ok(())
}

fn fibonacci(n: u64) -> u64 {
    match n {
        0 | 1 => n,
        n => fibonacci(n - 1) + fibonacci(n - 2),
    }
}

#[allow(dead_code, reason = "the tests use the functions alone")]
fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["--work"] {
        return work(io::stdin().lock(), io::stdout().lock());
    }
    let numbers = args.iter().filter_map(|n| n.parse().ok()).collect();
    kernel::run(async {
        let pool = Pool::new(2, || {
            let mut program = Command::new("/proc/self/exe");
            program.arg("--work");
            program
        });
        let patience = Duration::from_secs(10);
        for (n, answer) in ask_all(&pool, numbers, patience).await? {
            println!("fibonacci({n}) = {answer}");
        }
        pool.close(Duration::from_secs(1)).await.map(drop)
    })?
}

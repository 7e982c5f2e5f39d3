//! What becomes of a job, for each kind of process.

use super::support::*;
use libtest_mimic::Trial;
use olive::outcome::Outcome;
use olive::pool::{PoolConfig, Runner};
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    let all: &[(&str, fn())] = &[
        (
            "rust_tasks_run_in_a_kept_process",
            rust_tasks_run_in_a_kept_process,
        ),
        (
            "python_functions_run_in_a_kept_process",
            python_functions_run_in_a_kept_process,
        ),
        (
            "names_not_allowed_reach_no_python",
            names_not_allowed_reach_no_python,
        ),
        (
            "executables_read_and_write_json",
            executables_read_and_write_json,
        ),
        (
            "kinds_make_room_for_each_other",
            kinds_make_room_for_each_other,
        ),
        (
            "executables_end_no_kept_process",
            executables_end_no_kept_process,
        ),
        ("never_more_than_the_maximum", never_more_than_the_maximum),
        (
            "output_goes_to_the_log_under_the_job",
            output_goes_to_the_log_under_the_job,
        ),
        ("a_flood_of_output_is_bounded", a_flood_of_output_is_bounded),
        (
            "size_has_a_bound_in_both_directions",
            size_has_a_bound_in_both_directions,
        ),
        ("what_does_not_start_says_so", what_does_not_start_says_so),
    ];
    let trial = |&(name, run): &(&'static str, fn())| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    all.iter().map(trial).collect()
}

fn rust_tasks_run_in_a_kept_process() {
    with_pool(config(4), async |pool| {
        assert_eq!(value(rust(&pool, "add", "[1, 2]").await), "3");
        let first = value(rust(&pool, "pid", "[]").await);
        assert_eq!(value(rust(&pool, "pid", "[]").await), first);
        assert_ne!(first, std::process::id().to_string());
        assert_eq!(error(rust(&pool, "fail", "[]").await).message, "no");
        assert_eq!(error(rust(&pool, "panic", "[]").await).kind, "panic");
        assert!(matches!(
            rust(&pool, "nobody", "[]").await,
            Outcome::Unknown { .. }
        ));
        assert_eq!(value(rust(&pool, "pid", "[]").await), first);
        assert_eq!(pool.len(), 1);
    });
}

fn python_functions_run_in_a_kept_process() {
    with_pool(config(4), async |pool| {
        assert_eq!(
            value(python(&pool, "add", "[\"a\", \"ä\"]").await),
            "\"a\\u00e4\""
        );
        let first = value(python(&pool, "pid", "[]").await);
        assert_eq!(value(python(&pool, "pid", "[]").await), first);
        let error = error(python(&pool, "fail", "[]").await);
        assert_eq!((&error.kind[..], &error.message[..]), ("ValueError", "no"));
        assert!(error.traceback.unwrap().contains("in fail"));
        // /dev/null, two pipes, its channel, and what our own parent let slip.
        let open: Vec<String> =
            serde_json::from_str(&value(python(&pool, "open_files", "[]").await)).unwrap();
        assert_eq!(open.len(), 4 + inherited(), "{open:?}");
        let sockets = open.iter().filter(|name| *name == "socket");
        assert!(sockets.count() <= 1 + inherited(), "{open:?}");
    });
}

/// How many descriptors beside the standard three a program that we start gets from us.
fn inherited() -> usize {
    let infos = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    let numbers = infos.map(|info| info.unwrap().file_name().into_string().unwrap());
    let passes_on = |number: &String| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
        let flags = info
            .unwrap_or_default()
            .lines()
            .nth(1)
            .map(|line| line[6..].trim().to_string());
        let close_on_exec = 0o2000000;
        flags.is_some_and(|flags| u32::from_str_radix(&flags, 8).unwrap() & close_on_exec == 0)
    };
    numbers
        .filter(|number| number.parse::<u32>().unwrap() > 2)
        .filter(passes_on)
        .count()
}

fn names_not_allowed_reach_no_python() {
    let config = PoolConfig {
        python: "/nonexistent/python".into(),
        ..config(1)
    };
    with_pool(config, async |pool| {
        for name in [
            "os.system",
            "builtins.exec",
            "pool_tasks.os.system",
            "pool_tasks._private",
            "pool_tasks",
            "/bin/sh",
        ] {
            let outcome = pool.run(Runner::Python, request(name, "[\"true\"]")).await;
            assert!(matches!(outcome, Ok(Outcome::Unknown { .. })), "{name}");
        }
        assert!(pool.is_empty(), "no process was needed");
    });
    with_pool(self::config(1), async |pool| {
        for name in ["system", "subprocess", "time", "os", "nothing"] {
            let outcome = python(&pool, name, "[\"true\"]").await;
            assert!(matches!(outcome, Outcome::Unknown { .. }), "{name}");
        }
    });
}

fn executables_read_and_write_json() {
    with_pool(config(2), async |pool| {
        let echoed = value(shell(&pool, "cat", "[1, {\"a\": 2}]").await);
        let echoed: serde_json::Value = serde_json::from_str(&echoed).unwrap();
        assert_eq!(echoed["args"], serde_json::json!([1, {"a": 2}]));
        assert_eq!(echoed["func"], "script");
        assert_eq!(echoed["tid"], "tid-of-script");
        assert_eq!(echoed["attempt"], 1);
        assert_eq!(value(shell(&pool, "true", "[]").await), "null");
        let failed = error(shell(&pool, "echo why >&2; exit 3", "[]").await);
        assert_eq!(
            (&failed.kind[..], &failed.message[..]),
            ("ExitCode", "exit code 3: why")
        );
        assert_eq!(
            error(shell(&pool, "echo hello", "[]").await).kind,
            "ResultNotJson"
        );
        assert_eq!(
            died(shell(&pool, "kill -SEGV $$", "[]").await),
            (Some(11), None)
        );
        // What it leaves behind goes with it, though it holds standard output open.
        assert_eq!(value(shell(&pool, "sleep 600 & echo 1", "[]").await), "1");
        // A program that never reads, and one that writes before it reads.
        let big = format!("[\"{}\"]", "x".repeat(500_000));
        assert_eq!(value(shell(&pool, "echo 2", &big).await), "2");
        let script = "head -c 300000 /dev/zero | tr '\\0' ' '; cat >/dev/null; echo 3";
        assert_eq!(value(shell(&pool, script, &big).await), "3");
    });
}

fn kinds_make_room_for_each_other() {
    with_pool(config(1), async |pool| {
        for _ in 0..3 {
            value(rust(&pool, "pid", "[]").await);
            assert_eq!(value(python(&pool, "add", "[1]").await), "1");
            assert_eq!(value(shell(&pool, "echo 7", "[]").await), "7");
            assert_eq!(pool.len(), 2); // one that is kept, one for executables
        }
    });
}

fn executables_end_no_kept_process() {
    with_pool(config(2), async |pool| {
        let pid = value(python(&pool, "pid", "[]").await);
        let mut jobs = Vec::new();
        for _ in 0..10 {
            let pool = pool.clone();
            jobs.push(kernel::spawn(async move {
                value(shell(&pool, "echo 7", "[]").await)
            }));
        }
        for job in jobs {
            assert_eq!(job.join().await.unwrap(), "7");
        }
        assert_eq!(value(python(&pool, "pid", "[]").await), pid);
    });
}

fn never_more_than_the_maximum() {
    with_pool(config(3), async |pool| {
        let mut jobs = Vec::new();
        for _ in 0..40 {
            let pool = pool.clone();
            jobs.push(kernel::spawn(async move {
                value(rust(&pool, "pid", "[]").await)
            }));
        }
        let mut pids = std::collections::HashSet::new();
        for job in jobs {
            pids.insert(job.join().await.unwrap());
        }
        assert!(pids.len() <= 3 && pool.len() <= 3, "{pids:?}");
    });
}

fn output_goes_to_the_log_under_the_job() {
    with_pool(config(2), async |pool| {
        value(rust(&pool, "say", "[\"rusty words\"]").await);
        value(python(&pool, "say", "[\"snaky words\"]").await);
        value(shell(&pool, "echo shelly words >&2", "[]").await);
        // All is logged before the outcome is known.
        let lines = |part| logged(part).join("|");
        assert!(lines("stdout: rusty words").starts_with("[say tid-of-say]"));
        assert!(lines("stderr: err rusty words").starts_with("[say tid-of-say]"));
        assert!(lines("logged rusty words").contains("stderr: INFO"));
        let job = "[pool_tasks.say tid-of-pool_tasks.say]";
        assert!(lines("stdout: snaky words").starts_with(job));
        assert!(lines("stderr: err snaky words").starts_with(job));
        assert!(lines("stderr: shelly words").starts_with("[script tid-of-script]"));
    });
}

fn a_flood_of_output_is_bounded() {
    with_pool(config(2), async |pool| {
        assert_eq!(value(python(&pool, "flood", "[300000]").await), "300000");
        let kept = logged("[pool_tasks.flood").len();
        assert!(kept < 100_000, "{kept} lines were logged");
        assert!(!logged("more lines were not logged").is_empty());
        assert_eq!(value(python(&pool, "add", "[1]").await), "1");
    });
}

fn size_has_a_bound_in_both_directions() {
    with_pool(config(2), async |pool| {
        let big = format!("[\"{}\"]", "x".repeat(1024 * 1024));
        assert_eq!(
            error(python(&pool, "length", &big).await).kind,
            "ArgumentsTooLarge"
        );
        let fits = format!("[\"{}\"]", "x".repeat(1_000_000));
        assert_eq!(value(python(&pool, "length", &fits).await), "1000000");
        let first = value(python(&pool, "pid", "[]").await);
        assert_eq!(
            value(python(&pool, "whole", "[1000000]").await).len(),
            1_000_002
        );
        assert_eq!(
            error(python(&pool, "whole", "[5000000]").await).kind,
            "ResultTooLarge"
        );
        assert_eq!(
            value(python(&pool, "pid", "[]").await),
            first,
            "nobody had to die"
        );
        assert_eq!(
            error(rust(&pool, "whole", "[5000000]").await).kind,
            "ResultTooLarge"
        );
        assert_eq!(
            error(shell(&pool, "cat /dev/zero", "[]").await).kind,
            "ResultTooLarge"
        );
    });
}

fn what_does_not_start_says_so() {
    let missing = PoolConfig {
        python: "/nonexistent/python".into(),
        ..config(1)
    };
    with_pool(missing, async |pool| {
        let error = error(python(&pool, "add", "[1]").await);
        assert_eq!(error.kind, "WorkerStartError");
        assert!(
            error
                .message
                .contains("/nonexistent/python does not start: No such file")
        );
        let program = Runner::Executable(vec!["/nonexistent/program".into()]);
        let outcome = pool.run(program, request("gone", "[]")).await.unwrap();
        assert!(
            self::error(outcome)
                .message
                .contains("/nonexistent/program does not start")
        );
    });
    let no_python = PoolConfig {
        python: "/bin/false".into(),
        start_timeout: Duration::from_secs(5),
        ..config(1)
    };
    with_pool(no_python, async |pool| {
        let error = error(python(&pool, "add", "[1]").await);
        assert!(
            error
                .message
                .contains("/bin/false exited with code 1 before it was ready")
        );
    });
    let slow = PoolConfig {
        start_timeout: Duration::from_secs(3),
        ..config(1)
    };
    with_pool(slow, async |pool| {
        let missing = request("pool_missing.f", "[]");
        let outcome = pool.run(Runner::Python, missing).await.unwrap();
        assert!(
            error(outcome)
                .message
                .contains("importing pool_missing failed")
        );
        let slow = request("pool_slow_import.f", "[]");
        let outcome = pool.run(Runner::Python, slow).await.unwrap();
        assert!(error(outcome).message.contains("not ready in time"));
        assert_eq!(value(python(&pool, "add", "[1]").await), "1");
    });
}

//! What the demo sends, and what must become of it (pure).
//!
//! Each [`Group`] is a number of jobs of one kind with one right fate. The fate is checked on both sides: the reply
//! that the producer gets, and the dead letter that the operator finds.

use serde_json::{Value, json};

use crate::outcome::Status;

/// The Python module that the demo writes into its own folder and allows.
pub const PYTHON_MODULE: &str = "olive_demo";

/// Its source.
pub const PYTHON_SOURCE: &str = r#"import time


def add(a, b):
    return a + b


def boom(text):
    raise ValueError(text)


def nap(seconds):
    time.sleep(seconds)
"#;

/// The name under which the demo allows an executable, and its command line: it answers with the number of bytes it
/// was given on standard input, which is JSON already.
pub const EXECUTABLE: (&str, [&str; 2]) = ("demo.count_bytes", ["wc", "-c"]);

/// What must become of every job of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Fate {
    /// The status in the reply; `None` where there is nobody to reply to.
    pub reply: Option<Status>,
    /// The `x-olive-reason` of the dead letter, `None` if there must be none.
    pub dead: Option<&'static str>,
}

impl Fate {
    const DONE: Fate = Fate {
        reply: Some(Status::Done),
        dead: None,
    };

    const fn ended(reply: Status, reason: &'static str) -> Fate {
        Fate {
            reply: Some(reply),
            dead: Some(reason),
        }
    }

    /// The fate in a few words, for the table.
    pub fn describe(&self) -> String {
        let reply = self.reply.map_or("no reply".to_owned(), |s| s.to_string());
        match self.dead {
            Some(reason) => format!("{reply}, dead letter: {reason}"),
            None => reply,
        }
    }
}

/// A number of jobs of one kind.
#[derive(Debug)]
pub struct Group {
    /// What a person calls it.
    pub title: &'static str,
    /// How many are sent.
    pub count: usize,
    /// What must become of each.
    pub fate: Fate,
    /// Whether it needs a Python interpreter.
    pub python: bool,
    /// The body of job number `n` with this id, and the value its reply must carry (`None`: any).
    pub make: Make,
}

/// Writes job number `n` with this id: its body, and the value its reply must carry.
type Make = fn(n: usize, tid: &str) -> (Vec<u8>, Option<Value>);

fn job(tid: &str, func: &str, args: Value) -> Vec<u8> {
    json!({"func": func, "args": args, "tid": tid})
        .to_string()
        .into_bytes()
}

fn timed(tid: &str, func: &str, args: Value, timeout: f64) -> Vec<u8> {
    json!({"func": func, "args": args, "tid": tid, "timeout": timeout})
        .to_string()
        .into_bytes()
}

/// All groups, about 2,000 jobs.
pub fn groups() -> Vec<Group> {
    vec![
        Group {
            title: "Rust: do nothing",
            count: 1000,
            fate: Fate::DONE,
            python: false,
            make: |_, tid| {
                (
                    job(tid, "olive.tasks.do_nothing", json!([])),
                    Some(Value::Null),
                )
            },
        },
        Group {
            title: "Rust: sleep 10 ms",
            count: 200,
            fate: Fate::DONE,
            python: false,
            make: |_, tid| (job(tid, "olive.tasks.sleep_n", json!([0.01])), None),
        },
        Group {
            title: "Python: add(n, 1)",
            count: 600,
            fate: Fate::DONE,
            python: true,
            make: |n, tid| {
                (
                    job(tid, "olive_demo.add", json!([n, 1])),
                    Some(json!(n + 1)),
                )
            },
        },
        Group {
            title: "executable: wc -c",
            count: 60,
            fate: Fate::DONE,
            python: false,
            make: |_, tid| (job(tid, EXECUTABLE.0, json!(["any", "JSON"])), None),
        },
        Group {
            title: "Python: raises ValueError",
            count: 60,
            fate: Fate::ended(Status::Failed, "failed"),
            python: true,
            make: |n, tid| {
                (
                    job(tid, "olive_demo.boom", json!([format!("no. {n}")])),
                    None,
                )
            },
        },
        Group {
            title: "Rust: wrong arguments",
            count: 20,
            fate: Fate::ended(Status::Failed, "failed"),
            python: false,
            make: |_, tid| (job(tid, "olive.tasks.sleep_n", json!(["soon"])), None),
        },
        Group {
            title: "Rust: over its time",
            count: 8,
            fate: Fate::ended(Status::Timeout, "timeout"),
            python: false,
            make: |_, tid| (timed(tid, "olive.tasks.sleep_n", json!([600]), 0.3), None),
        },
        Group {
            title: "Python: over its time",
            count: 8,
            fate: Fate::ended(Status::Timeout, "timeout"),
            python: true,
            make: |_, tid| (timed(tid, "olive_demo.nap", json!([600]), 0.3), None),
        },
        Group {
            title: "malformed message",
            count: 30,
            fate: Fate::ended(Status::Rejected, "malformed"),
            python: false,
            make: |_, tid| (format!("{{\"func\": \"{tid}").into_bytes(), None),
        },
        Group {
            title: "unknown task os.system",
            count: 30,
            fate: Fate::ended(Status::Rejected, "unknown-task"),
            python: false,
            make: |_, tid| (job(tid, "os.system", json!(["echo not run"])), None),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_two_thousand_jobs_of_every_kind() {
        let groups = groups();
        let total: usize = groups.iter().map(|g| g.count).sum();
        assert!((1900..=2100).contains(&total), "{total}");
        assert!(groups.iter().any(|g| g.fate.reply == Some(Status::Timeout)));
        assert!(groups.iter().any(|g| g.fate.dead == Some("unknown-task")));
    }

    #[test]
    fn only_the_malformed_one_is_no_json() {
        for group in groups() {
            let (body, _) = (group.make)(7, "id-7");
            let parses = serde_json::from_slice::<Value>(&body).is_ok();
            assert_eq!(
                parses,
                group.title != "malformed message",
                "{}",
                group.title
            );
        }
    }
}

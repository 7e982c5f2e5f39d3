//! Executables as tasks: the job as JSON on standard input, its result as JSON on standard output,
//! the exit code as the outcome.

use super::child::{Attached, Outputs};
use super::link::Shared;
use super::message::{Exit, Program};
use super::worker::{Worker, failed};
use super::{PoolConfig, Request};
use crate::outcome::Outcome;
use kernel::AsyncFd;
use serde::Serialize;
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::io::{self, PipeReader, PipeWriter};
use std::rc::Rc;
use std::time::Duration;

/// From a program's end to the end of what it wrote.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// What the program reads: the names of the wire form.
#[derive(Serialize)]
struct Input<'a> {
    func: &'a str,
    args: &'a RawValue,
    kwargs: &'a RawValue,
    tid: &'a str,
    attempt: u32,
}

/// Standard output as far as it is read.
#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    too_large: bool,
}

impl Worker {
    /// Runs one job as one process.
    pub async fn run_executable(
        &mut self,
        config: &PoolConfig,
        argv: &[String],
        request: &Request,
    ) -> io::Result<Outcome> {
        self.make_room(config.stop_grace).await?;
        let (stdin_end, stdin) = io::pipe()?;
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        let source = format!("{} {}", request.func, request.tid);
        let outputs = Outputs::new(vec![(stderr, "stderr")], &source)?;
        let program = Program {
            argv: argv.to_vec(),
            env: Vec::new(),
        };
        let stdio = [stdin_end.into(), stdout_end.into(), stderr_end.into()];
        let stdin = AsyncFd::new(stdin)?;
        let stdout = AsyncFd::new(stdout)?;
        if let Err(outcome) = self.spawn(&program, stdio, None).await? {
            return Ok(outcome);
        }

        // Both at once: a program may write much before it has read all.
        let feeder = Attached(kernel::spawn(feed(stdin, input(request))));
        let collected = Rc::new(RefCell::new(Collected::default()));
        let collecting = collect(
            stdout,
            collected.clone(),
            config.frame_max,
            self.link.shared(),
        );
        let collector = Attached(kernel::spawn(collecting));
        let exit = match request.timeout {
            Some(limit) => kernel::ignore_after(limit, self.link.exit()).await?,
            None => Some(self.link.exit().await?),
        };
        let Some(exit) = exit else {
            self.link.kill().await?;
            outputs.drain();
            return Ok(Outcome::TimedOut);
        };
        drop(feeder);
        // All writers are dead, so this is only what is still in the pipe.
        kernel::ignore_after(END_TIMEOUT, collector.0.wait())
            .await
            .map_err(io::Error::from)?;
        outputs.drain();
        let collected = collected.take();
        if collected.too_large {
            let text = format!("more than {} bytes on standard output", config.frame_max);
            return Ok(failed("ResultTooLarge", text));
        }
        Ok(judge(exit, collected.bytes, &outputs.tail()))
    }
}

fn input(request: &Request) -> Vec<u8> {
    let input = Input {
        func: &request.func,
        args: &request.args,
        kwargs: &request.kwargs,
        tid: &request.tid,
        attempt: request.attempt,
    };
    let mut bytes = serde_json::to_vec(&input).expect("text, a number and valid JSON");
    bytes.push(b'\n'); // for those who read lines
    bytes
}

/// A program need not read its input: an error here is none of the job's.
async fn feed(stdin: AsyncFd<PipeWriter>, bytes: Vec<u8>) {
    let _ = stdin.write_all(&bytes).await;
}

/// Reads to the end, or kills a program that writes more than `max`.
async fn collect(
    stdout: AsyncFd<PipeReader>,
    into: Rc<RefCell<Collected>>,
    max: usize,
    program: Rc<Shared>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = stdout.read(&mut buffer).await {
        let mut collected = into.borrow_mut();
        if collected.bytes.len() + read > max {
            collected.too_large = true;
            return program.kill_child();
        }
        collected.bytes.extend_from_slice(&buffer[..read]);
    }
}

/// The outcome of a program that has ended.
fn judge(exit: Exit, stdout: Vec<u8>, last_words: &str) -> Outcome {
    match exit.code {
        Some(0) => match value(stdout) {
            Ok(value) => Outcome::Done { value },
            Err(error) => {
                let text = format!("standard output is not one JSON value: {error}");
                failed("ResultNotJson", text)
            }
        },
        Some(code) if last_words.is_empty() => failed("ExitCode", format!("exit code {code}")),
        Some(code) => failed("ExitCode", format!("exit code {code}: {last_words}")),
        None => Outcome::Died {
            signal: exit.signal,
            code: None,
        },
    }
}

/// Nothing at all means `null`.
fn value(stdout: Vec<u8>) -> Result<Box<RawValue>, String> {
    let text = String::from_utf8(stdout).map_err(|error| error.to_string())?;
    if text.trim_ascii().is_empty() {
        return Ok(RawValue::NULL.to_owned());
    }
    RawValue::from_string(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stdout: &str) -> String {
        let exit = Exit {
            code: Some(code),
            signal: None,
        };
        match judge(exit, stdout.into(), "oh no") {
            Outcome::Done { value } => value.get().to_string(),
            Outcome::Failed { error } => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_exit_code_is_the_outcome() {
        assert_eq!(ended(0, " {\"a\": 1}\n"), "{\"a\": 1}");
        assert_eq!(ended(0, ""), "null");
        assert_eq!(ended(0, "\n"), "null");
        assert_eq!(ended(3, "[1]"), "ExitCode: exit code 3: oh no");
        for not_one_value in ["hello", "1 2", "{", "NaN", "[1]\n[2]"] {
            assert!(ended(0, not_one_value).starts_with("ResultNotJson: "));
        }
        let killed = Exit {
            code: None,
            signal: Some(11),
        };
        assert!(matches!(
            judge(killed, b"[1]".into(), ""),
            Outcome::Died {
                signal: Some(11),
                code: None
            }
        ));
    }
}

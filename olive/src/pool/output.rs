//! What a child writes to its standard output and error becomes log lines.

use super::fds::read_now;
use kernel::AsyncFd;
use std::cell::RefCell;
use std::io::{self, PipeReader};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A longer line is logged in pieces.
const LINE_MAX: usize = 8 * 1024;
/// What a pipe holds, and so the most that can be unread when a job's outcome arrives.
const PIPE_LEN: usize = 64 * 1024;
/// Lines logged per second and stream; what exceeds them is counted and not logged.
const LINES_PER_SECOND: u32 = 1_000;
/// How much of the end of a stream is kept for error messages.
const TAIL_LINES: usize = 8;

/// Cuts bytes into lines, as text.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end(&mut emit);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LINE_MAX {
            self.end(&mut emit);
        }
    }

    /// Ends the line begun, if one is.
    fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.end(&mut emit);
        }
    }

    fn end(&mut self, emit: &mut impl FnMut(&str)) {
        for piece in self.partial.chunks(LINE_MAX) {
            emit(String::from_utf8_lossy(piece).trim_end_matches('\r'));
        }
        if self.partial.is_empty() {
            emit("");
        }
        self.partial.clear();
    }
}

/// Lets so many lines a second through. A flood of output then costs its own job the time to
/// write it, and costs everybody else nothing.
struct Limit {
    since: Option<Instant>,
    passed: u32,
    dropped: u64,
}

impl Limit {
    const fn new() -> Limit {
        Limit {
            since: None,
            passed: 0,
            dropped: 0,
        }
    }

    /// Whether one more line passes; and, at the first one of a new second, how many did not.
    fn pass(&mut self, now: Instant) -> (bool, Option<u64>) {
        let mut report = None;
        if self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1))
        {
            self.since = Some(now);
            self.passed = 0;
            report = self.take_dropped();
        }
        self.passed += 1;
        let passes = self.passed <= LINES_PER_SECOND;
        self.dropped += u64::from(!passes);
        (passes, report)
    }

    fn take_dropped(&mut self) -> Option<u64> {
        let dropped = std::mem::take(&mut self.dropped);
        (dropped > 0).then_some(dropped)
    }
}

/// One stream of one child.
pub(super) struct Output {
    pipe: AsyncFd<PipeReader>,
    /// `stdout` or `stderr`.
    stream: &'static str,
    state: RefCell<State>,
}

struct State {
    /// Whose lines these are: a job, or a process that is starting or idle.
    source: String,
    lines: Lines,
    limit: Limit,
    tail: Vec<String>,
}

impl Output {
    pub fn new(pipe: PipeReader, stream: &'static str, source: &str) -> io::Result<Rc<Output>> {
        Ok(Rc::new(Output {
            pipe: AsyncFd::new(pipe)?,
            stream,
            state: RefCell::new(State {
                source: source.to_string(),
                lines: Lines::default(),
                limit: Limit::new(),
                tail: Vec::new(),
            }),
        }))
    }

    /// Logs what arrives, until the last writer is gone.
    pub async fn pump(self: Rc<Output>) {
        let mut buffer = vec![0; PIPE_LEN];
        loop {
            match self.pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => return self.finish_line(),
                Ok(read) => self.log(&buffer[..read]),
            }
            // A child that writes without pause is always ready: let the others have their turn.
            if kernel::yield_now().await.is_err() {
                return;
            }
        }
    }

    /// Logs what is in the pipe now: all that was written before whatever told us to look.
    pub fn drain(&self) {
        let mut buffer = [0; 4096];
        let mut total = 0;
        while total < PIPE_LEN {
            match read_now(self.pipe.get_ref(), &mut buffer) {
                Some(read) if read > 0 => self.log(&buffer[..read]),
                _ => break,
            }
            total += buffer.len();
        }
        self.finish_line();
    }

    /// Names the source of the lines to come.
    pub fn set_source(&self, source: &str) {
        let mut state = self.state.borrow_mut();
        state.source.clear();
        state.source.push_str(source);
        state.tail.clear();
    }

    /// The last lines, for an error message.
    pub fn tail(&self) -> String {
        self.state.borrow().tail.join("\n")
    }

    fn log(&self, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        let State {
            source,
            lines,
            limit,
            tail,
        } = state;
        let now = kernel::now();
        lines.push(bytes, |line| {
            emit(self.stream, source, limit, tail, line, now)
        });
    }

    fn finish_line(&self) {
        let state = &mut *self.state.borrow_mut();
        let State {
            source,
            lines,
            limit,
            tail,
        } = state;
        let now = kernel::now();
        lines.finish(|line| emit(self.stream, source, limit, tail, line, now));
        if let Some(dropped) = limit.take_dropped() {
            log::warn!(target: "olive::output", "[{source}] {dropped} more lines were not logged");
        }
    }
}

fn emit(
    stream: &str,
    source: &str,
    limit: &mut Limit,
    tail: &mut Vec<String>,
    line: &str,
    now: Instant,
) {
    let (passes, dropped) = limit.pass(now);
    if let Some(dropped) = dropped {
        log::warn!(target: "olive::output", "[{source}] {dropped} more lines were not logged");
    }
    if passes {
        log::info!(target: "olive::output", "[{source}] {stream}: {line}");
    }
    if tail.len() == TAIL_LINES {
        tail.remove(0);
    }
    tail.push(line.chars().take(400).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(parts: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for part in parts {
            lines.push(part, |line| out.push(line.to_string()));
        }
        lines.finish(|line| out.push(line.to_string()));
        out
    }

    #[test]
    fn lines_are_put_together_from_any_pieces() {
        assert_eq!(
            cut(&[b"one\ntw", b"o\r\n\nthree"]),
            ["one", "two", "", "three"]
        );
        assert_eq!(cut(&[b"caf\xc3", b"\xa9 \xff\n"]), ["café \u{fffd}"]);
        assert_eq!(cut(&[b""]), [""; 0]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_not_kept() {
        let pieces = cut(&[&[b'x'; 3 * LINE_MAX], b"y\n"]);
        assert_eq!(pieces.len(), 4);
        assert!(pieces.iter().all(|piece| piece.len() <= LINE_MAX));
    }

    #[test]
    fn a_flood_is_counted_and_not_logged() {
        let mut limit = Limit::new();
        let start = Instant::now();
        for _ in 0..LINES_PER_SECOND {
            assert_eq!(limit.pass(start), (true, None));
        }
        assert_eq!(limit.pass(start), (false, None));
        assert_eq!(limit.pass(start), (false, None));
        let later = start + Duration::from_secs(1);
        assert_eq!(limit.pass(later), (true, Some(2)));
        assert_eq!(limit.pass(later), (true, None));
    }
}

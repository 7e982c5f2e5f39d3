//! Which test is for which primitive. What can be awaited is read from the sources, so that a new
//! primitive without a test here is found.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::support::alone;

/// A test, by its file and name, and what it disturbs.
const TABLE: &[(&str, &str, &str)] = &[
    (
        "tasks",
        "sleeps_and_timeouts",
        "sleep sleep_until ask timeout_after timeout_at ignore_after yield_now shield",
    ),
    ("tasks", "operations_that_need_not_wait", "breathe"),
    ("tasks", "foreign_futures", "foreign"),
    (
        "tasks",
        "joining_and_cancelling",
        "JoinHandle::join JoinHandle::wait JoinHandle::cancel cancel",
    ),
    ("tasks", "daemons", "JoinHandle::daemon"),
    ("tasks", "shutdown_hooks", "at_shutdown"),
    (
        "tasks",
        "groups",
        "TaskGroup::next TaskGroup::next_with_id TaskGroup::join TaskGroup::join_any TaskGroup::join_first \
         TaskGroup::cancel_all",
    ),
    ("sync", "semaphore_keeps_its_permits", "Semaphore::acquire"),
    (
        "sync",
        "lock_and_condition",
        "Lock::lock Condition::wait Condition::wait_until",
    ),
    ("sync", "mailboxes", "Receiver::recv OneshotReceiver::recv"),
    (
        "sync",
        "a_bounded_sender_is_cancelled",
        "BoundedSender::send",
    ),
    (
        "sync",
        "event_barrier_and_line",
        "Event::wait Barrier::wait",
    ),
    ("outside", "functions_on_threads", "run_in_thread"),
    (
        "outside",
        "bells_and_inboxes",
        "Bell::wait InboxReceiver::recv InboxReceiver::ready",
    ),
    (
        "outside",
        "tasks_from_threads",
        "Handle::submit Handle::spawn Remote::submit Remote::with Remote::call",
    ),
    ("outside", "signals", "Signals::next"),
    (
        "sockets",
        "tcp",
        "TcpStream::connect TcpStream::connect_host TcpStream::+bytes TcpStream::+readiness",
    ),
    (
        "sockets",
        "accepting",
        "TcpListener::accept UnixListener::accept",
    ),
    (
        "sockets",
        "unix_sockets",
        "UnixStream::connect UnixStream::+bytes UnixStream::+readiness",
    ),
    (
        "sockets",
        "descriptors",
        "AsyncFd::readable AsyncFd::writable AsyncFd::+bytes",
    ),
    (
        "sockets",
        "udp",
        "UdpSocket::send_to UdpSocket::recv_from UdpSocket::+datagrams UdpSocket::+readiness",
    ),
    (
        "sockets",
        "unix_datagrams",
        "UnixDatagram::recv_from UnixDatagram::+datagrams UnixDatagram::+readiness",
    ),
    ("sockets", "names_of_hosts", "lookup_host happy_eyeballs"),
    ("streams", "pipes", "Pipe::read Pipe::write Pipe::write_all"),
    (
        "streams",
        "any_stream",
        "Read::read Read::read_exact Read::read_vectored Write::write Write::write_all \
         Write::write_vectored copy",
    ),
    (
        "streams",
        "buffered_streams",
        "BufReader::read BufReader::read_line BufReader::read_until BufReader::read_exact \
         BufReader::read_to_end",
    ),
    (
        "streams",
        "a_buffered_writer_waits_for_room",
        "BufWriter::write_all BufWriter::flush BufWriter::shutdown",
    ),
    (
        "processes",
        "statuses_and_outputs",
        "Command::status Command::output Command::output_into",
    ),
    (
        "processes",
        "ending_a_child",
        "Child::wait Child::kill Child::terminate",
    ),
    ("processes", "pools", "Pool::call Pool::close"),
];

/// What cannot be told by its signature, and has a row as well.
const BESIDES: &str = "JoinHandle::daemon at_shutdown Handle::submit Handle::spawn \
                       Remote::submit Remote::with Remote::call";

/// Methods that several types have from one macro of ours: each type has a row for all of them.
const FAMILIES: &[(&str, &str)] = &[
    ("byte_stream_methods", "+bytes"),
    ("readiness_methods", "+readiness"),
    ("datagram_methods", "+datagrams"),
];

/// The adapters' methods are called by foreign code: these tests have them.
const ADAPTERS: &[(&str, &str)] = &[
    ("futures_io.rs", "futures_io"),
    ("hyper.rs", "hyper"),
    ("hyper_timer.rs", "hyper_s_tasks_and_sleeps"),
];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The crate's sources, without their tests.
fn sources() -> Vec<String> {
    fn collect(folder: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => collect(&entry.path(), all),
                false => all.push(read(&entry.path())),
            }
        }
    }
    let mut all = Vec::new();
    collect(&folder().join("src"), &mut all);
    let before_tests = |code: String| code.split("#[cfg(test)]\nmod").next().map(str::to_owned);
    all.into_iter().filter_map(before_tests).collect()
}

/// The name at the front of a text.
fn name(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

/// Whose methods follow: the type, trait or macro that a line opens.
fn owner(line: &str) -> Option<&str> {
    let line = line.trim_start();
    if let Some(rest) = line.strip_prefix("pub trait ") {
        return Some(name(rest));
    }
    if let Some(rest) = line.strip_prefix("macro_rules! ") {
        return Some(name(rest));
    }
    let rest = line.strip_prefix("impl")?;
    if rest.contains("Drop for ") {
        return None; // no method to await, and it may stand in the middle of one of another type
    }
    // Behind the generics, if there are any; behind the trait, if there is one.
    let rest = match rest.strip_prefix('<') {
        Some(generics) => &generics[generics.find("> ")? + 1..],
        None => rest,
    };
    let of = rest.find(" for ").map_or(rest, |at| &rest[at + 4..]);
    Some(name(of.trim_start()))
}

/// What a signature of several lines says, up to its body.
fn signature<'a>(code: &'a str, from: &str) -> &'a str {
    let at = from.as_ptr() as usize - code.as_ptr() as usize;
    let end = code[at..].find(['{', ';']).expect("a function has a body");
    &code[at..at + end]
}

/// Everything public that can be awaited, as `Type::method` or `function`.
fn awaitable(code: &str, futures: &BTreeSet<String>) -> Vec<String> {
    let (mut found, mut of, mut in_trait) = (Vec::new(), None, false);
    for line in code.lines() {
        if line == "}" {
            of = None;
        }
        if let Some(name) = owner(line).filter(|name| !name.is_empty()) {
            in_trait = line.contains("trait ");
            of = Some(name);
        }
        let line = line.trim_start();
        let family = FAMILIES
            .iter()
            .find(|f| line.starts_with(&format!("{}!();", f.0)));
        if let (Some((_, family)), Some(of)) = (family, of) {
            found.push(format!("{of}::{family}"));
        }
        let function = match line.strip_prefix("pub ") {
            Some(public) => public,
            None if in_trait => line,
            None => continue,
        };
        let Some((kind, rest)) = function.split_once("fn ") else {
            continue;
        };
        let gives = signature(code, line).rsplit_once("-> ").map_or("", |s| s.1);
        let is_future = gives.contains("Future<") || futures.contains(name(gives));
        if kind == "async " || (kind.is_empty() && is_future) {
            let function = name(rest);
            found.push(of.map_or(function.into(), |of| format!("{of}::{function}")));
        }
    }
    found
}

/// Our types that are futures.
fn futures(sources: &[String]) -> BTreeSet<String> {
    let lines = sources.iter().flat_map(|code| code.lines());
    lines
        .filter(|line| line.contains("Future for "))
        .filter_map(|line| owner(line).map(str::to_owned))
        .collect()
}

fn expected() -> BTreeSet<String> {
    let sources = sources();
    let futures = futures(&sources);
    let is_family = |item: &String| FAMILIES.iter().any(|f| item.starts_with(f.0));
    let found = sources.iter().flat_map(|code| awaitable(code, &futures));
    let besides = BESIDES.split_whitespace().map(str::to_owned);
    found
        .filter(|item| !is_family(item))
        .chain(besides)
        .collect()
}

#[test]
fn nothing_is_missing_and_nothing_is_stale() {
    let _alone = alone();
    let expected = expected();
    assert!(
        expected.len() > 60,
        "the sources were not read: {expected:?}"
    );
    let rows = TABLE.iter().flat_map(|row| row.2.split_whitespace());
    let listed: BTreeSet<_> = rows.map(str::to_owned).collect();
    let missing: Vec<_> = expected.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&expected).collect();
    assert!(missing.is_empty(), "nothing disturbs {missing:?}");
    assert!(stale.is_empty(), "there is no {stale:?} (any more)");
}

/// The text of a test, up to the next one; a macro above it belongs to it.
fn text_of(file: &str, test: &str) -> String {
    let path = folder().join(format!("tests/cancel_everywhere/{file}.rs"));
    let code = read(&path);
    let head = format!("#[test]\nfn {test}() {{");
    let at = code
        .find(&head)
        .unwrap_or_else(|| panic!("no test {test} in {file}.rs"));
    let own = code[at..]
        .split("\n}\n")
        .next()
        .expect("there is a first part");
    let helpers = code
        .split("\n}\n")
        .filter(|part| part.contains("macro_rules!") || !part.contains("#[test]"));
    helpers.chain([own]).collect()
}

/// A row that claims what its test never calls would be worse than none.
#[test]
fn each_test_does_what_its_row_says() {
    let _alone = alone();
    let methods: BTreeMap<_, _> = [
        (
            "+bytes",
            "read write read_exact write_all read_vectored write_vectored",
        ),
        ("+readiness", "readable writable"),
        ("+datagrams", "send recv"),
    ]
    .into();
    for (file, test, items) in TABLE {
        let text = text_of(file, test);
        for item in items.split_whitespace() {
            let function = item.rsplit("::").next().unwrap();
            let all = methods.get(function).unwrap_or(&function);
            for function in all.split(' ') {
                let called = [".", "::", " ", "(", "!"]
                    .iter()
                    .any(|before| text.contains(&format!("{before}{function}(")));
                assert!(called, "{test} never calls {function} of {item}");
            }
        }
    }
}

#[test]
fn each_adapter_has_its_test() {
    let _alone = alone();
    let guests = read(&folder().join("tests/cancel_everywhere/guests.rs"));
    let adapters = fs::read_dir(folder().join("src/adapt")).unwrap().flatten();
    for adapter in adapters {
        let file = adapter.file_name().into_string().unwrap();
        if ["mod.rs", "polled.rs"].contains(&file.as_str()) {
            continue; // what they share
        }
        let row = ADAPTERS.iter().find(|row| row.0 == file);
        let test = row.unwrap_or_else(|| panic!("nothing disturbs {file}")).1;
        assert!(
            guests.contains(&format!("fn {test}() {{")),
            "no test {test}"
        );
    }
}

//! Count, then break at the n-th: a process that is killed before *every* single write and sync
//! that LMDB makes (and so also after each of them but the last, with which all is done).
//!
//! This program defines `pwrite`, `pwritev`, `fdatasync` and their kin itself, so LMDB, linked into
//! it, calls these. They count, kill their own process at the chosen call, and otherwise ask the
//! kernel as libc would. Whatever was killed where: the store opens, each step that had returned is
//! there, and the step under way is there wholly or not at all.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use libc::{c_int, c_long, c_void, iovec, off_t, size_t, ssize_t};
use persipubsub::{Backlog, Environment, Setup, Strategy};
use support::{again, is_role, limits, open, variable};

/// Calls until the kill, which comes before the call that finds 1 here. 0 and below: never.
static LEFT: AtomicI64 = AtomicI64::new(0);

/// Makes one system call, or kills this process instead.
fn point(number: c_long, arguments: [i64; 4]) -> c_long {
    if LEFT.load(Ordering::Relaxed) > 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let [a, b, c, d] = arguments;
    // SAFETY: the arguments are the caller's, in the order of the call of this number.
    unsafe { libc::syscall(number, a, b, c, d) }
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, data: *const c_void, len: size_t, at: off_t) -> ssize_t {
    point(libc::SYS_pwrite64, [fd.into(), data as i64, len as i64, at]) as ssize_t
}

/// # Safety
/// As pwrite(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    data: *const c_void,
    len: size_t,
    at: off_t,
) -> ssize_t {
    point(libc::SYS_pwrite64, [fd.into(), data as i64, len as i64, at]) as ssize_t
}

/// # Safety
/// As pwritev(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    at: off_t,
) -> ssize_t {
    point(
        libc::SYS_pwritev,
        [fd.into(), parts as i64, count.into(), at],
    ) as ssize_t
}

/// # Safety
/// As pwritev(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    at: off_t,
) -> ssize_t {
    point(
        libc::SYS_pwritev,
        [fd.into(), parts as i64, count.into(), at],
    ) as ssize_t
}

/// # Safety
/// As writev(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    point(libc::SYS_writev, [fd.into(), parts as i64, count.into(), 0]) as ssize_t
}

/// # Safety
/// As fdatasync(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    point(libc::SYS_fdatasync, [fd.into(), 0, 0, 0]) as c_int
}

/// # Safety
/// As fsync(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    point(libc::SYS_fsync, [fd.into(), 0, 0, 0]) as c_int
}

type Step = fn(&Environment);

/// One of each kind of commit.
const STEPS: &[Step] = &[
    |env| {
        assert!(
            env.new_control()
                .initialize(&Setup::new(["a", "b"]))
                .unwrap()
        )
    },
    |env| _ = env.new_publisher().unwrap().send("one").unwrap(),
    |env| {
        _ = env
            .new_publisher()
            .unwrap()
            .send_many((0..50).map(|n| format!("many {n}")))
            .unwrap()
    },
    |env| _ = env.new_publisher().unwrap().send(vec![7; 50_000]).unwrap(),
    |env| receive(env, "a").ack().unwrap(),
    |env| {
        env.new_subscriber("a")
            .unwrap()
            .receive_batch(20, Duration::ZERO)
            .unwrap()
            .ack()
            .unwrap()
    },
    |env| receive(env, "b").fail(Duration::ZERO).unwrap(),
    |env| {
        _ = env
            .new_control()
            .add_subscriber("c", Backlog::Oldest)
            .unwrap()
    },
    |env| env.new_control().set_strategy(Strategy::Reject).unwrap(),
    |env| {
        env.new_control()
            .reinitialize(&limits(40, Strategy::PruneFirst))
            .unwrap()
    },
    |env| _ = env.new_publisher().unwrap().send("prunes").unwrap(),
    |env| _ = env.new_control().remove_subscriber("b").unwrap(),
    |env| _ = env.new_control().clear_messages().unwrap(),
];

fn receive(env: &Environment, name: &str) -> persipubsub::Received {
    env.new_subscriber(name)
        .unwrap()
        .receive(Duration::ZERO)
        .unwrap()
        .unwrap()
}

fn run(path: &Path, returned: impl Fn(usize, &Environment)) {
    let env = open(path, 16 << 20);
    for (number, step) in STEPS.iter().enumerate() {
        step(&env);
        returned(number + 1, &env);
    }
}

/// Everything a user could see of the store.
fn picture(env: &Environment) -> String {
    if !env.is_initialized().unwrap() {
        return "not initialised".to_owned();
    }
    let stat = env.new_control().stat().unwrap();
    let mut picture = format!(
        "{} {} {} {:?}",
        stat.messages, stat.bytes, stat.next_sequence, stat.strategy
    );
    for subscriber in stat.subscribers {
        let queue = env.queue(&subscriber.name).unwrap();
        let messages = env.peek(queue, 0, usize::MAX).unwrap();
        let messages: Vec<_> = messages
            .iter()
            .map(|m| (m.seq, m.attempts, m.body.len()))
            .collect();
        picture += &format!("\n{} {} {messages:?}", subscriber.name, subscriber.depth);
    }
    picture
}

#[test]
fn stepping() {
    if is_role("stepping") {
        LEFT.store(variable("LEFT").parse().unwrap(), Ordering::Relaxed);
        run(variable("DIR").as_ref(), |number, _| {
            println!("\nreturned {number}")
        });
        println!("\nleft {}", LEFT.load(Ordering::Relaxed));
    }
}

/// Runs the steps in a process that is killed at the point `left`; answers the lines it said.
fn child(path: &Path, left: i64) -> Vec<String> {
    let mut child = again(
        "stepping",
        &[("DIR", path.to_str().unwrap()), ("LEFT", &left.to_string())],
    );
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .collect();
    child.wait().unwrap();
    lines
}

#[test]
fn a_kill_at_every_write_and_sync_leaves_a_whole_store() {
    let dir = tempfile::tempdir().unwrap();
    let pictures = std::cell::RefCell::new(vec!["not initialised".to_owned()]);
    run(dir.path(), |_, env| {
        pictures.borrow_mut().push(picture(env))
    });
    let pictures = pictures.into_inner();

    let dir = tempfile::tempdir().unwrap();
    let unharmed = child(dir.path(), 1 << 40);
    let left = unharmed
        .iter()
        .find_map(|line| line.strip_prefix("left "))
        .expect("it ran to its end");
    let points = (1 << 40) - left.parse::<i64>().unwrap();
    println!("{points} writes and syncs");
    assert!(
        points > 3 * STEPS.len() as i64,
        "the calls are ours: {points}"
    );
    for point in 1..=points {
        let dir = tempfile::tempdir().unwrap();
        let lines = child(dir.path(), point);
        let returned = lines
            .iter()
            .filter(|line| line.starts_with("returned "))
            .count();
        let env = open(dir.path(), 16 << 20);
        let found = picture(&env);
        let allowed = &pictures[returned..pictures.len().min(returned + 2)];
        assert!(
            allowed.contains(&found),
            "point {point}, {returned} steps returned:\n{found}\nnot in {allowed:#?}"
        );
        if !env.is_initialized().unwrap() {
            env.new_control().initialize(&Setup::new(["a"])).unwrap();
        }
        env.new_control()
            .reinitialize(&Setup::new(["last"]))
            .unwrap();
        env.new_publisher().unwrap().send("works").unwrap();
    }
}

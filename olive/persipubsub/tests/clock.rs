//! A step of the wall clock, seen by this process only: the program defines `clock_gettime` itself
//! and shifts what `CLOCK_REALTIME` says.

mod support;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use support::{drain, store};

static STEP_SECONDS: AtomicI64 = AtomicI64::new(0);

/// # Safety
/// As clock_gettime(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> i32 {
    // SAFETY: the caller's own arguments.
    let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as i32;
    if answer == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).tv_sec += STEP_SECONDS.load(Ordering::SeqCst) };
    }
    answer
}

/// The original compared the wall clock with the time in its ids: a step forward by more than the
/// timeout expired everything. Here a step changes nothing, neither for a store that is open nor
/// for one that is opened after it.
#[test]
fn a_step_of_the_wall_clock_expires_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let before = SystemTime::now();
    let env = store(dir.path(), &["sub"]);
    env.new_publisher().unwrap().send("first").unwrap();
    STEP_SECONDS.store(1_000_000, Ordering::SeqCst);
    assert!(
        before.elapsed().unwrap() > Duration::from_secs(900_000),
        "the clock is ours"
    );
    env.new_publisher().unwrap().send("second").unwrap();
    assert_eq!(env.new_control().prune_dangling_messages().unwrap(), 0);
    drop(env);
    let env = store(dir.path(), &["sub"]);
    env.new_publisher().unwrap().send("third").unwrap();
    STEP_SECONDS.store(-1_000_000, Ordering::SeqCst);
    env.new_publisher().unwrap().send("fourth").unwrap();
    let queue = env.queue("sub").unwrap();
    let times: Vec<u64> = env
        .peek(queue, 0, 9)
        .unwrap()
        .iter()
        .map(|m| m.sent_ms)
        .collect();
    assert!(
        times.is_sorted() && times[3] - times[0] < 60_000,
        "{times:?}"
    );
    drop(env);
    let env = store(dir.path(), &["sub"]);
    assert_eq!(drain(&env, "sub"), ["first", "second", "third", "fourth"]);
}

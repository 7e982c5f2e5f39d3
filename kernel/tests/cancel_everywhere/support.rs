//! What the tests of this folder share.

use std::{
    fmt::Debug,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use kernel::sim::{Sim, cancel_everywhere};

pub const SECOND: Duration = Duration::from_secs(1);

/// What the process holds is counted: whoever opens anything here is alone meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a process holds outside of its kernels.
#[derive(Debug, PartialEq)]
pub struct Held {
    descriptors: usize,
    /// Of `run_in_thread`.
    pub threads: usize,
    /// Living or not reaped.
    pub children: bool,
}

impl Held {
    pub fn now() -> Held {
        let entries = |folder| fs::read_dir(folder).expect("Linux has it").flatten();
        let is_ours = |name: String| name.starts_with("kernel-thread");
        let name = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm")).ok();
        // Threads first: one that ends between the two would leave its descriptors counted.
        let threads = entries("/proc/self/task")
            .filter_map(name)
            .filter(|name| is_ours(name.clone()))
            .count();
        // ThreadSanitizer starts a child, and talks to it, to name what it reports or suppresses.
        let own = !cfg!(tsan);
        Held {
            threads,
            descriptors: if own {
                entries("/proc/self/fd").count()
            } else {
                0
            },
            children: own && has_children(),
        }
    }
}

fn has_children() -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zeros is a `siginfo_t`, and it lives for the call, which writes to nothing else.
    unsafe {
        let mut info = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut info, options) == 0
    }
}

/// As `sim::cancel_everywhere`, of a scenario that ends well if it is let be, and has this many
/// awaits at least. `check` is called when a kernel has come to rest; what the process holds is
/// looked at when all kernels are gone.
pub fn everywhere<F, T, E>(least: usize, scenario: impl Fn() -> F, check: impl Fn() + 'static)
where
    F: Future<Output = Result<T, E>> + 'static,
    T: 'static,
    E: Debug + 'static,
{
    let _alone = alone();
    if let Err(error) = Sim::new(1).run(scenario()) {
        panic!("undisturbed, the scenario ends with {error:?}");
    }
    let before = settled(|held| held.threads == 0 && !held.children);
    let awaits = cancel_everywhere(scenario, check);
    assert!(awaits >= least, "only {awaits} awaits");
    settled(|held| *held == before);
}

/// What the process holds when it is as wanted. A thread that was in the middle of its work when
/// its kernel went ends a little later.
pub fn settled(wanted: impl Fn(&Held) -> bool) -> Held {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let held = Held::now();
        if wanted(&held) {
            return held;
        }
        assert!(Instant::now() < deadline, "left behind: {held:?}");
        thread::yield_now();
    }
}

pub fn nothing() {}

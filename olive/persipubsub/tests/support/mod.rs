//! What the tests of this crate share.
#![allow(dead_code, missing_docs)]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use persipubsub::{Environment, HighWaterMark, Options, Setup, Strategy};

/// Small and reproducible: what it drew follows from the seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// An initialised store with these subscribers and no limits to speak of.
pub fn store(path: &Path, subscribers: &[&str]) -> Environment {
    let env = open(path, 64 << 20);
    env.new_control()
        .initialize(&Setup::new(subscribers.iter().copied()))
        .unwrap();
    env
}

pub fn open(path: &Path, map_size: usize) -> Environment {
    Environment::create(
        path,
        Options {
            map_size: Some(map_size),
            ..Options::default()
        },
    )
    .unwrap()
}

pub fn limits(max_messages: u64, strategy: Strategy) -> Setup {
    let high_water_mark = HighWaterMark {
        max_messages,
        ..HighWaterMark::default()
    };
    Setup {
        high_water_mark,
        strategy,
        ..Setup::new(["sub"])
    }
}

/// What a subscriber has still to receive.
pub fn bodies(env: &Environment, name: &str) -> Vec<String> {
    let queue = env.queue(name).unwrap();
    let messages = env.peek(queue, 0, usize::MAX).unwrap();
    messages
        .into_iter()
        .map(|message| String::from_utf8(message.body).unwrap())
        .collect()
}

/// Takes all that is there, in order.
pub fn drain(env: &Environment, name: &str) -> Vec<String> {
    let sub = env.new_subscriber(name).unwrap();
    let mut all = Vec::new();
    loop {
        let batch = sub.receive_batch(1000, Duration::ZERO).unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(
            batch
                .bodies()
                .map(|body| String::from_utf8(body.to_vec()).unwrap()),
        );
        batch.ack().unwrap();
    }
}

/// This test program again, running only the test `role` with these variables set. The test must
/// return at once when `PERSIPUBSUB_ROLE` is not its name.
pub fn again(role: &str, variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([role, "--exact", "--nocapture", "--test-threads=1"])
        .env("PERSIPUBSUB_ROLE", role);
    command.envs(variables.iter().copied());
    command.stdout(std::process::Stdio::piped());
    // SAFETY: prctl is a system call without a lock or an allocation.
    unsafe {
        // For the case that the test itself is killed: nobody else would end what it started.
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    command.spawn().unwrap()
}

/// Whether this process was started by [`again`] for `role`.
pub fn is_role(role: &str) -> bool {
    std::env::var("PERSIPUBSUB_ROLE").is_ok_and(|own| own == role)
}

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// Looks until it is so, for at most a minute.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::yield_now();
    }
}
